"""The number of threads is put back, whatever happens in between."""

from __future__ import annotations

import pytest
import torch

from secateur.core.threads import using


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_threads_are_put_back(threads: int | None) -> None:
    before = torch.get_num_threads()
    with using(threads) as count:
        assert torch.get_num_threads() == count == (threads or before)
        torch.set_num_threads(3)
    assert torch.get_num_threads() == before


def test_errors_go_through() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="mine"), using(2):
        raise ValueError("mine")
    assert torch.get_num_threads() == before
