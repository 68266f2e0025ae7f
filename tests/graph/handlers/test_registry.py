"""Handlers are found by function and by the operation of the same name."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.graph.handlers.registry import HANDLERS, handles, sizes_of


def test_a_function_and_its_operation_share_a_handler() -> None:
    assert HANDLERS[Tensor.view] is HANDLERS[torch.ops.aten.view]
    assert HANDLERS[torch.zeros] is HANDLERS[torch.ops.aten.zeros]


def test_a_name_registers_an_operation() -> None:
    try:
        handles("fliplr")(lambda trace, args, kwargs, out: None)
        assert torch.ops.aten.fliplr in HANDLERS
    finally:
        HANDLERS.pop(torch.ops.aten.fliplr, None)


def test_sizes_come_one_by_one_or_in_a_sequence() -> None:
    assert sizes_of((2, 3), {}, "size") == [2, 3]
    assert sizes_of(((2, 3),), {}, "size") == [2, 3]
    assert sizes_of((), {"size": (4,)}, "shape", "size") == [4]
