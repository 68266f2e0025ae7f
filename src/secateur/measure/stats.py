"""One object that gathers what criteria need from data, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import Call, tensors_in
from secateur.core.errors import InputError
from secateur.measure.calibration import batch_call
from secateur.measure.gradients import (
    Loss,
    mean_over_batches,
    pieces,
    samples,
    single_samples,
)
from secateur.measure.stats_columns import column_facts
from secateur.measure.stats_grams import LIMIT, Grams, gather, shapes
from secateur.measure.stats_hessian import hessian_over_batches
from secateur.measure.stats_inputs import double, features, input_facts
from secateur.measure.stats_paths import path_gradients

Visit = Callable[[Mapping[str, Any]], Mapping[str, Tensor]]
_CHUNK = 64
_IMAGES = 16


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
        return self.batches is not None or (need == "paths" and self.call is not None)

    def once(self, needs: Collection[str], weights: Collection[str]) -> dict[str, Any]:
        """Facts of all data by need: inputs, columns, grams, mean_gradients, paths.

        weights: the consumers of which statistics are wanted.

        Raises:
            InputError: There is no sample, or something is not finite.
        """
        found: dict[str, Any] = {}
        if "inputs" in needs:
            found["inputs"] = input_facts(self.model, self.calls(), set(weights))
        if "columns" in needs:
            found["columns"] = column_facts(self.model, self.calls(), set(weights))
        if "grams" in needs:
            found["grams"] = self._grams(set(weights))
        if "mean_gradients" in needs:
            found["mean_gradients"] = self._mean_gradients()
        if "paths" in needs:
            call = next(self.calls()) if self.call is None else self.call
            found["paths"] = path_gradients(self.model, call)
        return found

    def mean(
        self, needs: Collection[str], visit: Visit, weights: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """The mean of `visit(facts by need)` over batches, or over samples; float64.

        needs: some of gradients, hessian_gradient and hessian_weights (over batches), or
        sample_gradients alone, or features alone (both over samples).
        """
        if "features" in needs:
            return self._mean_features(visit, set(weights))
        if "sample_gradients" in needs:
            data, key = single_samples(self.data()), "sample_gradients"
            return mean_over_batches(self.model, data, lambda g: visit({key: g}), loss=self.loss)
        if set(needs) == {"gradients"}:
            data, key = self.data(), "gradients"
            return mean_over_batches(self.model, data, lambda g: visit({key: g}), loss=self.loss)
        mean = self._mean_gradients() if "hessian_gradient" in needs else None
        return hessian_over_batches(
            self.model, self.data(), visit, gradient=mean,
            weights="hessian_weights" in needs, loss=self.loss,
        )  # fmt: skip

    def _mean_gradients(self) -> dict[str, Tensor]:
        found = mean_over_batches(self.model, self.data(), lambda g: g, loss=self.loss)
        wide = {n for n, p in self.model.named_parameters() if p.dtype == torch.float64}
        return {name: g if name in wide else g.float() for name, g in found.items()}

    def _mean_features(self, visit: Visit, weights: set[str]) -> dict[str, Tensor]:
        """Averaged over samples: a smaller last batch counts for less."""
        sums: dict[str, Tensor] = {}
        seen = 0
        for call in self.calls(_IMAGES):
            size = samples((call.args, dict(call.kwargs))) or 1
            for name, vector in visit({"features": features(self.model, call, weights)}).items():
                part = double(vector) * size
                sums[name] = sums[name] + part if name in sums else part
            seen += size
        return {name: total / seen for name, total in sums.items()}

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
