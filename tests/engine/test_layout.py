from __future__ import annotations

import pytest
import torch
from tests.engine.nets import Mixed, prune
from torch import nn

import secateur as sc
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


@pytest.mark.parametrize("kernel", [(3, 1), (1, 3)])
def test_borders_on_two_sides_only_stay_zero(kernel: tuple[int, int]) -> None:
    padding = (kernel[0] // 2, kernel[1] // 2)
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 4, kernel, padding=padding) for _ in range(3)]
    with torch.no_grad():
        for layer in layers:
            layer.weight *= torch.rand_like(layer.weight) < 0.3
    net, x = nn.Sequential(*layers).eval(), torch.randn(2, 4, 7, 5)
    call = as_call(net, x)
    graph = fuse(capture(net, call))
    with torch.no_grad():
        layout = lay_out(graph, shapes_of(graph, [x]), graph.layers)
        fast = sc.compile(net, x, cache=False)
        assert all(layout.values[node.name].bordered for node in graph.nodes if node.op == "layer")
        assert torch.allclose(fast(x), net(x), atol=1e-5)
