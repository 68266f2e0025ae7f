"""The command line: `secateur --help` lists its commands."""

from secateur.cli import commands, sweep  # noqa: F401  each adds its own
from secateur.cli.shared import app

__all__ = ["app"]
