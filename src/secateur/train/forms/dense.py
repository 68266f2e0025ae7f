"""Forms that train all weights and use the masked ones: straight-through gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from secateur.core.errors import RecipeError
from secateur.train.forms.form import Form
from secateur.train.held import Held
from secateur.train.peers import Peers


@dataclass(frozen=True)
class Dense(Form):
    """The gradient of the masked weights is applied to all of them, so removed ones can return.

    decay: pulls removed weights towards zero, as SR-STE does. slack: a weight changes sides only
    when its magnitude is beyond the threshold by this fraction, as in dynamic network surgery; the
    schedule's last masks are exact.

    Papers: Lin et al., Dynamic Model Pruning with Feedback, ICLR 2020; Zhou et al., Learning N:M
    Fine-grained Structured Sparse Neural Networks (SR-STE), ICLR 2021; Guo et al., Dynamic Network
    Surgery, NeurIPS 2016.
    """

    decay: float = 0.0
    slack: float = 0.0

    latent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.decay < 0 or not 0 <= self.slack < 1:
            raise RecipeError(
                f"Dense(decay={self.decay!r}, slack={self.slack!r}): expected a decay of at least "
                "0 and a slack in [0, 1)"
            )

    def pull(self, held: Held, gradient: Tensor, peers: Peers) -> None:
        """Straight through; removed weights decay."""
        if self.decay:
            gradient.add_(held.trained * ~held.mask, alpha=self.decay)

    def renew(self, held: Held, old: Tensor, last: bool, peers: Peers) -> None:
        """Leave weights near the threshold where they were."""
        if not self.slack or last:
            return
        size = held.trained.abs()
        kept = size[held.mask]
        border = kept.min() if kept.numel() else size.new_tensor(float("inf"))
        border = peers.least(border)
        inside = (size > border * (1 - self.slack)) & (size < border * (1 + self.slack))
        held.mask = torch.where(inside, old, held.mask)


@dataclass(frozen=True)
class TopKAST(Form):
    """A small set of weights is used and a larger one is trained; the rest rests.

    wider: how much of all weights is trained besides the used ones. decay: of used weights; that of
    the merely trained ones is divided by the density, so that they have to prove themselves.

    Paper: Jayakumar et al., Top-KAST: Top-K Always Sparse Training, NeurIPS 2020.
    """

    wider: float = 0.1
    decay: float = 1e-4

    latent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not 0 < self.wider < 1 or self.decay < 0:
            raise RecipeError(
                f"TopKAST(wider={self.wider!r}, decay={self.decay!r}): expected a fraction in "
                "(0, 1) and a decay of at least 0"
            )

    @property
    def more(self) -> float:
        """What is trained besides."""
        return self.wider

    def begin(self, held: Held) -> None:
        """At first all weights are used and trained."""
        held.extra["wider"] = held.mask
        held.extra["density"] = torch.ones(())

    def pull(self, held: Held, gradient: Tensor, peers: Peers) -> None:
        """Only the wider set has gradients, and the exploration loss."""
        gradient.add_(held.trained * held.bits, alpha=self.decay)
        gradient.add_(held.trained * ~held.mask, alpha=self.decay / float(held.extra["density"]))
        gradient.mul_(held.extra["wider"].view(torch.uint8))

    def renew(self, held: Held, old: Tensor, last: bool, peers: Peers) -> None:
        """Note the density."""
        kept = peers.count(int(held.mask.sum()))
        held.extra["density"].fill_(max(kept, 1) / held.total)
