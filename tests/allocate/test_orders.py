"""Orders of steps against the papers' formulas, computed the slow way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from allocation_problems import chain
from torch import nn

from secateur.allocate import allocate, resolve
from secateur.allocate.ladder import Ladder, ladders
from secateur.core.budget import MACs, Params, Sparsity
from secateur.core.layout import Fixed, Leaf
from secateur.core.site import Site, Slice
from secateur.graph.graph import Graph
from secateur.measure.cost import Cost


def made(
    scores: list[list[float]], shapes: dict[str, tuple[int, ...]] | None = None
) -> list[Ladder]:
    problem = chain([len(s) for s in scores], [], [1] * len(scores), [1] * len(scores), scores, [])
    return ladders(problem.sites, (), problem.scores, shapes=shapes or problem.cost.shapes)[0]


def densities(shapes: list[tuple[int, ...]], parameters: float) -> list[float]:
    """Evci et al.'s own loop: layers beyond density 1 become dense, and e is solved again."""
    raw = [sum(shape) / np.prod(shape) for shape in shapes]
    sizes = [float(np.prod(shape)) for shape in shapes]
    dense: set[int] = set()
    while True:
        left = parameters - sum(sizes[i] for i in dense)
        e = left / sum(raw[i] * sizes[i] for i in range(len(shapes)) if i not in dense)
        above = {i for i in range(len(shapes)) if i not in dense and e * raw[i] > 1}
        if not above:
            return [1.0 if i in dense else e * raw[i] for i in range(len(shapes))]
        dense |= {max(above, key=lambda i: raw[i])}


def test_erk_keeps_the_densities_of_the_paper() -> None:
    shapes = [(400, 3, 3, 3), (200, 64, 3, 3), (100, 500), (300, 20)]
    leaves = [Leaf(f"w{i}", shape[0]) for i, shape in enumerate(shapes)]
    net = nn.ParameterDict({f"w{i}": torch.zeros(shape) for i, shape in enumerate(shapes)})
    layouts = {
        leaf.name: (leaf, *map(Fixed, shape[1:]))
        for leaf, shape in zip(leaves, shapes, strict=True)
    }
    sites = [
        Site(leaf.name, "channel", leaf.n, (Slice(leaf.name, 0, leaf, "out"),)) for leaf in leaves
    ]
    cost = Cost(Graph(layouts, {}, {}, (), (), (), ()), net)
    scores = {leaf.name: torch.rand(leaf.n, generator=torch.Generator()) for leaf in leaves}
    for share in (0.9, 0.5, 0.2):
        total = sum(float(np.prod(shape)) for shape in shapes)
        found = allocate(sites, (), scores, cost, Params(f"{100 * share:g}%"), "erk")
        kept = [len(found.kept[leaf.name]) / leaf.n for leaf in leaves]
        wanted = densities(shapes, share * total)
        assert kept == pytest.approx(wanted, abs=0.04)  # the last few go to what is small
    assert min(wanted) < 0.1 and max(wanted) == 1.0  # one stays whole, the rest makes up for it


def test_erk_gives_blocks_the_mean_density() -> None:
    problem = chain([6, 12], [], [1, 1], [1, 1], [[1.0] * 6, [1.0] * 12], [1.0, 2.0])
    steps, _ = ladders(problem.sites, (), problem.scores, shapes=problem.cost.shapes)
    keys = resolve("erk")(steps)
    raw = [(6 + 3) / 18, (12 + 6) / 72]
    for key, d in zip(keys, [*raw, sum(raw) / 2], strict=True):
        assert key[0] == pytest.approx(-1 / d)


def test_lamp_is_the_paper_s_score() -> None:
    scores = [[4.0, 1.0, 3.0, 2.0], [0.1, 0.1, 0.8, 0.4], [7.0]]
    keys = resolve("lamp")(made(scores))
    for key, given in zip(keys, scores, strict=True):
        ascending = sorted(given)
        expected = [s / sum(ascending[i:]) for i, s in enumerate(ascending)][:-1]
        assert key == pytest.approx(expected)


def test_lamp_does_not_depend_on_a_site_s_scale_and_takes_any_sign() -> None:
    plain, scaled = made([[4.0, 1.0, 3.0, 2.0]]), made([[4e6, 1e6, 3e6, 2e6]])
    lamp = resolve("lamp")
    assert lamp(plain)[0] == pytest.approx(lamp(scaled)[0])
    assert lamp(made([[0.0, 0.0, 0.0]]))[0].tolist() == [0.0, 0.0]
    assert lamp(made([[-1.0, 0.0, 2.0]]))[0] == pytest.approx([0.0, 1 / 4])


def test_owl_spares_sites_with_outliers_within_its_spread() -> None:
    rng = np.random.default_rng(0)
    flat = (1 + rng.random(100)).tolist()
    some, many = list(flat), list(flat)
    some[:2], many[:4] = [100.0] * 2, [100.0] * 4
    scores = [flat, some, many]
    assert [sum(s > 5 * np.mean(x) for s in x) for x in scores] == [0, 2, 4]
    problem = chain([100] * 3, [], [1] * 3, [1] * 3, scores, [])
    found = allocate(problem.sites, (), problem.scores, problem.cost, Sparsity(0.5), "owl")
    kept = [len(found.kept[f"fc{i}"]) for i in range(3)]
    assert kept == [42, 50, 58]


def test_owl_without_outliers_is_uniform() -> None:
    scores = [[float(i % 7 + 1) for i in range(n)] for n in (32, 16, 64)]
    problem = chain([32, 16, 64], [], [1] * 3, [1] * 3, scores, [])
    arguments = (problem.sites, (), problem.scores, problem.cost, MACs("40%"))
    owl, uniform = (allocate(*arguments, how) for how in ("owl", "uniform"))
    assert {n: k.tolist() for n, k in owl.kept.items()} == {
        n: k.tolist() for n, k in uniform.kept.items()
    }


def test_sensitivity_brings_all_sites_to_one_error() -> None:
    from secateur.allocate import Database

    scores = [[1.0] * 10, [1.0] * 10]
    problem = chain([10, 10], [], [1, 1], [1, 1], scores, [])
    database = Database({"fc0": {0: 10.0}, "fc1": {0: 30.0}})
    arguments = (problem.sites, (), problem.scores, problem.cost, Sparsity(0.4))
    found = allocate(*arguments, "sensitivity", database=database)
    assert [len(found.kept[name]) for name in ("fc0", "fc1")] == [4, 8]
    assert found.error == pytest.approx(6.0 + 6.0)


def test_every_order_has_a_paper() -> None:
    for name in ("uniform", "global", "isomorphic", "erk", "lamp", "owl", "sensitivity"):
        assert resolve(name).paper and resolve(name).__doc__
