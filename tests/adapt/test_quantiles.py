"""Quantiles of a stream, against sorting."""

from __future__ import annotations

from math import ceil

import pytest
import torch

from secateur.adapt.quantiles import Quantiles


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["normal", "sparse", "equal", "wide"])
def test_a_stream_gives_what_sorting_gives(share: float, kind: str) -> None:
    parts = [torch.randn(37, 5) for _ in range(4)]
    if kind == "sparse":
        parts = [part.relu() for part in parts]
    if kind == "equal":
        parts = [torch.full((9,), -3.0)] * 4
    if kind == "wide":
        parts = [part * 10.0 ** torch.randint(-20, 20, part.shape) for part in parts]
    found = Quantiles()
    for part in parts:
        found.see(part)
    found.aim(share)
    for part in parts:
        found.look(part)
    ranked = torch.cat([part.reshape(-1) for part in parts]).abs().sort().values
    wanted = float(ranked[ceil(share * len(ranked)) - 1])
    assert found.exact == wanted
    assert wanted <= found.rough(share) <= 1.01 * wanted + 1e-38


def test_nothing_is_asked_for() -> None:
    found = Quantiles()
    found.see(torch.ones(3))
    found.aim(0.0)
    found.look(torch.ones(3))
    assert found.exact == found.rough(0.0) == 0.0


def test_what_is_no_number_counts_as_the_largest() -> None:
    found, x = Quantiles(), torch.tensor([1.0, float("nan"), 2.0, 3.0])
    found.see(x)
    found.aim(0.75)
    found.look(x)
    assert found.exact == 3.0
