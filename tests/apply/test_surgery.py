"""Cuts with their proof, and the way back when the proof fails."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from apply_nets import (
    Attention,
    Recurrent,
    Snapshot,
    Tied,
    blocks,
    convnet,
    crossed,
    half,
    images,
    mlp,
    outputs,
    points,
)  # fmt: skip
from torch import Tensor, nn

import secateur as sc
from secateur.apply.surgery import CutFailed, culprits, cut_verified, restricted_to
from secateur.core.batches import as_call
from secateur.core.errors import InputError, RecipeError, VerificationError
from secateur.core.plan import Plan
from secateur.graph.analyze import analyze
from secateur.search import workshop


def spoiled(model: nn.Module, example: Any, how: str) -> Plan:
    """A plan for `mlp` or `Attention` that must fail."""
    plan = half(model, example)
    if how == "other channels":
        return crossed(plan, "2.weight", 1, "0")
    if how == "a tensor is left out":
        layouts = {name: dims for name, dims in plan.layouts.items() if name != "4.weight"}
        return replace(plan, layouts=layouts)
    if how == "an attribute is left out":
        return replace(plan, attributes=tuple(a for a in plan.attributes if a.path != "heads"))
    raise ValueError(how)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("how", ["other channels", "a tensor is left out"])
def test_a_wrong_cut_is_taken_back_bit_for_bit(how: str, training: bool) -> None:
    model, x = mlp().train(training), points()
    model.register_forward_hook(lambda *_: None)
    optimizer = torch.optim.Adam(model.parameters())
    model(x).square().sum().backward()
    optimizer.step()
    plan, before = spoiled(model, x, how), Snapshot(model)
    state = copy.deepcopy(optimizer.state_dict()["state"])
    with pytest.raises(VerificationError, match="hint: "):
        sc.cut(model, plan, x, optimizer=optimizer)
    before.check()
    for key, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            assert torch.equal(value, state[key][name])
    model(x).sum().backward()
    optimizer.step()


def test_a_crash_after_the_cut_names_the_line() -> None:
    model, x = Attention(), torch.randn(2, 5, 8)
    plan, before = spoiled(model, x, "an attribute is left out"), Snapshot(model)
    with pytest.raises(VerificationError, match=r"RuntimeError at apply/apply_nets\.py:\d+"):
        sc.cut(model, plan, x)
    before.check()


def test_every_wrong_pair_of_channels_is_noticed() -> None:
    """Whatever consumer is cut at the wrong place, the outputs show it."""
    model, x = convnet().double(), images().double()
    plan = half(model, x)
    wrong = [("1.weight", 0, "0"), ("1.running_mean", 0, "0"), ("3.weight", 1, "0"),
             ("0.bias", 0, "0"), ("7.weight", 1, "3"), ("3.weight", 0, "3")]  # fmt: skip
    for tensor, dim, site in wrong:
        before = Snapshot(model)
        with pytest.raises(VerificationError):
            sc.cut(model, crossed(plan, tensor, dim, site), x)
        before.check()
    assert sc.cut(model, plan, x).ok


def test_the_proof_is_reported() -> None:
    result = sc.prune(convnet(), images(), latency=False)
    proof = result.verification
    assert proof.ok and not proof.statistical and proof.method == "masked original"
    assert proof.max_difference <= proof.tolerance == 2e-4
    assert sc.prune(mlp().double(), points().double(), latency=False).verification.tolerance < 1e-6


def test_statistical_cuts_say_so() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    proof = sc.prune(model, points(), latency=False).verification
    assert proof.ok and proof.statistical and "normalisations run over cut axes" in proof.note
    heads_only = sc.prune(Attention(), torch.randn(2, 5, 8), unit=sc.Head(), latency=False)
    assert heads_only.verification.ok and not heads_only.verification.statistical


class Fickle(nn.Module):
    """Goes another way when fewer channels are left."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if h.abs().sum() > self.limit:
            h = h.relu()
        return self.b(h)

    limit = 0.0


def test_control_flow_that_depends_on_the_data() -> None:
    model, x = Fickle(), points()
    result = sc.prune(model, x, latency=False)
    assert result.verification.ok and result.verification.method == "masked original"
    assert any("control flow" in note for note in result.notes)


def test_control_flow_that_goes_another_way_after_the_cut() -> None:
    model, x = Fickle(), points()
    total = float(model.a(x).detach().abs().sum())
    model.limit = total * 0.8  # half of the channels have less
    before = Snapshot(model)
    try:
        result = sc.prune(model, x, latency=False)
        assert result.verification.ok
    except (VerificationError, RecipeError):
        pass
    before.check()


class Cached(nn.Module):
    """Keeps what it has seen, as a decoder does."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
        self.past: list[Tensor] = []
        self.calls, self.last = 0, None

    def forward(self, x: Tensor) -> Tensor:
        self.past.append(self.key(x))
        self.calls, self.last = self.calls + 1, self.past[-1]
        return self.out(torch.cat(self.past, 1))


def test_caches_of_the_forward_pass() -> None:
    model, x = Cached(), torch.randn(2, 4, 6)
    before = Snapshot(model)
    result = sc.prune(model, x, latency=False)
    before.check()
    assert (result.model.past, result.model.calls, result.model.last) == ([], 0, None)
    assert result.model(x).shape == (2, 4, 3)


def test_caches_that_are_full_already() -> None:
    model, x = Cached().eval(), torch.randn(2, 4, 6)
    with torch.no_grad():
        model(x)
    result = sc.prune(model, x, latency=False)
    assert len(model.past) == 1 and model.past[0].shape == (2, 4, 8)
    assert result.model.key.out_features == 4
    result.model(x)


def test_infinite_outputs() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> Tensor:
            y = self.net(x)
            return torch.stack([y, torch.full_like(y, float("-inf"))])

    assert sc.prune(Masked(), points(), latency=False).verification.ok


def test_outputs_that_are_not_numbers() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).log() * float("nan")

    model, x = Broken(), points()
    before = Snapshot(model)
    with pytest.raises(InputError, match="not numbers"):
        sc.prune(model, x, latency=False)
    before.check()


def test_cuts_that_make_numbers_into_nan_are_not_taken() -> None:
    """The unbiased deviation of one value is not a number."""

    class Standardised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 2), nn.Linear(2, 3)
            self.c, self.d = nn.Linear(3, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.d(self.c(self.b(h / h.std(-1, keepdim=True))).relu())

    result = sc.prune(Standardised(), points(), latency=False)
    assert outputs(result.model, points()).isfinite().all()
    assert result.model.a.out_features == 2 and result.model.c.out_features < 8


class Fussy(nn.Module):
    """Has one layer that cannot be cut, which no analysis can know."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.a(x).relu())
        if self.b.bias.nbytes != 32:
            raise RuntimeError("I want eight")
        return self.c(h.relu())


def test_what_fails_is_found_and_stays() -> None:
    model, x = Fussy(), points()
    result = sc.prune(model, x, latency=False)
    assert result.model.a.out_features < 8 and result.model.b.out_features == 8
    assert any("I want eight" in reason.text for reason in result.frozen)


def test_culprits_leave_the_model_alone() -> None:
    model, x = Fussy(), points()
    call = as_call(model, x)
    graph, plan, before = analyze(model, call), half(model, x), Snapshot(model)
    found = culprits(model, call, graph, plan)
    assert list(found) == ["b"] and "I want eight" in found["b"].text
    assert "test_surgery.py" in found["b"].where
    before.check()


def test_when_everything_fails_the_model_is_as_before() -> None:
    class Never(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> Tensor:
            if sum(p.nbytes for p in self.parameters()) != 1100:
                raise RuntimeError("I am perfect")
            return self.net(x)

    model, x = Never(), points()
    before = Snapshot(model)
    with pytest.raises((VerificationError, RecipeError), match="I am perfect"):
        sc.prune_(model, x, latency=False)
    before.check()


def test_without_rollback_less_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = convnet(), images()
    monkeypatch.setattr(workshop, "culprits", lambda *_: pytest.fail("there is no way back"))
    result = sc.prune_(model, x, rollback=False, latency=False)
    assert result.verification.ok and result.after.params < result.before.params


def test_rounding_gets_a_second_opinion() -> None:
    """In half precision a long sum differs; in double it shows that the cut was right."""
    layers = [nn.Linear(6, 64), *[nn.Linear(64, 64) for _ in range(6)], nn.Linear(64, 3)]
    model = nn.Sequential(*[m for layer in layers for m in (layer, nn.Tanh())][:-1])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    result = sc.prune(model, points(), latency=False)
    assert result.verification.ok


def test_parts_of_a_plan() -> None:
    model = blocks()
    plan = half(model, points())
    part = restricted_to(plan, ["1.up"])
    assert list(part.sites) == ["1.up"] and part.layouts == plan.layouts
    assert sc.cut(model, part, points()).ok
    assert (model[1].up.out_features, model[2].up.out_features) == (8, 16)


@pytest.mark.parametrize("make", [mlp, convnet, Attention, Tied, Recurrent])
def test_a_cut_and_its_undo(make: Any) -> None:
    x = {
        mlp: points, convnet: images, Attention: lambda: torch.randn(2, 5, 8),
        Tied: lambda: torch.randint(0, 11, (2, 5)), Recurrent: lambda: torch.randn(2, 5, 6),
    }[make]()  # fmt: skip
    model = make()
    call = as_call(model, x)
    plan, graph, before = half(model, x), analyze(model, call), Snapshot(model)
    edit, verification = cut_verified(model, call, graph, plan)
    assert verification.ok
    edit.undo()
    before.check()


def test_the_error_carries_a_reason() -> None:
    model, x = mlp(), points()
    call = as_call(model, x)
    with pytest.raises(CutFailed) as caught:
        cut_verified(model, call, analyze(model, call), spoiled(model, x, "other channels"))
    assert "relative difference" in caught.value.reason.text


def test_parameters_on_no_device() -> None:
    with torch.device("meta"):
        model = mlp()
    with pytest.raises(InputError, match=r"meta device\nhint: "):
        sc.prune(model, points(), latency=False)


def test_a_model_without_parameters() -> None:
    with pytest.raises(RecipeError, match="nothing to prune"):
        sc.prune(nn.Sequential(nn.ReLU(), nn.Flatten()), points(), latency=False)
