"""Movement pruning: weights that move towards zero go, whatever their size."""

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


@dataclass(frozen=True)
class Movement(Form):
    """Scores gather `-rate * gradient * weight`; the best ones are used, as the budget says.

    The gradient is that of the used weight, which passes the mask straight through to the scores
    and masked to the weights.

    Paper: Sanh et al., Movement Pruning: Adaptive Sparsity by Fine-Tuning, NeurIPS 2020.
    """

    rate: float = 1.0

    latent: ClassVar[bool] = True

    def begin(self, held: Held) -> None:
        """All scores are zero at first."""
        held.extra["score"] = torch.zeros_like(held.used, dtype=torch.float32)

    def scores(self, held: Held) -> Tensor | None:
        """What has gathered."""
        return held.extra["score"]

    def pull(self, held: Held, gradient: Tensor, peers: Peers) -> None:
        """Scores move; removed weights have no gradient."""
        held.extra["score"].sub_(gradient * held.trained, alpha=self.rate)
        held.clear(gradient)


@dataclass(frozen=True)
class SoftMovement(Movement):
    """Movement with a threshold instead of a budget: used is what has `sigmoid(score) > threshold`.

    penalty: of the sum of sigmoid(score), which is what drives the sparsity.
    """

    rate: float = 1.0
    threshold: float = 0.1
    penalty: float = 1e-3

    chosen: ClassVar[bool] = False
    budgeted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not 0 < self.threshold < 0.5 or self.penalty < 0:
            raise RecipeError(
                f"SoftMovement(threshold={self.threshold!r}, penalty={self.penalty!r}): expected "
                "a threshold in (0, 0.5), below which all weights start, and no negative penalty"
            )

    def pull(self, held: Held, gradient: Tensor, peers: Peers) -> None:
        """Scores move and are pushed down; the mask follows at once."""
        super().pull(held, gradient, peers)
        score = held.extra["score"]
        gate = score.sigmoid()
        score.sub_(gate * (1 - gate), alpha=self.rate * self.penalty)
        held.mask = score > log(self.threshold / (1 - self.threshold))
