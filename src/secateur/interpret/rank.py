"""Units ranked by what removing them does: in all, for each class, and what excites them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.core.page import Line, Page, Table, html, plain, plural
from secateur.core.panel import Panel, Picture
from secateur.core.plan import Plan
from secateur.interpret.ablate import UNITS, Places
from secateur.interpret.activity import Activity, activities, pictures
from secateur.interpret.attribute import attributions
from secateur.interpret.task import Metric, Task
from secateur.measure.calibration import batch_call, example_call, take
from secateur.measure.metric import Loss
from secateur.units import Unit

_SHOWN, _PICTURED, _TWINS = 20, 6, 12


@dataclass(frozen=True)
class Ranked:
    """One unit.

    effect: how much the metric falls when the unit is set to its mean; loss: how much the loss
    rises; by_class: the fall on the samples of each class. None and empty where it was only
    estimated. estimate: the first-order change of the loss. kept: by the plan. examples: numbers of
    the samples that excite it most.
    """

    site: str
    unit: int
    what: str
    estimate: float
    effect: float | None = None
    loss: float | None = None
    by_class: tuple[float, ...] = ()
    kept: bool | None = None
    examples: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """For example "conv1 7"."""
        return f"{self.site} {self.unit}"


@dataclass(frozen=True)
class Twins:
    """Two units of a site that do nearly the same: how much they correlate over the data.

    merged: the plan keeps just one of them.
    """

    site: str
    first: int
    second: int
    correlation: float
    merged: bool | None = None


@dataclass(frozen=True)
class Ranking:
    """All units, the most important first; `print(ranking)`.

    classes: the labels that `by_class` is about. whole: the metric of the whole network.
    """

    name: str
    units: tuple[Ranked, ...]
    classes: tuple[int, ...]
    whole: float
    samples: int
    twins: tuple[Twins, ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()

    def of_class(self, label: int) -> tuple[Ranked, ...]:
        """The measured units by what removing them does to one class, the worst first."""
        column = self.classes.index(label)
        measured = [unit for unit in self.units if unit.by_class]
        return tuple(sorted(measured, key=lambda unit: -unit.by_class[column]))

    @property
    def page(self) -> Page:
        """What is printed: the first units, what they do, and pairs that are nearly the same."""
        planned = any(unit.kept is not None for unit in self.units)
        heads = ["unit", "", "fall", "loss", "most for class", *["stays"] * planned, "excited by"]
        rows = [self._row(unit, planned) for unit in self.units[:_SHOWN] if unit.effect is not None]
        title = f"{self.name}: {plural(len(self.units), 'unit')} by what removing them does"
        left = frozenset({0, 1, len(heads) - 1})
        items: list[Line | Table] = [
            Line(title, title=True),
            Table(tuple(heads), tuple(rows), left),
        ]
        items.append(
            Line(f"metric {self.whole:.4g} whole, on {plural(self.samples, 'sample')}", "quiet")
        )
        for label in self.classes[:_SHOWN]:
            first = [unit.name for unit in self.of_class(label)[:5] if self._falls(unit, label) > 0]
            if first:
                items.append(Line(f"class {label} needs most: {', '.join(first)}"))
        for pair in self.twins[:_TWINS]:
            end = "" if pair.merged is None else ", merged" if pair.merged else ", both as before"
            text = f"{pair.site} {pair.first} and {pair.second} are nearly the same"
            items.append(Line(f"{text} (correlation {pair.correlation:.3f}){end}"))
        if len(self.twins) > _TWINS:
            items.append(Line(f"and {plural(len(self.twins) - _TWINS, 'more pair')}", "quiet"))
        items += [Line(f"note: {note}", "warn") for note in self.notes]
        return tuple(items)

    @property
    def panel(self) -> Panel:
        """What a report shows."""
        return Panel("What units do", self.page, pictures=self.pictures)

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)

    def _repr_html_(self) -> str:
        """The page in a notebook."""
        return html(self.page)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "name": self.name,
            "whole": self.whole,
            "samples": self.samples,
            "classes": list(self.classes),
            "units": [asdict(unit) for unit in self.units],
            "twins": [asdict(pair) for pair in self.twins],
            "notes": list(self.notes),
        }

    def _falls(self, unit: Ranked, label: int) -> float:
        return unit.by_class[self.classes.index(label)]

    def _row(self, unit: Ranked, planned: bool) -> tuple[str, ...]:
        worst = ""
        if unit.by_class and max(unit.by_class) > 0:
            k = int(np.argmax(unit.by_class))
            worst = f"{self.classes[k]} ({unit.by_class[k]:.3g})"
        return (
            unit.name,
            unit.what,
            f"{unit.effect:.3g}",
            "" if unit.loss is None else f"{unit.loss:+.3g}",
            worst,
            *(["" if unit.kept is None else "yes" if unit.kept else "no"] if planned else []),
            ", ".join(map(str, unit.examples)),
        )


@torch.inference_mode(False)
def rank_units(
    model: nn.Module,
    data: Iterable[Any],
    metric: int | Metric | None = None,
    *,
    example: Any = None,
    loss: Any = None,
    plan: Plan | None = None,
    unit: Unit | Sequence[Unit] = UNITS,
    scope: Any = None,
    samples: int = 512,
    most: int = 500,
    examples: int = 3,
    alike: float = 0.95,
) -> Ranking:
    """Rank units by what a network loses when one of them is set to its mean.

    Args:
        model: Left as it was.
        data: Batches `(inputs, labels)`.
        metric: As for `sc.circuit`.
        example: By default the first sample of the data.
        loss: For the estimates, as for `sc.circuit`.
        plan: Of a prune of this model: says which units stay, and which near-duplicates it merged.
        unit: What is removed.
        scope: Where.
        samples: How many samples are used at most.
        most: How many units are removed for real, one run of the data each: those with the
            largest estimates. The others come last.
        examples: How many samples are named that excite a unit.
        alike: From which correlation on two units are nearly the same.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with torch.no_grad():
        ...     _ = net[2].weight[:, 1].zero_()
        >>> x = torch.randn(64, 4)
        >>> ranking = sc.rank_units(net, [(x, net(x).argmax(1))])
        >>> [(unit.effect, unit.loss) for unit in ranking.units if unit.name == "0 1"]
        [(0.0, 0.0)]

    Raises:
        InputError, UnsupportedModel: As `sc.circuit` raises.
    """
    task = Task(metric, loss)
    batches = take(data, samples)
    calls = [batch_call(model, batch) for batch in batches]
    places = Places.of(model, example_call(model, example, batches), calls, unit, scope)
    with_loss = not callable(metric)
    losses: list[Tensor] = []

    def both(output: Any, labels: Tensor) -> Tensor:
        if with_loss:
            losses.append(Loss([]).values(output, labels).cpu())
        return task.values(output, labels)

    def seen() -> tuple[Tensor, Tensor | None, Tensor | None]:
        losses.clear()
        values, labels = Task(both).stream(model, batches)
        return values, labels, torch.cat(losses) if with_loss else None

    whole, labels, risk = seen()
    classes = () if labels is None else tuple(sorted(set(labels.tolist())))
    estimates = attributions(model, places, batches, task.objective())
    active = activities(model, places, calls)
    order = sorted(
        ((site, k) for site in places.sites for k in range(site.n)),
        key=lambda item: -float(estimates[item[0].name][item[1]]),
    )
    ranked = []
    for number, (site, k) in enumerate(order):
        choice = None if plan is None else plan.sites.get(site.name)
        kept = None if plan is None else choice is None or k in choice.keep
        known = active.get(site.name)
        excited = () if known is None else known.excited(k, examples)
        estimate = float(estimates[site.name][k])
        found = Ranked(site.name, k, site.what, estimate, kept=kept, examples=excited)
        if number < most:
            keep = np.ones(site.n, dtype=np.bool_)
            keep[k] = False
            with places.only(model, {site.name: keep}):
                values, _, risen = seen()
            fall = whole - values
            found = Ranked(
                site.name, k, site.what, estimate,
                task.summary(fall, labels)[0],
                None if risk is None or risen is None else float((risen - risk).mean()),
                () if labels is None else tuple(float(fall[labels == c].mean()) for c in classes),
                kept, excited,
            )  # fmt: skip
        ranked.append(found)
    ranked.sort(key=_importance)
    shown = [unit for unit in ranked if unit.kept is not False][:_PICTURED]
    wanted = [(f"{u.name}: sample {n}", n) for u in shown for n in u.examples]
    left = len(order) - most
    notes = (f"{plural(left, 'unit')} with small estimates come last, unmeasured",) * (left > 0)
    return Ranking(
        type(model).__name__, tuple(ranked), classes, task.summary(whole, labels)[0], len(whole),
        _twins(active, alike, plan), pictures(calls, wanted), notes,
    )  # fmt: skip


def _importance(unit: Ranked) -> tuple[bool, float, float, float]:
    """Measured ones first; then the fall of the metric, the rise of the loss, the estimate."""
    measured = unit.effect is not None
    return not measured, -(unit.effect or 0.0), -(unit.loss or 0.0), -unit.estimate


def _twins(active: dict[str, Activity], alike: float, plan: Plan | None) -> tuple[Twins, ...]:
    found = []
    for name, activity in active.items():
        choice = None if plan is None else plan.sites.get(name)
        for first, second, close in activity.twins(alike):
            merged = None
            if plan is not None:
                kept = set(range(activity.peak.shape[1])) if choice is None else set(choice.keep)
                merged = (first in kept) != (second in kept)
            found.append(Twins(name, first, second, close, merged))
    return tuple(sorted(found, key=lambda pair: -pair.correlation))


__all__ = ["Ranked", "Ranking", "Twins", "rank_units"]
