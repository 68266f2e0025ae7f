"""What removed channels gave on average goes into the bias of the layer that used them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.measure.linear import Parameters, Spec, sample_rows
from secateur.recover.follow import NORMS, Follow, Pending, Shift, Slot, norm_of
from secateur.recover.job import Job
from secateur.recover.layer import Place, find_places
from secateur.recover.recalibrate import norms_of
from secateur.recover.synthetic import synthetic
from secateur.recover.uses import plain

_ENOUGH = 32  # samples whose quantiles stand for a normal distribution
_ROWS = 4096


@dataclass(frozen=True)
class Compensate:
    """Give every layer that lost inputs the mean of what they gave, as a bias.

    For outputs `y = W x + b`, `b += W m - W' m'` with the mean input `m` of the dense layer, its
    kept part `m'` and the present weights `W'`. A layer without a bias gives it to the batch
    normalisation behind it. Needs no data: where a batch normalisation comes before, its result is
    taken as normal with its own mean (`beta`) and deviation (`gamma`), and what follows (ReLU or
    whatever the model does) runs on its quantiles.

    Without data it needs a batch normalisation in the network, and it is not always a gain: on
    ResNet-20 it helped with 30 % of the inner channels removed and hurt with half of them.

    norms: take results of batch normalisations as normal, rather than as the data makes them.
    samples: of noise, where there is no data at all and inputs can be made up.

    Papers: Nagel et al., Data-Free Quantization, ICCV 2019 (means from batch normalisations);
    Berisha et al., Variance-Based Pruning, ICCV 2025, and An et al., FLAP, AAAI 2024 (means of
    data).
    """

    norms: bool = True
    samples: int = 64

    def run(self, job: Job) -> None:
        """Repair `job.small` in place; what does not help is taken back."""
        calls = _probes(job, self.samples)
        if not calls:
            job.note("means: there is neither data nor an example to run")
            return
        if job.calibration is None and not (self.norms and norms_of(job.dense)):
            job.note("means: neither data nor a batch normalisation says what they are")
            return
        with plain(job.dense, job.small) as kept:
            places = find_places(job.dense, job.small, job.plan, calls[:1], everywhere=False)
            lost = [place for place in places if place.lost]
            if lost:
                job.attempt("means of removed channels", lambda: self._give(job, lost, calls, kept))
            else:
                job.note("means: no layer lost inputs")

    def _give(
        self, job: Job, places: Sequence[Place], calls: Sequence[Call], kept: list[Tensor]
    ) -> None:
        wanted = dict.fromkeys((place.slot for place in places), True)
        dense = _Means(job.dense, wanted, self.norms, job.seed)
        small = _Means(job.small, wanted, self.norms, job.seed)
        with torch.no_grad():
            for call in calls:
                dense.run(call)
            small.run(calls[0])  # only to find what can take a bias
            for place in places:
                _shift(place, dense, small, kept)


class _Means:
    """Mean inputs of layers, and what can take their bias."""

    def __init__(
        self, model: nn.Module, wanted: Mapping[Slot, bool], norms: bool, seed: int
    ) -> None:
        self.model, self.wanted, self.norms = model, wanted, norms
        self.parameters = Parameters(model).tensors
        self.sums: dict[Slot, Tensor] = {}
        self.counts: dict[Slot, int] = {}
        self.shifts: dict[Slot, Shift | None] = {}
        self.generator = torch.Generator().manual_seed(seed)

    def run(self, call: Call) -> None:
        mode = _Normal(self.model, self.wanted, self._take, self.generator if self.norms else None)
        with mode:
            call.run(self.model)
            mode.finish()

    def _take(self, pending: Pending) -> None:
        slot, use = pending.slot, pending.use
        index = sample_rows(use.count, _ROWS, self.generator).to(use.x.device)
        rows = use.inputs(index).double()
        self.sums[slot] = self.sums.get(slot, 0) + rows.sum(1)
        self.counts[slot] = self.counts.get(slot, 0) + len(index)
        self.shifts.setdefault(slot, pending.shift)

    def mean(self, slot: Slot) -> Tensor:
        """The mean input, `[groups, k]`."""
        return self.sums[slot] / self.counts[slot]

    def gives(self, spec: Spec, mean: Tensor) -> Tensor:
        """What a layer gives for a mean input, `[out]`; the bias included."""
        matrix = spec.matrix(self.parameters[spec.weight]).double()
        out = torch.einsum("gok,gk->go", matrix, mean).flatten()
        if spec.bias is None:
            return out
        bias = self.parameters[spec.bias].double()
        return out + (bias if spec.bias_rows is None else bias[slice(*spec.bias_rows)])


def _shift(place: Place, dense: _Means, small: _Means, kept: list[Tensor]) -> None:
    """Give one layer the bias that it lacks."""
    slot, spec = place.slot, place.small
    if slot not in dense.sums or slot not in small.sums or spec.groups != place.dense.groups:
        return
    mean = dense.mean(slot)
    lacking = dense.gives(place.dense, mean)[place.outputs]
    lacking = lacking - small.gives(spec, mean[:, place.columns])
    if spec.bias is not None:
        bias = small.parameters[spec.bias]
        rows = slice(None) if spec.bias_rows is None else slice(*spec.bias_rows)
        bias[rows] += lacking.to(bias.dtype)
        return
    before, after = dense.shifts[slot], small.shifts[slot]
    if before is None or after is None or before.sign != after.sign:
        return
    given = (after.tensor - before.tensor[place.outputs]).double() * after.sign
    after.tensor.add_((lacking - given).to(after.tensor.dtype), alpha=after.sign)
    kept.append(after.tensor)


class _Normal(Follow):
    """Replaces results of batch normalisations by quantiles of the normal distributions they claim.

    generator: shuffles them; None leaves results as they are.
    """

    def __init__(
        self, model: nn.Module, wanted: Mapping[Slot, bool], stop: Any,
        generator: torch.Generator | None,
    ) -> None:  # fmt: skip
        super().__init__(model, wanted, stop)
        self.generator = generator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if self.generator is not None and func._overloadpacket in NORMS:
            norm = norm_of(func, args)
            if norm is not None:
                result = out[0] if isinstance(out, (tuple, list)) else out
                wide = [1, -1] + [1] * (result.dim() - 2)
                values = self._quantiles(result) * norm.scale.abs().view(wide)
                result.copy_(values + norm.shift.view(wide))
        return out

    def _quantiles(self, like: Tensor) -> Tensor:
        """Standard normal values: one a sample and channel, or (of few samples) one a position."""
        count, width = like.shape[:2]
        if count < _ENOUGH:
            return torch.randn(like.shape, generator=self.generator).to(like)
        order = torch.rand(count, width, generator=self.generator).argsort(0)
        inside = torch.rand(count, width, generator=self.generator).clamp(1e-6, 1 - 1e-6)
        values = torch.special.ndtri((order.double() + inside) / count)  # one of every quantile
        return values.to(like).view(count, width, *[1] * (like.dim() - 2))


def _probes(job: Job, samples: int) -> Sequence[Call]:
    """What to run the networks on: the data to learn from, made-up inputs, or the example."""
    if job.calibration is not None:
        return job.calibration.fit
    if not job.calls:
        return ()
    made, _ = synthetic(job.calls[0], samples, job.seed)
    return made or job.calls


__all__ = ["Compensate"]
