"""The masked original: every sum and statistic sees only what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from apply_nets import Attention, Snapshot, convnet, half, images, mlp, outputs, points
from torch import Tensor, nn

import secateur as sc
from secateur.apply.reference import Diverged, run_reference
from secateur.core.batches import as_call, untouched
from secateur.core.plan import Plan
from secateur.graph.analyze import analyze


def reference(model: nn.Module, example: Any, plan: Plan) -> Any:
    call = as_call(model, example)
    graph = analyze(model, call)
    with untouched(model), torch.no_grad():
        return run_reference(model, call, graph.replay, plan.keeps)


class Between(nn.Module):
    """Two dense layers with a function of the hidden features between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(6, 8), nn.Linear(8, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(x)))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda h: h * h.mean(-1, keepdim=True),
    "maximum": lambda h: h - h.amax(-1, keepdim=True),
    "variance": lambda h: h / (1 + h.var(-1, keepdim=True)),
    "norm": lambda h: h / h.norm(dim=-1, keepdim=True),
    "softmax": lambda h: h.softmax(-1),
    "log softmax": lambda h: F.log_softmax(h, -1),
    "layer norm": lambda h: F.layer_norm(h, h.shape[-1:]),
    "response": lambda h: F.local_response_norm(h.mT, 3, alpha=2.0).mT,
    "rms": lambda h: h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6),
    "sum of exponentials": lambda h: h.exp() / h.exp().sum(-1, keepdim=True),
    "shifted": lambda h: torch.sigmoid(h) + 1,
    "gram": lambda h: torch.sigmoid(h) @ torch.sigmoid(h).mT @ h,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_statistics_see_only_what_is_kept(name: str) -> None:
    model, x = Between(FUNCTIONS[name]).double(), torch.randn(2, 5, 6).double()
    plan = half(model, x)
    keep = torch.from_numpy(plan.sites["a"].keep)
    assert 0 < len(keep) < 8
    hidden = F.linear(x, model.a.weight[keep], model.a.bias[keep])
    expected = F.linear(FUNCTIONS[name](hidden), model.b.weight[:, keep], model.b.bias)
    assert torch.allclose(reference(model, x, plan), expected, rtol=1e-9)


def test_group_norm_keeps_its_groups() -> None:
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.GroupNorm(3, 12), nn.Conv2d(12, 4, 1)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    x = images().double()
    plan = half(model, x)
    found, small = reference(model, x, plan), sc.prune(model, x, latency=False, **HALF).model
    assert torch.allclose(found, outputs(small, x), rtol=1e-9)


HALF: dict[str, Any] = {
    "budget": sc.Sparsity(0.5), "allocate": "uniform", "criterion": "random",
}  # fmt: skip


@pytest.mark.parametrize("make", [mlp, convnet, Attention])
def test_a_plan_that_keeps_everything_changes_nothing(make: Any) -> None:
    x = {mlp: points, convnet: images, Attention: lambda: torch.randn(2, 5, 8)}[make]()
    model = make().double()
    empty = Plan("f" * 64, {})
    assert torch.allclose(reference(model, x.double(), empty), outputs(model, x.double()))


def test_the_model_is_only_read() -> None:
    model, x = convnet().train(), images()
    plan, before = half(model, x), Snapshot(model)
    reference(model, x, plan)
    before.check()


def test_another_path_through_the_code_is_noticed() -> None:
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
            self.flag = False

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(h.relu() if self.flag else h.tanh())

    model, x = Fickle(), points()
    plan, call = half(model, x), as_call(model, x)
    graph = analyze(model, call)
    model.flag = True
    with untouched(model), pytest.raises(Diverged):
        run_reference(model, call, graph.replay, plan.keeps)


def test_a_longer_or_shorter_run_is_noticed() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.times = nn.Linear(6, 8), nn.Linear(8, 3), [0, 0]

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            for _ in self.times:
                h = h.tanh()
            return self.b(h)

    model, x = Loop(), points()
    call = as_call(model, x)
    graph = analyze(model, call)
    for times in ([0], [0, 0, 0]):
        model.times = times
        with pytest.raises(Diverged):
            run_reference(model, call, graph.replay, {})


def test_wrong_ideas_show() -> None:
    """The reference runs at full size, so that an axis wrongly held together shows up."""
    model, x = mlp().double(), points().double()
    plan = half(model, x)
    found = reference(model, x, plan)
    wrong = {**plan.keeps, "0": ~plan.keeps["0"]}
    call = as_call(model, x)
    graph = analyze(model, call)
    with torch.no_grad():
        other = run_reference(model, call, graph.replay, wrong)
    assert not torch.allclose(found, other)
