from __future__ import annotations

import torch
from tests.engine.nets import Mixed, prune
from torch import nn

from secateur.core.batches import as_call
from secateur.engine.capture import capture
from secateur.engine.fast import shapes_of
from secateur.engine.fuse import fuse
from secateur.engine.layout import SLACK, flat, lay_out, tokens


def test_classes_share_rows_and_borders_fit() -> None:
    net: nn.Module = prune(Mixed())
    x = torch.randn(2, 3, 40, 48)
    graph = fuse(capture(net, as_call(net, x)))
    with torch.no_grad():
        shapes = shapes_of(graph, [x])
    layout = lay_out(graph, shapes, graph.layers)
    for node in graph.nodes:
        layer = graph.layers.get(node.name)
        if layer is None or not layer.dims:
            continue
        out = layout.values[node.name]
        inside = layout.split.get(node.name) or layout.values[node.refs[0]]
        assert inside.row == out.row and inside.pitch == out.pitch
        left = -(-layer.padding[1] // layer.stride[1])
        above = -(-layer.padding[0] // layer.stride[0])
        assert inside.row - inside.size[1] >= left
        assert inside.margin >= above * inside.row + left
        assert inside.pitch >= inside.margin + inside.size[0] * inside.row + SLACK
        assert out.pitch // 16 % 2 == 1


def test_views_of_tokens() -> None:
    for form, stride in ((tokens((2, 3, 5)), (3, 1, 80)), (flat((2, 3, 5)), (15, 5, 1))):
        buffer = torch.zeros(form.floats((2, 3, 5)))
        view = form.view(buffer, (2, 3, 5))
        assert view.stride() == stride and form.positions == 6
        assert view.storage_offset() + 4 * (form.pitch or 1) + SLACK <= len(buffer)
