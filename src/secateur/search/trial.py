"""A trial: a cut and repaired copy of the model, and what makes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from secateur.allocate.problem import Nanoseconds
from secateur.core.budget import Budget, Bytes, MACs, Params
from secateur.core.measured import Verification
from secateur.core.plan import Plan
from secateur.measure.cost import Amounts


@dataclass
class Trial:
    """A network to measure.

    model: a cut and already repaired copy. plan: what was cut. amounts, before: what the copy and
    the original cost. notes, repairs: sentences for the report, about the plan and about what each
    repair did. verification: how the cut was proven, before any repair. runs: what is timed, where
    that is another network than the copy (the same on sparse kernels).
    """

    model: nn.Module
    plan: Plan
    amounts: Amounts
    before: Amounts
    notes: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    verification: Verification | None = None
    runs: nn.Module | None = None

    def left(self, kind: str) -> float:
        """The share of an amount ("macs", "params", "bytes", "ns") that stays, from 0 to 1."""
        original = getattr(self.before, kind)
        return min(1.0, float(getattr(self.amounts, kind)) / original) if original else 1.0


Build = Callable[[Budget], Trial]
"""Plans for a budget that can be counted, cuts a copy and repairs it; may raise
`InfeasibleBudget`."""


def leading(trial: Trial, wanted: str) -> str:
    """The cost that a search turns: the wanted one, or parameters where the model has none."""
    return wanted if getattr(trial.before, wanted) else "params"


_CEILINGS = {"macs": MACs, "params": Params, "bytes": Bytes, "ns": Nanoseconds}


def share_budget(kind: str, share: float) -> Budget:
    """The budget that leaves a share of an amount.

    Example:
        >>> share_budget("macs", 0.5)
        MACs('50%')
    """
    return _CEILINGS[kind](f"{100 * share:.6f}%")
