"""Quality: what a user's `evaluate` must be, one reading of it, and top-1 accuracy."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.core.batches import as_call, untouched
from secateur.core.errors import InputError
from secateur.measure.watch import Seen, watching

Evaluate = Callable[[nn.Module], Any]
"""A function from a model to one number, or to one number per sample: 0 or 1, or a loss."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """What `evaluate` gave for one model.

    value: the number, or the mean over the samples. samples: one number per sample `[n]`, NaN where
    not evaluated; None if there was one number. seen: the model's predictions in that case.
    """

    value: float
    samples: Array | None = None
    seen: Seen | None = None

    @property
    def complete(self) -> bool:
        """Whether every sample was evaluated."""
        return self.samples is None or not np.isnan(self.samples).any()


def evaluate(function: Evaluate, model: nn.Module) -> float:
    """Call a user's `evaluate` in eval mode without gradients; the model is left as it was.

    Example:
        >>> evaluate(lambda model: model.weight.numel(), nn.Linear(3, 2))
        6.0
        >>> evaluate(lambda model: torch.tensor([1, 0, 1, 1]), nn.Linear(3, 2))
        0.75

    Raises:
        InputError: It gave neither one finite number nor one for each sample.
    """
    return observe(function, model).value


def observe(function: Evaluate, model: nn.Module, seed: int = 0) -> Reading:
    """Call a user's `evaluate` and keep what later tells two models apart.

    Random numbers are drawn from the same seed in every call, so that shuffled loaders have the
    same order for every model; all random states are restored.

    Example:
        >>> observe(lambda model: [0.0, 1.0, 1.0, 0.0], nn.Linear(3, 2)).samples
        array([0., 1., 1., 0.])

    Raises:
        InputError: As for `evaluate`.
    """
    with untouched(model), torch.no_grad(), same_draws(seed), watching(model) as seen:
        value = function(model)
    samples = _samples(value)
    if samples is not None and np.isfinite(samples).all():
        return Reading(float(samples.mean()), samples)
    if isinstance(value, (Tensor, np.ndarray, list)) and samples is None:
        value = _single(value)
    try:
        number = math.nan if samples is not None else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        name = getattr(function, "__name__", type(function).__name__)
        shown = f"{len(samples)} values, not all finite" if samples is not None else repr(value)
        raise InputError(
            f"{name} gave {shown}, not one finite number",
            hint="evaluate is a function of a model that gives one number, such as an accuracy, "
            "or a tensor, array or list with one number for each sample",
        )
    return Reading(number, seen=seen)


@contextmanager
def same_draws(seed: int) -> Iterator[None]:
    """Inside, random numbers start from a seed; the states of Python's and NumPy's are put back.

    PyTorch's are put back by `untouched`, which has to be around it.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _samples(value: Any) -> Array | None:
    """One number per sample as `[n]`, or None; a tuple is rather several metrics."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy() if not value.is_complex() else None
    elif isinstance(value, list):
        try:
            value = np.array([float(item) for item in value])
        except (TypeError, ValueError):
            return None
    if not isinstance(value, np.ndarray) or value.ndim != 1 or len(value) < 2:
        return None
    return value.astype(np.float64) if value.dtype.kind in "biuf" else None


def _single(value: Any) -> Any:
    size = value.numel() if isinstance(value, Tensor) else np.size(value)
    if size != 1:
        return value
    return value.item() if isinstance(value, (Tensor, np.ndarray)) else value[0]


def accuracy(model: nn.Module, batches: Iterable[Any]) -> float:
    """The share of labels that have the highest score, from 0 to 1.

    Args:
        model: Gives scores `[n, classes, ...]`, as a tensor or as the field `logits`. It is run in
            eval mode and left as it was.
        batches: Pairs `(inputs, labels)` with labels `[n, ...]`; a data loader will do.

    Example:
        >>> model = nn.Identity()
        >>> accuracy(model, [(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))])
        0.5

    Raises:
        InputError: There are no labels, or scores and labels do not fit.
    """
    right = total = 0
    with untouched(model), torch.no_grad():
        for batch in batches:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise InputError(
                    f"a batch is a {type(batch).__name__}, not a pair",
                    hint="give batches as (inputs, labels)",
                )
            output = as_call(model, list(batch)).run(model)
            scores = getattr(output, "logits", output)
            labels = batch[1].to(scores.device)
            if scores.dim() < 2 or scores[:, 0].shape != labels.shape:
                raise InputError(
                    f"scores of shape {tuple(scores.shape)} do not fit labels of shape "
                    f"{tuple(labels.shape)}",
                    hint="scores are [n, classes, ...], labels [n, ...]",
                )
            right += int((scores.argmax(1) == labels).sum())
            total += labels.numel()
    if not total:
        raise InputError("there are no labels", hint="give at least one batch of (inputs, labels)")
    return right / total
