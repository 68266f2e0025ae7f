"""Forms with soft thresholds: STR learns one for each weight, PDP smooths the one that is due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from secateur.core.errors import RecipeError
from secateur.train.forms.form import Form
from secateur.train.held import Held
from secateur.train.peers import Peers


@dataclass(frozen=True)
class SoftThreshold(Form):
    """`sign(w) max(|w| - sigmoid(s), 0)` with one learned `s` for each tensor.

    start: s at first; decay: weight decay of s, which is what drives the sparsity, together with
    the decay of the weights. Once a budget is reached, the threshold rests; it may never be.

    Paper: Kusupati et al., Soft Threshold Weight Reparameterization (STR), ICML 2020.
    """

    start: float = -6.0
    decay: float = 1e-3

    latent: ClassVar[bool] = True
    chosen: ClassVar[bool] = False

    def begin(self, held: Held) -> None:
        """One number for each tensor, and whether it rests."""
        held.extra["s"] = held.used.new_full((), self.start, dtype=torch.float32)
        held.extra["rests"] = torch.zeros((), dtype=torch.bool, device=held.used.device)

    def write(self, held: Held, out: Tensor) -> None:
        """Shrink towards zero."""
        threshold = held.extra["s"].sigmoid().to(out.dtype)
        torch.abs(held.trained, out=out).sub_(threshold).clamp_(min=0)
        out.mul_(held.trained.sign())

    def pull(self, held: Held, gradient: Tensor, peers: Peers) -> None:
        """Weights above the threshold get their gradient; the threshold gets minus its sum."""
        s = held.extra["s"]
        gate = s.sigmoid()
        gradient.mul_(held.trained.abs() > gate.to(gradient.dtype))
        slope = peers.sum(-(gradient * held.trained.sign()).sum().float()) * gate * (1 - gate)
        moved = s - held.rate * (slope + self.decay * s)
        s.copy_(torch.where(held.extra["rests"], s, moved))

    def renew(self, held: Held, old: Tensor, last: bool, peers: Peers) -> None:
        """The mask is what is not zero."""
        held.mask = held.used != 0

    def rest(self, held: Sequence[Held]) -> None:
        """Thresholds stay where they are."""
        for item in held:
            item.extra["rests"].fill_(True)


@dataclass(frozen=True)
class SoftTopK(Form):
    """`w m` with `m = sigmoid((w^2 - t^2) / temperature)`, t between the last kept and the next.

    Differentiable and without parameters; t follows the budget at every update.

    Paper: Cho et al., PDP: Parameter-free Differentiable Pruning is All You Need, NeurIPS 2023.
    """

    temperature: float = 1e-4

    latent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not self.temperature > 0:
            raise RecipeError(f"SoftTopK(temperature={self.temperature!r}): expected above 0")

    def begin(self, held: Held) -> None:
        """At first everything passes."""
        held.extra["border"] = held.used.new_full((), float("-inf"), dtype=torch.float32)

    def write(self, held: Held, out: Tensor) -> None:
        """Scale by the soft mask."""
        torch.mul(held.trained, self._gate(held), out=out)

    def pull(self, held: Held, gradient: Tensor, peers: Peers) -> None:
        """d(w m)/dw = m + 2 w^2 m (1 - m) / temperature."""
        gate = self._gate(held)
        slope = 2 / self.temperature * held.trained.square() * gate * (1 - gate)
        gradient.mul_(gate + slope)

    def renew(self, held: Held, old: Tensor, last: bool, peers: Peers) -> None:
        """The border lies between the smallest kept and the largest removed square."""
        squares = held.trained.float().square()
        infinite = squares.new_tensor(float("inf"))
        kept, gone = squares[held.mask], squares[~held.mask]
        low = peers.least(kept.min() if kept.numel() else infinite)
        high = -peers.least(-(gone.max() if gone.numel() else -infinite))
        held.extra["border"].copy_((low + high) / 2 if high > -infinite else -infinite)

    def close(self, held: Held, out: Tensor) -> None:
        """The hard mask, and the soft values of what stays."""
        self.write(held, out)
        held.clear(out)

    def _gate(self, held: Held) -> Tensor:
        border = held.extra["border"].to(held.trained.dtype)
        return ((held.trained.square() - border) / self.temperature).sigmoid()
