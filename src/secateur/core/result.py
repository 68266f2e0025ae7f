"""Result: the smaller model, the plans that made it, and what was measured before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import hypot
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core import bars, chart
from secateur.core.attempt import Attempt, tradeoff
from secateur.core.inspection import Inspection
from secateur.core.measured import Comparison, Frozen, Latency, Measured, Verification, frozen_lines
from secateur.core.page import Line, Page, Table, amount, change, html, plain, plural
from secateur.core.picture import write_svg
from secateur.core.plan import Plan, Reason

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Result:
    """What a prune gives back; `print(result)` shows what it did, and how that was proven.

    plan: the last one; plans: all that the model went through, first to last, and cycles: how many
    of these this prune added. frozen: why parts stay. seconds: wall-clock time by stage. repairs:
    what each repair did. quality: before and after, with its standard error and whose samples.
    search, attempts: how goals were met, in sentences and in records. verification: None where
    nothing was cut. masks: where single weights were removed, which of them stay (True), by
    parameter. work: multiply-accumulates before, by module, where they were counted.

    Example:
        >>> result = Result(None, Plan("f" * 64, {}), (), Measured(200, 4000, 800),
        ...                 Measured(90, 1000, 360), Verification(True, False, 0, 1e-4, "masked"))
        >>> print(result)
        Plan applied
                    before   after  change
        parameters     200      90  -55.0%
        MACs        4.00 k  1.00 k  -75.0%
        bytes        800 B   360 B  -55.0%
        verified: same outputs as the masked on the example, largest difference 0.0e+00 ...
    """

    model: nn.Module
    plan: Plan
    plans: tuple[Plan, ...]
    before: Measured
    after: Measured
    verification: Verification | None
    frozen: tuple[Reason | Frozen, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    quality: Comparison | None = None
    search: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    masks: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    cycles: int = 1
    work: Mapping[str, int] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The model's class; of a compiled network, that of what was compiled."""
        compiled = getattr(getattr(self.model, "report", None), "name", None)
        return compiled if isinstance(compiled, str) else type(self.model).__name__

    @property
    def page(self) -> Page:
        """What is printed."""
        name = "Plan applied" if self.model is None else self.name
        number = len(self.plans) - self.cycles + 1
        rounds = f" (prune number {number})" if number > 1 else ""
        items: list[Line | Table] = [Line(name + rounds, title=True), self._table()]
        items += self._latency_lines()
        items += self._quality_lines()
        items += self._removed_lines()
        items += [Line(text) for text in self.repairs]
        items += () if self.verification is None else self.verification.lines
        items += frozen_lines(Frozen.group(self.frozen), "place")
        items += [Line(f"note: {note}", "warn") for note in self.notes]
        if self.seconds:
            spent = ", ".join(f"{stage} {value:.2f} s" for stage, value in self.seconds.items())
            items.append(Line(f"took: {spent}", "quiet"))
        return tuple(items)

    @property
    def verdict(self) -> Page:
        """The figures before and after, what was measured and removed, and the proof."""
        proof = () if self.verification is None else self.verification.lines
        lines = [*self._latency_lines(), *self._quality_lines(), *self._removed_lines(), *proof]
        within = None if self.quality is None else self.quality.interval
        if within is not None:
            text = f"the change of quality is within {within[0]:+.2g} and {within[1]:+.2g}"
            lines.insert(len(self._latency_lines()) + 1, Line(f"{text}, with 95% confidence"))
        return (self._table(), *lines)

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)

    def _repr_html_(self) -> str:
        """The page and the picture in a notebook."""
        return html(self.page) + self.picture

    @property
    def picture(self) -> str:
        """The text of an SVG file: the networks that were tried, else what is left of each site."""
        curve = tradeoff(self.attempts)
        if curve is not None:
            names = {"chosen": "chosen", "best": "meets all goals", "dominated": "does not"}
            return chart.svg(curve, names)
        found = [bars.Bar(name, s.n, len(s.keep)) for name, s in self.plan.sites.items()]
        found += [bars.Bar(n, m.numel(), int(m.sum())) for n, m in self.masks.items()]
        name = "Plan" if self.model is None else self.name
        return bars.svg(f"{name}: what is left", found)

    def plot(self, path: str | Path) -> Path:
        """Write the picture as an SVG file that needs nothing else; returns the path.

        Raises:
            FileError: The path does not end in .svg, or cannot be written.
        """
        return write_svg(path, self.picture, "result.svg")

    def __repr__(self) -> str:
        """Short: the weights are not printed."""
        return f"Result({self.before.params:,} -> {self.after.params:,} parameters)"

    def to_dict(self) -> dict[str, Any]:
        """Everything but weights and plans as plain values, for JSON."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "verification": None if self.verification is None else asdict(self.verification),
            "sites": {
                name: {"n": site.n, "kept": len(site.keep), "unit": site.unit, "what": site.what}
                for name, site in self.plan.sites.items()
            },
            "removed": list(self.plan.removed),
            "weights": {
                name: {"n": mask.numel(), "kept": int(mask.sum())}
                for name, mask in self.masks.items()
            },
            "frozen": [asdict(group) for group in Frozen.group(self.frozen)],
            "prunes": max(1, len(self.plans)),
            "cycles": self.cycles,
            "seconds": dict(self.seconds),
            "notes": list(self.notes),
            "repairs": list(self.repairs),
            "quality": None if self.quality is None else asdict(self.quality),
            "search": list(self.search),
            "attempts": [attempt.to_dict() for attempt in self.attempts],
        }

    def _table(self) -> Table:
        old, new = self.before, self.after
        count = change(old.params, new.params)
        rows = [("parameters", f"{old.params:,}", f"{new.params:,}", count)]
        if old.macs is not None and new.macs is not None:
            rows.append(("MACs", amount(old.macs), amount(new.macs), change(old.macs, new.macs)))
        size = change(old.bytes, new.bytes)
        rows.append(("bytes", amount(old.bytes, "B"), amount(new.bytes, "B"), size))
        if old.latency is not None and new.latency is not None:
            first, second = old.latency, new.latency
            moved = "unclear" if self._busy else change(first.median_ms, second.median_ms)
            rows.append(("latency", str(first), str(second), moved))
        if old.peak is not None and new.peak is not None:
            moved = change(old.peak, new.peak)
            rows.append(("peak memory", amount(old.peak, "B"), amount(new.peak, "B"), moved))
        if old.quality is not None and new.quality is not None:
            difference = f"{new.quality - old.quality:+.4g}"
            rows.append(("quality", f"{old.quality:.4g}", f"{new.quality:.4g}", difference))
        return Table(("", "before", "after", "change"), tuple(rows))

    @property
    def _busy(self) -> bool:
        """Whether times vary so much that their medians say nothing."""
        times = [t for t in (self.before.latency, self.after.latency) if t is not None]
        return any(t.spread_ms > 0.5 * t.median_ms for t in times)

    def _latency_lines(self) -> list[Line]:
        old, new = self.before.latency, self.after.latency
        if old is None or new is None:
            return []
        if self._busy:
            verdict = "the machine is too busy to compare"
        elif abs(old.median_ms - new.median_ms) <= 2 * hypot(old.error_ms, new.error_ms):
            verdict = "no difference beyond the noise"
        elif new.median_ms < old.median_ms:
            verdict = f"{old.median_ms / new.median_ms:.2f} times as fast"
        else:
            verdict = f"slower: {new.median_ms / old.median_ms:.2f} times as long"
        return [Line(f"latency: measured here, {new.conditions}; {verdict}")]

    def _quality_lines(self) -> list[Line]:
        """The quality with its error, what was searched, and what weakens the claim."""
        lines = [] if self.quality is None else [Line(f"quality: {self.quality}")]
        return lines + [Line(text) for text in self.search]

    def _removed_lines(self) -> list[Line]:
        totals: dict[str, list[int]] = {}
        seen: set[str] = set()
        done = (*self.plans[-self.cycles : -1], self.plan)
        for plan in done:
            for name, site in plan.sites.items():
                entry = totals.setdefault(site.what, [0, 0, 0])
                entry[0] += site.n - len(site.keep)
                if name not in seen:  # a later cycle has what an earlier one left
                    entry[1] += site.n
                    entry[2] += 1
                seen.add(name)
        parts = [
            f"{gone:,} of {plural(n, what)} at {plural(places, 'site')}"
            for what, (gone, n, places) in totals.items()
        ]
        blocks = sum(len(plan.removed) for plan in done)
        if blocks:
            parts.append(plural(blocks, "block"))
        if self.masks:
            n = sum(mask.numel() for mask in self.masks.values())
            gone = n - sum(int(mask.sum()) for mask in self.masks.values())
            part = f"{gone:,} of {plural(n, 'weights')} ({gone / max(n, 1):.1%})"
            parts.append(f"{part} in {plural(len(self.masks), 'tensor')}")
        return [Line("removed: " + "; ".join(parts))] if parts else []


__all__ = ["Frozen", "Inspection", "Latency", "Measured", "Result", "Verification"]
