"""What training needs beyond calls of the model: batches, their loss, and a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from secateur.core.plan import Plan


@dataclass(frozen=True)
class Supervision:
    """The user's data as they gave it, and the network that the smaller one should be like.

    data: batches, in any form that `prune_` takes; None where there are none. loss: `(model, batch)
    -> scalar`; by default cross-entropy or mean squared error (see `default_loss`). teacher: the
    network before all pruning, where that is another one than the dense network of the job; it is
    never changed. earlier: the plans that lead from the teacher to the dense network.
    """

    data: Iterable[Any] | None = None
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    teacher: nn.Module | None = None
    earlier: tuple[Plan, ...] = ()
