"""Differences on the same samples: their errors, the two halves, and when to stop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.measure.metric import Accuracy, Loss
from secateur.measure.paired import LEAST_BATCHES, Judge

stats = pytest.importorskip("scipy.stats")


class Shift(nn.Module):
    def __init__(self, by: float = 0.0) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by * torch.linspace(0, 1, x.shape[1])


def by_sample(x: Tensor, y: Tensor) -> Any:
    return lambda model: (model(x).argmax(1) == y).float()


def by_number(x: Tensor, y: Tensor, scale: float = 1) -> Any:
    return lambda model: (model(x).argmax(1) == y).float().mean() * scale


def data(n: int = 400) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 5), torch.randint(0, 5, (n,))


def test_the_error_is_that_of_a_paired_test() -> None:
    x, y = data()
    judge = Judge(by_sample(x, y), Shift(), split=False)
    found = judge.selection(judge.read(Shift(1.0)))
    old, new = by_sample(x, y)(Shift()).numpy(), by_sample(x, y)(Shift(1.0)).numpy()
    reference = stats.ttest_rel(new.astype(float), old.astype(float))
    assert found.error is not None
    assert (found.after - found.before) / found.error == pytest.approx(reference.statistic)
    assert (found.samples, found.data) == (400, "all")
    assert not judge.parted


def test_halves_share_nothing_and_are_even_in_any_order() -> None:
    x, y = data(401)
    judge = Judge(by_sample(x, y), Shift())
    assert judge.parted
    assert not (judge.selected & judge.reported).any()
    assert (judge.selected | judge.reported).all()
    pairs = judge.selected[:400].reshape(-1, 2)
    assert (pairs.sum(1) == 1).all()
    assert 0.3 < pairs[:, 0].mean() < 0.7
    assert np.array_equal(Judge(by_sample(x, y), Shift()).selected, judge.selected)
    other = Judge(by_sample(x, y), Shift(), seed=1)
    assert not np.array_equal(other.selected, judge.selected)


def test_selection_and_report_are_of_their_own_samples() -> None:
    x, y = data(100)
    judge = Judge(by_sample(x, y), Shift())
    model = Shift(2.0)
    reading = judge.read(model)
    old, new = by_sample(x, y)(Shift()).numpy(), by_sample(x, y)(model).numpy()
    for found, mask, name in (
        (judge.selection(reading), judge.selected, "selection"),
        (judge.report(reading, model), judge.reported, "held out"),
    ):
        assert found.before == pytest.approx(old[mask].mean())
        assert found.after == pytest.approx(new[mask].mean())
        assert (found.samples, found.data) == (mask.sum(), name)


@pytest.mark.parametrize("scale", [1, 100])
def test_one_number_has_a_bound_from_what_changed(scale: float) -> None:
    x, y = data()
    judge = Judge(by_number(x, y, scale), Shift())
    found = judge.selection(judge.read(Shift(1.0)))
    differ = int((Shift()(x).argmax(1) != Shift(1.0)(x).argmax(1)).sum())
    exact = judge_error(x, y)
    assert found.error == pytest.approx(scale * np.sqrt(differ) / 400)
    assert found.error >= scale * exact
    assert (found.samples, found.data, judge.parted) == (400, "all", False)


def judge_error(x: Tensor, y: Tensor) -> float:
    judge = Judge(by_sample(x, y), Shift(), split=False)
    return judge.selection(judge.read(Shift(1.0))).error or 0.0


@pytest.mark.parametrize(
    "evaluate",
    [
        lambda model: 0.5,
        lambda model: float(model.by) + 0.123456,
        lambda model: model(torch.randn(10, 5)).square().mean(),
    ],
)
def test_other_numbers_have_no_known_error(evaluate: Any) -> None:
    judge = Judge(evaluate, Shift())
    found = judge.selection(judge.read(Shift(0.5)))
    assert (found.error, found.samples, found.data) == (None, None, "all")


class Counting(list[Any]):
    """A list of batches that counts those taken."""

    taken = 0

    def __getitem__(self, index: Any) -> Any:
        self.taken += 1
        return super().__getitem__(index)


def batches(n: int, size: int = 10) -> Counting:
    x, y = data(n * size)
    return Counting(zip(x.split(size), y.split(size), strict=True))


def test_evaluation_stops_when_it_is_clear_and_the_report_is_complete() -> None:
    many = batches(60)
    judge = Judge(Accuracy(many), Shift())
    model = Shift(3.0)
    full = judge.selection(judge.read(model))
    many.taken = 0
    reading = judge.read(model, clear=lambda difference, error: True)
    assert many.taken == LEAST_BATCHES
    assert not reading.complete
    part = judge.selection(reading)
    assert part.samples is not None
    assert 0 < part.samples < (full.samples or 0)
    report = judge.report(reading, model)
    assert report == judge.report(judge.read(model), model)
    assert report.samples == 300


def test_what_decides_is_the_difference_so_far_and_an_error_that_covers_it() -> None:
    many = batches(60)
    judge = Judge(Accuracy(many), Shift())
    model = Shift(1.0)
    looks: list[tuple[float, float]] = []

    def clear(difference: float, error: float) -> bool:
        looks.append((difference, error))
        return False

    full = judge.selection(judge.read(model, clear=clear))
    assert len(looks) == 60 - LEAST_BATCHES + 1
    last, error = looks[-1]
    assert last == pytest.approx(full.after - full.before)
    assert error >= (full.error or 0) * 0.99
    assert np.mean([abs(d - last) <= 3 * e for d, e in looks]) == 1


def test_no_change_at_all_still_has_an_error() -> None:
    judge = Judge(Accuracy(batches(30)), Shift())
    errors: list[float] = []
    judge.read(Shift(), clear=lambda difference, error: bool(errors.append(error)))
    assert min(errors) > 0


def never(difference: float, error: float) -> bool:
    raise AssertionError("asked")


def test_few_batches_and_loaders_are_evaluated_without_a_stop() -> None:
    x, y = data(100)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 5)
    for metric in (Accuracy(batches(LEAST_BATCHES)), Accuracy(loader)):
        judge = Judge(metric, Shift())
        samples = judge.read(Shift(1.0), clear=never).samples
        assert samples is not None and np.array_equal(~np.isnan(samples), judge.selected)
        judge = Judge(metric, Shift(), split=False)
        assert judge.read(Shift(1.0), clear=never).complete


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_metric_runs_only_the_samples_that_are_looked_at(shuffle: bool) -> None:
    x, y = data(101)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 7, shuffle=shuffle)
    judge, model = Judge(Accuracy(loader), Shift()), Shift(2.0)
    ran: list[int] = []
    hook = model.register_forward_hook(lambda m, a, out: ran.append(len(out)))
    reading = judge.read(model)
    assert sum(ran) == judge.selected.sum()
    found = judge.report(reading, model)
    assert sum(ran) == 101
    hook.remove()
    whole = Judge(lambda m: Accuracy(loader)(m), Shift())
    assert found == whole.report(whole.read(model), model)
    assert judge.selection(reading) == whole.selection(whole.read(model))


def test_batches_whose_samples_cannot_be_told_apart_are_run_whole() -> None:
    x, y = data(60)
    scale = torch.ones(1)  # not one value for each sample
    many = [{"x": a, "scale": scale, "y": b} for a, b in zip(x.split(6), y.split(6), strict=True)]

    class Scaled(Shift):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) * scale

    judge = Judge(Accuracy(many), Scaled())
    assert judge.read(Scaled(1.0)).complete


def test_the_metric_says_which_way_is_better() -> None:
    assert Judge(Loss(batches(2)), Shift()).lower_is_better is True
    assert Judge(Accuracy(batches(2)), Shift()).lower_is_better is False
    assert Judge(lambda model: 1.0, Shift()).lower_is_better is None


def test_other_samples_for_another_model_are_an_error() -> None:
    lengths: Iterator[int] = iter([10, 9])
    judge = Judge(lambda model: torch.ones(next(lengths)), Shift())
    with pytest.raises(InputError, match="10 values for the original and 9"):
        judge.read(Shift())
    kinds: Iterator[Any] = iter([torch.ones(3), 1.0])
    judge = Judge(lambda model: next(kinds), Shift())
    with pytest.raises(InputError, match="one number for one model"):
        judge.read(Shift())


def test_values_that_are_not_finite() -> None:
    many = batches(20)
    judge = Judge(Loss(many), Shift())
    with pytest.raises(InputError, match=r"not finite|not all finite"):
        judge.read(Shift(float("nan")), clear=lambda difference, error: False)
    with pytest.raises(InputError):
        Judge(Loss(many), Shift(float("nan")))
