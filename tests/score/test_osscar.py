"""OSSCAR against least squares solved anew for every candidate."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.core.layout import Concat, Fixed, Layout, Leaf, Product
from secateur.core.site import Role, Site, Slice
from secateur.measure.stats import Gather
from secateur.score import Facts, scores

module = import_module("secateur.score.osscar")  # the package's attribute is the criterion


def site(n: int, *slices: tuple[str, int, Layout, Role]) -> Site:
    return Site("c", "channel", n, tuple(Slice(*each) for each in slices))


def rows_of(x: np.ndarray, kernel: int) -> np.ndarray:
    """All patches of images, as rows whose columns are (channel, tap)."""
    n, _, h, w = x.shape
    return np.array(
        [
            x[i, :, a : a + kernel, b : b + kernel].reshape(-1)
            for i in range(n)
            for a in range(h - kernel + 1)
            for b in range(w - kernel + 1)
        ]
    )


def greedy(problems: list[tuple[np.ndarray, np.ndarray, list[list[int]]]], n: int) -> np.ndarray:
    """Remove one index at a time, solving every candidate's least squares from the beginning.

    problems: (rows, matrix `[k, out]`, columns of every index).
    """
    prepared = []
    for rows, matrix, columns in problems:
        centred = rows - rows.mean(0)
        cov = centred.T @ centred / len(rows)
        energy = np.trace(matrix.T @ cov @ matrix)
        damped = cov + 0.01 * np.trace(cov) / len(cov) * np.eye(len(cov))
        prepared.append((damped, matrix, columns, energy))

    def error(gone: list[int]) -> float:
        total = 0.0
        for damped, matrix, columns, energy in prepared:
            out = [c for j in gone for c in columns[j]]
            keep = [c for c in range(len(damped)) if c not in out]
            solved = np.zeros_like(matrix)
            if keep:
                solved[keep] = np.linalg.solve(damped[np.ix_(keep, keep)], (damped @ matrix)[keep])
            difference = matrix - solved
            total += np.trace(difference.T @ damped @ difference) / energy
        return total

    gone: list[int] = []
    scores = np.zeros(n)
    while len(gone) < n:
        best = min((j for j in range(n) if j not in gone), key=lambda j: error([*gone, j]))
        gone.append(best)
        scores[best] = error(gone)
    return scores


def correlated(count: int, channels: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(channels, channels, generator=generator)
    x = torch.randn(count, channels, size, size, generator=generator)
    return torch.einsum("dc,nchw->ndhw", mix, x).relu()


def test_convolution_and_linear_consumers_together() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(5, 3, 2), nn.Linear(5 * 9, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.conv(x), self.fc(x.flatten(1))

    net, leaf = Net(), Leaf("c", 5)
    flat = Product((leaf, Fixed(9)))
    where = site(5, ("conv.weight", 1, leaf, "in"), ("fc.weight", 1, flat, "in"))
    x = correlated(40, 5, 3)
    found = scores("osscar", [where], Facts.of(net), Gather(net, None, [x]))
    array = x.double().numpy()
    conv = net.conv.weight.detach().double().numpy().reshape(3, -1).T
    fc = net.fc.weight.detach().double().numpy().T
    expected = greedy(
        [
            (rows_of(array, 2), conv, [list(range(4 * j, 4 * j + 4)) for j in range(5)]),
            (array.reshape(40, -1), fc, [list(range(9 * j, 9 * j + 9)) for j in range(5)]),
        ],
        5,
    )
    assert found["c"].numpy() == pytest.approx(expected, rel=1e-4)
    assert found.comparable


def test_a_long_run_with_compaction_stays_exact() -> None:
    torch.manual_seed(0)
    net, leaf = nn.Linear(24, 6), Leaf("c", 24)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(60, 8, generator=generator) @ torch.randn(8, 24, generator=generator)
    x = x + 0.3 * torch.randn(60, 24, generator=generator)
    found = scores(
        "osscar", [site(24, ("weight", 1, leaf, "in"))], Facts.of(net), Gather(net, None, [x])
    )["c"]
    matrix = net.weight.detach().double().numpy().T
    expected = greedy([(x.double().numpy(), matrix, [[j] for j in range(24)])], 24)
    assert found.numpy() == pytest.approx(expected, rel=1e-4)
    assert float(found.sort().values.diff().min()) > 0


def test_heads_and_columns_of_others() -> None:
    """A site may own only some columns of a consumer; the others always stay."""
    torch.manual_seed(0)
    net, leaf = nn.Linear(3 * 2 + 2, 4), Leaf("c", 3)
    layout = Concat((Product((leaf, Fixed(2))), Fixed(2)))
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    x[:, 6:] += x[:, :2]
    found = scores(
        "osscar", [site(3, ("weight", 1, layout, "in"))], Facts.of(net), Gather(net, None, [x])
    )["c"]
    matrix = net.weight.detach().double().numpy().T
    expected = greedy([(x.double().numpy(), matrix, [[0, 1], [2, 3], [4, 5]])], 3)
    assert found.numpy() == pytest.approx(expected, rel=1e-4)


def test_several_at_a_time_ends_at_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, leaf = nn.Linear(40, 5), Leaf("c", 40)
    x = torch.randn(200, 40, generator=torch.Generator().manual_seed(0)) * torch.linspace(
        0.1, 2, 40
    )
    where = site(40, ("weight", 1, leaf, "in"))
    alone = scores("osscar", [where], Facts.of(net), Gather(net, None, [x]))["c"]
    monkeypatch.setattr(module, "_WORK", 0.0)
    monkeypatch.setattr(module, "_FEWEST_STEPS", 10)
    several = scores("osscar", [where], Facts.of(net), Gather(net, None, [x]))["c"]
    assert not torch.equal(alone, several)
    assert float(several.max()) == pytest.approx(float(alone.max()))
    assert float(several.sort().values.diff().min()) > 0
    ranks = [s.argsort().argsort().double() for s in (alone, several)]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > 0.95


def test_twins_are_not_removed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two equal inputs can go, but not both: together they cost what one alone does."""
    monkeypatch.setattr(module, "_WORK", 0.0)
    monkeypatch.setattr(module, "_FEWEST_STEPS", 2)
    net, leaf = nn.Linear(4, 3), Leaf("c", 4)
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    x[:, 3] = x[:, 0]
    where = site(4, ("weight", 1, leaf, "in"))
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[2.0, 1, 1, 2], [2, 1, -1, 2], [-2, 1, 1, 2]]))
    found = scores("osscar", [where], Facts.of(net), Gather(net, None, [x]))["c"]
    twins = found[[0, 3]].sort().values
    assert float(twins[0]) < 0.1 < float(twins[1])


def test_dead_inputs_go_first_and_score_strictly() -> None:
    net, leaf = nn.Linear(4, 3), Leaf("c", 4)
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    x[:, 1:3] = 7.0  # constant: the bias takes it over
    where = site(4, ("weight", 1, leaf, "in"))
    found = scores("osscar", [where], Facts.of(net), Gather(net, None, [x]))["c"]
    assert set(found.argsort()[:2].tolist()) == {1, 2}
    assert len(set(found.tolist())) == 4


def test_what_nothing_reads_is_scored_by_weights_with_a_note() -> None:
    net, leaf = nn.Linear(2, 3), Leaf("c", 3)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 1], [3, 3], [0, 0]]))
    facts = Facts.of(net)
    places = [site(3, ("weight", 0, leaf, "out"))]
    found = scores("osscar", places, facts, Gather(net, None, [torch.ones(2, 2)]))
    assert found["c"].tolist() == pytest.approx([0.25, 1.0, 0.0])
    assert facts.notes == ["osscar: no linear operation reads c, scored by l1 instead"]
