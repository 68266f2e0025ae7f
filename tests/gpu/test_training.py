"""Sessions, fine-tuning and distillation on a GPU, with scalers, autocast and compiled models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cuda_nets import GPU, apart, at_home, data, labelled, net, run
from torch import nn

import secateur as sc

PRESETS = {
    "gmp": sc.presets.gmp(0.8, end=8, every=2),
    "rigl": sc.presets.rigl(0.8, every=2, end=8),
    "set": sc.presets.set(0.8, every=2, end=8),
    "snfs": sc.presets.snfs(0.8, every=2, end=8),
    "granet": sc.presets.granet(0.8, every=2, end=8),
    "movement": sc.presets.movement(0.8, end=8, every=2),
    "soft_movement": sc.presets.soft_movement(every=2),
    "ac_dc": sc.presets.ac_dc(0.8, end=12),
    "dpf": sc.presets.dpf(0.8, end=8, every=2),
    "dns": sc.presets.dns(0.8, end=8, every=2),
    "str": sc.presets.str_(every=2),
    "topkast": sc.presets.topkast(0.8, every=2),
    "sr_ste": sc.presets.sr_ste(every=2),
    "l0": sc.presets.l0(every=2),
    "pdp": sc.presets.pdp(0.8, end=8, every=2),
}


def train(
    model: nn.Module, optimizer: Any, steps: int = 10, *, scaler: Any = None, amp: Any = None
) -> list[float]:
    batches, losses = labelled("convolutions", device=GPU), []
    for step in range(steps):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=amp or torch.float16, enabled=amp is not None):
            loss = F.cross_entropy(model(x), y)
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        losses.append(float(loss.detach()))
    return losses


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    model = net("convolutions").train()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, PRESETS[name])
    losses = train(model, optimizer, 14)
    session.finish()
    assert at_home(model, dict(session.masks))
    assert all(loss == loss for loss in losses)
    for parameter, mask in ((model.get_parameter(n), m) for n, m in session.masks.items()):
        assert int(parameter[~mask].count_nonzero()) == 0
    if name in ("gmp", "rigl", "set", "snfs", "granet", "ac_dc", "dpf", "topkast", "pdp"):
        assert session.sparsity == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("name", ["gmp", "rigl"])
@pytest.mark.parametrize("amp", [torch.float16, torch.bfloat16])
def test_autocast_and_scaler(name: str, amp: Any) -> None:
    model = net("convolutions").train()
    optimizer, scaler = torch.optim.AdamW(model.parameters(), lr=1e-3), torch.amp.GradScaler("cuda")
    session = sc.attach(model, optimizer, PRESETS[name])
    train(model, optimizer, 12, scaler=scaler, amp=amp)
    session.finish()
    assert session.sparsity == pytest.approx(0.8, abs=0.02)


def test_a_resumed_run_ends_as_the_whole_one() -> None:
    def start() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        model = net("convolutions").train()
        optimizer = sgd(model)
        return model, optimizer, sc.attach(model, optimizer, PRESETS["rigl"])

    first, optimizer, session = start()
    train(first, optimizer, 6)
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    train(first, optimizer, 6)
    second, again, other = start()
    second.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    train(second, again, 6)
    for name, mask in session.masks.items():
        assert torch.equal(mask, other.masks[name])
    assert apart(run(first, data("convolutions")), run(second, data("convolutions"))) < 1e-3


def test_fused_and_capturable_optimizers() -> None:
    for options in ({"fused": True}, {"capturable": True, "foreach": True}):
        model = net("convolutions").train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **options)
        session = sc.attach(model, optimizer, PRESETS["gmp"])
        train(model, optimizer)
        session.finish()
        assert session.sparsity == pytest.approx(0.8, abs=0.02)


def test_result_masks_go_on() -> None:
    batches = labelled("convolutions")
    result = sc.prune(net("convolutions"), data=batches, unit=sc.Weight(), latency=False)
    model = result.model.train()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, masks=result.masks)
    train(model, optimizer)
    session.finish()
    assert session.sparsity == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("repair", [sc.Finetune, sc.Distill])
def test_finetune_and_distill(repair: Any, where: str) -> None:
    batches = labelled("convolutions", device=where)
    result = sc.prune(
        net("convolutions"), data=batches, budget=sc.MACs("60%"), latency=False,
        recover=[sc.Reconstruct(), repair(epochs=2)],
    )  # fmt: skip
    assert at_home(result.model)
    assert len(result.repairs) > 1


OTHERS = [
    sc.LowRank(2, train=sc.Finetune(epochs=1)),
    sc.Compensate(),
    sc.Fold(),
    sc.Recalibrate(),
]


@pytest.mark.parametrize("repair", OTHERS, ids=lambda repair: type(repair).__name__)
def test_other_repairs(repair: Any) -> None:
    batches = labelled("convolutions")
    single = isinstance(repair, sc.LowRank)
    arguments: dict[str, Any] = (
        {"unit": sc.Weight()} if single else {"budget": sc.MACs("60%")}
    )  # fmt: skip
    result = sc.prune(
        net("convolutions"), data=batches, recover=[repair], latency=False, **arguments
    )
    assert at_home(result.model)


def test_cycles() -> None:
    batches = labelled("convolutions")
    result = sc.prune(
        net("convolutions"), data=batches, budget=sc.MACs("50%"), latency=False,
        schedule=sc.Steps(2),
    )  # fmt: skip
    assert at_home(result.model)
    assert len(result.plans) == 2
