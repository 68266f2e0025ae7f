"""Exits from data: the promise, the report, and what is refused."""

import pytest
import torch
from adapting import Recurrent, chain, residual
from torch import nn

import secateur as sc
from secateur.core.errors import InputError, RecipeError


def test_the_promise_holds_on_new_samples() -> None:
    net, x = chain()
    early = sc.adapt.exits(net, x[:2000], guarantee=0.95, only_faster=False)
    new = torch.randn(2000, 8)
    with torch.no_grad():
        out, where = early.leave(new)
        agree = (out.argmax(1) == net(new).argmax(1)).double().mean()
    assert agree >= 0.95
    assert bool((where < len(early.names)).any())
    assert early.mean_cost < 1
    assert early.agreement >= 0.95
    assert sum(early.leaving) <= early.tested
    assert 700 < early.tested < 900


def test_a_lower_guarantee_lets_more_leave() -> None:
    net, x = chain()
    costs = [
        sc.adapt.exits(net, x, guarantee=g, samples=1500, only_faster=False).mean_cost
        for g in (0.99, 0.9, 0.7)
    ]
    assert costs[0] >= costs[1] >= costs[2]
    assert costs[0] > costs[2]


def test_too_few_samples_to_promise_are_said() -> None:
    net, x = chain()
    early = sc.adapt.exits(net, x[:50], guarantee=0.999, only_faster=False)
    assert torch.equal(early(x), net(x))
    assert early.agreement == 1 and early.mean_cost == 1
    assert "2995 without a difference" in str(early)
    assert "never" in str(early)


def test_the_page_says_what_was_tested() -> None:
    net, x = chain()
    early = sc.adapt.exits(net, x[:1000], guarantee=0.9, delta=0.1, only_faster=False)
    page = str(early)
    assert 350 < early.tested < 450 and f"on {early.tested} test samples" in page
    assert "at least 0.9 agree" in page
    assert "blocks.0" in page


def test_images_leave_from_maps() -> None:
    net, x = residual()
    net.train()
    early = sc.adapt.exits(
        net, torch.randn(400, 3, 6, 6), guarantee=0.6, at=["blocks.0"], only_faster=False
    )
    assert early.training and net.training
    assert not any(module._forward_hooks for module in net.modules())
    assert 0 < early.costs[0] < 1
    assert early.eval()(x).shape == (80, 5)


def test_weights_are_shared_with_the_model() -> None:
    net, x = chain()
    early = sc.adapt.exits(net, x[:200], guarantee=0.8)
    ours = {p.data_ptr() for p in early.model.parameters()}
    assert ours == {p.data_ptr() for p in net.parameters()}


def test_what_makes_no_sense_is_refused() -> None:
    net, x = chain()
    for wrong in ({"guarantee": 1.0}, {"delta": 0.0}, {"at": ["none"]}):
        with pytest.raises(RecipeError):
            sc.adapt.exits(net, x, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="5"):
        sc.adapt.exits(net, x[:3])

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.b(self.a(x)), x

    with pytest.raises(InputError, match="classifier"):
        sc.adapt.exits(Two(), x, at=["a"])


def test_modules_without_one_entry_a_sample_are_refused() -> None:
    net = Recurrent().eval()
    early = sc.adapt.exits(
        net, torch.randn(200, 6, 5), guarantee=0.5, at=["lstm"], only_faster=False
    )
    assert early(torch.randn(3, 6, 5)).shape == (3, 3)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(self.a(x)))

    with pytest.raises(RecipeError, match="2 results"):
        sc.adapt.exits(Twice(), chain()[1], at=["a"])
