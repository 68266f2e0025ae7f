"""The command line: `secateur inspect` and `secateur prune`."""

from secateur.cli.commands import app

__all__ = ["app"]
