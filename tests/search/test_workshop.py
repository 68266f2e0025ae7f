"""The workshop: trials that are cut, proven and repaired, from one analysis."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.allocate.decide import Decider
from secateur.core.batches import as_call
from secateur.core.budget import MACs, Params
from secateur.core.errors import RecipeError, VerificationError
from secateur.demo.data import digits, trained
from secateur.measure.calibration import calibration
from secateur.recover import Reconstruct
from secateur.search.workshop import Workshop
from secateur.units import Channel


def workshop(model: nn.Module, example: Any, how: str = "global", **options: Any) -> Workshop:
    def prepare(graph: Any) -> Decider:
        return Decider.prepare(model, graph, unit=Channel(), criterion="l1")

    return Workshop(model, as_call(model, example), prepare, how, **options)


def test_trials_meet_their_budgets_and_share_nothing() -> None:
    model, images = trained(), digits().images
    shop = workshop(
        model, images[:2], calibration=calibration(model, [images[:64]]), steps=[Reconstruct()]
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trials = [shop.build(MACs(text)) for text in ("60%", "30%")]
    assert [trial.left("macs") <= most for trial, most in zip(trials, (0.6, 0.3), strict=True)]
    assert all(trial.verification is not None and trial.verification.ok for trial in trials)
    assert all("least squares" in trial.repairs[0] for trial in trials)
    addresses = {p.data_ptr() for p in model.parameters()}
    for trial in trials:
        assert not addresses & {p.data_ptr() for p in trial.model.parameters()}
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_keeping_cuts_only_what_is_named() -> None:
    model = trained()
    shop = workshop(model, digits().images[:2])
    name = shop.decider.places[0].name
    trial = shop.keep({name: 5})
    assert {site: len(choice.keep) for site, choice in trial.plan.sites.items()} == {name: 5}
    with pytest.raises(RecipeError, match="no site"):
        shop.keep({"nothing": 1})
    with pytest.raises(RecipeError, match="cannot keep"):
        shop.keep({name: 0})


class Picky(nn.Module):
    """Refuses to run with fewer than 16 units in its middle layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        middle = self.b(self.a(x).relu())
        with torch._C.DisableTorchFunction():  # a size that the analysis cannot see
            if int(middle.numel()) != 16 * len(x):
                raise ValueError("16 units, please")
        return self.c(middle.relu())


def test_what_fails_its_cut_is_frozen_and_the_rest_is_cut() -> None:
    torch.manual_seed(0)
    shop = workshop(Picky().eval(), torch.randn(3, 4))
    trial = shop.build(Params("80%"))
    assert "b" in shop.frozen and "16 units" in str(shop.frozen["b"])
    assert set(trial.plan.sites) == {"a"}


def test_cutting_in_place_takes_no_copy() -> None:
    model = trained()
    trial = workshop(model, digits().images[:2]).cut_in_place(MACs("50%"))
    assert trial.model is model
    assert sum(p.numel() for p in model.parameters()) == trial.amounts.params


def test_evolution_needs_data() -> None:
    with pytest.raises(RecipeError, match="needs data"):
        workshop(trained(), digits().images[:2], how="search").build(MACs("50%"))


def test_errors_come_out() -> None:
    class Never(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            with torch._C.DisableTorchFunction():
                if int(y.numel()) != 8 * len(x):
                    raise ValueError("8 units, please")
            return self.b(y)

    with pytest.raises((VerificationError, RecipeError)):
        workshop(Never().eval(), torch.randn(3, 4)).build(Params("70%"))
