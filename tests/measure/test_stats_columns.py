"""Moments of columns against unfold, and of parts against what each reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.errors import InputError
from secateur.measure import stats_columns
from secateur.measure.stats_columns import column_facts
from secateur.units import weight_sites


def site(model: nn.Module, name: str = "weight"):  # type: ignore[no-untyped-def]
    return next(s for s in weight_sites(model) if s.name == name)


@pytest.mark.parametrize("piece", [2**22, 50])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_agree_with_unfold(
    groups: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats_columns, "_PIECE", piece)
    model = nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=2, groups=groups)
    x = torch.randn(7, 4, 8, 9) + 1
    rows = nn.functional.unfold(x, (3, 2), dilation=2, padding=1, stride=2)
    rows = rows.transpose(1, 2).reshape(-1, groups, 24 // groups).double()
    calls = [Call((x[:3],), {}), Call((x[3:],), {})]
    found = column_facts(model, calls)["weight"]
    place = site(model)
    spread = 6 // groups
    for ours, theirs in (
        (found.squared(place), rows.square().sum(0)),
        (found.mean(place), rows.mean(0)),
        (found.variance(place), rows.var(0, unbiased=False)),
    ):
        expected = theirs if groups == 1 else theirs.repeat_interleave(spread, 0)
        assert torch.allclose(ours, expected)


def test_uses_of_one_weight_are_added_up() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.fc(x))

    model, x = Twice(), torch.randn(5, 3)
    found = column_facts(model, [Call((x,), {})])["fc.weight"]
    both = torch.cat([x, model.fc(x).detach()]).double()
    assert torch.allclose(found.squared(site(model, "fc.weight"))[0], both.square().sum(0))
    assert found.parts[0].count == 10


def test_recurrent_weights_see_every_step() -> None:
    model, x = nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3)
    out = model(x)[0].detach()
    before = torch.cat([torch.zeros(2, 1, 4), out[:, :-1]], 1).reshape(-1, 4).double()
    found = column_facts(model, [Call((x,), {})])
    place = site(model, "weight_hh_l0")
    assert torch.allclose(found["weight_hh_l0"].squared(place)[0], before.square().sum(0))


def test_rows_of_a_packed_projection_read_different_inputs() -> None:
    model = nn.MultiheadAttention(4, 2, batch_first=True)
    query, key = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    found = column_facts(model, [Call((query, key, key), {})])["in_proj_weight"]
    squared = found.squared(site(model, "in_proj_weight"))
    assert torch.allclose(squared[:4], query.reshape(-1, 4).double().square().sum(0).expand(4, 4))
    assert torch.allclose(squared[4:], key.reshape(-1, 4).double().square().sum(0).expand(8, 4))


def test_transposed_convolutions_have_a_row_for_each_group() -> None:
    model, x = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), torch.randn(2, 4, 3, 3)
    found = column_facts(model, [Call((x,), {})])["weight"].squared(site(model))
    assert found.shape == (6, 18)
    per_group = x.double().square().sum((0, 2, 3)).reshape(2, 2)
    assert torch.allclose(found.reshape(2, 3, 2, 9)[:, 0].sum(-1), 9 * per_group)


def test_what_is_not_finite_is_named_and_only_what_is_wanted_is_watched() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert list(column_facts(model, [Call((torch.ones(1, 2),), {})], {"1.weight"})) == ["1.weight"]
    with pytest.raises(InputError, match=r"0\.weight"):
        column_facts(model, [Call((torch.tensor([[1.0, float("inf")]]),), {})])
