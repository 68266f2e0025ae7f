"""Scores of single weights by one criterion, gathered and checked, held or made on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError, RecipeError
from secateur.core.weight_site import WeightSite
from secateur.score import weight_data  # noqa: F401  its criteria are registered
from secateur.score.criterion import NEEDS, Facts
from secateur.score.run import Source
from secateur.score.weight import WeightCriterion, WeightScore, weight_criteria
from secateur.score.woodfisher import outer

_ONCE = frozenset({"mean_gradients", "paths", "inputs", "columns", "grams"})


def resolve_weight(given: str | WeightScore) -> WeightCriterion:
    """A criterion from its name, or from a function `(site, facts) -> Tensor [out, k]`.

    A plain function may carry the attributes `needs` (names of fields of `Facts`) and `each`.

    Raises:
        RecipeError: Nothing has that name.
    """
    found: Any = weight_criteria.get(given)  # type: ignore[arg-type]
    if isinstance(found, WeightCriterion):
        return found
    name = getattr(found, "__name__", type(found).__name__)
    needs = getattr(found, "needs", ())
    needs = frozenset([needs] if isinstance(needs, str) else needs)
    if needs - NEEDS.keys():
        raise RecipeError(
            f"needs={needs!r} is unknown", hint=f"needs holds some of: {', '.join(NEEDS)}"
        )
    return WeightCriterion(name, found, needs, each=bool(getattr(found, "each", False)))


class WeightScores(Mapping[str, Tensor]):
    """Scores `[out, k]` by weight, each checked, made when they are asked for.

    Nothing is kept, so that the scores of a large model never lie in memory together; only those
    that are averages over batches are held.
    """

    def __init__(
        self,
        used: WeightCriterion,
        sites: Sequence[WeightSite],
        facts: Facts,
        held: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.used, self.facts, self.held = used, facts, held
        self.sites = {site.name: site for site in sites}

    def __getitem__(self, name: str) -> Tensor:
        """The scores of one weight."""
        site = self.sites[name]
        raw = self.used(site, self.facts) if self.held is None else site.matrix(self.held[name])
        return _checked(self.used, site, raw, self.facts)

    def __iter__(self) -> Iterator[str]:
        """Names, in the model's order."""
        return iter(self.sites)

    def __len__(self) -> int:
        """How many weights there are."""
        return len(self.sites)


def weight_scores(
    used: WeightCriterion, sites: Sequence[WeightSite], facts: Facts, gather: Source | None
) -> WeightScores:
    """Gather what a criterion needs, and score.

    Memory: for criteria that are averaged (`each`), 8 bytes a weight; for others only the facts.

    Example:
        >>> from secateur.units import weight_sites
        >>> net = nn.Linear(2, 1, bias=False)
        >>> found = weight_scores(resolve_weight("l1"), weight_sites(net), Facts.of(net), None)
        >>> torch.equal(found["weight"], net.weight.detach().abs())
        True

    Raises:
        RecipeError: The criterion needs data and there is none.
        InputError: A score is not finite, or has the wrong shape.
    """
    needs = {need for need in used.needs if getattr(facts, need) is None}
    for need in sorted(needs):
        source = "sample_gradients" if need == "fisher_blocks" else need
        if gather is None or not gather.can(source):
            raise RecipeError(
                f"the criterion {used.name!r} needs {NEEDS[need]}, and there is no data",
                hint="give data=[…], or use a criterion such as 'magnitude'",
            )
    if gather is None:
        return WeightScores(used, sites, facts)
    names = {site.name for site in sites}
    if needs & _ONCE:
        facts = replace(facts, **gather.once(needs & _ONCE, names))
    if "fisher_blocks" in needs:
        blocks = gather.mean({"sample_gradients"}, lambda found: _outer(sites, found))
        facts = replace(facts, fisher_blocks=blocks)
    each = needs - _ONCE - {"fisher_blocks"}
    if not each:
        return WeightScores(used, sites, facts)

    def visit(found: Mapping[str, Any]) -> dict[str, Tensor]:
        batch = replace(facts, **found)
        return {site.name: site.tensor(used(site, batch)) for site in sites}

    return WeightScores(used, sites, facts, gather.mean(each, visit))


def _outer(sites: Sequence[WeightSite], found: Mapping[str, Any]) -> dict[str, Tensor]:
    gradients = found["sample_gradients"]
    return {s.name: outer(s, gradients[s.name]) for s in sites if s.name in gradients}


def _checked(used: WeightCriterion, site: WeightSite, score: object, facts: Facts) -> Tensor:
    """The scores, or an error that says what is wrong with them."""
    shape = tuple(site.matrix(torch.empty(site.shape, device="meta")).shape)
    if not isinstance(score, Tensor) or tuple(score.shape) != shape:
        got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        raise InputError(
            f"the criterion {used.name!r} must return a tensor of shape {list(shape)} for "
            f"{site.name}, not {got}"
        )
    if not bool(torch.isfinite(score).all()):
        if not bool(torch.isfinite(facts.tensors[site.name]).all()):
            raise InputError(
                f"{site.name} holds values that are not finite, so it cannot be scored",
                hint="the model has diverged: load a sound checkpoint",
            )
        raise InputError(
            f"the criterion {used.name!r} scores an entry of {site.name} as not finite"
        )
    return score.detach()


__all__ = ["WeightScores", "resolve_weight", "weight_scores"]
