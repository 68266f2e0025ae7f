"""Ready-made `evaluate` functions that give one value per sample: accuracy, and losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.core.batches import map_tensors, tensors_in, untouched
from secateur.core.errors import InputError
from secateur.measure.calibration import batch_call
from secateur.measure.watch import scores_of

_LABELS = ("labels", "label", "targets", "target", "y")
IGNORED = -100
"""The label that PyTorch's losses leave out."""


@runtime_checkable
class Streamed(Protocol):
    """An `evaluate` that can stop between batches."""

    def stream(self, model: nn.Module, order: Sequence[int] | None = None) -> Iterator[Tensor]:
        """The values of one batch after the other, `[n]` each, in the order of the numbers."""
        ...

    @property
    def batches(self) -> Any:
        """What is evaluated; if it has a length and is indexed, the order can be chosen."""
        ...


class Metric:
    """One value per sample over batches; the parent of `Accuracy` and `Loss`.

    batches: a list or a loader of `(inputs, ..., labels)` or of mappings with labels. It is read
    anew for every model. A list, or anything with a length that is indexed, is best: then a search
    can look at its batches in random order, and stop when the outcome is clear.
    """

    lower_is_better: ClassVar[bool] = False

    def __init__(self, batches: Iterable[Any]) -> None:
        if isinstance(batches, (Tensor, Mapping)) or not isinstance(batches, Iterable):
            raise InputError(
                f"batches are a list or a loader, not a {type(batches).__name__}",
                hint="for one batch write [(inputs, labels)]",
            )
        if isinstance(batches, Iterator):
            raise InputError(
                "batches are an iterator, which can be read only once",
                hint="give the loader itself, or list(batches)",
            )
        self.batches = batches

    def __call__(self, model: nn.Module) -> Tensor:
        """The values of all samples, `[n]`."""
        found = list(self.stream(model))
        if not sum(len(part) for part in found):
            raise InputError("there are no samples", hint="give at least one batch with labels")
        return torch.cat(found)

    def stream(
        self,
        model: nn.Module,
        order: Sequence[int] | None = None,
        keep: Sequence[Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """The values of one batch after the other, float64 on the CPU, `[n]` each.

        order: numbers of batches, where they can be indexed. keep: for every batch, by its number,
        which samples are wanted, `[n]`; a batch of which no samples can be told apart is run whole.
        """
        for number, batch in self._numbered(order):
            if keep is not None:
                batch = some_samples(batch, keep[number])
            with untouched(model), torch.no_grad():
                labels = labels_of(batch)
                output = batch_call(model, batch).run(model)
                values = self.values(output, labels)
            yield values.detach().double().cpu().reshape(-1)

    def _numbered(self, order: Sequence[int] | None) -> Iterator[tuple[int, Any]]:
        if order is None:
            yield from enumerate(self.batches)
        else:
            yield from ((k, self.batches[k]) for k in order)  # type: ignore[index]

    def values(self, output: Any, labels: Tensor) -> Tensor:
        """One value per sample of a batch, `[n]`."""
        raise NotImplementedError


class Accuracy(Metric):
    """Top-1 accuracy: for every sample 1 if the highest score is the label's, else 0.

    Of samples with many labels (pixels, tokens) it is the share that is right; labels of -100 do
    not count. Scores are `[n, classes, ...]`, or `[n, ..., classes]`.

    Example:
        >>> scores = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
        >>> Accuracy([(scores, torch.tensor([1, 1]))])(nn.Identity())
        tensor([1., 0.], dtype=torch.float64)

    Raises:
        InputError: There are no labels, or scores and labels do not fit.
    """

    def values(self, output: Any, labels: Tensor) -> Tensor:
        """1 where right, 0 where wrong, `[n]`."""
        scores = _scores(output, labels)
        labels = labels.to(scores.device)
        return _mean_of_valid((scores.argmax(1) == labels).double(), labels != IGNORED)


class Loss(Metric):
    """A loss by sample; lower is better.

    loss: `(output, labels) -> Tensor`, one value per sample `[n]` or more (`[n, ...]`, averaged
    over the rest), or one value per batch, which then counts as one sample. By default the
    cross-entropy in nats where labels are integers, else the squared error.

    Example:
        >>> Loss([(torch.zeros(2, 4), torch.tensor([1, 3]))])(nn.Identity())
        tensor([1.3863, 1.3863], dtype=torch.float64)

    Raises:
        InputError: There are no labels, or outputs and labels do not fit.
    """

    lower_is_better = True

    def __init__(
        self, batches: Iterable[Any], loss: Callable[[Any, Tensor], Tensor] | None = None
    ) -> None:
        super().__init__(batches)
        self.loss = loss

    def values(self, output: Any, labels: Tensor) -> Tensor:
        """The loss of every sample, `[n]`."""
        if self.loss is not None:
            found = self.loss(output, labels.to(_device(output, labels)))
            return found.reshape(len(found), -1).double().mean(1) if found.dim() else found[None]
        if labels.is_floating_point():
            scores = scores_of(output)
            if scores is None or scores.shape != labels.shape:
                raise _misfit(scores, labels)
            error = (scores.double() - labels.to(scores.device).double()) ** 2
            return error.reshape(len(error), -1).mean(1)
        scores = _scores(output, labels)
        labels = labels.to(scores.device).long()
        each = cross_entropy(scores.float(), labels, reduction="none", ignore_index=IGNORED)
        return _mean_of_valid(each.double(), labels != IGNORED)


def _mean_of_valid(values: Tensor, valid: Tensor) -> Tensor:
    """The mean of each sample's valid entries, `[n]`; samples without any are left out."""
    values, valid = values.reshape(len(values), -1), valid.reshape(len(values), -1)
    count = valid.sum(1)
    return ((values * valid).sum(1) / count.clamp(min=1))[count > 0]


def some_samples(batch: Any, keep: Tensor) -> Any:
    """The samples of a batch that are kept, `[n]`; the batch itself if not all its tensors have n.

    Example:
        >>> some_samples((torch.zeros(3, 2), torch.arange(3)), torch.tensor([True, False, True]))[1]
        tensor([0, 2])
    """
    if any(t.dim() == 0 or len(t) != len(keep) for t in tensors_in(batch)):
        return batch
    return map_tensors(batch, lambda t: t[keep.to(t.device)])


def labels_of(batch: Any) -> Tensor:
    """The labels of a batch.

    Raises:
        InputError: It has none.
    """
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in _LABELS if key in batch), None)
    else:
        found = batch[-1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if not isinstance(found, Tensor):
        raise InputError(
            f"a batch ({type(batch).__name__}) has no labels",
            hint=f"give (inputs, labels), or a mapping with one of {', '.join(_LABELS)}",
        )
    return found


def _scores(output: Any, labels: Tensor) -> Tensor:
    """The scores with the classes in dimension 1."""
    scores = scores_of(output)
    if scores is not None and scores.dim() >= 2:
        if scores.select(1, 0).shape == labels.shape:
            return scores
        if scores.shape[:-1] == labels.shape:
            return scores.movedim(-1, 1)
    raise _misfit(scores, labels)


def _misfit(scores: Tensor | None, labels: Tensor) -> InputError:
    given = "an output without scores" if scores is None else f"scores of {tuple(scores.shape)}"
    return InputError(
        f"{given} do not fit labels of shape {tuple(labels.shape)}",
        hint="scores are [n, classes, ...], labels [n, ...]; of a squared error both are alike",
    )


def _device(output: Any, labels: Tensor) -> torch.device:
    scores = scores_of(output)
    return labels.device if scores is None else scores.device
