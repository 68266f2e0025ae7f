"""Scores of all sites by one criterion, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from secateur.core.errors import InputError, RecipeError
from secateur.core.site import Site
from secateur.score.criterion import Criterion, Facts, Score, resolve

Visit = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class Scores(dict[str, Tensor]):
    """Scores by site name, and whether those of different sites are in one unit."""

    comparable: bool = False


def scores(
    given: str | Score,
    sites: Iterable[Site],
    facts: Facts,
    gather: Callable[[Visit], Mapping[str, Tensor]] | None = None,
) -> Scores:
    """Score every site: name -> Tensor `[n]` on the CPU, float32 or float64, all finite.

    Example:
        >>> from secateur.core.layout import Leaf
        >>> from secateur.core.site import Slice
        >>> site = Site("fc", "channel", 2, (Slice("fc.weight", 0, Leaf("fc", 2), "out"),))
        >>> scores("l2", [site], Facts({"fc.weight": torch.tensor([[3.0, 4.0], [0.0, 1.0]])}))
        {'fc': tensor([5., 1.])}

    gather: for criteria that need gradients. It is given a function from one batch's gradients to
    a mapping of vectors, and returns the mean of these over the batches
    (`secateur.measure.gradients.mean_over_batches` with its first arguments filled in).

    Raises:
        RecipeError: the criterion needs gradients and there is no `gather`.
        InputError: a score has the wrong shape or is not finite; the message names the tensor.
    """
    used, listed = resolve(given), list(sites)
    if used.needs is None:
        raw: Mapping[str, Tensor] = {site.name: used(site, facts) for site in listed}
    elif gather is None:
        raise RecipeError(
            f"the criterion {used.name!r} needs gradients, and there is no data",
            hint="give data=[(inputs, targets), …], or use a criterion such as 'l1'",
        )
    else:

        def visit(gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            batch = replace(facts, gradients=gradients)
            return {site.name: used(site, batch) for site in listed}

        raw = gather(visit)
    found = Scores({site.name: _checked(used, site, raw[site.name], facts) for site in listed})
    found.comparable = used.comparable
    return found


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
