"""Circuits: the units that one behaviour of a network needs, found and then proven by ablation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.drawing import Drawing, shortest, svg
from secateur.core.errors import InputError
from secateur.core.layout import Mask
from secateur.core.page import Line, Page, Table, html, plain, plural
from secateur.core.panel import Panel
from secateur.core.picture import write_svg
from secateur.interpret.ablate import UNITS, Cut, Places
from secateur.interpret.attribute import attributions
from secateur.interpret.edges import smallest_edges
from secateur.interpret.smallest import smallest
from secateur.interpret.task import Metric, Task, halves
from secateur.interpret.wiring import wiring
from secateur.measure.calibration import batch_call, example_call, take
from secateur.units import Unit

_DRAWN = 40


@dataclass(frozen=True)
class Behaviour:
    """The metric on held-out samples: of the whole network, with all units outside the circuit at
    their mean, with those inside it at their mean, and with all of them.
    """

    whole: float
    circuit: float
    rest: float
    nothing: float
    samples: int

    @property
    def faithfulness(self) -> float:
        """The part of what the units add to the metric that the circuit alone gives."""
        return (self.circuit - self.nothing) / (self.whole - self.nothing)

    @property
    def completeness(self) -> float:
        """The part of it that is lost without the circuit."""
        return (self.whole - self.rest) / (self.whole - self.nothing)


@dataclass(frozen=True)
class Circuit:
    """The units of a model that one behaviour needs; `print(found)`, `found.plot("circuit.svg")`.

    keeps: by site, True where a unit belongs to it. edges: by weight, where edges were asked for,
    the entries that belong to it, of the weight's shape; total: how many edges of how many there
    are. effects: by site, how much the metric falls on
    the samples that it was found on, if the circuit loses that unit too, `[n]`. drawing: its units
    and the weights between them. passes: ablated networks that were run.
    """

    name: str
    keeps: Mapping[str, Mask]
    effects: Mapping[str, Tensor]
    behaviour: Behaviour
    drawing: Drawing
    passes: int
    notes: tuple[str, ...] = ()
    edges: Mapping[str, Tensor] = field(default_factory=dict)
    total: tuple[int, int] | None = None
    _places: Places | None = field(default=None, repr=False, compare=False)
    _cuts: tuple[Mapping[str, Cut], Mapping[str, Cut]] = field(
        default=({}, {}), repr=False, compare=False
    )

    @property
    def units(self) -> dict[str, list[int]]:
        """The numbers of its units, by site."""
        return {name: mask.nonzero()[0].tolist() for name, mask in self.keeps.items()}

    @property
    def share(self) -> float:
        """The part of all units that belong to it."""
        return sum(int(m.sum()) for m in self.keeps.values()) / sum(map(len, self.keeps.values()))

    @contextmanager
    def only(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model runs with all else at its mean; no weight is changed."""
        assert self._places is not None
        with self._places.only(model, self.keeps, self._cuts[0]):
            yield

    @contextmanager
    def without(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model runs with the circuit's edges, or else its units, at their mean."""
        assert self._places is not None
        rest = {name: ~mask for name, mask in self.keeps.items()}
        if self.total is not None:
            rest = self._places.full()
        with self._places.only(model, rest, self._cuts[1]):
            yield

    @property
    def page(self) -> Page:
        """What is printed."""
        seen = self.behaviour
        rows = [
            (name, f"{int(mask.sum()):,}", f"{len(mask):,}", _some(mask))
            for name, mask in self.keeps.items()
        ]
        kept = sum(int(mask.sum()) for mask in self.keeps.values())
        total = sum(map(len, self.keeps.values()))
        alone = "it" if self.total is None else "its edges"
        values = (
            f"metric: {seen.whole:.4g} whole, {seen.circuit:.4g} circuit alone, {seen.rest:.4g} "
            f"without {alone}, {seen.nothing:.4g} without any unit, on "
            f"{plural(seen.samples, 'sample')} that it was not found on"
        )
        measured = f"faithfulness {seen.faithfulness:.1%}, completeness {seen.completeness:.1%}"
        title = f"{self.name}: a circuit of {kept:,} of {plural(total, 'unit')}"
        return (
            Line(title, title=True),
            Table(("site", "kept", "of", "units"), tuple(rows), left=frozenset({0, 3})),
            *([] if self.total is None else [Line(self._said_edges(*self.total))]),
            Line(values),
            Line(measured, "good" if seen.faithfulness >= 0.9 else "warn"),
            Line(f"found with {self.passes:,} runs of ablated networks", "quiet"),
            *(Line(f"note: {note}", "warn") for note in self.notes),
        )

    def _said_edges(self, kept: int, total: int) -> str:
        return f"edges: {kept:,} of {plural(total, 'edge')} between units, and to outputs"

    @property
    def panel(self) -> Panel:
        """What a report shows."""
        return Panel("Circuit", self.page, drawing=self.drawing)

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)

    def _repr_html_(self) -> str:
        """The page and the drawing in a notebook."""
        return html(self.page) + svg(self.drawing)

    def plot(self, path: str | Path) -> Path:
        """Draw its units and the weights between them as an SVG file; returns the path.

        Raises:
            FileError: The path does not end in .svg, or cannot be written.
        """
        return write_svg(path, svg(self.drawing), "circuit.svg")


@torch.inference_mode(False)
def circuit(
    model: nn.Module,
    data: Iterable[Any],
    metric: int | Metric | None = None,
    *,
    example: Any = None,
    loss: Any = None,
    keep: float = 0.95,
    unit: Unit | Sequence[Unit] = UNITS,
    edges: bool = False,
    scope: Any = None,
    samples: int = 1024,
    passes: int = 1000,
    seed: int = 0,
) -> Circuit:
    """Find the smallest set of units that one behaviour of a network needs, and of their edges.

    A unit is ablated by setting it to its mean over the data, wherever it is read. Gradients say
    which units to try first; what is removed is decided by real ablations on one half of the data,
    with one standard error to spare. Faithfulness and completeness are measured on the other half.

    Args:
        model: Left as it was.
        data: Batches `(inputs, labels)` of the task.
        metric: None for accuracy, a class (told from the others, balanced), or a function
            `(output, labels) -> Tensor[n]`, higher is better.
        example: By default the first sample of the data.
        loss: `(model, batch) -> scalar` that falls as the metric rises, for gradients. By default
            the negative metric if it can be differentiated, else cross-entropy or squared error.
        keep: The part of what the units add to the metric that the circuit has to keep.
        unit: What is ablated.
        edges: True: then also the fewest edges between these units. An edge is what one unit gives
            to one other, or to an output, through a weight that is not zero; cut, the other one
            reads the mean of it. Half of what may be lost is left for edges.
        scope: Where: see `sc.only` and `sc.skip`.
        samples: How many samples are used at most.
        passes: How many ablated networks are run at most.
        seed: For how the data are halved.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(200, 4)
        >>> found = sc.circuit(net, [(x, net(x).argmax(1))])
        >>> found.share < 1 and found.behaviour.faithfulness > 0.8
        True

    Raises:
        InputError: The metric is no better with all units than with none, or the data do not fit.
        UnsupportedModel: There are no units.

    Papers: Syed et al., Attribution Patching Outperforms Automated Circuit Discovery (2023);
    Bhaskar et al., Finding Transformer Circuits with Edge Pruning (NeurIPS 2024), whose
    measures these are (after Wang et al., Interpretability in the Wild, ICLR 2023).
    """
    if not 0 < keep <= 1:
        raise InputError(f"keep={keep!r}", hint="a share of more than 0 and at most 1")
    task = Task(metric, loss)
    batches = take(data, samples)
    fit, held = halves(batches, seed)
    call = example_call(model, example, batches)
    places = Places.of(model, call, [batch_call(model, batch) for batch in fit], unit, scope)

    def measure(
        keeps: Mapping[str, Mask], on: list[Any], cuts: Mapping[str, Cut] | None = None
    ) -> float:
        with places.only(model, keeps, cuts):
            return task.measure(model, on)

    def fine(
        keeps: Mapping[str, Mask], cuts: Mapping[str, Cut] | None = None, part: float = keep
    ) -> bool:
        with places.only(model, keeps, cuts):
            values, labels = task.stream(model, fit)
        _, error = task.summary(values - whole, labels)
        return task.summary(values, labels)[0] - error >= bottom + part * (top - bottom)

    none = {name: ~mask for name, mask in places.full().items()}
    whole, labels = task.stream(model, fit)
    top, bottom = task.summary(whole, labels)[0], measure(none, fit)
    if top <= bottom:
        raise InputError(
            f"the metric is {top:.4g} with all units and {bottom:.4g} with none of them",
            hint="give data and a metric of something that the network can do",
        )
    found = smallest(
        places.sizes,
        lambda keeps: attributions(model, places, fit, task.objective(), keeps),
        lambda keeps: fine(keeps, part=(1 + keep) / 2 if edges else keep),
        passes,
    )
    effects, spent = _effects(places, found.keeps, lambda keeps: measure(keeps, fit), passes)
    rest, lines = {name: ~mask for name, mask in found.keeps.items()}, None
    if edges:
        rest, lines = places.full(), smallest_edges(
            model, places, fit, task.objective(), found.keeps,
            lambda cuts: fine(found.keeps, cuts), passes,
        )  # fmt: skip
        spent += lines.passes
    cuts, inside = ({}, {}) if lines is None else (lines.outside, lines.inside)
    values, _ = task.stream(model, held)
    behaviour = Behaviour(
        task.measure(model, held),
        measure(found.keeps, held, cuts),
        measure(rest, held, inside),
        measure(none, held),
        len(values),
    )
    if behaviour.whole <= behaviour.nothing:
        raise InputError("the held-out samples are too few to show the behaviour")
    complete = found.complete and (lines is None or lines.complete)
    notes = () if complete else (f"stopped after {passes:,} runs; more may be removable",)
    name = type(model).__name__
    kept = {} if lines is None else lines.kept
    drawn = wiring(model, places, found.keeps, title=f"{name}: circuit", sizes=effects, only=kept)
    return Circuit(
        name, found.keeps, effects, behaviour, shortest(drawn, _DRAWN), found.passes + spent,
        notes, kept, None if lines is None else lines.total, places, (cuts, inside),
    )  # fmt: skip


def _effects(
    places: Places, keeps: Mapping[str, Mask], measure: Any, most: int
) -> tuple[dict[str, Tensor], int]:
    """How much the metric falls without each unit of the circuit; zeros if there are too many."""
    effects = {name: torch.zeros(len(mask)) for name, mask in keeps.items()}
    if sum(int(mask.sum()) for mask in keeps.values()) > most:
        return {}, 0
    base = measure(keeps)
    spent = 1
    for name, mask in keeps.items():
        for k in mask.nonzero()[0]:
            less = mask.copy()
            less[k] = False
            effects[name][k] = base - measure({**keeps, name: less})
            spent += 1
    return effects, spent


def _some(mask: Mask, most: int = 12) -> str:
    """The first few of the numbers."""
    found = mask.nonzero()[0].tolist()
    return ", ".join(map(str, found[:most])) + (", …" if len(found) > most else "")


__all__ = ["Behaviour", "Circuit", "circuit"]
