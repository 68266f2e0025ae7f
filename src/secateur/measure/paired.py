"""Two models on the same samples: the difference of their quality, and its standard error.

What is selected on and what is reported on are different samples wherever `evaluate` gives one
value for each: selecting the best of several networks on some samples flatters it on these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.core.batches import untouched
from secateur.core.errors import InputError
from secateur.core.measured import Comparison
from secateur.measure.metric import Metric, Streamed
from secateur.measure.quality import Evaluate, Reading, observe, same_draws
from secateur.measure.watch import error_bound, looks_like_accuracy

Array = npt.NDArray[np.float64]
LEAST_BATCHES = 8
"""Batches that are seen before an evaluation may stop."""
CLEAR = 3.0
"""Standard errors at which an outcome is clear enough to stop, on each of several looks."""


class Judge:
    """Compares networks with the original on a user's `evaluate`.

    evaluate: see `Evaluate`. split: select on one half of the samples and report on the other,
    where samples are visible and there are at least four; neighbours go to different halves, drawn
    by `seed`.

    Example:
        >>> judge = Judge(lambda model: torch.arange(8) % 2 * model.weight.item(), nn.Linear(1, 1))
        >>> judge.parted, judge.selected.sum().item(), judge.selection(judge.before).error
        (True, 4, 0.0)

    Raises:
        InputError: `evaluate` does not give what it must.
    """

    def __init__(
        self, evaluate: Evaluate, original: nn.Module, *, split: bool = True, seed: int = 0
    ) -> None:
        self.function, self.seed = evaluate, seed
        self._sizes: list[int] = []
        self.before = self._first(original)
        self.selected = self.reported = np.zeros(0, dtype=np.bool_)
        samples = self.before.samples
        self.parted = split and samples is not None and len(samples) >= 4
        if samples is not None:
            self.selected = self.reported = np.ones(len(samples), dtype=np.bool_)
        if samples is not None and self.parted:
            self.selected = _half(len(samples), seed)
            self.reported = ~self.selected

    @property
    def lower_is_better(self) -> bool | None:
        """What the metric itself says."""
        said = getattr(self.function, "lower_is_better", None)
        return said if isinstance(said, bool) else None

    def read(
        self, model: nn.Module, clear: Callable[[float, float], bool] | None = None
    ) -> Reading:
        """Evaluate a network on the samples that are selected on; others may be left out (NaN).

        clear: says of a difference (after - before, on the selection's samples) and its standard
        error whether they decide; then the rest is not evaluated, if the metric can stop.
        """
        if clear is not None and self._can_stop():
            return self._stopped(model, clear)
        return self._part(model, self.selected)

    def selection(self, reading: Reading) -> Comparison:
        """A network against the original on the samples that are selected on."""
        return self._compare(reading, self.selected, "selection" if self.parted else "all")

    def report(self, reading: Reading, model: nn.Module) -> Comparison:
        """The same on the samples that are reported on; evaluates what had been left out."""
        if not reading.complete:
            reading = self._part(model, self.reported)
        return self._compare(reading, self.reported, "held out" if self.parted else "all")

    def _compare(self, reading: Reading, mask: npt.NDArray[np.bool_], data: Any) -> Comparison:
        old, new = self.before.samples, reading.samples
        if old is None or new is None:
            return self._unpaired(reading)
        mask = mask & ~np.isnan(new)
        n = int(mask.sum())
        difference = new[mask] - old[mask]
        error = float(difference.std(ddof=1) / np.sqrt(n)) if n > 1 else None
        return Comparison(float(old[mask].mean()), float(new[mask].mean()), error, n, data)

    def _unpaired(self, reading: Reading) -> Comparison:
        """Of two numbers: a bound on the error if they look like accuracies of what was seen."""
        result = Comparison(self.before.value, reading.value, None, None, "all")
        first, second = self.before.seen, reading.seen
        if first is None or second is None:
            return result
        scale = looks_like_accuracy(self.before.value, first)
        if scale is None or looks_like_accuracy(reading.value, second) is None:
            return result
        scale = 100 if max(self.before.value, reading.value) > 1 else scale
        bound = error_bound(first, second)
        samples = sum(len(call[0]) for call in first.calls)
        return result if bound is None else replace(result, error=scale * bound, samples=samples)

    def _first(self, original: nn.Module) -> Reading:
        """The original's reading; of a metric over batches, also how long these are."""
        if isinstance(self.function, Streamed):
            with untouched(original), same_draws(self.seed):
                parts = [part.numpy() for part in self.function.stream(original)]
            self._sizes = [len(part) for part in parts]
            if sum(self._sizes) >= 2 and all(np.isfinite(part).all() for part in parts):
                samples = np.concatenate(parts)
                return Reading(float(samples.mean()), samples)
        return observe(self.function, original, self.seed)

    def _can_stop(self) -> bool:
        return (
            isinstance(self.function, Streamed)
            and _indexed(self.function.batches)
            and len(self._sizes) > LEAST_BATCHES
            and self.before.samples is not None
        )

    def _part(self, model: nn.Module, mask: npt.NDArray[np.bool_]) -> Reading:
        """Evaluate some samples, where the metric can leave out others; else all."""
        if not self._sizes or mask.all() or not _chooses(self.function):
            return self._checked(observe(self.function, model, self.seed))
        samples = np.full(len(mask), np.nan)
        with untouched(model), same_draws(self.seed):
            found = self._values(model, mask, None)
            for number, values in zip(range(len(self._sizes)), found, strict=True):
                self._place(samples, number, values.numpy(), mask)
        return Reading(float(np.nanmean(samples)), samples)

    def _values(
        self, model: nn.Module, mask: npt.NDArray[np.bool_], order: list[int] | None
    ) -> Iterator[Tensor]:
        """The values of one batch after the other, of the samples in a mask where that is known."""
        assert isinstance(self.function, Streamed)
        if mask.all() or not _chooses(self.function):
            return self.function.stream(model, order)
        assert isinstance(self.function, Metric)
        keep = [torch.from_numpy(mask[self._here(k)]) for k in range(len(self._sizes))]
        return self.function.stream(model, order, keep)

    def _here(self, number: int) -> slice:
        """Where the samples of a batch are."""
        start = sum(self._sizes[:number])
        return slice(start, start + self._sizes[number])

    def _place(
        self, samples: Array, number: int, values: Array, mask: npt.NDArray[np.bool_]
    ) -> None:
        """Put the values of a batch, or of its samples in a mask, where they belong."""
        here, size = self._here(number), self._sizes[number]
        kept = mask[here] if len(values) == mask[here].sum() else np.ones(size, dtype=np.bool_)
        if len(values) not in (size, kept.sum()):
            raise _lengths(size, len(values))
        if not np.isfinite(values).all():
            raise InputError("evaluate gave values that are not finite")
        samples[here][kept] = values

    def _stopped(self, model: nn.Module, clear: Callable[[float, float], bool]) -> Reading:
        """Evaluate batches in random order until it is clear."""
        old = self.before.samples
        assert old is not None
        order = [int(k) for k in np.random.default_rng(self.seed).permutation(len(self._sizes))]
        samples = np.full(len(old), np.nan)
        means: list[float] = []
        with untouched(model), same_draws(self.seed):
            found = self._values(model, self.selected, order)
            for number, values in zip(order, found, strict=True):
                self._place(samples, number, values.numpy(), self.selected)
                here = self._here(number)
                chosen = self.selected[here]
                if chosen.any():
                    means.append(float((samples[here] - old[here])[chosen].mean()))
                if len(means) >= LEAST_BATCHES and clear(*self._so_far(samples, old, means)):
                    break
        return Reading(float(np.nanmean(samples)), samples)

    def _so_far(self, samples: Array, old: Array, means: Sequence[float]) -> tuple[float, float]:
        """The mean difference, and the larger of its errors by samples and by batches.

        One change more than was seen is counted, so that nothing seen is not taken for nothing.
        """
        mask = self.selected & ~np.isnan(samples)
        difference = samples[mask] - old[mask]
        n = len(difference)
        one = float(np.abs(difference).max()) or float(np.abs(old).max()) or 1.0
        by_sample = np.sqrt(((difference - difference.mean()) ** 2).sum() + one**2) / n
        by_batch = np.std(means, ddof=1) / np.sqrt(len(means))
        return float(difference.mean()), float(max(by_sample, by_batch))

    def _checked(self, reading: Reading) -> Reading:
        old, new = self.before.samples, reading.samples
        if (old is None) != (new is None):
            raise InputError("evaluate gave one number for one model and many for another")
        if old is not None and new is not None and len(old) != len(new):
            raise _lengths(len(old), len(new))
        return reading


def _lengths(before: int, after: int) -> InputError:
    return InputError(
        f"evaluate gave {before} values for the original and {after} for a pruned network",
        hint="it has to evaluate the same samples in the same order for every model",
    )


def _chooses(function: Evaluate) -> bool:
    """Whether it can leave out samples: it is one of our own, and streams as these do."""
    return isinstance(function, Metric) and type(function).stream is Metric.stream


def _indexed(batches: Any) -> bool:
    return hasattr(batches, "__len__") and hasattr(batches, "__getitem__")


def _half(n: int, seed: int) -> npt.NDArray[np.bool_]:
    """Of every two neighbours one, drawn by the seed: data in any order are halved evenly."""
    first = np.random.default_rng(seed).integers(0, 2, size=(n + 1) // 2)
    mask = np.stack([first == 0, first == 1], axis=1).reshape(-1)[:n]
    return mask
