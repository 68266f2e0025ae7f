"""`python tests/fuzz/replay.py 1234`: one seed's network, made as small as its failure allows."""

from __future__ import annotations

import sys

from check import check, smaller
from grammar import make_program


def main(seed: int) -> None:
    """Show the network and what happens to it."""
    program = make_program(seed)
    try:
        sys.stdout.write(f"{program}\n{check(program)}\n")
    except Exception as error:
        sys.stdout.write(f"{smaller(program, type(error))}\n")
        raise


if __name__ == "__main__":
    main(int(sys.argv[1]))
