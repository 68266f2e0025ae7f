"""OWL's densities."""

from __future__ import annotations

import pytest
import torch

from secateur.allocate.owl import owl


def test_the_range_of_densities_is_twice_the_spread() -> None:
    scores = {f"w{k}": torch.cat([torch.full((k,), 1e4), torch.ones(100 - k)]) for k in range(5)}
    sizes = dict.fromkeys(scores, 100)
    found = owl(scores, sizes, 0.6, spread=0.1)
    values = list(found.values())
    assert values == sorted(values)
    assert values[-1] - values[0] == pytest.approx(0.2)
    assert sum(values) / 5 == pytest.approx(0.4)


def test_what_would_exceed_one_is_made_up_for_by_the_others() -> None:
    scores = {"a": torch.ones(100), "b": torch.cat([torch.full((5,), 1e4), torch.ones(95)])}
    found = owl(scores, {"a": 300, "b": 100}, 0.05, spread=0.3)
    assert found["b"] == 1
    assert 300 * found["a"] + 100 == pytest.approx(380)


def test_without_any_outlier_all_are_alike() -> None:
    found = owl({"a": torch.ones(4), "b": torch.ones(9)}, {"a": 4, "b": 9}, 0.5)
    assert list(found.values()) == pytest.approx([0.5, 0.5])
