"""`python -m secateur`: the demo; with arguments, the command line."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the demo or the command line; returns the exit status."""
    if len(sys.argv) > 1:
        from secateur.cli import app

        app(prog_name="python -m secateur")
    from secateur.demo.run import main as demo

    return demo()


if __name__ == "__main__":
    sys.exit(main())
