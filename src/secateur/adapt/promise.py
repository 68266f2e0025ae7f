"""Promises from held-out data that hold whatever the data's distribution is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, exp, lgamma, log
from typing import Any

from torch import nn

from secateur.core.batches import Call
from secateur.core.errors import InputError, RecipeError
from secateur.core.page import plural
from secateur.measure.calibration import calibration, take

_PART = 32  # samples: small, so that the parts are what they should be


def check_promise(guarantee: float, delta: float) -> None:
    """Raise `RecipeError` unless a promise and the chance that it is broken make sense."""
    if not 0 < guarantee < 1 or not 0 < delta < 1:
        raise RecipeError(
            f"guarantee={guarantee!r}, delta={delta!r}: both lie between 0 and 1",
            hint="for example guarantee=0.99, delta=0.05",
        )


def parted(
    model: nn.Module, data: Iterable[Any], samples: int, what: str
) -> tuple[list[Call], list[Call], list[Call]]:
    """Data to fit on, to find thresholds on, and to test a promise on: two, one and two fifths.

    what: the start of "... 5", for the error.

    Raises:
        InputError: There are fewer than five parts.
    """
    calls = calibration(model, take(data, samples), samples=samples, chunk=_PART).calls
    if len(calls) < 5:
        raise InputError(
            f"the data splits into {plural(len(calls), 'part')}, and {what} 5",
            hint="give more samples, in batches along the first dimension",
        )
    fit, tuning, testing = (
        [call for k, call in enumerate(calls) if k % 5 in part] for part in ((0, 1), (2,), (3, 4))
    )
    return fit, tuning, testing


def binomial_tail(failures: int, samples: int, rate: float) -> float:
    """The chance of at most so many failures, if each sample fails with chance `rate`.

    Example:
        >>> round(binomial_tail(0, 10, 0.1), 6) == round(0.9**10, 6)
        True
    """
    if failures >= samples or rate <= 0:
        return 1.0
    if rate >= 1:
        return 0.0
    whole = lgamma(samples + 1)
    terms = (
        whole - lgamma(k + 1) - lgamma(samples - k + 1) + k * log(rate)
        + (samples - k) * log(1 - rate)
        for k in range(failures + 1)
    )  # fmt: skip
    return min(1.0, sum(map(exp, terms)))


def last_safe(failures: Sequence[int], samples: int, rate: float, delta: float) -> int:
    """The last of a fixed sequence of settings that keeps its rate of failures; -1 for none.

    Settings are tested in order, safest first, each against "it fails more often than `rate`", and
    the first that cannot be rejected at level `delta` ends it. With probability `1 - delta` all
    settings before that one keep the rate on new samples, whatever these are like, as long as they
    are drawn like the ones that were counted.

    Papers: Angelopoulos et al., Learn then Test, Annals of Applied Statistics 2025 (fixed sequence
    testing); the p-values are exact binomial tails.

    Example:
        >>> last_safe([0, 1, 2, 40], samples=1000, rate=0.01, delta=0.05)
        2
    """
    if not 0 < rate < 1 or not 0 < delta < 1:
        raise RecipeError(
            f"a rate of {rate!r} and a risk of {delta!r}: both lie between 0 and 1",
            hint="for example guarantee=0.99, delta=0.05",
        )
    safe = -1
    for number, count in enumerate(failures):
        if binomial_tail(count, samples, rate) > delta:
            break
        safe = number
    return safe


def least_samples(rate: float, delta: float) -> int:
    """How many samples without any failure are needed to promise a rate.

    Example:
        >>> least_samples(0.01, 0.05)
        299
    """
    return ceil(log(delta) / log(1 - rate))
