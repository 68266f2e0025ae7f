"""Layers whose channels are chosen anew for every input."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.adapt.heads import pool
from secateur.runtime.kernels import skip


@dataclass
class Pass:
    """One run: the gates in force, and what they chose so far, by name.

    chosen: a mask `[n, channels]`, or the numbers of the live channels of a single sample.
    gathers: only live channels are computed where there is a single sample.
    """

    gates: Mapping[str, Gate]
    gathers: bool
    chosen: dict[str, Tensor] = field(default_factory=dict)


current: ContextVar[Pass | None] = ContextVar("gates", default=None)


class Gate(nn.Module):
    """Predicts from a layer's pooled input which of its output channels matter for this sample.

    keep: how many do. The predictor is `up(down(features))`; `down` may be nothing.
    """

    def __init__(self, keep: int, up: nn.Linear, down: nn.Linear | None = None) -> None:
        super().__init__()
        self.keep, self.up, self.down = keep, up, down

    def forward(self, features: Tensor) -> Tensor:
        """Saliencies `[n, channels]`, from a layer's pooled input `[n, k]`."""
        return self.up(features if self.down is None else self.down(features))

    def mask(self, features: Tensor) -> Tensor:
        """1 for the live channels, `[n, channels]`.

        In training its gradient is that of a sigmoid around the last saliency that is kept.
        """
        saliency = self(features)
        top = saliency.topk(self.keep, 1)
        hard = torch.zeros_like(saliency).scatter_(1, top.indices, 1.0)
        if not self.training:
            return hard
        width = saliency.detach().std(1, keepdim=True, correction=0).clamp_min(1e-6)
        soft = torch.sigmoid((saliency - top.values[:, -1:].detach()) / width)
        return hard + soft - soft.detach()

    def live(self, features: Tensor) -> Tensor:
        """The numbers of the live channels of the only sample, ascending."""
        return self(features)[0].topk(self.keep).indices.sort().values


class Gated(nn.Module):
    """A layer of which a gate chooses outputs, inputs, or (channel by channel) both at once.

    makes, reads, passes: names of the gates. times: how many inputs each channel of `reads` has.
    usual: what inputs that were not chosen are taken to be, `[inputs]`.
    """

    def adopt(self, layer: nn.Module) -> None:
        """Take over the parameters, hooks and settings of an ordinary layer."""
        self.__dict__.update(layer.__dict__)
        self.makes = self.reads = self.passes = ""
        self.times = 1
        self.register_buffer("usual", None)
        self._still: dict[Any, Tensor] = {}

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer computes, with any weights."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        """What the layer gives; of a single sample only its live channels, where they are known."""
        this: Any = self
        x, run = input, current.get()
        if run is None:
            return self.plain(x, this.weight, this.bias)
        if self.passes:
            return self._passed(x, run.chosen.get(self.passes))
        columns, gate = run.chosen.get(self.reads), run.gates.get(self.makes)
        if run.gathers and len(x) == 1 and not self.training:
            columns = None if columns is None else self._spread(columns)
            rows = None if gate is None else gate.live(self._pooled(x, columns))
            if rows is not None:
                run.chosen[self.makes] = rows
            return self._gathered(x, rows, columns)
        if columns is not None:
            x = self._filled(x, columns)
        if gate is not None:
            run.chosen[self.makes] = gate.mask(pool(x))
        return self.plain(x, this.weight, this.bias)

    def _spread(self, columns: Tensor) -> Tensor:
        """The numbers of the inputs that belong to channels."""
        if self.times == 1:
            return columns
        each = torch.arange(self.times, device=columns.device)
        return (columns[:, None] * self.times + each).reshape(-1)

    def _pooled(self, x: Tensor, columns: Tensor | None) -> Tensor:
        """The pooled input, of which only some channels may be there; the others are as usual."""
        found = pool(x)
        if columns is None:
            return found
        if found.shape[1] == len(columns):
            return self._usual[None].index_copy(1, columns, found)
        whole = torch.cat([self._usual, self._usual.abs()])[None]  # means and sizes
        return whole.index_copy_(1, torch.cat([columns, columns + len(self._usual)]), found)

    def _passed(self, x: Tensor, live: Tensor | None) -> Tensor:
        """A convolution of each channel by itself."""
        raise NotImplementedError

    def _filled(self, x: Tensor, mask: Tensor) -> Tensor:
        """The input with usual values where the mask is 0."""
        mask = mask.repeat_interleave(self.times, 1) if self.times > 1 else mask
        mask, usual = self._shaped(mask.to(x.dtype), x), self._shaped(self._usual, x)
        return x * mask + usual * (1 - mask)

    @property
    def _usual(self) -> Tensor:
        return self.get_buffer("usual")

    def _shaped(self, values: Tensor, x: Tensor) -> Tensor:
        """Values of channels, so that they go with `x`."""
        raise NotImplementedError

    def _gathered(self, x: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
        """The live outputs from the live inputs; `x` holds nothing but these.

        What the others would add is what usual values add: with `x` less its own usual values,
        that is one constant.
        """
        this: Any = self
        weight, bias, constant = this.weight, this.bias, None
        if columns is not None:
            constant, bias = self._constant(x), None
            x = x - self._shaped(self._usual.index_select(0, columns), x)
            if rows is not None:
                constant = constant.index_select(self._dim, rows)
        found = self._row(x, rows, columns, bias)
        if found is None:
            if rows is not None:
                weight = weight.index_select(0, rows)
                bias = None if bias is None else bias.index_select(0, rows)
            if columns is not None:
                weight = weight.index_select(1, columns)
            found = self.plain(x, weight, bias)
        return found if constant is None else found + constant

    _dim = 1  # of the channels

    def _row(
        self, x: Tensor, rows: Tensor | None, columns: Tensor | None, bias: Tensor | None
    ) -> Tensor | None:
        """The result by a kernel that reads live weights only, where there is one."""
        return None

    def _constant(self, x: Tensor) -> Tensor:
        """What the layer gives for usual values everywhere; kept, as long as nothing changes."""
        this: Any = self
        tensors = [t for t in (this.weight, this.bias, self._usual) if t is not None]
        key = (x.shape[2:], x.dtype, *((t.data_ptr(), t._version) for t in tensors))
        if key in self._still and not torch.is_grad_enabled():
            return self._still[key]
        full = torch.ones_like(x[:, :1] if self._dim == 1 else x[..., :1])
        found = self.plain(full * self._shaped(self._usual, x), this.weight, this.bias)
        if not torch.is_grad_enabled():
            if len(self._still) >= 4:
                self._still.clear()
            self._still[key] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be computed again."""
        return {**self.__dict__, "_still": {}}


class GatedLinear(Gated, nn.Linear):
    """A fully connected layer."""

    _dim = -1

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.adopt(layer)

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A matrix product."""
        return F.linear(x, weight, bias)

    def _shaped(self, values: Tensor, x: Tensor) -> Tensor:
        extra = x.dim() - values.dim() if values.dim() > 1 else 0
        return values.reshape(len(values), *[1] * extra, -1) if extra else values

    def _row(
        self, x: Tensor, rows: Tensor | None, columns: Tensor | None, bias: Tensor | None
    ) -> Tensor | None:
        single = x.numel() == x.shape[-1] and (rows is None) != (columns is None)
        if not single or not skip.available() or not skip.usable(x, self.weight, bias):
            return None
        weight, row = self.weight.detach(), x.reshape(-1)
        if rows is not None and weight.is_contiguous():
            found = skip.selected(row, weight, bias, rows)
        elif columns is not None and weight.stride(0) == 1:
            whole = torch.zeros(weight.shape[1]).index_copy_(0, columns, row)
            found = skip.skipping(whole, weight.t(), None, 0.0)
        else:
            return None
        return found.reshape(*x.shape[:-1], -1)


class _GatedConv(Gated):
    def __init__(self, layer: nn.Module) -> None:
        nn.Module.__init__(self)
        self.adopt(layer)

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A convolution."""
        this: Any = self
        return this._conv_forward(x, weight, bias)

    def _shaped(self, values: Tensor, x: Tensor) -> Tensor:
        return values.reshape(*values.shape, *[1] * (x.dim() - 2))

    def _passed(self, x: Tensor, live: Tensor | None) -> Tensor:
        this: Any = self
        if live is None or live.is_floating_point():
            return self.plain(x, this.weight, this.bias)
        bias = None if this.bias is None else this.bias.index_select(0, live)
        function: Any = (F.conv1d, F.conv2d, F.conv3d)[x.dim() - 3]
        weight = this.weight.index_select(0, live)
        return function(x, weight, bias, this.stride, this.padding, this.dilation, len(live))


class GatedConv1d(_GatedConv, nn.Conv1d):
    """A convolution over one dimension."""


class GatedConv2d(_GatedConv, nn.Conv2d):
    """A convolution over two dimensions."""


class GatedConv3d(_GatedConv, nn.Conv3d):
    """A convolution over three dimensions."""


class _GatedNorm(nn.Module):
    """A batch normalisation of live channels only, where there is a single sample."""

    def __init__(self, layer: nn.Module) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(layer.__dict__)
        self.passes = ""

    def forward(self, input: Tensor) -> Tensor:
        """What the layer gives."""
        run, x, this = current.get(), input, cast(Any, self)
        live = None if run is None else run.chosen.get(self.passes)
        if live is None or live.is_floating_point():
            return cast(Any, super()).forward(x)
        values = (this.running_mean, this.running_var, this.weight, this.bias)
        mean, variance, weight, bias = (
            None if v is None else v.index_select(0, live) for v in values
        )
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, this.eps)


class GatedNorm1d(_GatedNorm, nn.BatchNorm1d):
    """Of `[n, c]` or `[n, c, t]`."""


class GatedNorm2d(_GatedNorm, nn.BatchNorm2d):
    """Of `[n, c, h, w]`."""


class GatedNorm3d(_GatedNorm, nn.BatchNorm3d):
    """Of `[n, c, d, h, w]`."""


KINDS: dict[type[nn.Module], Any] = {
    nn.Linear: GatedLinear,
    nn.Conv1d: GatedConv1d,
    nn.Conv2d: GatedConv2d,
    nn.Conv3d: GatedConv3d,
    nn.BatchNorm1d: GatedNorm1d,
    nn.BatchNorm2d: GatedNorm2d,
    nn.BatchNorm3d: GatedNorm3d,
}
"""The counterparts of ordinary layers."""
