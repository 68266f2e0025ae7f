"""Feature selection: the inputs that the smallest networks still use, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from secateur.core.chart import Chart, Mark
from secateur.core.drawing import Drawing, svg
from secateur.core.page import Line, Page, Table, html, plain, plural
from secateur.core.panel import Panel
from secateur.core.picture import write_svg

MAJORITY = 0.5


@dataclass(frozen=True)
class Visit:
    """One network on the way. inputs: that it reads; units: hidden ones; weights: not zero."""

    inputs: int
    units: int
    weights: int
    quality: float


@dataclass(frozen=True)
class Run:
    """One seed: the inputs that reach the output of its smallest network, by number.

    visits: all networks on the way, the original first. chosen: which of them it is. model: it.
    """

    seed: int
    inputs: tuple[int, ...]
    visits: tuple[Visit, ...]
    chosen: int
    model: nn.Module | None = field(default=None, repr=False, compare=False)

    @property
    def smallest(self) -> Visit:
        """The network that was chosen."""
        return self.visits[self.chosen]


@dataclass(frozen=True)
class Features:
    """The inputs that count; `print(found)`, `found.plot("network.svg")`.

    names: of all inputs. runs: one for each seed. dense: the quality of the original. drawing: the
    smallest network of all runs, completely.
    """

    name: str
    names: tuple[str, ...]
    runs: tuple[Run, ...]
    dense: float
    tolerance: float
    drawing: Drawing
    notes: tuple[str, ...] = ()

    @property
    def frequency(self) -> npt.NDArray[np.float64]:
        """In what part of the runs each input is used, `[inputs]`."""
        counts = np.zeros(len(self.names))
        for run in self.runs:
            counts[list(run.inputs)] += 1
        return counts / len(self.runs)

    @property
    def selected(self) -> tuple[int, ...]:
        """The inputs that more than half of the runs use (all of two), by number."""
        return tuple(np.flatnonzero(self.frequency > MAJORITY).tolist())

    @property
    def stability(self) -> float | None:
        """How much the runs agree: 1 if in all, about 0 if by chance; None of a single one.

        Nogueira, Sechidis and Brown: On the Stability of Feature Selection Algorithms (JMLR 2018).
        """
        return stability([run.inputs for run in self.runs], len(self.names))

    @property
    def best(self) -> Run:
        """The run with the smallest network."""
        return min(self.runs, key=lambda run: (run.smallest.weights, run.seed))

    @property
    def model(self) -> nn.Module | None:
        """The smallest network; single weights of it are zero."""
        return self.best.model

    @property
    def page(self) -> Page:
        """What is printed: the selected inputs, the most certain first, and the runs."""
        often = self.frequency
        order = sorted(range(len(self.names)), key=lambda k: (-often[k], k))
        chosen = set(self.selected)
        rows = [(self.names[k], f"{often[k]:.0%}") for k in order if k in chosen]
        title = f"{self.name}: {len(rows)} of {plural(len(self.names), 'input')} count"
        runs = Table(
            ("seed", "inputs", "units", "weights", "quality"),
            tuple(
                (
                    str(run.seed), f"{len(run.inputs):,}", f"{run.smallest.units:,}",
                    f"{run.smallest.weights:,}", f"{run.smallest.quality:.4g}",
                )
                for run in self.runs
            ),
        )  # fmt: skip
        items: list[Line | Table] = [Line(title, title=True), Table(("input", "runs"), tuple(rows))]
        items.append(runs)
        agreed = self.stability
        if agreed is not None:
            items.append(Line(f"stability {agreed:.2f} over {plural(len(self.runs), 'seed')}"))
        items.append(
            Line(
                f"quality {self.dense:.4g} dense; each run ends with the smallest network within "
                f"{self.tolerance:g} of its best",
                "quiet",
            )
        )
        items += [Line(f"note: {note}", "warn") for note in self.notes]
        return tuple(items)

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)

    def _repr_html_(self) -> str:
        """The page and the drawing in a notebook."""
        return html(self.page) + svg(self.drawing)

    @property
    def chart(self) -> Chart:
        """Quality over the number of inputs, of all networks on the way."""
        marks = [Mark(len(self.names), self.dense, "dense", label="the original", joined=False)]
        for run in self.runs:
            for k, visit in enumerate(run.visits):
                kind = "best" if k == run.chosen else "dominated"
                label = f"seed {run.seed}: {visit.inputs} inputs, {visit.weights:,} weights"
                marks.append(Mark(visit.inputs, visit.quality, kind, label=label, joined=False))
        return Chart(f"{self.name}: quality over inputs", "inputs", "quality", tuple(marks))

    @property
    def panel(self) -> Panel:
        """What a report shows."""
        return Panel("Inputs that count", self.page, chart=self.chart, drawing=self.drawing)

    def plot(self, path: str | Path) -> Path:
        """Draw the smallest network completely as an SVG file; returns the path.

        Raises:
            FileError: The path does not end in .svg, or cannot be written.
        """
        return write_svg(path, svg(self.drawing), "circuit.svg")

    def to_dict(self) -> Mapping[str, Any]:
        """Plain values, for JSON."""
        return {
            "name": self.name,
            "selected": [self.names[k] for k in self.selected],
            "frequency": dict(zip(self.names, self.frequency.tolist(), strict=True)),
            "stability": self.stability,
            "dense": self.dense,
            "runs": [
                {"seed": run.seed, "inputs": list(run.inputs), "quality": run.smallest.quality}
                for run in self.runs
            ],
        }


def stability(chosen: Sequence[Sequence[int]], n: int) -> float | None:
    """How much selections out of `n` agree (Nogueira et al. 2018); None of less than two.

    Example:
        >>> stability([[0, 1], [0, 1]], 10), round(stability([[0, 1], [1, 2]], 4), 2)
        (1.0, 0.0)
    """
    runs = len(chosen)
    if runs < 2:
        return None
    used = np.zeros((runs, n))
    for row, indices in zip(used, chosen, strict=True):
        row[list(indices)] = 1
    part = used.mean()
    if part in (0.0, 1.0):
        return 1.0
    return float(1 - used.var(0, ddof=1).mean() / (part * (1 - part)))


__all__ = ["Features", "Run", "Visit", "stability"]
