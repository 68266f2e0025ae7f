"""Quality: what a user's `evaluate` must be, and the commonest one, top-1 accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import as_call, untouched
from secateur.core.errors import InputError

Evaluate = Callable[[nn.Module], float]
"""A function from a model to one number, higher or lower being better as the user knows."""


def evaluate(function: Evaluate, model: nn.Module) -> float:
    """Call a user's `evaluate` in eval mode without gradients; the model is left as it was.

    Example:
        >>> evaluate(lambda model: model.weight.numel(), nn.Linear(3, 2))
        6.0

    Raises:
        InputError: It did not give one finite number.
    """
    with untouched(model), torch.no_grad():
        value: Any = function(model)
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        name = getattr(function, "__name__", "evaluate")
        raise InputError(
            f"{name} gave {value!r}, not one finite number",
            hint="evaluate is a function of a model that gives, for example, an accuracy",
        )
    return number


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
