"""What networks keep that look at their inputs: gates, activations, exits; and a controller."""

from __future__ import annotations

import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from typing import Any

import torch
from quality_cases import CASES, Case, macs
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import secateur as sc

Row = dict[str, Any]
EXIT_CASES = {"digitcnn": (0.98, 2000), "resnet20": (0.95, 1500), "char_gpt": (0.95, 800)}
"""The guarantee, and the samples that thresholds are calibrated on."""
LAZY_CASES = ("char_gpt", "char_lstm", "fsdd_lstm")
RESAMPLINGS = 20


def score(case: Case, model: Any) -> float:
    """The mean metric on unseen data."""
    return case.scores(model, case.report).mean().item()


def gates() -> Row:
    """Channels chosen for every input, beside a network pruned to the same work."""
    case = CASES["resnet20"]()
    whole, rows = macs(case.build(), case), []
    for keep in (0.75, 0.5):
        gated = sc.gate(case.build(), case.data(), keep=keep, only_faster=False)
        with torch.no_grad():
            gated(*case.example)  # constants are there
            with FlopCounterMode(display=False) as counter:
                gated(*case.example)
        share = counter.get_total_flops() / 2 / whole
        budget = sc.MACs(f"{100 * share:.3f}%")
        static = sc.prune(
            case.build(), case.example, data=case.data(), budget=budget, latency=False
        ).model
        rows.append({
            "keep": keep, "macs": share, "score": score(case, gated), "static": score(case, static),
            "static_macs": macs(static, case) / whole,
        })  # fmt: skip
        print("gates", rows[-1], flush=True)
    return {"case": case.name, "dense": score(case, case.build()), "rows": rows}


def activations(name: str) -> Row:
    """What the loss does where inputs near zero are skipped."""
    case, rows = CASES[name](), []
    part = case.report[:300]
    for sparsity in (0.25, 0.4, 0.5):
        row: Row = {"sparsity": sparsity}
        for how in ("greedy", "uniform"):
            lazy = sc.adapt.activations(
                case.build(), case.data(), sparsity=sparsity, allocate=how, only_faster=False,
                samples=128,
            )  # fmt: skip
            row |= {how: case.scores(lazy, part).mean().item(), f"{how}_read": 1 - lazy.skipped}
        rows.append(row)
        print(name, row, flush=True)
    dense = case.scores(case.build(), part).mean().item()
    return {"case": case.name, "metric": case.metric, "dense": dense, "rows": rows}


def exits(name: str, jobs: int) -> Row:
    """The agreement with the whole network on unseen data, for many draws of calibration data."""
    context = multiprocessing.get_context("spawn")
    rows = []
    with ProcessPoolExecutor(jobs, context, torch.set_num_threads, (1,)) as pool:
        for row in pool.map(partial(_draw, name), range(RESAMPLINGS)):
            rows.append(row)
            print(name, row, flush=True)
    guarantee, agreements = EXIT_CASES[name][0], [row["agreement"] for row in rows]
    return {
        "case": CASES[name]().name, "guarantee": guarantee, "agreements": agreements,
        "work": [row["work"] for row in rows], "kept": sum(a >= guarantee for a in agreements),
    }  # fmt: skip


def _draw(name: str, draw: int) -> Row:
    model, x, wanted = _answers(name)
    guarantee, count = EXIT_CASES[name]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(draw))
    early = sc.adapt.exits(
        model, [x[part] for part in order[:count].split(100)], guarantee=guarantee, samples=count
    )
    unseen = order[count:][:2000]
    with torch.no_grad():
        runs = [early.leave(x[part]) for part in unseen.split(250)]
    same = torch.cat([found.argmax(1) for found, _ in runs]) == wanted[unseen]
    where = torch.cat([place for _, place in runs])
    work = torch.tensor([*early.costs, 1.0])[where]
    return {
        "agreement": same.float().mean().item(), "work": work.mean().item(), "at": early.names,
        "times": early.times,
    }  # fmt: skip


@cache
def _answers(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, all inputs that there are, and its classes for them."""
    case = CASES[name]()
    model = case.build()
    x = torch.cat([case.selection.inputs[0], case.report.inputs[0]])
    with torch.no_grad():
        outs = torch.cat([model(part) for part in x.split(250)])
    return model, x, outs.argmax(-1) if outs.dim() == 2 else outs[:, -1].argmax(-1)


def controller() -> Row:
    """A simulated server: one worker, random arrivals that triple, and faults."""
    found = {"fixed": _simulate(None), "dial": _simulate(0.25)}
    found["faults"] = _simulate(0.25, faults=True)
    for name, row in found.items():
        print(name, row, flush=True)
    return found


def _simulate(floor: float | None, faults: bool = False) -> Row:
    """Two minutes, the middle third under three times the load; 10 ms of service at level 1."""
    net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 4))
    dial = sc.dial(net, torch.randn(1, 4), levels=[1.0, 0.75, 0.5, 0.25])
    target = 50.0
    server = sc.adapt.Controller(dial, target, floor=floor)
    draw, free, when, number = random.Random(0), 0.0, 0.0, 0
    taken: dict[str, list[float]] = {"light": [], "tripled": [], "light again": []}
    while when < 120:
        phase = "light" if when < 40 else "tripled" if when < 80 else "light again"
        when += draw.expovariate(120.0 if phase == "tripled" else 40.0)
        number += 1
        level = 1.0 if floor is None else dial.level
        service = 0.010 * level * draw.uniform(0.9, 1.1)
        if faults and number in (1000, 4000, 7500):
            service = 0.5  # a request that hangs
        start = max(free, when)
        free = start + service
        latency = 1000 * (free - when)
        taken[phase].append(latency)
        if faults and number % 97 == 0:
            latency = float("nan")
        if faults and number % 501 == 0:
            latency = -3.6e6  # the clock was set back
        if floor is not None:
            server.observe(latency, level)
    return {
        "target_ms": target,
        "p95": {phase: _percentile(ms) for phase, ms in taken.items()},
        "turns": len([e for e in server.events if e.before != e.after]),
        "ignored": server.ignored, "last_level": dial.level, "lowest": min(server.levels),
    }  # fmt: skip


def _percentile(values: list[float], share: float = 0.95) -> float:
    return float(Tensor(sorted(values))[int(share * (len(values) - 1))])
