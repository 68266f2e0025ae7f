"""What a network is asked to do: values by sample, a loss to follow, and two halves of data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import map_tensors, untouched
from secateur.core.errors import InputError
from secateur.measure.calibration import batch_call
from secateur.measure.gradients import samples
from secateur.measure.loss import default_loss, loss_of, scored
from secateur.measure.metric import Accuracy, Loss, labels_of
from secateur.measure.watch import scores_of

Metric = Callable[[Any, Tensor], Tensor]
"""`(output, labels) -> Tensor[n]`, higher is better."""


@dataclass(frozen=True)
class Task:
    """One behaviour of a network.

    metric: None for top-1 accuracy (the negative squared error where labels are not integers), a
    class, told from all others with equal weights, or a function. loss: what falls as it gets
    better, for gradients.

    Example:
        >>> scores = torch.tensor([[2.0, 1.0], [3.0, 1.0], [0.0, 9.0], [1.0, 0.0]])
        >>> batch = (scores, torch.tensor([0, 0, 1, 1]))
        >>> Task().measure(nn.Identity(), [batch]), Task(1).measure(nn.Identity(), [batch])
        (0.75, 0.75)
    """

    metric: int | Metric | None = None
    loss: Callable[..., Tensor] | None = None

    def values(self, output: Any, labels: Tensor) -> Tensor:
        """One value per sample, `[n]`, float64."""
        if callable(self.metric):
            found = self.metric(output, labels)
            if not isinstance(found, Tensor) or not found.dim() or len(found) != len(labels):
                shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise InputError(
                    f"the metric gave {shape} for {len(labels)} samples",
                    hint="give (output, labels) -> one value for each sample",
                )
            return found.detach().double().reshape(len(found), -1).mean(1)
        if labels.is_floating_point():
            return -Loss([]).values(output, labels)
        if self.metric is None:
            return Accuracy([]).values(output, labels)
        scores = scores_of(output)
        if scores is None or scores.dim() != 2 or labels.dim() != 1:
            raise InputError(
                f"metric={self.metric}: a class needs scores [n, classes] and labels [n]",
                hint="give a function (output, labels) -> one value for each sample",
            )
        return ((scores.argmax(1) == self.metric) == (labels == self.metric)).double()

    def stream(self, model: nn.Module, batches: Iterable[Any]) -> tuple[Tensor, Tensor | None]:
        """The values of all samples, and their labels if each has one; on the CPU."""
        values, labels = [], []
        for batch in batches:
            wanted = labels_of(batch)
            with untouched(model), torch.no_grad():
                output = batch_call(model, batch).run(model)
                values.append(self.values(output, _beside(wanted, output)).cpu())
            labels.append(wanted.detach().cpu())
        if not sum(map(len, values)):
            raise InputError("there are no samples", hint="give at least one batch with labels")
        single = all(part.dim() == 1 and not part.is_floating_point() for part in labels)
        return torch.cat(values), torch.cat(labels) if single else None

    def measure(self, model: nn.Module, batches: Iterable[Any]) -> float:
        """The mean over samples; of a class the mean of its samples' mean and of the others'."""
        return self.summary(*self.stream(model, batches))[0]

    def summary(self, values: Tensor, labels: Tensor | None) -> tuple[float, float]:
        """The mean of values by sample as `measure` takes it, and its standard error."""
        parts = [values]
        if isinstance(self.metric, int) and labels is not None:
            inside = labels == self.metric
            parts = [values[inside], values[~inside]]
            if not all(map(len, parts)):
                raise InputError(
                    f"metric={self.metric}: the data has samples of "
                    f"{'only' if len(parts[0]) else 'not'} that class",
                    hint="give data in which some samples are of the class and some are not",
                )
        mean = sum(float(part.mean()) for part in parts) / len(parts)
        spread = sum(float(part.var(unbiased=False)) / len(part) for part in parts)
        return mean, spread**0.5 / len(parts)

    def objective(self) -> Callable[[nn.Module, Any], Tensor]:
        """What falls as the behaviour gets better, by batch, and can be differentiated."""
        if self.loss is not None:
            return loss_of(self.loss)
        if isinstance(self.metric, int):
            return self._one_class
        return default_loss if self.metric is None else self._negative

    def _one_class(self, model: nn.Module, batch: Any) -> Tensor:
        output, labels = scored(model, batch)
        chance = output.float().log_softmax(1)[:, self.metric].exp().clamp(1e-7, 1 - 1e-7)
        inside = labels == self.metric
        parts = [-chance[inside].log(), -(1 - chance[~inside]).log()]
        return sum((part.mean() for part in parts if len(part)), start=chance.new_zeros(()))

    def _negative(self, model: nn.Module, batch: Any) -> Tensor:
        output = batch_call(model, batch).run(model)
        assert callable(self.metric)
        found = -self.metric(output, _beside(labels_of(batch), output)).double().mean()
        return found if found.requires_grad else default_loss(model, batch)


def halves(batches: Iterable[Any], seed: int) -> tuple[list[Any], list[Any]]:
    """Two halves of the samples, drawn by the seed; whole batches where they cannot be split.

    Example:
        >>> one, two = halves([(torch.arange(4), torch.arange(4))], 0)
        >>> sorted([*one[0][0].tolist(), *two[0][0].tolist()])
        [0, 1, 2, 3]

    Raises:
        InputError: There is only one, and it cannot be split.
    """
    generator = torch.Generator().manual_seed(seed)
    first: list[Any] = []
    second: list[Any] = []
    for number, batch in enumerate(batches):
        plain = dict(batch) if isinstance(batch, Mapping) else batch
        n = samples(plain)
        if n is None or n < 2:
            (second if number % 2 else first).append(plain)
            continue
        order = torch.randperm(n, generator=generator)
        for part, chosen in ((first, order[: (n + 1) // 2]), (second, order[(n + 1) // 2 :])):
            rows = chosen.sort().values
            part.append(map_tensors(plain, lambda t, k=rows: t[k.to(t.device)]))
    if not first or not second:
        raise InputError("the data cannot be halved", hint="give at least two samples with labels")
    return first, second


def _beside(labels: Tensor, output: Any) -> Tensor:
    scores = scores_of(output)
    return labels if scores is None else labels.to(scores.device)


__all__ = ["Metric", "Task", "halves"]
