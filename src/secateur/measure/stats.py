"""One object that gathers what criteria need from data, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import Call, map_tensors, tensors_in
from secateur.core.errors import InputError
from secateur.measure.calibration import batch_call
from secateur.measure.gradients import Loss, mean_over_batches
from secateur.measure.stats_grams import LIMIT, Grams, gather, shapes
from secateur.measure.stats_inputs import input_facts

Visit = Callable[[Mapping[str, Any]], Mapping[str, Tensor]]
ONCE = frozenset({"inputs", "grams"})
EACH = frozenset({"gradients"})
_CHUNK = 64


class Gather:
    """Gathers facts for criteria: some once over all data, others batch by batch.

    model: it is left as it was. call: one example. batches: what users call data, or None; it is
    gone through as often as is needed (a one-shot iterator is kept). loss: `(model, batch) ->`
    scalar, for gradients. seed: for the sampling of rows. limit: bytes of Gram matrices that are
    held at a time.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> given = Gather(net, None, [torch.randn(8, 2)])
        >>> given.once({"inputs"}, {"2.weight"})["inputs"]["2.weight"].mean.shape
        torch.Size([1, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        call: Call | None,
        batches: Iterable[Any] | None,
        loss: Loss | None = None,
        seed: int = 0,
        *,
        limit: int = LIMIT,
    ) -> None:
        self.model, self.call, self.loss, self.seed, self.limit = model, call, loss, seed, limit
        self.batches = batches

    def can(self, need: str) -> bool:
        """Whether there is what a need takes: an example for paths, data for all others."""
        return self.batches is not None

    def once(self, needs: Collection[str], weights: Collection[str]) -> dict[str, Any]:
        """Facts by need (those of `ONCE`); weights: the consumers of which statistics are wanted.

        Raises:
            InputError: There is no sample, or something is not finite.
        """
        found: dict[str, Any] = {}
        if "inputs" in needs:
            found["inputs"] = input_facts(self.model, self.calls(), set(weights))
        if "grams" in needs:
            found["grams"] = self._grams(set(weights))
        return found

    def mean(self, needs: Collection[str], visit: Visit) -> dict[str, Tensor]:
        """The mean over batches of `visit(facts by need)`, for the needs of `EACH`; float64."""
        return mean_over_batches(
            self.model, self.data(), lambda found: visit({"gradients": found}), loss=self.loss
        )

    def data(self) -> Iterable[Any]:
        """The batches; an error if there are none."""
        if self.batches is None:
            raise InputError("there is no data", hint="give data=[batch, …]")
        if iter(self.batches) is self.batches:
            self.batches = list(self.batches)
        return self.batches

    def calls(self, most: int = _CHUNK) -> Iterator[Call]:
        """The data as calls of at most `most` samples on the model's device.

        Raises:
            InputError: There is no sample, or an input is not finite.
        """
        seen = False
        for number, batch in enumerate(self.data()):
            call = batch_call(self.model, batch)
            for tensor in tensors_in((call.args, dict(call.kwargs))):
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    raise InputError(
                        f"batch {number} of the data holds values that are not finite",
                        hint="clean the data: NaN and infinity spread to every statistic",
                    )
            for args, kwargs in pieces((call.args, dict(call.kwargs)), most):
                seen = True
                yield Call(args, kwargs)
        if not seen:
            raise InputError("there is no sample in the data", hint="give at least one batch")

    def _grams(self, weights: set[str]) -> Grams:
        first = next(self.calls())
        size = samples((first.args, dict(first.kwargs)))
        lengths = [1 if size is None else _length(batch) for batch in self.data()]
        found = shapes(self.model, first, weights, sum(lengths) / (size or 1))
        return Grams(
            {name: shape.bytes for name, shape in found.items()},
            lambda names: gather(self.model, self.calls(), {n: found[n] for n in names}, self.seed),
            self.limit,
        )


def _length(batch: Any) -> int:
    return next((len(tensor) for tensor in tensors_in(batch) if tensor.dim()), 1)


def samples(value: Any) -> int | None:
    """The first dimension of the tensors in nested containers where all agree, else None."""
    sizes = {t.shape[0] if t.dim() else None for t in tensors_in(value)}
    size = sizes.pop() if sizes else None
    return None if sizes else size


def pieces(value: Any, most: int) -> Iterator[Any]:
    """Nested tensors split along their first dimension, if they agree on it; else as they are.

    Example:
        >>> [len(part[0]) for part in pieces((torch.zeros(5, 2), torch.zeros(5)), 2)]
        [2, 2, 1]
    """
    size = samples(value)
    if size is None:
        yield value
        return
    for start in range(0, size, most):
        yield map_tensors(value, lambda t, a=start: t[a : a + most])
