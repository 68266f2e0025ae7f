"""Which predictions changed between two evaluations, seen from outside the user's function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

MOST_PREDICTIONS = 2**24
"""Predictions that are kept at most; of more, nothing is."""

Array = npt.NDArray[Any]


@dataclass
class Seen:
    """The classes with the highest score, call by call.

    calls: for every call, predictions `[n, ...]` along each dimension that may be the classes'.
    complete: every call gave something that looks like scores, and there were not too many.
    """

    calls: list[tuple[Array, ...]] = field(default_factory=list)
    complete: bool = True
    size: int = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Seen:
        """A copy of the model that is made meanwhile reports here too."""
        return self

    def add(self, output: Any) -> None:
        """Keep the predictions of one output."""
        scores = scores_of(output)
        dims = () if scores is None else _class_dims(scores)
        if scores is None or not dims or self.size > MOST_PREDICTIONS:
            self.complete = False
            self.calls.clear()
        elif self.complete:
            found = tuple(_small(scores.argmax(dim), scores.shape[dim]) for dim in dims)
            self.size += sum(part.size for part in found)
            self.calls.append(found)

    @property
    def totals(self) -> tuple[int, ...]:
        """How many predictions there are along each dimension that may be the classes'."""
        return tuple(sum(part.size for part in parts) for parts in zip(*self.calls, strict=True))


def scores_of(output: Any) -> Tensor | None:
    """The scores in a model's output: its field `logits`, its first item, or itself."""
    output = logits_of(output)
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def logits_of(output: Any) -> Any:
    """The field `logits` of a model's output, or the output itself, whatever it is."""
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    return getattr(output, "logits", output)


@contextmanager
def watching(model: nn.Module) -> Iterator[Seen]:
    """Collect the predictions of every call of the model; the hook is removed afterwards.

    Example:
        >>> with watching(nn.Identity()) as seen:
        ...     pass
        >>> seen.calls
        []
    """
    seen = Seen()

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        seen.add(output)

    try:
        handle = model.register_forward_hook(hook)
    except RuntimeError:  # scripted modules may not take hooks
        seen.complete = False
        yield seen
        return
    try:
        yield seen
    finally:
        handle.remove()


def changed(before: Seen, after: Seen) -> tuple[Array, ...] | None:
    """The share of each sample's predictions that differ, `[samples]`, for each class dimension.

    None where the two did not see the same calls, or did not see everything.
    """
    if not (before.complete and after.complete and before.calls):
        return None
    if len(before.calls) != len(after.calls):
        return None
    pairs = list(zip(before.calls, after.calls, strict=True))
    if any([a.shape for a in x] != [b.shape for b in y] for x, y in pairs):
        return None
    if len({len(x) for x, _ in pairs}) != 1:
        return None
    return tuple(
        np.concatenate([_share(x[k] != y[k]) for x, y in pairs]) for k in range(len(pairs[0][0]))
    )


def error_bound(before: Seen, after: Seen) -> float | None:
    """At most the standard error of the difference of two accuracies, 0 to 1.

    A prediction that did not change is right or wrong in both, so that a sample contributes at most
    the share of its predictions that changed: the error is at most `sqrt(sum share^2) / samples`.

    Example:
        >>> first, second = Seen(), Seen()
        >>> first.add(torch.eye(4)), second.add(torch.eye(4).flip(0))
        (None, None)
        >>> error_bound(first, second)
        0.5
    """
    shares = changed(before, after)
    if shares is None:
        return None
    return max(float(np.sqrt((share**2).sum()) / len(share)) for share in shares)


def looks_like_accuracy(value: float, seen: Seen) -> int | None:
    """1 or 100 if the value times the number of predictions is a whole number on that scale."""
    for total in seen.totals if seen.complete and seen.calls else ():
        for scale in (1, 100):
            count = value / scale * total
            near = abs(count - round(count)) <= min(0.05, max(1e-6, 2e-7 * total))
            if near and 0 <= round(count) <= total:
                return scale
    return None


def _class_dims(scores: Tensor) -> tuple[int, ...]:
    """Dimension 1; of three dimensions also the last, where sequence models have the classes."""
    if not scores.is_floating_point() or scores.dim() < 2:
        return ()
    dims = (1, 2) if scores.dim() == 3 else (1,)
    return dims if all(scores.shape[dim] > 1 for dim in dims) else ()


def _small(index: Tensor, classes: int) -> Array:
    """Predictions in as few bytes as will do, on the CPU."""
    kind = torch.uint8 if classes <= 256 else torch.int16 if classes <= 2**15 else torch.int32
    return index.to(kind).cpu().numpy()


def _share(different: Array) -> Array:
    return different.reshape(len(different), -1).mean(1) if different.ndim > 1 else different * 1.0
