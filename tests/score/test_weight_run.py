"""What a criterion is asked, when, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, RecipeError
from secateur.measure.stats import Gather
from secateur.score.criterion import Facts
from secateur.score.weight import weight_criteria
from secateur.score.weight_run import resolve_weight, weight_scores
from secateur.units import weight_sites

NET = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 2))
DRAWN = torch.Generator().manual_seed(0)
DATA = [(torch.randn(5, 2, 3, 3, generator=DRAWN), torch.tensor([0, 1, 0, 1, 1]))] * 2


def scored(given: Any, net: nn.Module = NET, data: Any = DATA) -> dict[str, Tensor]:
    gather = None if data is None else Gather(net, None, data)
    return dict(weight_scores(resolve_weight(given), weight_sites(net), Facts.of(net), gather))


@pytest.mark.parametrize("name", list(weight_criteria))
def test_every_criterion_scores_every_weight_and_leaves_no_trace(name: str) -> None:
    before = {key: t.clone() for key, t in NET.state_dict().items()}
    state, mode = torch.random.get_rng_state(), NET.training
    first = scored(name)
    assert {key: tuple(t.shape) for key, t in first.items()} == {
        "0.weight": (4, 18), "2.weight": (2, 4),
    }  # fmt: skip
    assert all(torch.isfinite(t).all() for t in first.values())
    assert all(torch.equal(t, scored(name)[key]) for key, t in first.items())
    assert all(torch.equal(t, before[key]) for key, t in NET.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state()) and NET.training == mode
    assert all(p.grad is None for p in NET.parameters())


def test_a_function_of_one_s_own() -> None:
    assert torch.equal(
        scored(lambda site, facts: site.matrix(facts.tensors[site.name]))["2.weight"],
        NET[2].weight.detach(),
    )

    def mine(site: Any, facts: Any) -> Tensor:
        return site.matrix(facts.get("gradients")[site.name])

    mine.needs, mine.each = "gradients", True  # type: ignore[attr-defined]
    loss = nn.functional.cross_entropy(NET(DATA[0][0]), DATA[0][1])
    expected = torch.autograd.grad(loss, NET[2].weight)[0]
    assert torch.allclose(scored(mine)["2.weight"].float(), expected, atol=1e-6)


def test_what_is_refused() -> None:
    with pytest.raises(RecipeError, match="'wanda' needs moments of what weights read"):
        scored("wanda", data=None)
    with pytest.raises(RecipeError, match="needs blocks"):
        scored("woodfisher", data=None)
    with pytest.raises(InputError, match=r"shape \[4, 18\] for 0.weight"):
        scored(lambda site, facts: torch.zeros(3))
    with pytest.raises(InputError, match="not finite"):
        scored(lambda site, facts: site.matrix(facts.tensors[site.name]) / 0)

    def odd(site: Any, facts: Any) -> Tensor:
        return torch.zeros(())

    odd.needs = "mood"  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match="unknown"):
        scored(odd)


def test_a_weight_that_is_not_a_number_is_named() -> None:
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="weight holds values that are not finite"):
        scored("magnitude", net, None)
