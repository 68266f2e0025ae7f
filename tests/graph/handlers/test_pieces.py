"""Sizes in splits, chunks, slices and narrow."""

from __future__ import annotations

import pytest
import torch
from analysis import Between, Code, free
from torch import Tensor

from secateur.graph import analyze

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def glued(*parts: Tensor) -> Tensor:
    return torch.cat(parts, -1)


FOLLOWED: dict[str, Code] = {
    "split by an attribute": lambda m, x: glued(*x.split(m.size, -1)),
    "split by a list": lambda m, x: glued(*x.split(m.sizes, -1)),
    "chunk": lambda m, x: glued(*x.chunk(2, -1)),
    "slices at an attribute": lambda m, x: glued(x[:, m.size :], x[:, : m.size]),
    "slices at half the shape": lambda m, x: glued(
        x[:, x.shape[1] // 2 :], x[:, : x.shape[1] // 2]
    ),
    "narrow by attributes": lambda m, x: glued(x.narrow(1, m.size, m.size), x.narrow(1, 0, m.size)),
}
LITERAL: dict[str, Code] = {
    "split": lambda m, x: glued(*x.split(4, -1)),
    "narrow": lambda m, x: glued(x.narrow(1, 0, 4), x.narrow(1, 4, 4)),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_followed(name: str) -> None:
    model = Between(FOLLOWED[name], size=4, sizes=[4, 4])
    assert sum(free(analyze(model, X)).values()) == 8


@pytest.mark.parametrize("name", LITERAL)
def test_literals_freeze_the_pieces_that_they_size(name: str) -> None:
    assert sum(free(analyze(Between(LITERAL[name]), X)).values()) == 0


@pytest.mark.parametrize("end", [None, 8, 100], ids=["open", "the size", "beyond"])
def test_an_end_at_or_beyond_the_size_stays_free(end: int | None) -> None:
    model = Between(lambda m, x: glued(x[:, 4:end], x[:, :4]))
    assert list(free(analyze(model, X)).values()) == [4]


def test_tensor_split_keeps_its_pieces() -> None:
    model = Between(lambda m, x: glued(*x.tensor_split((3,), 1)))
    assert free(analyze(model, X)) == {}
