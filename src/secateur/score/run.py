"""Scores of all sites by one criterion, checked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from secateur.core.errors import InputError, RecipeError
from secateur.core.site import Site
from secateur.measure.stats import Visit
from secateur.score.criterion import NEEDS, Criterion, Facts, Score, resolve

_ONCE = frozenset({"mean_gradients", "paths", "inputs", "columns", "grams"})
_TOGETHER = (
    frozenset({"gradients", "hessian_gradient", "hessian_weights"}),
    frozenset({"sample_gradients"}),
    frozenset({"features"}),
)


class Source(Protocol):
    """Where facts come from: `secateur.measure.stats.Gather`, or made-up ones for tests."""

    def can(self, need: str) -> bool:
        """Whether a need can be served."""
        ...

    def once(self, needs: Collection[str], weights: Collection[str]) -> dict[str, Any]:
        """Facts of all data by need; weights: consumers of which statistics are wanted."""
        ...

    def mean(
        self, needs: Collection[str], visit: Visit, weights: Collection[str] = ()
    ) -> Mapping[str, Tensor]:
        """The mean of `visit(facts by need)` over batches or samples."""
        ...


class Scores(dict[str, Tensor]):
    """Scores by site name; comparable and cumulative as for the `Criterion`."""

    comparable: bool = False
    cumulative: bool = False


def scores(
    given: str | Score,
    sites: Iterable[Site],
    facts: Facts,
    gather: Source | None = None,
) -> Scores:
    """Score every site: name -> Tensor `[n]` on the CPU, float32 or float64, all finite.

    Example:
        >>> from secateur.core.layout import Leaf
        >>> from secateur.core.site import Slice
        >>> site = Site("fc", "channel", 2, (Slice("fc.weight", 0, Leaf("fc", 2), "out"),))
        >>> scores("l2", [site], Facts({"fc.weight": torch.tensor([[3.0, 4.0], [0.0, 1.0]])}))
        {'fc': tensor([5., 1.])}

    gather: for criteria that need more than the model's tensors; usually
    `secateur.measure.stats.Gather(model, call, batches)`.

    Raises:
        RecipeError: the criterion needs data and there is none.
        InputError: a score has the wrong shape or is not finite; the message names the tensor.
    """
    used, listed = resolve(given), list(sites)
    if used.combine is not None:
        parts = [scores(part, listed, facts, gather) for part in used.parts]
        raw: Mapping[str, Tensor] = {
            site.name: used.combine(site, facts, [part[site.name] for part in parts])
            for site in listed
        }
    else:
        raw = _raw(used, listed, facts, gather)
    facts.notes[:] = dict.fromkeys(facts.notes)  # a criterion may say the same of every batch
    found = Scores({site.name: _checked(used, site, raw[site.name], facts) for site in listed})
    found.comparable, found.cumulative = used.comparable, used.cumulative
    return found


def _raw(
    used: Criterion, sites: Sequence[Site], facts: Facts, gather: Source | None
) -> Mapping[str, Tensor]:
    needs = {need for need in used.needs if getattr(facts, need) is None}
    for need in sorted(needs):
        if need == "costs":
            raise RecipeError(
                f"the criterion {used.name!r} needs costs, and facts have none",
                hint="sc.plan and sc.prune give them; scores() takes replace(facts, costs=…)",
            )
        if gather is None or not gather.can(need):
            raise RecipeError(
                f"the criterion {used.name!r} needs {NEEDS[need]}, and there is no data",
                hint="give data=[(inputs, targets), …], or use a criterion such as 'l1'",
            )
    weights = {part.tensor for site in sites for part in site.slices if part.role == "in"}
    if gather is not None and needs & _ONCE:
        facts = replace(facts, **gather.once(needs & _ONCE, weights))
    each = needs - _ONCE
    if gather is None or not each:
        return {site.name: used(site, facts) for site in _in_order(sites, facts)}
    if not any(each <= group for group in _TOGETHER):
        raise RecipeError(
            f"the criterion {used.name!r} needs {' and '.join(sorted(each))}, "
            "which come at different times",
            hint="write one criterion for each, and combine them by total(…)",
        )

    def visit(found: Mapping[str, Any]) -> dict[str, Tensor]:
        batch = replace(facts, **found)
        return {site.name: used(site, batch) for site in sites}

    return gather.mean(each, visit, weights)


def _in_order(sites: Sequence[Site], facts: Facts) -> list[Site]:
    """Sites in the order in which their consumers run: Gram matrices come in that order."""
    order = {name: k for k, name in enumerate(facts.grams or ())}
    first = {
        site.name: min(
            (order[part.tensor] for part in site.slices if part.tensor in order), default=-1
        )
        for site in sites
    }
    return sorted(sites, key=lambda site: first[site.name])


def _checked(used: Criterion, site: Site, score: object, facts: Facts) -> Tensor:
    """The scores as a CPU vector, or an error that says what is wrong with them."""
    if not isinstance(score, Tensor) or tuple(score.shape) != (site.n,):
        shape = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        raise InputError(
            f"the criterion {used.name!r} must return a tensor of shape [{site.n}] for "
            f"{site.name}, not {shape}"
        )
    score = score.detach().cpu()
    score = score if score.dtype == torch.float64 else score.float()
    if not bool(torch.isfinite(score).all()):
        names = [part.tensor for part in site.slices] or list(facts.owned(site))
        known = [name for name in dict.fromkeys(names) if name in facts.tensors]
        bad = [name for name in known if not bool(torch.isfinite(facts.tensors[name]).all())]
        index = int((~torch.isfinite(score)).nonzero()[0])
        if bad:
            raise InputError(
                f"{bad[0]} holds values that are not finite, so {site.name} cannot be scored",
                hint="the model has diverged: load a sound checkpoint",
            )
        raise InputError(
            f"the criterion {used.name!r} scores index {index} of {site.name} as {score[index]:g}"
        )
    return score
