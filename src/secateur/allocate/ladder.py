"""Ladders: the levels each tie of sites may take, and what every step down costs in score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.layout import Index
from secateur.core.site import Site, Tie
from secateur.score.run import Scores

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Member:
    """One site on a ladder.

    order: its indices, best first; ties in score go to the lower index. ranked: the scores in that
    order, divided by the mean magnitude of the site's scores, or of all sites' where scores of
    different sites are comparable.
    """

    site: Site
    ratio: int
    order: Index
    ranked: Vector


@dataclass(frozen=True)
class Ladder:
    """A tie's allowed levels, ascending; the last one keeps everything.

    At level `l`, a member keeps its `ratio * l` best indices. All blocks together are one ladder of
    which every block is an index (`blocks`), so that they compete with each other.
    """

    members: tuple[Member, ...]
    levels: tuple[int, ...]
    blocks: bool = False

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

    def units(self, level: int) -> int:
        """How many indices its sites keep together at a level."""
        return sum(member.ratio * level for member in self.members)


def ladders(
    sites: Sequence[Site],
    ties: Sequence[Tie],
    scores: Mapping[str, Tensor],
    weights: Mapping[str, float] | None = None,
) -> tuple[list[Ladder], list[str]]:
    """All ladders of a model, and sentences about what has to stay whole and why.

    weights: for every block, what it costs; blocks are ranked by score per cost. `Scores` that
    are comparable between sites keep their proportions.

    Raises:
        InputError: a site has no scores, or they have the wrong length or are not finite.
    """
    values = {site.name: _values(site, scores) for site in sites}
    known = {site.name: site for site in sites if site.module is None}
    overall = _mean(np.concatenate([values[name] for name in known])) if known else 1.0
    one_unit = isinstance(scores, Scores) and scores.comparable
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
            _member(known[n], tie.ratios[n], values[n], overall if one_unit else _mean(values[n]))
            for n in ours
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
        made.append(_block_ladder(blocks, values, weights or {}))
    return made, notes


def _member(site: Site, ratio: int, values: Vector, scale: float) -> Member:
    order = np.argsort(-values, kind="stable").astype(np.int64)
    return Member(site, ratio, order, values[order] / scale)


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

    def allowed(level: int) -> bool:
        kept = ((tie.ratios[site.name] * level, site) for site in sites)
        return all(k >= max(1, site.floor) and k % site.multiple == 0 for k, site in kept)

    return (*(level for level in tie.levels[:-1] if allowed(level)), top)


def _why_whole(tie: Tie, members: Sequence[Member]) -> str:
    if len(tie.levels) == 1:
        return tie.why or "the model's code allows no other size"
    limits = [
        f"{m.site.name} of {m.site.n} (floor {m.site.floor}, multiple {m.site.multiple})"
        for m in members
    ]
    return f"no smaller size suits {', '.join(limits)}"


def _block_ladder(
    blocks: Sequence[Site], values: Mapping[str, Vector], weights: Mapping[str, float]
) -> Ladder:
    """All blocks as the indices of one ladder, ranked by score per cost."""
    worth = np.concatenate([values[block.name] for block in blocks])
    density = worth / np.array([weights.get(block.name) or 1.0 for block in blocks])
    order = np.argsort(-density, kind="stable").astype(np.int64)
    pool = Site("", "layer", len(blocks), what="blocks")
    member = Member(pool, 1, order, density[order] / _mean(density))
    return Ladder((member,), tuple(range(len(blocks) + 1)), True)
