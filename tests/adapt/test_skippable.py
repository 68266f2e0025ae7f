"""Blocks that samples pass by, against running each sample alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.adapt.skippable import Layers, Skippable, counts


class Add(nn.Module):
    def __init__(self, as_tuple: bool = False) -> None:
        super().__init__()
        self.inner, self.as_tuple, self.ran = nn.Linear(4, 4), as_tuple, 0

    def forward(self, x: Tensor) -> object:
        self.ran += len(x)
        out = x + self.inner(x)
        return (out, "more") if self.as_tuple else out


class First(nn.Module):
    def forward(self, out: object) -> Tensor:
        return out[0] if isinstance(out, tuple) else out  # type: ignore[return-value]


def make(as_tuple: bool) -> tuple[Layers, list[Add]]:
    blocks = [Add(as_tuple) for _ in range(3)]
    parts = [[Skippable(b, n, as_tuple), First()] for b, n in zip(blocks, (2, 1, 3), strict=True)]
    net = nn.Sequential(*[layer for pair in parts for layer in pair])
    return Layers(net, ("1", "0", "2"), nn.Identity(), 0.0).eval(), blocks


def test_each_sample_passes_by_its_own_blocks() -> None:
    for as_tuple in (False, True):
        layers, blocks = make(as_tuple)
        x, wanted = torch.randn(4, 4), torch.tensor([0, 1, 2, 3])
        with torch.no_grad():
            found = layers.run(lambda _, wanted=wanted: wanted, x)
            plain = [x + b.inner(x) for b in blocks]
            assert torch.allclose(found[3], x[3])
            one = plain[0][1]
            assert torch.allclose(found[1], one + blocks[2].inner(one), atol=1e-6)
            assert torch.allclose(found[2], x[2] + blocks[2].inner(x[2]), atol=1e-6)
            rows = [
                layers.run(lambda _, n=n: n, one)
                for n, one in zip(wanted.split(1), x.split(1), strict=True)
            ]
        assert torch.allclose(torch.cat(rows), found, atol=1e-6)


def test_what_is_passed_by_is_not_computed() -> None:
    layers, blocks = make(False)
    with torch.no_grad():
        layers.run(lambda _: torch.tensor([2]), torch.randn(1, 4))
        assert [b.ran for b in blocks] == [0, 0, 1]
        layers.threshold = float("inf")
        layers(torch.randn(2, 4))
        assert [b.ran for b in blocks] == [2, 2, 3]
        layers.threshold = 0.0
        layers.train()(torch.randn(1, 4))
        assert [b.ran for b in blocks] == [3, 3, 4]


def test_as_many_as_the_predictor_is_sure_of() -> None:
    margins = torch.tensor([[1.0, 2.0], [2.0, 0.0], [0.0, 0.0], [float("nan"), 3.0]])
    assert counts(margins, 0.5).tolist() == [2, 1, 0, 2]
    assert counts(margins, float("inf")).tolist() == [0, 0, 0, 0]
