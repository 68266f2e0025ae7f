"""The command line: `secateur inspect`, `secateur prune` and `secateur sweep`."""

from secateur.cli.sweep import app

__all__ = ["app"]
