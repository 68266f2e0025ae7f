"""Form: how the weight in use follows from the one that is trained; the hard one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from secateur.train.held import Held
from secateur.train.peers import Peers


class Form:
    """What a session asks of a form; this one zeroes removed weights after every step.

    latent: the trained values are another tensor than the used ones. chosen: masks come from scores
    and a budget; False: from the form's own state. budgeted: a budget means something for it.
    noisy: the used values are drawn anew for every step and are others in eval mode.

    A form without a latent tensor changes nothing else. One with it gives `write`, the used values,
    and `pull`, the chain rule: the gradient for the used values becomes the one for the trained
    values, in place, and the form's own state moves along its gradient.
    """

    latent: ClassVar[bool] = False
    chosen: ClassVar[bool] = True
    budgeted: ClassVar[bool] = True
    noisy: ClassVar[bool] = False

    def begin(self, held: Held) -> None:
        """Make the form's own state in `held.extra`."""

    @property
    def more(self) -> float:
        """By how much the density of `extra["wider"]` is higher, which the session chooses too."""
        return 0.0

    def scores(self, held: Held) -> Tensor | None:
        """Scores that take the criterion's place, in the weight's shape."""
        return None

    def write(self, held: Held, out: Tensor) -> None:
        """Write the used values into `out`."""
        held.show(out)

    def pull(self, held: Held, gradient: Tensor, peers: Peers) -> None:
        """Turn the gradient of the used values into that of the trained ones."""

    def renew(self, held: Held, old: Tensor, last: bool, peers: Peers) -> None:
        """A mask was chosen (`held.mask`, before: `old`); last: it is the schedule's last one."""

    def rest(self, held: Sequence[Held]) -> None:
        """The budget is reached: let the sparsity rise no more (forms that are not `chosen`)."""

    def draw(self, held: Held, generator: torch.Generator) -> None:
        """Draw the noise of the next step."""

    def close(self, held: Held, out: Tensor) -> None:
        """Write the values that stay when training is over, with exact zeros."""
        self.write(held, out)


@dataclass(frozen=True)
class Hard(Form):
    """Removed weights are zero until they are grown again, which they are from zero.

    The optimizer's moments of removed weights go on, so that `grow="momentum"` sees them; what
    comes back starts without momentum.
    """
