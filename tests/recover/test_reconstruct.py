"""Least-squares repair: exact where it can be, numpy's solution otherwise, never worse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from repair_nets import Attention, Recurrent, Residual, duplicate, error, shrink, unsettle
from torch import Tensor, nn

from secateur.core.batches import as_call
from secateur.graph.analyze import analyze
from secateur.recover import Recalibrate, Reconstruct
from secateur.recover.distance import distance, outputs
from secateur.recover.reconstruct import calls_of

S = nn.Sequential


def conv_bn(**more: Any) -> nn.Module:
    return S(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1, bias=False, **more), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 3, 1),
    )  # fmt: skip


class Joined(nn.Module):
    """Two branches side by side in one consumer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv1d(2, 4, 3), nn.Conv1d(2, 6, 3), nn.Conv1d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.cat([torch.tanh(self.a(x)), torch.tanh(self.b(x))], 1))


class TokensLast(nn.Module):
    """Linear layers on memory out of order: their biases are added on their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x.transpose(0, 1))).transpose(0, 1))


IMAGES = (80, 3, 9, 9)
EXACT: dict[str, tuple[Any, tuple[int, ...], list[str] | None]] = {
    "linear": (
        lambda: S(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)),
        (200, 6), None,
    ),
    "tokens": (lambda: S(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (20, 9, 6), None),
    "tokens out of order": (TokensLast, (30, 8, 5), None),
    "strided convolution": (
        lambda: S(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, padding=1)), IMAGES, None,
    ),
    "flattened": (
        lambda: S(nn.Conv2d(3, 4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)), IMAGES, None,
    ),
    "grouped consumer": (
        lambda: S(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1, groups=2)),
        IMAGES, ["0.1"],
    ),
    "depthwise in between": (
        lambda: S(
            nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
            nn.Conv2d(8, 3, 1),
        ),
        IMAGES, None,
    ),
    "transposed": (
        lambda: S(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(),
            nn.ConvTranspose2d(8, 6, 3, stride=2, output_padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1),
        ),
        IMAGES, None,
    ),
    "transposed and grouped": (
        lambda: S(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(),
            nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2, bias=False), nn.ReLU(),
            nn.Conv2d(6, 3, 1),
        ),
        IMAGES, ["0.1"],
    ),
    "norms": (conv_bn, IMAGES, None),
    "three dimensions": (
        lambda: S(nn.Conv3d(2, 4, 3), nn.ReLU(), nn.Conv3d(4, 3, (1, 2, 1))),
        (32, 2, 4, 5, 6), None,
    ),
    "side by side": (Joined, (50, 2, 11), None),
    "residual": (Residual, (64, 3, 8, 8), None),
    "heads and feed-forward": (Attention, (80, 5, 16), ["q.head", "up"]),
    "value widths": (Attention, (80, 5, 16), ["v.1"]),
    "LSTM": (lambda: Recurrent(nn.LSTM), (64, 7, 5), None),
    "GRU": (lambda: Recurrent(nn.GRU), (64, 7, 5), None),
    "RNN": (lambda: Recurrent(nn.RNN), (64, 7, 5), None),
    "deep LSTM both ways": (
        lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), (64, 6, 5), None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_what_the_kept_can_say_is_said(name: str) -> None:
    """Where removed channels are copies of kept ones, the dense network comes back."""
    build, shape, leaves = EXACT[name]
    torch.manual_seed(0)
    model, x = unsettle(build()), torch.randn(shape)
    graph = analyze(model, as_call(model, x[:3]))
    if leaves is None:
        leaves = [leaf for leaf, axis in graph.axes.items() if axis.frozen is None]
    cut = shrink(model, x[:3], {leaf: duplicate(model, graph, leaf) for leaf in leaves})
    before = error(model, cut.small, x)
    job = cut.job([x])
    Reconstruct().run(job)
    assert before > 0.05
    assert error(model, cut.small, x) < 1e-4, job.notes
    assert job.distance < 1e-8


def half(model: nn.Module, x: Any) -> dict[str, list[int]]:
    """The second half of everything that is free."""
    graph = analyze(model, as_call(model, x))
    return {
        leaf: list(range(axis.n - axis.n // 2, axis.n))
        for leaf, axis in graph.axes.items()
        if axis.frozen is None and not axis.head and leaf not in ("q.1", "v.1")
    }


NETS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: S(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (6,)),
    "residual": (Residual, (3, 8, 8)),
    "norms": (conv_bn, (3, 9, 9)),
    "attention": (Attention, (5, 16)),
    "GRU": (lambda: Recurrent(nn.GRU), (7, 5)),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kind", ["1 sample", "3 samples", "constant", "rank one", "many"])
def test_never_worse_than_no_repair(name: str, kind: str) -> None:
    build, shape = NETS[name]
    torch.manual_seed(0)
    model = unsettle(build())
    data = {
        "1 sample": torch.randn(1, *shape),
        "3 samples": torch.randn(3, *shape),
        "constant": torch.ones(10, *shape),
        "rank one": torch.randn(10, *([1] * len(shape))) * torch.randn(1, *shape),
        "many": torch.randn(60, *shape),
    }[kind]
    cut = shrink(model, torch.randn(2, *shape), half(model, torch.randn(2, *shape)))
    job = cut.job([data])
    before, dense = job.distance, outputs(model, job.calibration.held)
    for step in (Reconstruct(), Recalibrate()):
        step.run(job)
        found = distance(dense, outputs(cut.small, job.calibration.held))
        assert found == pytest.approx(job.distance, rel=1e-4, abs=1e-7)  # other kernels
        assert job.distance <= before
    assert all(bool(torch.isfinite(tensor).all()) for tensor in cut.small.state_dict().values())
    if kind == "many":
        assert job.distance < 0.8 * before


def test_one_convolution_is_solved_as_numpy_solves_it() -> None:
    torch.manual_seed(0)
    model = S(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, (3, 2), stride=2, padding=1, dilation=2)
    )
    x = torch.randn(40, 3, 9, 9)
    cut = shrink(model, x[:2], {"0": [1, 4]})
    first = model[2].weight.detach()[:, [0, 2, 3, 5]].reshape(4, -1).double().numpy()
    job = cut.job([x], chunk=8)
    fit = torch.cat([call.args[0] for call in job.calibration.fit])
    held = torch.cat([call.args[0] for call in job.calibration.held])
    Reconstruct().run(job)

    def rows(images: Tensor) -> tuple[Any, Any]:
        with torch.no_grad():
            hidden, wanted = torch.relu(cut.small[0](images)), model(images)
            columns = nn.functional.unfold(hidden, (3, 2), 2, 1, 2).transpose(1, 2).flatten(0, 1)
        return columns.double().numpy(), wanted.flatten(2).transpose(1, 2).flatten(
            0, 1
        ).double().numpy()

    (a, y), (a_held, y_held) = rows(fit), rows(held)
    bias = model[2].bias.detach().double().numpy()
    mean_a, left = a.mean(0), y - a @ first.T - bias
    spread = np.square(a - mean_a).sum(0).mean()
    best: list[tuple[float, Any, Any]] = []
    for strength in (1e-6, 1e-4, 1e-3, 1e-2, 1e-1):
        wide = np.vstack([a - mean_a, np.sqrt(strength * spread) * np.eye(a.shape[1])])
        right = np.vstack([left - left.mean(0), np.zeros((a.shape[1], 4))])
        change = np.linalg.lstsq(wide, right, rcond=None)[0]
        weight, shift = first + change.T, bias + left.mean(0) - mean_a @ change
        best.append((np.square(y_held - a_held @ weight.T - shift).mean(), weight, shift))
    _, weight, shift = min(best, key=lambda item: item[0])
    np.testing.assert_allclose(
        cut.small[2].weight.detach().reshape(4, -1).numpy(), weight, atol=2e-4
    )
    np.testing.assert_allclose(cut.small[2].bias.detach().numpy(), shift, atol=2e-4)


def test_residual_targets_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum can be repaired by the other branch only where it is a target."""
    from secateur.recover.follow import Pending

    found = []
    for corrected in (True, False):
        torch.manual_seed(0)
        model = unsettle(Residual(width=8, inner=8, blocks=3))
        x = torch.randn(120, 3, 8, 8)
        cut = shrink(model, x[:2], {f"blocks.{k}.conv1": [0, 3, 5, 6] for k in range(3)})
        if not corrected:
            monkeypatch.setattr(Pending, "other_branch", lambda self: None)
        job = cut.job([x])
        Reconstruct(everywhere=False).run(job)
        found.append(job.distance)
    assert found[0] < 0.9 * found[1], found


def test_where_nothing_was_removed_nothing_is_solved() -> None:
    model = S(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    cut = shrink(model, torch.randn(2, 6), {})
    job = cut.job([torch.randn(20, 6)])
    Reconstruct().run(job)
    assert job.notes == ["least squares: no layer lost inputs, so there is nothing to solve"]


def test_the_same_seed_gives_the_same_network() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model, x = unsettle(Residual()), torch.randn(40, 3, 8, 8)
        cut = shrink(model, x[:2], {"stem": [1, 2]})
        Reconstruct(rows=64).run(cut.job([x]))
        found.append(cut.small.state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


class Tokens(nn.Module):
    """Many rows for each sample, of a layer that is used once and of one that is used often."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 12), nn.Linear(12, 4)
        self.rnn = nn.RNN(4, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.down(torch.relu(self.up(x))))[0])


def test_where_rows_are_plenty_a_part_of_the_data_is_run() -> None:
    torch.manual_seed(0)
    model, x = Tokens().eval(), torch.randn(512, 40, 4)
    cut = shrink(model, x[:2], {"up": [0, 5, 7], "rnn.weight_ih_l0": [1, 4]})
    job = cut.job([x], chunk=64)
    before, ran = job.distance, list[int]()
    hook = model.up.register_forward_hook(lambda m, a, y: ran.append(len(y)))
    Reconstruct(rows=2_000, sweeps=1).run(job)
    hook.remove()
    assert job.distance < 0.3 * before
    few = calls_of(job, 1)
    assert 256 <= sum(len(call.args[0]) for call, _ in few) < 400
    assert {held for _, held in few} == {True, False}
    assert len(calls_of(job)) == len(job.calibration.calls)  # where nothing is said: all
    full = sum(len(call.args[0]) for call in job.calibration.calls)
    assert sum(ran) < 2 * full  # a look, one pass for the recurrent layer and one for the others
