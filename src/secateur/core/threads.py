"""How many CPU threads torch uses, for as long as it matters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def using(threads: int | None) -> Iterator[int]:
    """So many threads inside an operation, and as many as before afterwards; None: as it is.

    Example:
        >>> before = torch.get_num_threads()
        >>> with using(1) as count:
        ...     assert count == torch.get_num_threads() == 1
        >>> torch.get_num_threads() == before
        True
    """
    before = torch.get_num_threads()
    try:
        if threads is not None and threads != before:  # telling torch again takes its time
            torch.set_num_threads(threads)
        yield threads or before
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
