"""Kernels compared once more in the running network, where caches are as they are in it.

Alone, a layer finds its input near, or all of it far away. In its network it finds what the layers
before it left in the caches, which kernels bear differently. This is seen on one thread: to time
layers, several have to be sent out for each, which is not so in a run, and hides the kernels' time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any

from secateur.core.errors import SecateurError
from secateur.core.threads import using
from secateur.engine.chain import apart
from secateur.engine.decide import (
    Decision,
    Shapes,
    assemble,
    first_layout,
    forms,
    kernels_of,
    key_of,
)
from secateur.engine.graph import Graph, Node
from secateur.engine.kernels import build, is_direct, is_flat, planes_of
from secateur.engine.layout import Layout
from secateur.engine.pair import PairStep
from secateur.engine.program import Parts, Program
from secateur.engine.steps import Chosen, PlanesStep, Step
from secateur.measure.latency_cache import TimeCache

_MOST, _NEAR = 6, 1.7  # kernels of a layer that are compared, and how much slower they are alone
_ROUNDS, _SECONDS = 3, 4.0  # each of them runs so often at least; how long there are more rounds
_SLOWER = 1.6, 1.3, 1.15, 1.08, 1.05  # by how much those are slower that leave after so many rounds
_BETTER = 0.98  # a kernel that won alone stays, but for one that takes less than this


@dataclass(frozen=True)
class Rival:
    """Layers that are alike: their nodes, and the kernels that may run them, the first for now."""

    nodes: tuple[Node, ...]
    kernels: tuple[str, ...]


def settle(
    graph: Graph,
    shapes: Shapes,
    decisions: Mapping[str, Decision],
    values: Sequence[Any],
    known: TimeCache,
) -> dict[str, Decision]:
    """The decisions, with the kernels that are fastest in the network; `known`: times so far.

    One of each kind of layers changes its kernel from run to run. What took the least of its runs'
    time is taken for all of them.
    """
    layout = first_layout(graph, shapes)
    nodes = [node for node in graph.nodes if node.op == "layer" and node.name in decisions]
    keyed = {node.name: key_of(graph, node, layout, shapes) for node in nodes}
    alike: dict[str, list[Node]] = {}
    for node in nodes:
        alike.setdefault(keyed[node.name], []).append(node)
    rivals: dict[str, Rival] = {}
    for key, group in alike.items():
        alone = _alone(graph, group[0], key, layout, shapes, known)
        kernels = _close(decisions[group[0].name], alone)
        if len(kernels) > 1:
            rivals[key] = Rival(tuple(group), kernels)
    context = hashlib.sha256("\n".join(keyed.values()).encode()).hexdigest()[:12]

    def place(key: str, kernel: str) -> str:
        return f"{key} {kernel} in {context}"

    if any(known.get(place(k, n)) is None for k, rival in rivals.items() for n in rival.kernels):
        parts = assemble(graph, shapes, decisions)
        with using(1):
            in_network = _in_turns(parts, shapes, rivals, values)
        for key, times in in_network.items():
            for kernel, seconds in times.items():
                known[place(key, kernel)] = seconds
        known.save()
    found = dict(decisions)
    for key, rival in rivals.items():
        times = {n: known.get(place(key, n)) or float("inf") for n in rival.kernels}
        times[rival.kernels[0]] *= _BETTER
        best = min(rival.kernels, key=lambda n: times[n])
        ms = 1000 * (known.get(f"{key} {best}") or 0.0)
        for node in rival.nodes:
            found[node.name] = replace(found[node.name], kernel=best, ms=ms)
    return found


def _alone(
    graph: Graph, node: Node, key: str, layout: Layout, shapes: Shapes, known: TimeCache
) -> dict[str, float]:
    """Milliseconds that each kernel of a layer took alone."""
    there = kernels_of(graph, node, layout, shapes)
    times = {name: known.get(f"{key} {name}") for name in there}
    return {name: 1000 * seconds for name, seconds in times.items() if seconds is not None}


def _close(decision: Decision, alone: Mapping[str, float]) -> tuple[str, ...]:
    """The kernel that won, and those that are not much slower."""
    if decision.kernel not in alone or is_flat(decision.kernel) or is_direct(decision.kernel):
        return ()
    most = min(_NEAR * decision.ms, decision.dense_ms)
    others = [n for n in sorted(alone, key=lambda n: alone[n]) if n != decision.kernel]
    fit = [n for n in others if alone[n] < most and not is_flat(n)]
    return decision.kernel, *fit[: _MOST - 1]


def _in_turns(
    parts: Parts, shapes: Shapes, rivals: Mapping[str, Rival], values: Sequence[Any]
) -> dict[str, dict[str, float]]:
    """Seconds of each kernel in the network."""
    graph = parts.graph
    program = Program(parts, values)
    steps, planes = apart(program.steps), list[PlanesStep]()
    for step in steps:  # a pair is timed as a whole
        inner = step.steps if isinstance(step, PairStep) else (step,)
        planes += [part for part in inner if isinstance(part, PlanesStep)]
    own = dict(zip((n.name for n in graph.nodes if n.name in parts.kernels), planes, strict=True))
    changing: dict[str, tuple[PlanesStep, dict[str, Chosen]]] = {}
    for key, rival in rivals.items():
        node = rival.nodes[len(rival.nodes) // 2]
        layer, step = graph.layers[node.name], own[node.name]
        numbers = planes_of(layer, *forms(graph, node, parts.layout, shapes))
        made = {rival.kernels[0]: step.chosen}
        for kernel in rival.kernels[1:]:
            try:
                made[kernel] = Chosen(build(kernel, layer, numbers), step.chosen.weights)
            except SecateurError:
                continue
        changing[key] = step, made
    return _timed(program, steps, changing, values)


def _timed(
    program: Program,
    steps: Sequence[Step],
    changing: Mapping[str, tuple[PlanesStep, dict[str, Chosen]]],
    values: Sequence[Any],
) -> dict[str, dict[str, float]]:
    """Seconds of each kernel: its middle share of a run, as others slow whole runs down.

    What is clearly slower than the best leaves after a few rounds; the rest run the more often.
    """
    timed = {id(part): step for step in steps if isinstance(step, PairStep) for part in step.steps}
    watched = {id(timed.get(id(step), step)): key for key, (step, _) in changing.items()}
    left = {key: list(made) for key, (_, made) in changing.items()}
    shares: dict[str, dict[str, list[float]]] = {k: {n: [] for n in left[k]} for k in left}
    start, rounds, whole = perf_counter(), 0, list[float]()
    while any(len(names) > 1 for names in left.values()):
        for turn in range(max(map(len, left.values()))):
            now = {key: names[turn % len(names)] for key, names in left.items()}
            for key, (step, made) in changing.items():
                step.use(made[now[key]])
            took, total = _run(program, steps, watched, values)
            if rounds:  # in the first one, pages are new
                whole.append(total)
                for key, seconds in took.items():
                    shares[key][now[key]].append(seconds / total)
        for key, names in left.items() if rounds else ():
            middle = {name: median(shares[key][name]) for name in names}
            most = min(middle.values()) * _SLOWER[min(rounds, len(_SLOWER)) - 1]
            left[key] = [name for name in names if middle[name] <= most]
        if rounds >= _ROUNDS and perf_counter() - start > _SECONDS:
            break
        rounds += 1
    usual = median(whole) if whole else 0.0
    return {k: {n: usual * median(t) for n, t in f.items() if t} for k, f in shares.items()}


def _run(
    program: Program, steps: Sequence[Step], watched: Mapping[int, str], values: Sequence[Any]
) -> tuple[dict[str, float], float]:
    """Seconds of the steps that are watched, and of the whole run."""
    run, took = program.begin(values), dict[str, float]()
    start = perf_counter()
    for step in steps:
        before = perf_counter()
        step(run)
        key = watched.get(id(step))
        if key is not None:
            took[key] = perf_counter() - before
    return took, perf_counter() - start
