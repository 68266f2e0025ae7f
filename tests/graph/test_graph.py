"""The records that an analysis returns."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn

from secateur.core.layout import Layout
from secateur.graph import Axis, Block, Graph, Term, analyze


def graph() -> tuple[nn.Module, Graph]:
    net = nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.Flatten(), nn.Linear(32, 2))
    return net, analyze(net, torch.zeros(2, 3, 6))


def test_every_parameter_and_buffer_has_a_layout_of_its_shape() -> None:
    net, found = graph()
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    used = {name: tuple(n.size for n in layouts) for name, layouts in found.layouts.items()}
    assert used == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert set(found.roles) == {(k, d) for k, shape in used.items() for d in range(len(shape))}


def test_every_free_axis_is_in_one_tie_and_every_leaf_has_an_axis() -> None:
    _, found = graph()
    names = [name for tie in found.ties for name in tie.ratios]
    assert sorted(names) == sorted(a.name for a in found.axes.values() if a.frozen is None)
    leaves = {leaf for layouts in found.layouts.values() for n in layouts for leaf in n.names}
    assert leaves == set(names)
    for tie in found.ties:
        assert tie.levels == tuple(sorted(set(tie.levels)))
        assert all(found.axes[k].n == r * tie.levels[-1] for k, r in tie.ratios.items())


def test_replay_lists_every_operation() -> None:
    _, found = graph()
    assert found.replay.ops[0] == ("aten.convolution.default", "0")
    for index, entries in found.replay.restrictions.items():
        assert index < len(found.replay.ops)
        assert all(isinstance(layout, Layout) and layout.names for *_, layout in entries)


def test_records_do_not_change() -> None:
    for record in (Axis("a", 2), Term("", "", 1, ()), Block("b")):
        with pytest.raises(FrozenInstanceError):
            record.module = "x"  # type: ignore[misc,union-attr]
