"""Ladders: the levels each tie of sites may take, and what every step down costs in score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.layout import Index
from secateur.core.site import Site, Tie
from secateur.score.run import Scores

if TYPE_CHECKING:
    from secateur.allocate.database import Database

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Member:
    """One site on a ladder.

    order: its indices, best first; ties in score go to the lower index. ranked: the scores in that
    order, divided by the mean magnitude of the site's scores, or of all sites' where scores of
    different sites are comparable. lost: what keeping only the `k` best loses, by the scores, for
    every `k`; `[n + 1]`. shapes: of the weights that make the site's outputs.
    """

    site: Site
    ratio: int
    order: Index
    ranked: Vector
    lost: Vector
    shapes: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Ladder:
    """A tie's allowed levels, ascending; the last one keeps everything.

    At level `l`, a member keeps its `ratio * l` best indices. All blocks together are one ladder of
    which every block is an index (`blocks`, their names best first), so that they compete with each
    other. measured: the error at every level from a `Database`, if there is one.
    """

    members: tuple[Member, ...]
    levels: tuple[int, ...]
    blocks: tuple[str, ...] = ()
    measured: Vector | None = None

    @property
    def name(self) -> str:
        """The name of its first site ("" for the ladder of blocks)."""
        return self.members[0].site.name

    @property
    def top(self) -> int:
        """The level that keeps everything."""
        return self.levels[-1]

    def steps(self) -> Vector:
        """Mean score of what each step removes, first step first; never falls; `[levels - 1]`."""
        removed, score = np.zeros(len(self.levels) - 1), np.zeros(len(self.levels) - 1)
        for member in self.members:
            ends = np.array(self.levels[::-1]) * member.ratio
            total = np.concatenate([[0.0], np.cumsum(member.ranked)])
            score += total[ends[:-1]] - total[ends[1:]]
            removed += ends[:-1] - ends[1:]
        return np.maximum.accumulate(score / removed) if len(removed) else score

    def errors(self) -> Vector:
        """The error at every level, ascending, `[levels]`: falls to 0, which is at full size.

        Measured where there is a database. Otherwise what the scores say is lost: the share of the
        site's total that the removed indices hold (scores of one sign), their sum for scores that
        are comparable between sites, or the largest of them for scores that are cumulative errors.
        """
        if self.measured is not None:
            return self.measured
        total = np.zeros(len(self.levels))
        for member in self.members:
            total += member.lost[np.array(self.levels) * member.ratio]
        return total

    def fractions(self) -> Vector:
        """The share of all indices that is kept at every level, ascending; `[levels]`."""
        return np.array(self.levels, dtype=np.float64) / self.top

    def units(self, level: int) -> int:
        """How many indices its sites keep together at a level."""
        return sum(member.ratio * level for member in self.members)


def ladders(
    sites: Sequence[Site],
    ties: Sequence[Tie],
    scores: Mapping[str, Tensor],
    weights: Mapping[str, float] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    database: Database | None = None,
) -> tuple[list[Ladder], list[str]]:
    """All ladders of a model, and sentences about what has to stay whole and why.

    weights: for every block, what it costs; blocks are ranked by score per cost. `Scores` that
    are comparable between sites keep their proportions. shapes: of the model's tensors, by name.
    database: measured errors; without it errors come from the scores.

    Raises:
        InputError: a site has no scores, or they have the wrong length or are not finite, or the
            database lacks a site.
    """
    values = {site.name: _values(site, scores) for site in sites}
    known = {site.name: site for site in sites if site.module is None}
    overall = _mean(np.concatenate([values[name] for name in known])) if known else 1.0
    one_unit = isinstance(scores, Scores) and scores.comparable
    kind = "cumulative" if getattr(scores, "cumulative", False) else "sum" if one_unit else "share"
    blocks = [site for site in sites if site.module is not None]
    tied = {name for tie in ties for name in tie.ratios}
    free = [site for site in known.values() if site.name not in tied]
    alone = [Tie({site.name: 1}, tuple(range(1, site.n + 1))) for site in free]
    made, notes = [], []
    for tie in [*ties, *alone]:
        ours = [name for name in tie.ratios if name in known]
        if not ours:
            continue
        missing = sorted(set(tie.ratios) - set(known))
        members = tuple(
            _member(
                known[name],
                tie.ratios[name],
                values[name],
                overall if one_unit else _mean(values[name]),
                kind,
                shapes or {},
            )
            for name in ours
        )
        whole = known[ours[0]].n // tie.ratios[ours[0]]
        if missing:
            notes.append(
                f"{', '.join(ours)} must stay whole: tied to {', '.join(missing)}, "
                "which is out of scope or no unit asks for" + (f" ({tie.why})" if tie.why else "")
            )
            made.append(Ladder(members, (whole,)))
            continue
        ladder = Ladder(members, _levels(tie, [known[name] for name in ours]))
        if len(ladder.levels) == 1 and whole > 1:
            notes.append(f"{', '.join(ours)} must stay whole: {_why_whole(tie, members)}")
        made.append(ladder)
    if blocks:
        made.append(_block_ladder(blocks, values, weights or {}, kind))
    if database is not None:
        made = [replace(ladder, measured=database.errors(ladder)) for ladder in made]
    return made, notes


def smallest(sites: Sequence[Site], ties: Sequence[Tie]) -> tuple[dict[str, int], tuple[str, ...]]:
    """The least that every site can keep, by name, and the blocks that can all go.

    Example:
        >>> smallest([Site("a", "channel", 8, multiple=4), Site("b", "channel", 6)], [])
        ({'a': 4, 'b': 1}, ())
    """
    none = {site.name: torch.zeros(site.n) for site in sites}
    made, _ = ladders(sites, ties, none)
    counts = {
        member.site.name: member.ratio * ladder.levels[0]
        for ladder in made
        if not ladder.blocks
        for member in ladder.members
    }
    return counts, tuple(str(site.module) for site in sites if site.module is not None)


def _member(
    site: Site,
    ratio: int,
    values: Vector,
    scale: float,
    kind: str,
    shapes: Mapping[str, tuple[int, ...]],
) -> Member:
    order = np.argsort(-values, kind="stable").astype(np.int64)
    makers = dict.fromkeys(part.tensor for part in site.slices if part.role == "out")
    made = tuple(shapes[name] for name in makers if len(shapes.get(name, ())) > 1)
    return Member(site, ratio, order, values[order] / scale, _lost(values[order], kind), made)


def _lost(ranked: Vector, kind: str) -> Vector:
    """What keeping the `k` best of these loses, for every `k`; never rises; `[n + 1]`.

    Scores below zero count from the least of them on: which loss no loss is, they do not say.
    """
    worth = nonnegative(ranked)
    if kind == "cumulative":
        return np.append(worth, 0.0)
    lost = np.append(np.cumsum(worth[::-1])[::-1], 0.0)
    return lost / (lost[0] or 1.0) if kind == "share" else lost


def nonnegative(ranked: Vector) -> Vector:
    """Scores, shifted where some are below zero so that the least is zero."""
    return ranked - min(0.0, float(ranked.min())) if len(ranked) else ranked


def _mean(values: Vector) -> float:
    """Mean magnitude, or 1 where there is nothing but zeros."""
    return float(np.abs(values).mean()) or 1.0


def _values(site: Site, scores: Mapping[str, Tensor]) -> Vector:
    if site.name not in scores:
        raise InputError(f"there are no scores for {site.name}")
    values = scores[site.name].detach().cpu().double().numpy()
    if values.shape != (site.n,):
        raise InputError(f"{site.name} has {site.n} indices but scores of shape {values.shape}")
    if not np.isfinite(values).all():
        where = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(
            f"the score of index {where} of {site.name} is {values[where]}",
            hint="every score must be a finite number",
        )
    return values


def _levels(tie: Tie, sites: Sequence[Site]) -> tuple[int, ...]:
    """The tie's levels that respect every member's floor and multiple; the last always does."""
    top = tie.levels[-1]
    for site in sites:
        if tie.ratios[site.name] * top != site.n:
            raise InputError(
                f"the tie of {site.name} ends at {tie.ratios[site.name]} x {top}, not {site.n}"
            )

    levels = np.array(tie.levels[:-1], dtype=np.int64)
    allowed = np.ones(len(levels), dtype=np.bool_)
    for site in sites:
        kept = tie.ratios[site.name] * levels
        allowed &= (kept >= max(1, site.floor)) & (kept % site.multiple == 0)
    return (*levels[allowed].tolist(), top)


def _why_whole(tie: Tie, members: Sequence[Member]) -> str:
    if len(tie.levels) == 1:
        return tie.why or "the model's code allows no other size"
    limits = [
        f"{m.site.name} of {m.site.n} (floor {m.site.floor}, multiple {m.site.multiple})"
        for m in members
    ]
    return f"no smaller size suits {', '.join(limits)}"


def _block_ladder(
    blocks: Sequence[Site], values: Mapping[str, Vector], weights: Mapping[str, float], kind: str
) -> Ladder:
    """All blocks as the indices of one ladder, ranked by score per cost."""
    worth = np.concatenate([values[block.name] for block in blocks])
    density = worth / np.array([weights.get(block.name) or 1.0 for block in blocks])
    order = np.argsort(-density, kind="stable").astype(np.int64)
    pool = Site("", "layer", len(blocks), what="blocks")
    lost = _lost(worth[order], "sum" if kind == "cumulative" else kind)
    member = Member(pool, 1, order, density[order] / _mean(density), lost)
    names = tuple(blocks[int(i)].name for i in order)
    return Ladder((member,), tuple(range(len(blocks) + 1)), names)
