"""Losses: the default one, and those that users have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from secateur.core.batches import as_call
from secateur.core.errors import InputError
from secateur.measure.watch import logits_of, scores_of

Loss = Callable[[nn.Module, Any], Tensor]
"""`(model, batch) -> scalar`."""

_OUTPUTS = frozenset(
    [
        "input", "inputs", "output", "outputs", "logits", "pred", "preds", "predicted",
        "prediction", "predictions", "scores", "y_hat", "yhat", "y_pred",
    ]
)  # fmt: skip


def loss_of(given: Callable[..., Tensor] | None) -> Loss:
    """A loss `(model, batch) -> scalar` from what users give.

    None is `default_loss`. A loss of PyTorch (`nn.CrossEntropyLoss()`, `nn.functional.mse_loss`),
    or a function whose first parameter has a name such as `outputs`, `logits` or `pred`, is called
    with the model's output and the batch's targets. Anything else is called with the model and the
    batch.

    Example:
        >>> import torch
        >>> net, batch = nn.Linear(2, 3), (torch.ones(4, 2), torch.zeros(4, dtype=torch.long))
        >>> found = loss_of(nn.CrossEntropyLoss())(net, batch)
        >>> torch.equal(found, loss_of(None)(net, batch))
        True
    """
    if given is None:
        return default_loss
    if not callable(given):
        raise InputError(
            f"loss={given!r} is not a function",
            hint="give nn.CrossEntropyLoss(), or lambda model, batch: …",
        )
    if not _takes_outputs(given):
        return given

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return given(*scored(model, batch))

    return loss


def _takes_outputs(given: Callable[..., Tensor]) -> bool:
    if isinstance(given, nn.Module) or given.__module__ == "torch.nn.functional":
        return True
    try:
        names = list(inspect.signature(given).parameters)
    except (TypeError, ValueError):
        return False
    return bool(names) and names[0].lower() in _OUTPUTS


def default_loss(model: nn.Module, batch: Any) -> Tensor:
    """The loss of a batch `(inputs, …, targets)`, or of a mapping whose model returns a `.loss`.

    Of several outputs the first one counts. Cross-entropy where the targets are integers (classes
    in dimension 1 of the output, or in the last one when only that fits), mean squared error
    otherwise.
    """
    if isinstance(batch, Mapping):
        found = getattr(model(**batch), "loss", None)
        if isinstance(found, Tensor):
            return found
        raise InputError(
            "the batch is a mapping and the model's output has no .loss",
            hint="give loss=lambda model, batch: …",
        )
    found, targets = scored(model, batch)
    output = scores_of(found)
    if output is None or not isinstance(targets, Tensor):
        raise InputError(
            f"the model returns a {type(found).__name__}, for which there is no default loss",
            hint="give loss=lambda model, batch: …",
        )
    if targets.is_floating_point():
        return nn.functional.mse_loss(output, targets)
    if output.dim() > 2 and output.shape[:-1] == targets.shape:
        output = output.movedim(-1, 1)
    return nn.functional.cross_entropy(output, targets.long())


def scored(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """The model's output (its `.logits` where it has some) and the targets of a batch.

    Raises:
        InputError: The batch has no targets.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise InputError(
            f"a batch is a {type(batch).__name__}, not (inputs, targets): without targets there is "
            "no loss, and so no gradients",
            hint="give labels, or loss=lambda model, batch: …, or use a criterion that needs none, "
            "such as 'osscar' or 'l1'",
        )
    *given, targets = batch
    inputs = given[0] if len(given) == 1 else tuple(given)
    output = as_call(model, tuple(inputs) if isinstance(inputs, list) else inputs).run(model)
    return logits_of(output), targets


__all__ = ["Loss", "default_loss", "loss_of", "scored"]
