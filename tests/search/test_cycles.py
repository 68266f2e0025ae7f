"""Cycles of pruning: costs fall geometrically, quality ends them, all plans stay together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from building import digits_case
from torch import nn

import secateur as sc
from secateur.apply.cut import replay
from secateur.core.attempt import Attempt
from secateur.core.errors import InfeasibleBudget, RecipeError
from secateur.core.history import plans_of
from secateur.core.tensors import light_copy, own_memory
from secateur.recover import Job


@dataclass
class Watch:
    """A repair that only looks."""

    teachers: list[Any] = field(default_factory=list)
    widths: list[tuple[int, int]] = field(default_factory=list)
    earlier: list[int] = field(default_factory=list)

    def run(self, job: Job) -> None:
        self.teachers.append(job.teacher)
        sizes = [sum(p.numel() for p in net.parameters()) for net in (job.dense, job.small)]
        self.widths.append((sizes[0], sizes[1]))
        self.earlier.append(len(job.supervision.earlier))
        job.note("looked")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)
    )


def data() -> list[Any]:
    return list(torch.randn(60, 8, generator=torch.Generator().manual_seed(1)).split(20))


def macs(model: nn.Module) -> int:
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))


def test_costs_fall_geometrically_to_the_budget() -> None:
    model, watch = net(), Watch()
    records: list[Attempt] = []
    result = sc.prune(
        model, data=data(), budget=sc.MACs("25%"), schedule=sc.Steps(4), recover=[watch],
        latency=False, on_trial=records.append,
    )  # fmt: skip
    total = macs(model)
    left = [record.macs / total for record in records]
    for k, share in enumerate(left):
        aim = 0.25 ** ((k + 1) / 4)
        assert aim - 0.03 < share <= aim
        assert records[k].share == pytest.approx(aim, abs=1e-3)
    assert macs(result.model) == result.after.macs == records[-1].macs
    assert (result.before.macs, result.before.params) == (total, 4996)
    assert len(result.plans) == 4 and result.plan is result.plans[-1]
    assert watch.teachers == [model] * 4 and watch.earlier == [0, 1, 2, 3]
    assert watch.widths[0][0] == 4996
    assert all(a[1] == b[0] for a, b in zip(watch.widths, watch.widths[1:], strict=False))
    assert result.repairs == tuple(f"cycle {k}: looked" for k in (1, 2, 3, 4))
    assert [line.split(":")[0] for line in result.search] == [
        f"cycle {k} of 4" for k in (1, 2, 3, 4)
    ]
    assert f": {left[3]:.1%} of the MACs left" in result.search[3]
    assert result.verification.ok
    assert macs(model) == total and plans_of(model) == ()


def test_the_plans_lead_from_the_original_to_the_result() -> None:
    model = net()
    result = sc.prune(
        model, data=data(), budget=sc.Params("40%"), schedule=sc.Steps([0.5, 1.0]), recover=[],
        latency=False,
    )  # fmt: skip
    twin = light_copy(model)
    own_memory(twin, model)
    for plan in result.plans:
        replay(twin, plan)
    x = torch.randn(5, 8)
    torch.testing.assert_close(twin(x), result.model(x))


def test_in_place_is_the_same() -> None:
    model, twin = net(), net()
    options: dict[str, Any] = {
        "data": data(), "budget": sc.MACs("30%"), "schedule": sc.Steps(3), "latency": False,
    }  # fmt: skip
    optimizer = torch.optim.Adam(twin.parameters())
    twin(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    twin.load_state_dict(model.state_dict())
    expected = sc.prune(model, **options)
    result = sc.prune_(twin, optimizer=optimizer, **options)
    assert result.model is twin and len(result.plans) == 3 == len(plans_of(twin))
    for name, value in expected.model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name
    for parameter in twin.parameters():
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape


@pytest.mark.parametrize("allocate", ["global", "uniform"])
def test_shares_of_units(allocate: str) -> None:
    model = net()
    result = sc.prune(
        model, torch.randn(2, 8), unit=sc.Channel(), allocate=allocate,
        budget=sc.Sparsity(0.75), schedule=sc.Steps(3), latency=False,
    )  # fmt: skip
    widths = [m.out_features for m in result.model if isinstance(m, nn.Linear)][:2]
    assert sum(widths) == 32 and (allocate == "global" or widths == [16, 16])


def test_a_second_prune_remembers_the_first() -> None:
    first = sc.prune(net(), data=data(), budget=sc.MACs("80%"), latency=False)
    second = sc.prune(
        first.model, data=data(), budget=sc.MACs("50%"), schedule=sc.Steps(2), latency=False
    )
    assert len(second.plans) == 3 and second.plans[0] is first.plan


@pytest.mark.slow
def test_quality_ends_the_cycles() -> None:
    case = digits_case()
    reads: list[float] = []
    result = sc.prune(
        case.model, data=[case.data.images[:256]], budget=sc.Drop(points=2), evaluate=case.right,
        schedule=sc.Steps(6), latency=False, on_trial=lambda r: reads.append(r.quality or 0.0),
    )  # fmt: skip
    dense = case.accuracy(case.model)
    accepted = [record for record in result.attempts if record.accepted]
    assert accepted and result.after.macs == accepted[-1].macs
    assert len(result.plans) == len(accepted)
    last = result.attempts[-1]
    assert len(result.attempts) == 6 or (not last.accepted and "worse" in last.why)
    assert result.quality.after >= dense - 0.04  # of the half that nothing was selected on
    assert result.attempts[-1] is not accepted[-1] or len(result.attempts) == 6
    assert len(result.repairs) == sum(
        text.startswith(tuple(f"cycle {k + 1}:" for k in range(len(accepted))))
        for text in result.repairs
    )


def test_the_last_good_network_is_the_result() -> None:
    model = net()
    limit = macs(model) // 2

    def evaluate(found: nn.Module) -> float:
        return 1.0 if macs(found) >= limit else 0.0

    result = sc.prune(
        model, data=data(), budget=sc.Drop(points=1), evaluate=evaluate, schedule=sc.Steps(8),
        latency=False,
    )  # fmt: skip
    shares = [record.macs / macs(model) for record in result.attempts]
    assert [record.accepted for record in result.attempts] == [True, True, False]
    assert 0.5 < result.after.macs / macs(model) == shares[1] and shares[2] < 0.5
    assert len(result.plans) == 2 and macs(result.model) == result.after.macs
    assert all(not text.startswith("cycle 3") for text in result.repairs)
    assert "1 worse, 0.01 allowed" in result.search[2]
    assert result.before.quality == 1.0 == result.after.quality


def test_no_cycle_is_good_enough() -> None:
    with pytest.raises(InfeasibleBudget, match="was not reached"):
        sc.prune(
            net(), data=data(), budget=sc.Drop(points=1), schedule=sc.Steps(2), latency=False,
            evaluate=lambda m: float(macs(m) == 8 * 64 + 64 * 64 + 64 * 4),
        )  # fmt: skip


def test_a_measured_ceiling_ends_them_when_it_is_met() -> None:
    model, x = net(), torch.randn(256, 8)
    result = sc.prune(
        model, x, data=data(), budget=sc.PeakMemory("80%"), schedule=sc.Steps(10), latency=False
    )
    assert [record.accepted for record in result.attempts][-2:] == [False, True]
    assert result.after.peak <= 0.8 * result.before.peak


def test_quality_is_read_in_every_cycle() -> None:
    def evaluate(found: nn.Module) -> float:
        return float(macs(found))

    model = net()
    result = sc.prune(
        model, data=data(), budget=sc.MACs("50%"), evaluate=evaluate, schedule=sc.Steps(2),
        latency=False,
    )  # fmt: skip
    assert [record.quality for record in result.attempts] == [r.macs for r in result.attempts]
    assert (result.before.quality, result.after.quality) == (macs(model), result.after.macs)


def test_training_between_the_cycles() -> None:
    model, x = net(), torch.randn(200, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        batches = [(part, model(part).argmax(1)) for part in x.split(20)]
    result = sc.prune(
        model, data=batches, budget=sc.MACs("10%"), schedule=sc.Steps(2), latency=False,
        recover=[sc.Reconstruct(), sc.Distill(epochs=4, lr=0.01)],
        evaluate=sc.Accuracy([batches[k] for k in range(10)]),
    )  # fmt: skip
    said = [text for text in result.repairs if "distillation: held-out loss" in text]
    assert [text.split(":")[0] for text in said] == ["cycle 1", "cycle 2"]
    assert result.quality.after > 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": 5}, "give Steps"),
        ({"schedule": sc.Cubic(0, 100, 10)}, "others are for sc.attach"),
        ({"schedule": sc.Steps(2), "resume": [Attempt("x", 0.5)]}, "not resumed from records"),
    ],
)
def test_what_makes_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        sc.prune(net(), data=data(), latency=False, **options)


def test_a_curve_has_no_schedule() -> None:
    with pytest.raises(RecipeError, match="a curve has no schedule"):
        sc.frontier(net(), data=data(), evaluate=lambda m: 1.0, schedule=sc.Steps(2))


def zeros(model: nn.Module) -> float:
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def test_single_weights_in_cycles() -> None:
    model, watch, seen = net(), Watch(), list[float]()

    class Zeros:
        def run(self, job: Job) -> None:
            seen.append(zeros(job.small))

    result = sc.prune(
        model, data=data(), unit=sc.Weight(), budget=sc.Sparsity(0.9), schedule=sc.Steps(3),
        recover=[watch, Zeros()], latency=False,
    )  # fmt: skip
    for k, share in enumerate(seen):
        assert share == pytest.approx(1 - 0.1 ** ((k + 1) / 3), abs=2e-3)
    assert watch.teachers == [model] * 3 and zeros(model) == 0
    assert zeros(result.model) == pytest.approx(0.9, abs=1e-3) == seen[-1]
    assert result.before.params == 4996 and result.after.params < 700
    assert [line.split(":")[0] for line in result.search] == [f"cycle {k} of 3" for k in (1, 2, 3)]
    for name, mask in result.masks.items():
        assert not result.model.get_parameter(name)[~mask].any()


def test_training_keeps_the_zeros_of_all_cycles() -> None:
    model, x = net(), torch.randn(200, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        batches = [(part, model(part).argmax(1)) for part in x.split(20)]
    twin = net()
    result = sc.prune_(
        twin, data=batches, unit=sc.Weight(), budget=sc.Sparsity(0.9), schedule=sc.Steps(2),
        recover=[sc.Distill(epochs=4, lr=0.01)], latency=False, evaluate=sc.Accuracy(batches),
    )  # fmt: skip
    assert result.model is twin and zeros(twin) == pytest.approx(0.9, abs=1e-3)
    assert sum("->" in text for text in result.repairs) == 2
    assert result.quality.after > 0.7
