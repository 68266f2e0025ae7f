"""A trial: a cut and repaired copy of the model, and what makes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from secateur.core.budget import Budget, MACs, Params
from secateur.core.measured import Verification
from secateur.core.plan import Plan
from secateur.measure.cost import Amounts


@dataclass
class Trial:
    """A network to measure.

    model: a cut and already repaired copy. plan: what was cut; its `predicted` has the costs of the
    original. amounts: what the copy costs. notes, repairs: sentences for the report, about the plan
    and about what each repair did. verification: how the cut was proven, before any repair.
    """

    model: nn.Module
    plan: Plan
    amounts: Amounts
    notes: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    verification: Verification | None = None

    def left(self, kind: str) -> float:
        """The share of an amount ("macs", "params", "bytes") that stays, from 0 to 1."""
        original = self.plan.predicted[kind][0]
        return min(1.0, float(getattr(self.amounts, kind)) / original) if original else 1.0


Build = Callable[[Budget], Trial]
"""Plans for a budget that can be counted, cuts a copy and repairs it; may raise
`InfeasibleBudget`."""


def leading(trial: Trial, wanted: str) -> str:
    """The cost that a search turns: the wanted one, or parameters where the model has none."""
    return wanted if trial.plan.predicted.get(wanted, (0, 0))[0] else "params"


def share_budget(kind: str, share: float) -> Budget:
    """The budget that leaves a share of an amount.

    Example:
        >>> share_budget("macs", 0.5)
        MACs('50%')
    """
    text = f"{100 * share:.6f}%"
    return MACs(text) if kind == "macs" else Params(text)
