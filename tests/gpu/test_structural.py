"""Cuts on a GPU: the same decisions as on the CPU, verified there, timed there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_nets import FAMILIES, GPU, apart, at_home, data, labelled, net, run
from torch import nn

import secateur as sc
from secateur.core.errors import InfeasibleBudget


def kept(plan: sc.Plan) -> dict[str, list[int]]:
    return {name: [int(k) for k in site.keep] for name, site in plan.sites.items()}


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("family", FAMILIES)
def test_same_cut_as_on_the_cpu(family: str, where: str) -> None:
    x = data(family, 4, where)
    found = sc.prune(net(family), x, budget=sc.MACs("50%"), latency=False)
    wanted = sc.prune(net(family, "cpu"), data(family, 4), budget=sc.MACs("50%"), latency=False)
    assert kept(found.plan) == kept(wanted.plan)
    assert found.verification is not None
    assert found.verification.ok
    assert found.after.macs == wanted.after.macs
    assert at_home(found.model)
    assert apart(run(wanted.model, data(family)), run(found.model, data(family))) < 2e-3


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("family", FAMILIES)
def test_repair_on_the_gpu_is_worth_what_it_is_on_the_cpu(family: str, where: str) -> None:
    model, x = net(family), data(family, 64)
    result = sc.prune(model, data=x.to(where), budget=sc.MACs("60%"), latency=False)
    other = sc.prune(net(family, "cpu"), data=x, budget=sc.MACs("60%"), latency=False)
    assert at_home(result.model, model)
    assert result.repairs
    dense = run(model, x)
    ours, theirs = apart(dense, run(result.model, x)), apart(dense, run(other.model, x))
    assert ours < 1.3 * theirs + 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family: str, dtype: Any) -> None:
    model, x = net(family, dtype=dtype), data(family, 32, GPU, dtype)
    plain = sc.prune(model, x[:4], budget=sc.MACs("60%"), latency=False)
    assert {p.dtype for p in plain.model.parameters()} == {dtype}
    assert plain.verification is not None
    assert plain.verification.ok
    repaired = sc.prune(model, data=x, budget=sc.MACs("60%"), latency=False)
    assert at_home(plain.model, repaired.model)
    assert bool(torch.isfinite(run(repaired.model, x)).all())
    assert apart(run(model, x), run(repaired.model, x)) < 0.8


@pytest.mark.parametrize("criterion", ["taylor", "fisher", "fpgm", "hrank", "chip", "osscar"])
def test_criteria_that_look_at_data(criterion: str) -> None:
    batches = labelled("convolutions")
    result = sc.prune(
        net("convolutions"), data=batches, criterion=criterion, budget=sc.MACs("60%"),
        latency=False, recover=[],
    )  # fmt: skip
    assert result.verification is not None
    assert result.verification.ok
    assert at_home(result.model)


@pytest.mark.parametrize("allocate", ["uniform", "knapsack", "sensitivity"])
def test_allocations(allocate: str) -> None:
    result = sc.prune(
        net("attention"), data=data("attention"), criterion="magnitude", allocate=allocate,
        budget=sc.MACs("60%"), latency=False,
    )  # fmt: skip
    assert at_home(result.model)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_place_with_an_optimizer(family: str) -> None:
    model, x = net(family).train(), data(family, 16, GPU)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(x).square().mean().backward()
    optimizer.step()
    sc.prune_(model, x[:4], budget=sc.MACs("60%"), optimizer=optimizer, latency=False)
    assert model.training
    assert at_home(model)
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
    for parameter, state in optimizer.state.items():
        assert state["exp_avg"].shape == parameter.shape
        assert at_home(state["exp_avg"], state["exp_avg_sq"])


def test_plan_mask_cut() -> None:
    model, x = net("convolutions"), data("convolutions", 4, GPU)
    plan = sc.plan(model, x, budget=sc.MACs("50%"))
    with sc.mask(model, plan):
        assert at_home(model)
    masked_macs = sc.inspect(model, x)
    assert str(masked_macs)
    assert sc.cut(model, plan).ok
    assert at_home(model)


def test_graph_module_and_channels_last() -> None:
    model, x = net("convolutions"), data("convolutions", 4, GPU)
    rewritten = sc.prune(model, x, budget=sc.MACs("50%"), rewrite=True, latency=False)
    assert at_home(rewritten.model)
    last = model.to(memory_format=torch.channels_last)
    result = sc.prune(
        last, x.to(memory_format=torch.channels_last), budget=sc.MACs("50%"), latency=False
    )
    assert result.verification is not None
    assert result.verification.ok


def test_drop() -> None:
    batches = labelled("convolutions", 96)
    result = sc.prune(
        net("convolutions"), data=batches, evaluate=sc.Accuracy(batches),
        budget=sc.Drop(points=30), latency=False,
    )  # fmt: skip
    assert result.quality is not None
    assert at_home(result.model)
    assert result.after.macs < result.before.macs


def test_latency_is_the_gpus() -> None:
    wide = nn.Sequential(nn.Linear(4096, 8192), nn.ReLU(), nn.Linear(8192, 4096)).to(GPU)
    x = torch.randn(2048, 4096, device=GPU)
    result = sc.prune(wide, x, budget=sc.Latency("75%"), criterion="magnitude", allocate="knapsack")
    before, after = result.before.latency, result.after.latency
    assert before is not None
    assert after is not None
    assert before.device == torch.cuda.get_device_name()
    assert after.median_ms <= 0.8 * before.median_ms
    tiny = net("convolutions")
    with pytest.raises((InfeasibleBudget, UserWarning)):  # launches take all the time
        sc.prune(tiny, data("convolutions", 1), budget=sc.Latency("10%"))


def test_peak_memory() -> None:
    model, x = net("convolutions"), data("convolutions", 64, GPU)
    try:
        result = sc.prune(model, x, budget=sc.PeakMemory("90%"), latency=False)
    except InfeasibleBudget as error:
        assert "PeakMemory" in str(error)
    else:
        assert result.after.peak is not None
        assert result.after.peak <= 0.9 * result.before.peak


def test_curves() -> None:
    batches = labelled("convolutions")
    accuracy = sc.Accuracy(batches)
    found = sc.sensitivity(
        net("convolutions"), data=batches, levels=(0.5, 0.25), evaluate=accuracy, criterion="l1"
    )
    assert str(found)
    curve = sc.frontier(
        net("convolutions"), data=batches, evaluate=accuracy, points=2, criterion="l1"
    )
    assert str(curve)


def test_shrink_of_dead_units() -> None:
    model, x = net("convolutions"), data("convolutions", 8, GPU)
    with torch.no_grad():
        model.second.weight[:, 5] = 0  # nothing reads it
        model.first.weight[7] = 0  # nothing feeds it
    result = sc.shrink(model, x)
    assert at_home(result.model)
    assert result.after.params < result.before.params
    assert apart(run(model, x), run(result.model, x)) < 1e-4
