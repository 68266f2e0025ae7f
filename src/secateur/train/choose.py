"""Which weights stay: scores to masks, alike on all processes, without gathering weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from secateur.allocate.densities import FIXED, densities
from secateur.allocate.threshold import ordered, threshold
from secateur.core.errors import InputError, RecipeError
from secateur.core.registry import did_you_mean
from secateur.core.weight_site import WeightSite
from secateur.score.lamp import lamp_of
from secateur.train.held import Held
from secateur.train.peers import Peers
from secateur.units.pattern import Pattern, best

LOWEST = -1e30
"""Below every score; finite, so that sums over blocks stay finite."""
JOINT = ("global", "lamp")

Scoring = Callable[[Held], Tensor]
"""Scores of a weight's entries `[out, k]`; called more than once, and always gives the same."""


@dataclass(frozen=True)
class Chooser:
    """How masks are chosen: what goes together, what competes, and who decides together.

    allocate: "uniform", "erk", "er" or densities: each tensor for itself; "global" or "lamp": all
    tensors with each other.
    """

    pattern: Pattern
    allocate: str | Mapping[str, float]
    peers: Peers

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        known = (*FIXED, *JOINT)
        if isinstance(self.allocate, str) and self.allocate not in known:
            raise RecipeError(
                f"there is no allocation of weights called {self.allocate!r}",
                hint=did_you_mean(self.allocate, known),
            )
        if self.allocate in JOINT and not self.pattern.free:
            raise RecipeError(
                f"allocate={self.allocate!r} lets tensors compete; this unit keeps equal counts",
                hint="use allocate='uniform' or 'erk', or unit=Weight()",
            )
        if self.allocate == "lamp" and self.peers.shards is not None:
            raise RecipeError(
                "allocate='lamp' sorts whole tensors, which are spread over processes here",
                hint="use allocate='global' or 'erk'",
            )

    def masks(
        self, held: Sequence[Held], score: Scoring, sparsity: float, part: float = 1.0
    ) -> list[Tensor]:
        """The masks at a part of the final sparsity, in the weights' shapes.

        At least one cell of each tensor stays. Scores are computed three times rather than kept.
        """
        checked = partial(self._pooled, score=score)
        if not self.pattern.free:
            found = self.densities(held, sparsity, part)
            return [self._grouped(item, score, found[item.name]) for item in held]
        if self.allocate in JOINT:
            return self._joint(held, checked, 1 - part * sparsity)
        shares = self.densities(held, sparsity, part)
        return [
            self.spread(item, self.best(item, checked, self.count(item, shares[item.name])))
            for item in held
        ]

    def densities(self, held: Sequence[Held], sparsity: float, part: float) -> dict[str, float]:
        """The density of each tensor, where these depend on shapes only."""
        if part <= 0:
            return {item.name: 1.0 for item in held}
        sites = [_whole(item) for item in held]
        final = densities("uniform" if self.allocate in JOINT else self.allocate, sites, sparsity)
        return {name: 1 - part * (1 - density) for name, density in final.items()}

    def count(self, item: Held, density: float) -> int:
        """How many cells of a tensor stay."""
        return max(1, int(self.cells(item) * density + 1e-9))

    def cells(self, item: Held) -> int:
        """How many cells a tensor has, on all processes."""
        if self.pattern.columns == 1 and self.pattern.rows == 1:
            return item.total
        return self.peers.count(self.pool(item, item.mask.float()).numel())

    def best(self, item: Held, pooled: Scoring, keep: int) -> Tensor:
        """Which cells are among the best `keep` of one tensor, `[1, cells]` on this process."""
        return self._select([item], pooled, keep)[0]

    def _select(self, held: Sequence[Held], pooled: Scoring, keep: int) -> list[Tensor]:
        reduce = None if self.peers.shards is None else self.peers.sum
        found = threshold(lambda: (pooled(item) for item in held), keep, reduce)
        masks, seen = [], 0
        for item in held:
            scores = pooled(item)
            equal = int((ordered(scores) == found.value).sum())
            before, total = self.peers.before(equal)
            masks.append(found.split(scores, seen + before)[0])
            seen += total
        return masks

    def _joint(self, held: Sequence[Held], pooled: Scoring, density: float) -> list[Tensor]:
        """All tensors compete; the best cell of each is out of competition."""
        firsts = {item.name: self._first(pooled(item)) for item in held}

        def seeded(item: Held) -> Tensor:
            scores = pooled(item)
            if self.allocate == "lamp":
                relative = lamp_of(scores.clamp(min=0).double().square()).float()
                scores = torch.where(scores <= LOWEST, LOWEST, relative)
            place = firsts[item.name]
            if place is not None:
                scores = scores.clone()
                scores[0, place] = -LOWEST
            return scores

        total = sum(self.cells(item) for item in held)
        keep = max(len(held), int(total * density + 1e-9))
        kept = self._select(held, seeded, keep)
        return [self.spread(item, mask) for item, mask in zip(held, kept, strict=True)]

    def _first(self, scores: Tensor) -> int | None:
        """Where a tensor's best cell is; None: on another process."""
        top = scores.max() if scores.numel() else torch.tensor(float("-inf"))
        best_of_all = -self.peers.least(-top)
        mine = bool(top == best_of_all) and scores.numel() > 0
        before, _ = self.peers.before(int(mine))
        return int(scores.argmax()) if mine and before == 0 else None

    def _grouped(self, item: Held, score: Scoring, density: float) -> Tensor:
        """Groups of equal counts; on spread tensors every process chooses in its own rows."""
        scores = checked_scores(item, score(item), self.peers)
        if not scores.numel():
            return item.mask.clone()
        return item.site.tensor(self.pattern.choose(scores, density, item.site.taps))

    def exchange(
        self, item: Held, size: Scoring, grow: Scoring, target: Tensor, part: float
    ) -> Tensor:
        """A mask with as many cells as `target`, of which a part is chosen by `grow`.

        The others are the best of the present ones by `size`. What was dropped may come back.
        """
        here = self.pool(item, item.mask.float()) > 0.5
        wanted = self.pool(item, target.float()) > 0.5

        def present(item: Held) -> Tensor:
            return torch.where(here, self._pooled(item, size), LOWEST)

        if self.pattern.free:
            count = self.peers.count(int(wanted.sum()))
            old = self.peers.count(int(here.sum()))
            stay = min(max(1, count - int(part * count)), old)
            kept = self.best(item, present, stay)
            fresh = lambda item: torch.where(kept, LOWEST, self._pooled(item, grow))  # noqa: E731
            more = self.best(item, fresh, count - stay) if count > stay else kept
            return self.spread(item, kept | more)
        counts = wanted.sum(1)
        stay_each = torch.minimum((counts - (part * counts).long()).clamp(min=1), here.sum(1))
        kept = best(present(item), stay_each)
        real = self.pool(item, torch.zeros_like(item.mask, dtype=torch.float)) > float("-inf")
        fresh_scores = torch.where(real & ~kept, self._pooled(item, grow), float("-inf"))
        return self.spread(item, kept | best(fresh_scores, counts - stay_each))

    def pool(self, item: Held, tensor: Tensor) -> Tensor:
        """A tensor of the weight's shape as cells."""
        if not tensor.numel():
            return tensor.reshape(1, 0)
        return self.pattern.pool(item.site.matrix(tensor), item.site.taps)

    def spread(self, item: Held, cells: Tensor) -> Tensor:
        """Cells as a mask of the weight's shape."""
        if not item.mask.numel():
            return item.mask.clone()
        shape = item.site.matrix(item.mask).shape
        kept = self.pattern.spread(cells, (shape[0], shape[1]), item.site.taps)
        return item.site.tensor(kept).contiguous()

    def _pooled(self, item: Held, score: Scoring) -> Tensor:
        scores = checked_scores(item, score(item), self.peers)
        return self.pattern.pool(scores, item.site.taps) if scores.numel() else scores.reshape(1, 0)


def checked_scores(item: Held, scores: Tensor, peers: Peers) -> Tensor:
    """The scores, if they are numbers on every process.

    Raises:
        InputError: Some are not.
    """
    bad = int(torch.isnan(scores).sum())
    if peers.count(bad):
        raise InputError(
            f"{item.name}: {bad or 'some'} of its scores are not numbers, so no mask can be chosen",
            hint="the weights or the gradients hold NaN: look at the loss and the learning rate",
        )
    return scores


def _whole(item: Held) -> WeightSite:
    """The site of the tensor on all processes."""
    return WeightSite(item.name, tuple(item.parameter.shape), item.site.form)
