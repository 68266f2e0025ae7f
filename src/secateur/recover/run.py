"""Repairs in order, each kept only where it helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from secateur.core.errors import RecipeError
from secateur.core.plan import Plan
from secateur.core.site import Role
from secateur.measure.calibration import Calibration
from secateur.recover.job import Job, Recover
from secateur.recover.supervision import Supervision


def repair(
    dense: nn.Module,
    small: nn.Module,
    plan: Plan,
    roles: Mapping[tuple[str, int], Role],
    calibration: Calibration | None,
    steps: Sequence[Recover],
    *,
    seed: int = 0,
    supervision: Supervision | None = None,
) -> tuple[str, ...]:
    """Repair a cut network in place, and say what each step did.

    dense: the network before the cut; it is left untouched. plan, roles: what was cut, and what the
    dimensions of the parameters do (`Graph.roles`). calibration: without it, repairs that need no
    data are made unchecked. steps: in order. supervision: what those that train need.

    Example:
        >>> from secateur.core.tensors import light_copy
        >>> from secateur.graph import analyze
        >>> from secateur.measure.calibration import calibration
        >>> from secateur.recover import Reconstruct
        >>> dense = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> x = torch.randn(64, 4)
        >>> plan, small = sc.plan(dense, x, budget=sc.Params("50%")), light_copy(dense)
        >>> sc.cut(small, plan).ok
        True
        >>> roles = analyze(dense, x).roles
        >>> for line in repair(dense, small, plan, roles, calibration(dense, [x]), [Reconstruct()]):
        ...     print(line)
        least squares: distance from the dense outputs ... -> ...

    Raises:
        RecipeError: A step is not a repair.
    """
    check_steps(steps)
    job = Job(
        dense, small, plan, roles, calibration, seed, supervision=supervision or Supervision()
    )
    for step in steps:
        step.run(job)
    return tuple(job.notes)


def check_steps(steps: Sequence[Recover]) -> None:
    """Raise `RecipeError` unless every step is a repair."""
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        raise RecipeError(
            f"recover={steps!r}: expected a list of repairs", hint="for example [Reconstruct()]"
        )
    for step in steps:
        if isinstance(step, type) or not callable(getattr(step, "run", None)):
            name = step.__name__ if isinstance(step, type) else "Reconstruct"
            raise RecipeError(f"{step!r} is not a repair", hint=f"write {name}()")


def check_needs(steps: Sequence[Recover], data: Any) -> None:
    """Let every repair refuse what it can know to fail, before anything is computed."""
    for step in steps:
        check = getattr(step, "check", None)
        if callable(check):
            check(data)
