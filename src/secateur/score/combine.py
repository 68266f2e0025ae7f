"""Criteria made of criteria: sums, shares, scores for what an index costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from secateur.core.errors import RecipeError
from secateur.core.site import Site
from secateur.score.criterion import Combine, Criterion, Facts, Score, resolve

Amount = Literal["params", "macs", "bytes"]


def total(*criteria: str | Score, weights: Sequence[float] | None = None) -> Criterion:
    """The sum of several criteria's scores, each times its weight (by default 1).

    Scores of different criteria are in different units: `normalised` makes them alike.

    Example:
        >>> both = total(normalised("l1"), normalised("vbp"))
        >>> both.name, sorted(both.needs)
        ('normalised(l1) + normalised(vbp)', ['inputs'])

    Raises:
        RecipeError: There is no criterion, or there are not as many weights.
    """
    parts = tuple(resolve(each) for each in criteria)
    factors = [1.0] * len(parts) if weights is None else [float(w) for w in weights]
    if not parts or len(factors) != len(parts):
        raise RecipeError(
            f"total of {len(parts)} criteria with {len(factors)} weights",
            hint="for example total('l1', 'taylor', weights=[1, 2])",
        )

    def combine(site: Site, facts: Facts, scores: Sequence[Tensor]) -> Tensor:
        found = torch.zeros(site.n, dtype=torch.float64)
        for factor, score in zip(factors, scores, strict=True):
            found = found + factor * score.double().cpu()
        return found

    named = [p.name if f == 1 else f"{f:g} {p.name}" for f, p in zip(factors, parts, strict=True)]
    return _made(" + ".join(named), parts, combine, all(p.comparable for p in parts))


def normalised(criterion: str | Score) -> Criterion:
    """A criterion's scores divided by the mean of their magnitudes at each site.

    The mean magnitude of a site becomes 1, so that sites and criteria are alike. A site of zeros
    stays so.

    Example:
        >>> from secateur.core.layout import Leaf
        >>> from secateur.core.site import Slice
        >>> site = Site("fc", "channel", 2, (Slice("fc.weight", 0, Leaf("fc", 2), "out"),))
        >>> normalised("l1")(site, Facts({"fc.weight": torch.tensor([[1.0], [3.0]])}))
        tensor([0.5000, 1.5000], dtype=torch.float64)
    """
    part = resolve(criterion)

    def combine(site: Site, facts: Facts, scores: Sequence[Tensor]) -> Tensor:
        score = scores[0].double()
        mean = score.abs().mean()
        return score / mean if mean != 0 else score

    return _made(f"normalised({part.name})", (part,), combine, True)


def per_cost(criterion: str | Score, amount: Amount = "macs") -> Criterion:
    """A criterion's scores divided by what one removed index of the site saves.

    amount: "macs" (of one run on the example), "params" or "bytes". So the index goes first that
    matters least for what it costs. An index that saves nothing counts as if it saved one. Scores
    that are not comparable between sites are `normalised` first. Made for criteria whose scores are
    not negative.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> plan = sc.plan(net, torch.ones(1, 3), criterion=per_cost("l1", "params"))
        >>> [len(choice.keep) for choice in plan.sites.values()]
        [4]

    Raises:
        RecipeError: `amount` is unknown.
    """
    part = resolve(criterion)
    part = part if part.comparable else normalised(part)
    if amount not in ("params", "macs", "bytes"):
        raise RecipeError(f"per_cost by {amount!r}", hint="give 'macs', 'params' or 'bytes'")

    def combine(site: Site, facts: Facts, scores: Sequence[Tensor]) -> Tensor:
        saved = getattr(facts.get("costs")[site.name], amount)
        return scores[0].double() / max(1, saved)

    name = f"per_cost({part.name}, {amount})"
    return _made(name, (part,), combine, True, frozenset({"costs"}))


def _made(
    name: str,
    parts: tuple[Criterion, ...],
    combine: Combine,
    comparable: bool,
    also: frozenset[str] = frozenset(),
) -> Criterion:
    def function(site: Site, facts: Facts) -> Tensor:
        """A combination of other criteria's scores."""
        return combine(site, facts, [torch.as_tensor(part(site, facts)) for part in parts])

    needs = also.union(*(part.needs for part in parts))
    papers = "; ".join(dict.fromkeys(part.paper for part in parts if part.paper))
    return Criterion(name, function, needs, comparable, paper=papers, parts=parts, combine=combine)
