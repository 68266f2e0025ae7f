"""A recipe for training, checked against a model, with its defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.core.budget import Sparsity
from secateur.core.errors import RecipeError
from secateur.core.recipe import Recipe
from secateur.core.schedule import Adaptive, Constant, OneShot, Phases, Schedule
from secateur.score import weight_data  # noqa: F401  its criteria are registered
from secateur.score.criterion import NEEDS
from secateur.score.weight import WeightCriterion, weight_criteria
from secateur.train.choose import Chooser
from secateur.train.forms.form import Form, Hard
from secateur.train.held import Held
from secateur.train.peers import Peers
from secateur.units import NM, Block, Weight
from secateur.units.pattern import Pattern

GRADIENTS = frozenset({"gradients", "mean_gradients"})
"""What a criterion may need in training: there is the gradient of the last step, and no data."""


@dataclass(frozen=True)
class Settings:
    """What a session does; see `Recipe`.

    schedule: None: the masks stay as they are. sparsity: of all weights at the end; None: the
    pattern or the form decides.
    """

    chooser: Chooser
    criterion: WeightCriterion
    schedule: Schedule | None
    sparsity: float | None
    grow: str | None
    drop: float
    form: Form
    seed: int

    @classmethod
    def of(
        cls, recipe: Recipe | None, held: Sequence[Held], peers: Peers, ahead: bool = False
    ) -> Settings:
        """The settings for these weights; ahead: there is data, or there are masks, to start with.

        Raises:
            RecipeError: The recipe makes no sense, alone or for these weights.
        """
        given = Recipe() if recipe is None else recipe
        form = Hard() if given.form is None else given.form
        if not isinstance(form, Form):
            raise RecipeError(f"form={form!r}: expected one of secateur.train.forms")
        if given.recover is not None:
            raise RecipeError(
                "recover= is for sc.prune: in a training loop, training is what repairs",
                hint="leave it out",
            )
        if given.become not in (None, "masked"):
            raise RecipeError(
                f"become={given.become!r} is for sc.prune: a session masks weights",
                hint="leave it out; after training, sc.compile makes zeros fast",
            )
        pattern = _pattern(given.unit, held, peers, elementwise=not form.chosen)
        allocate = given.allocate
        if allocate is None:
            allocate = "uniform" if not pattern.free else "erk" if given.grow else "global"
        sparsity = None if recipe is None else _sparsity(given, pattern, form)
        schedule = None if recipe is None else given.schedule
        if schedule is None and recipe is not None:
            schedule = Constant() if given.grow or not form.chosen else OneShot()
        _check_growth(given, form, pattern, schedule)
        criterion = _criterion(given)
        if criterion.needs - GRADIENTS:
            _check_ahead(criterion, schedule, peers, ahead)
        return cls(
            Chooser(pattern, allocate, peers), criterion, schedule, sparsity,
            given.grow, given.drop, form, peers.same(given.seed),
        )  # fmt: skip


def _pattern(unit: Any, held: Sequence[Held], peers: Peers, elementwise: bool) -> Pattern:
    unit = Weight() if unit is None else unit
    if not isinstance(unit, (Weight, NM, Block)):
        raise RecipeError(
            f"unit={unit!r}: a session zeroes weights, and does not cut",
            hint="Weight(), NM(2, 4), Block(4, 1), or Block(1, None) for whole outputs; "
            "sc.shrink or sc.prune make the model smaller",
        )
    pattern = unit.pattern
    if elementwise and pattern != Pattern():
        raise RecipeError(f"this form decides about single weights, not about {unit!r}")
    if peers.shards is not None and pattern != Pattern():
        for item in held:
            if item.site.form.kind not in ("dense", "conv") or item.first % pattern.rows:
                raise RecipeError(
                    f"{item.name}: a process holds only a part of the {unit!r} patterns",
                    hint="use unit=Weight(), or another number of processes",
                )
    return pattern


def _sparsity(recipe: Recipe, pattern: Pattern, form: Form) -> float | None:
    budget = recipe.budget
    if budget is not None and not isinstance(budget, Sparsity):
        raise RecipeError(
            f"{budget!r}: a session zeroes weights, so its budget is a Sparsity",
            hint="for example Sparsity(0.9): nine of ten weights in scope are zero",
        )
    if budget is not None and not form.budgeted:
        raise RecipeError(
            f"{budget!r}: the sparsity of {form!r} follows from its penalty",
            hint="leave the budget out",
        )
    fixed = None
    if pattern.keep is not None:
        assert isinstance(pattern.group, int)
        fixed = 1 - pattern.keep / pattern.group
    if isinstance(recipe.allocate, Mapping):
        if budget is not None:
            raise RecipeError("densities for each weight leave nothing to a budget")
        return 1.0
    if budget is None:
        if fixed is None and form.chosen:
            raise RecipeError("there is no budget", hint="for example budget=Sparsity(0.9)")
        return fixed
    if fixed is not None and abs(budget.fraction - fixed) > 1e-9:
        raise RecipeError(
            f"{budget!r} does not go with a pattern that keeps {pattern.keep} of {pattern.group}",
            hint=f"leave the budget out: it is Sparsity({fixed:g})",
        )
    return budget.fraction


def _check_growth(recipe: Recipe, form: Form, pattern: Pattern, schedule: Schedule | None) -> None:
    if recipe.grow is None:
        return
    if form.latent:
        raise RecipeError(
            f"grow={recipe.grow!r}: with {form!r} removed weights come back by themselves",
            hint="leave grow= or form= out",
        )
    if pattern.keep is not None:
        raise RecipeError("an N:M pattern has no room to grow", hint="use presets.sr_ste")
    if isinstance(schedule, (Adaptive, Phases)):
        raise RecipeError(f"grow={recipe.grow!r} does not go with {type(schedule).__name__}")


def _criterion(recipe: Recipe) -> WeightCriterion:
    given = "magnitude" if recipe.criterion is None else recipe.criterion
    if not isinstance(given, str) and not isinstance(given, WeightCriterion):
        return WeightCriterion(getattr(given, "__name__", "criterion"), given)
    return weight_criteria.get(given)


def _check_ahead(
    criterion: WeightCriterion, schedule: Schedule | None, peers: Peers, ahead: bool
) -> None:
    """A criterion that looks at data decides once, before the first step."""
    missing = sorted(criterion.needs - GRADIENTS)
    needs = " and ".join(NEEDS.get(need, need) for need in missing)
    first = "prune with it first (sc.prune), then attach(..., masks=...) while you train"
    if not ahead:
        raise RecipeError(
            f"criterion {criterion.name!r} needs {needs}, and a training loop has none",
            hint=f"give attach(..., data=batches), which it is asked with once, or {first}",
        )
    once = schedule is None or schedule == OneShot()
    whole = criterion.refine is None and criterion.update is None and criterion.rounds == 1
    if not once or not whole or peers.shards is not None:
        why = (
            f"schedule={schedule!r}: later there is no data" if not once
            else "it goes over the weights more than once" if not whole
            else "the weights are spread over processes"
        )  # fmt: skip
        raise RecipeError(f"criterion {criterion.name!r} needs {needs}, and {why}", hint=first)
