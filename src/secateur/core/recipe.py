"""Recipe: the six questions of pruning, as one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.core.budget import Budget
from secateur.core.errors import RecipeError
from secateur.core.registry import did_you_mean
from secateur.core.schedule import Schedule

GROW = ("gradient", "random", "momentum")


@dataclass(frozen=True)
class Recipe:
    """What is removed, how it is scored, how much and where, when, and what becomes of it.

    What is left out takes the default of the verb that gets the recipe. A recipe holds no model, so
    one serves many; `dataclasses.replace` makes another of it.

    Args:
        unit: What is removed: `Weight()`, `NM(2, 4)`, `Block(4, 1)`, `Channel()`, ...
        criterion: How it is scored: a name or a function.
        budget: How much goes, such as `Sparsity(0.9)`.
        allocate: Where: "uniform", "global", "erk", "lamp", or a density for each weight.
        schedule: When: `OneShot`, `Steps`, `Linear`, `Cubic`, `Constant`, `Phases`, `Adaptive`.
        grow: By what removed weights come back: "gradient" (RigL), "random" (SET), "momentum".
        drop: The part of the weights that is exchanged at an update, where `grow` is given; it
            falls to 0 along a cosine until the schedule's last update.
        form: How the weight in use follows from the trained one (`secateur.train.forms`); by
            default removed weights are zero and stay so.
        recover: Repairs, for `sc.prune`.
        become: "cut", "masked" or "packed", for `sc.prune`.
        seed: For what is drawn.

    Example:
        >>> Recipe(budget=sc.Sparsity(0.9), schedule=sc.Cubic(start=0, end=1000, every=100)).given()
        {'budget': Sparsity(0.9), 'schedule': Cubic(start=0, end=1000, every=100, until=None)}

    Raises:
        RecipeError: A field cannot be what it is said to be.
    """

    unit: Any = None
    criterion: str | Callable[..., Any] | None = None
    budget: Budget | None = None
    allocate: str | Mapping[str, float] | None = None
    schedule: Schedule | None = None
    grow: str | None = None
    drop: float = 0.3
    form: Any = None
    recover: Sequence[Any] | None = None
    become: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no sense whatever the model."""
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise RecipeError(f"{self.budget!r} is not a budget", hint="for example Sparsity(0.9)")
        if self.schedule is not None and not isinstance(self.schedule, Schedule):
            raise RecipeError(
                f"{self.schedule!r} is not a schedule",
                hint="for example Cubic(start=1000, end=20000, every=100)",
            )
        if self.criterion is not None and not (
            isinstance(self.criterion, str) or callable(self.criterion)
        ):
            raise RecipeError(f"a criterion is a name or a function, not {self.criterion!r}")
        if self.grow is not None and self.grow not in GROW:
            raise RecipeError(
                f"grow={self.grow!r}: nothing grows by that",
                hint=did_you_mean(str(self.grow), GROW),
            )
        if not isinstance(self.drop, (int, float)) or not 0 < self.drop <= 1:
            raise RecipeError(f"drop={self.drop!r}: expected a fraction above 0 and up to 1")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise RecipeError(f"seed={self.seed!r}: expected an integer of at least 0")

    def given(self) -> dict[str, Any]:
        """The fields that differ from their defaults, so `sc.prune(model, **recipe.given())`."""
        defaults = type(self).__dataclass_fields__
        return {
            name: getattr(self, name)
            for name, field in defaults.items()
            if getattr(self, name) != field.default
        }
