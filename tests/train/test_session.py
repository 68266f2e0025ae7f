"""Sessions: resumed runs are bit-identical, growth follows the papers, events say what happened."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from training import adamw, batches, net, sgd, train, zeros

import secateur as sc

RECIPES: dict[str, sc.Recipe] = {
    "gmp": sc.presets.gmp(0.9, end=20, every=5),
    "set": sc.presets.set(0.8, every=4, end=24),
    "rigl": sc.presets.rigl(0.8, every=4, end=24),
    "snfs": sc.presets.snfs(0.8, every=4, end=24),
    "granet": sc.presets.granet(0.8, end=16, every=4),
    "movement": sc.presets.movement(0.8, end=16, every=4),
    "soft_movement": sc.presets.soft_movement(penalty=0.2, every=4),
    "ac_dc": sc.presets.ac_dc(0.8, warmup=4, sparse=4, dense=4, end=16),
    "dpf": sc.presets.dpf(0.8, end=16, every=4),
    "dns": sc.presets.dns(0.8, end=16, every=4),
    "str_": sc.presets.str_(0.8, start=-5.0, decay=0.5, every=4),
    "topkast": sc.presets.topkast(0.8, every=4),
    "sr_ste": sc.presets.sr_ste(2, 4, every=2),
    "l0": sc.presets.l0(penalty=1e-4, rate=0.1, every=4),
    "pdp": sc.presets.pdp(0.8, end=16, every=4, temperature=1e-3),
    "taylor": sc.presets.gmp(0.8, end=16, every=4, criterion="taylor", allocate="uniform"),
    "random": sc.presets.gmp(0.8, end=16, every=4, criterion="random"),
    "lamp": sc.presets.gmp(0.8, end=16, every=4, allocate="lamp"),
    "rows": sc.presets.rigl(0.5, every=4, end=24, unit=sc.Block(1, None), allocate="uniform"),
    "banks": sc.presets.set(0.5, every=4, end=24, unit=sc.Weight(per=8)),
    "adaptive": sc.Recipe(
        budget=sc.Sparsity(0.9),
        schedule=sc.Adaptive(lambda model: float(model[5].weight.norm()), 0.02, every=3, by=0.4),
    ),
}


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("name", RECIPES)
def test_a_killed_and_resumed_run_is_bit_identical(
    name: str, make: Callable[[nn.Module], Optimizer]
) -> None:
    """Through a file, after 13 of 28 steps, into a model with other weights."""
    recipe = RECIPES[name]
    whole = net()
    optimizer = make(whole)
    session = sc.attach(whole, optimizer, recipe)
    data = batches(28)
    train(whole, optimizer, islice(data, 13))
    file = io.BytesIO()
    torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(whole, optimizer, data)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = net(seed=5)
    other = make(again)
    resumed = sc.attach(again, other, recipe)
    again.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    assert resumed.step == 13
    train(again, other, islice(batches(28), 13, None))
    assert resumed.events == session.events
    for one, two in ((whole, again), (session.finish(), resumed.finish())):
        for a, b in zip(one.parameters(), two.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_trains_and_ends_with_exact_zeros(name: str) -> None:
    model = net()
    optimizer = sgd(model, 0.05)
    session = sc.attach(model, optimizer, RECIPES[name])
    train(model, optimizer, batches(80))
    session.finish()
    gone, n = zeros(model)
    assert gone / n == pytest.approx(session.sparsity, abs=2e-3)
    for key, mask in session.masks.items():
        assert (model.get_parameter(key)[~mask] == 0).all()
    budget = RECIPES[name].budget
    if name in ("sr_ste", "banks"):  # the convolution has one input channel, so it stays
        assert gone / n == pytest.approx((n - 72) / 2 / n, abs=2e-3)
    elif isinstance(budget, sc.Sparsity) and name not in ("adaptive", "str_"):
        assert session.sparsity == pytest.approx(budget.fraction, abs=5e-3)
    else:
        assert 0.1 < session.sparsity < 1
    x, y = next(batches(1, seed=9))
    assert (model(x).argmax(1) == y).float().mean() > 0.4 or name == "random"


def test_rigl_is_the_papers() -> None:
    """One update against a plain implementation of algorithm 1, from its masks and gradients."""
    model = net()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, sc.presets.rigl(0.8, every=4, end=24, drop=0.3))
    train(model, optimizer, batches(3))
    before = {name: mask.clone() for name, mask in session.masks.items()}
    x, y = next(batches(1, seed=7))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    twin = copy.deepcopy(model)  # without the session
    steps = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    steps.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for a, b in zip(twin.parameters(), model.parameters(), strict=True):
        a.grad = None if b.grad is None else b.grad.clone()
    steps.step()
    optimizer.step()
    part = 0.3 / 2 * (1 + math.cos(math.pi * 4 / 24))
    for name, mask in before.items():
        weight, grad = twin.get_parameter(name).detach(), twin.get_parameter(name).grad
        assert grad is not None
        n = int(mask.sum())
        exchanged = int(part * n)
        size = torch.where(mask, weight.abs(), -1).flatten()
        kept = torch.zeros_like(size, dtype=torch.bool)
        kept[size.topk(n - exchanged).indices] = True
        growth = torch.where(kept, -1, grad.abs().flatten())
        expected = kept.clone()
        expected[growth.topk(exchanged).indices] = True
        found = session.masks[name].flatten()
        assert found[kept].all() and int(found.sum()) == n
        values = [growth[some & ~kept].sort().values for some in (found, expected)]
        assert torch.equal(*values)  # where gradients are equal, any of them may grow
        new = found.view_as(mask) & ~mask
        assert new.any()
        assert (model.get_parameter(name)[new] == 0).all()
        assert (optimizer.state[model.get_parameter(name)]["momentum_buffer"][new] == 0).all()
    event = session.events[-1]
    assert event["step"] == 4 and event["grown"] == event["removed"] > 0


def test_set_grows_at_random_and_keeps_the_counts() -> None:
    model = net()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, sc.presets.set(0.9, every=2))
    counts = [int(mask.sum()) for mask in session.masks.values()]
    first = {name: mask.clone() for name, mask in session.masks.items()}
    train(model, optimizer, batches(6))
    assert [int(mask.sum()) for mask in session.masks.values()] == counts
    assert any(not torch.equal(mask, first[name]) for name, mask in session.masks.items())


def test_growth_by_momentum_takes_the_largest() -> None:
    model = nn.Linear(8, 8, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, :4] = True
    recipe = sc.presets.snfs(None, every=1, drop=0.5, allocate={"weight": 0.5})
    session = sc.attach(model, optimizer, recipe, masks={"weight": mask})
    size = model.weight.detach().abs().clone()
    gradient = torch.rand(8, 8)
    model.weight.grad = gradient.clone()
    optimizer.step()
    kept = torch.where(mask, size, -1).flatten().topk(16).indices
    grown = torch.where(torch.zeros(64).index_fill(0, kept, 1).bool(), -1, gradient.flatten())
    expected = set(kept.tolist()) | set(grown.topk(16).indices.tolist())
    assert set(session.masks["weight"].flatten().nonzero().flatten().tolist()) == expected


def test_growth_by_momentum_needs_some() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sc.attach(model, optimizer, sc.presets.snfs(0.5, every=2))
    with pytest.raises(sc.SecateurError, match="keeps none"):
        train(model, optimizer, batches(2))


def test_whole_outputs_come_back() -> None:
    model = net()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, RECIPES["rows"])
    alive = [m.flatten(1).any(1) for m in session.masks.values()]
    train(model, optimizer, batches(24))
    later = [m.flatten(1).any(1) for m in session.masks.values()]
    for mask in session.masks.values():
        rows = mask.flatten(1)
        assert torch.equal(rows.any(1), rows.all(1))
    assert any((new & ~old).any() for new, old in zip(later, alive, strict=True))


def test_ac_dc_opens_and_closes() -> None:
    model = net()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, RECIPES["ac_dc"])
    seen = []
    train(model, optimizer, batches(26), after=lambda: seen.append(round(session.sparsity, 1)))
    assert seen == [0.0] * 3 + [0.8] * 4 + [0.0] * 4 + [0.8] * 4 + [0.0] * 4 + [0.8] * 7


def test_adaptive_backs_off_to_the_weights_before() -> None:
    """The metric falls off a cliff at 60 %: the session ends below, with the old weights back."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    n = zeros(model)[1]

    def metric(model: nn.Module) -> float:
        assert not model.training
        return 1.0 if zeros(model)[0] / n <= 0.6 else 0.5

    schedule = sc.Adaptive(metric, tolerance=0.1, start=2, every=2, by=0.5, least=0.05)
    session = sc.attach(model, optimizer, sc.Recipe(budget=sc.Sparsity(0.9), schedule=schedule))
    before = [p.detach().clone() for p in model.parameters()]
    found = []
    train(model, optimizer, batches(40), after=lambda: found.append(zeros(model)[0] / n))
    assert model.training
    kinds = [event["kind"] for event in session.events]
    assert kinds[:5] == ["attach", "look", "raise", "accept", "raise"]
    assert "back off" in kinds
    assert max(found) > 0.6
    session.finish()
    final = zeros(model)[0] / n
    assert 0.45 < final <= 0.6
    assert session.sparsity == pytest.approx(final)
    for now, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(now[now != 0], old[now != 0])
    reasons = [event["reason"] for event in session.events if event["kind"] == "back off"]
    assert "outside the tolerance of 0.1" in reasons[0]


def test_a_trial_that_nobody_judged_is_judged_at_the_end() -> None:
    model = net()
    optimizer = sgd(model)
    schedule = sc.Adaptive(lambda m: -zeros(m)[0], tolerance=10, every=5, by=0.5)
    session = sc.attach(model, optimizer, sc.Recipe(budget=sc.Sparsity(0.9), schedule=schedule))
    train(model, optimizer, batches(3))
    assert session.sparsity > 0.4
    session.finish()
    assert session.sparsity == 0
    assert session.events[-2]["kind"] == "back off"


def test_lower_can_be_better() -> None:
    model = net()
    optimizer = sgd(model)
    schedule = sc.Adaptive(lambda m: 1.0, tolerance=0.0, every=1, by=0.5, higher=False)
    session = sc.attach(model, optimizer, sc.Recipe(budget=sc.Sparsity(0.9), schedule=schedule))
    train(model, optimizer, batches(6))
    assert session.sparsity == pytest.approx(0.9, abs=1e-3)


def test_nothing_is_drawn_from_the_global_generator() -> None:
    for recipe in (RECIPES["set"], RECIPES["l0"], RECIPES["random"], RECIPES["adaptive"]):
        model = net()
        optimizer = sgd(model)
        torch.manual_seed(3)
        sc.attach(model, optimizer, recipe)
        train(model, optimizer, batches(5))
        drawn = torch.rand(())
        torch.manual_seed(3)
        assert torch.equal(drawn, torch.rand(()))


def test_seeds_differ() -> None:
    masks = []
    for seed in (0, 0, 1):
        model = net()
        masks.append(sc.attach(model, sgd(model), sc.presets.set(0.5, seed=seed)).masks)
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])
    assert not all(torch.equal(masks[0][name], masks[2][name]) for name in masks[0])


def test_nan_gradients_at_an_update() -> None:
    model = net()
    optimizer = sgd(model)
    sc.attach(model, optimizer, RECIPES["rigl"])
    train(model, optimizer, batches(3))
    for p in model.parameters():
        assert p.grad is not None
    model[3].weight.grad[0, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(sc.SecateurError, match=r"\.weight: .* not numbers"):
        optimizer.step()


def test_gradients_are_gone_at_an_update() -> None:
    model = net()
    optimizer = sgd(model)
    sc.attach(model, optimizer, RECIPES["rigl"])
    with pytest.raises(sc.SecateurError, match="has no gradient at this update"):
        for _ in range(4):
            optimizer.step()


def test_training_that_ends_early_says_so() -> None:
    model = net()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, RECIPES["gmp"])
    train(model, optimizer, batches(7))
    with pytest.warns(UserWarning, match="ended after 7 steps, before the schedule"):
        session.finish()


def test_page_and_events() -> None:
    model = net()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, sc.Recipe(budget=sc.Sparsity(0.5), allocate="uniform"))
    assert str(session).splitlines() == [
        "Session after 0 steps: 50.0% of 4.42 k weights are zero",
        "          weights   zero",
        "0.weight       72  50.0%",
        "3.weight    4,096  50.0%",
        "5.weight      256  50.0%",
    ]
    assert session.events == [
        {"step": 0, "kind": "update", "sparsity": 0.5, "part": 1.0, "removed": 2212, "grown": 0}
    ]


def test_a_state_without_the_optimizers() -> None:
    model = net()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, RECIPES["set"])
    train(model, optimizer, batches(6))
    other = copy.deepcopy(model)
    again = sc.attach(other, sgd(other), RECIPES["set"], state=session.state_dict())
    assert again.step == 6
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"version": 99}, "version 99"),
        ({"seed": 4}, "seed=4"),
        ({"ascent": {}}, "another schedule"),
    ],
)
def test_states_of_other_sessions(change: dict[str, Any], what: str) -> None:
    model = net()
    session = sc.attach(model, sgd(model), RECIPES["set"])
    with pytest.raises(sc.SecateurError, match=what):
        session.load_state_dict({**session.state_dict(), **change})


def test_states_of_other_models_and_forms() -> None:
    model = net()
    session = sc.attach(model, sgd(model), RECIPES["set"], scope="3")
    other = net()
    second = sc.attach(other, sgd(other), RECIPES["set"])
    with pytest.raises(sc.SecateurError, match="other weights"):
        second.load_state_dict(session.state_dict())
    third = nn.Sequential(*(nn.Identity() for _ in range(3)), nn.Linear(128, 31))
    with pytest.raises(sc.SecateurError, match="31"):
        sc.attach(third, sgd(third), RECIPES["set"]).load_state_dict(session.state_dict())
    fourth = net()
    with pytest.raises(sc.SecateurError, match="another form"):
        sc.attach(fourth, sgd(fourth), RECIPES["dpf"], scope="3").load_state_dict(
            session.state_dict()
        )


def test_a_report_shows_the_history() -> None:
    model = net()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, RECIPES["gmp"])
    train(model, optimizer, batches(20))
    panel = session.panel
    assert panel.chart is not None
    marks = [(mark.x, mark.y) for mark in panel.chart.marks]
    assert marks == [(event["step"], 100 * event["sparsity"]) for event in session.events]
    assert marks[-1][1] == pytest.approx(90, abs=0.1)
    *_, table = panel.page
    assert [row[1] for row in table.rows] == [event["kind"] for event in session.events]  # type: ignore[union-attr]
