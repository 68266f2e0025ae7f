"""L0 regularisation: every weight has a random gate, whose odds of being open are learned."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch import Tensor

from secateur.core.errors import RecipeError
from secateur.train.forms.form import Form
from secateur.train.held import Held
from secateur.train.peers import Peers

LOW, HIGH, BETA = -0.1, 1.1, 2 / 3


@dataclass(frozen=True)
class HardConcrete(Form):
    """`w z` with z a stretched and clipped concrete variable, drawn anew for every step.

    penalty: of the expected number of open gates; it drives the sparsity. rate: the learning rate
    of the gates, by Adam. start: their log odds at first. In eval mode and at the end, gates are at
    their means, which are exactly zero where they are closed.

    Paper: Louizos et al., Learning Sparse Neural Networks through L0 Regularization, ICLR 2018.
    """

    penalty: float = 1e-6
    rate: float = 0.01
    start: float = 2.0

    latent: ClassVar[bool] = True
    chosen: ClassVar[bool] = False
    budgeted: ClassVar[bool] = False
    noisy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.penalty < 0 or not self.rate > 0:
            raise RecipeError(
                f"HardConcrete(penalty={self.penalty!r}, rate={self.rate!r}): expected a penalty "
                "of at least 0 and a rate above 0"
            )

    def begin(self, held: Held) -> None:
        """Log odds, what was drawn, and Adam's two moments."""
        empty = torch.zeros_like(held.used, dtype=torch.float32)
        held.extra["odds"] = torch.full_like(empty, self.start)
        held.extra["drawn"] = torch.full_like(empty, self.start).sigmoid()
        held.extra.update(first=empty, second=empty.clone(), count=torch.zeros(()))

    def draw(self, held: Held, generator: torch.Generator) -> None:
        """`sigmoid((logit u + odds) / beta)` of a uniform u."""
        u = torch.empty_like(held.extra["odds"]).uniform_(1e-6, 1 - 1e-6, generator=generator)
        held.extra["drawn"].copy_(((u.logit() + held.extra["odds"]) / BETA).sigmoid())

    def write(self, held: Held, out: Tensor) -> None:
        """Scale by the drawn gates."""
        torch.mul(held.trained, stretch(held.extra["drawn"]), out=out)

    def pull(self, held: Held, gradient: Tensor, peers: Peers) -> None:
        """Gates follow their gradient by Adam; weights get theirs through the open gates."""
        drawn, odds = held.extra["drawn"], held.extra["odds"]
        gate = stretch(drawn)
        inside = (gate > 0) & (gate < 1)
        slope = (HIGH - LOW) / BETA * drawn * (1 - drawn) * inside
        open_ = (odds - BETA * log(-LOW / HIGH)).sigmoid()
        self._adam(held, gradient * held.trained * slope + self.penalty * open_ * (1 - open_))
        gradient.mul_(gate)

    def renew(self, held: Held, old: Tensor, last: bool, peers: Peers) -> None:
        """The mask is where the mean gate is open."""
        held.mask = stretch(held.extra["odds"].sigmoid()) > 0

    def close(self, held: Held, out: Tensor) -> None:
        """Scale by the mean gates."""
        torch.mul(held.trained, stretch(held.extra["odds"].sigmoid()), out=out)

    def _adam(self, held: Held, slope: Tensor) -> None:
        first, second, count = (held.extra[key] for key in ("first", "second", "count"))
        n = int(count.add_(1))
        first.lerp_(slope.float(), 0.1)
        second.lerp_(slope.float().square(), 0.001)
        scale = (second / (1 - 0.999**n)).sqrt_().add_(1e-8)
        held.extra["odds"].sub_(first / scale, alpha=self.rate / (1 - 0.9**n))


def stretch(gate: Tensor) -> Tensor:
    """From (0, 1) to [0, 1], where both ends have mass.

    Example:
        >>> stretch(torch.tensor([0.05, 0.5, 0.95])).tolist()
        [0.0, 0.5, 1.0]
    """
    return (gate * (HIGH - LOW) + LOW).clamp(0, 1)
