"""Does a criterion keep the promises that everything built on scores relies on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.layout import Leaf
from secateur.core.site import Site, Slice
from secateur.score import Facts, resolve, scores
from secateur.testing.samples import samples
from secateur.units import Channel, Head, Layer, sites


def check_criterion(criterion: Any, *, monotone: bool = True) -> None:
    """Check a criterion on convolutions, norms, an LSTM, attention and blocks, in all float types.

    Scores must have shape `[n]`, be finite (also for half precision weights whose squares are not),
    and repeat for the same seed; weights, gradients and the global random state must stay as they
    are; weights that are not numbers must raise `InputError`; and doubling all weights of an index
    must not lower its score.

    monotone: leave the last one out where bigger is not better. It is left out, as is that about
    numbers, for a criterion that does not look at weights at all.

    Raises:
        AssertionError: It does not keep one of these promises.

    Example:
        >>> check_criterion("l1")
        >>> check_criterion(lambda site, facts: torch.rand(site.n))
        Traceback (most recent call last):
        AssertionError: the criterion '<lambda>' draws from the global random state: use facts.seed
    """
    used = resolve(criterion)
    label = f"the criterion {used.name!r}"
    for model, _, graph in samples():
        places = sites(graph, [Channel(), Head(), Layer()], None, model)
        places.append(Site("one", "channel", 1, (Slice("one.weight", 0, Leaf("one", 1), "out"),)))
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            facts, gradients = _facts(model, dtype)
            watched = {**facts.tensors, **{f"grad of {k}": g for k, g in gradients.items()}}
            before = {name: tensor.clone() for name, tensor in watched.items()}
            state = torch.random.get_rng_state()
            try:
                first = _scored(used, places, facts, gradients)
            except InputError as error:
                raise AssertionError(f"{label}, {dtype}: {error}") from error
            moved = not state.equal(torch.random.get_rng_state())
            assert not moved, f"{label} draws from the global random state: use facts.seed"
            for name, tensor in watched.items():
                assert tensor.equal(before[name]), f"{label} changes {name}"
            for name, score in _scored(used, places, facts, gradients).items():
                assert score.equal(first[name]), f"{label} scores {name} otherwise the second time"
        facts, gradients = _facts(model, torch.float32)
        first = _scored(used, places, facts, gradients)
        other = {name: tensor.double().square() + 1 for name, tensor in facts.tensors.items()}
        others = _scored(used, places, replace(facts, tensors=other), gradients)
        for site in places:
            if first[site.name].equal(others[site.name]):
                continue  # it does not look at weights
            _refuses_nan(used, site, facts, gradients)
            for index in range(site.n if monotone else 0):
                doubled = _doubled(site, index, facts)
                score = _scored(used, [site], doubled, gradients)[site.name][index]
                old = first[site.name][index]
                change = f"{old:g} to {score:g} when all of its weights are doubled"
                grows = bool(score >= old - 1e-5 * abs(old))
                assert grows, f"{label}: index {index} of {site.name} goes from {change}"


def _facts(model: nn.Module, dtype: torch.dtype) -> tuple[Facts, dict[str, Tensor]]:
    """A model's tensors in another type (large in float16), one more, and made-up gradients."""
    found, generator = Facts.of(model), torch.Generator().manual_seed(0)
    scale = 2000 if dtype == torch.float16 else 1
    given = {**found.tensors, "one.weight": torch.ones(1, 4)}
    tensors = {k: (t * scale).to(dtype) if t.is_floating_point() else t for k, t in given.items()}
    drawn = {k: torch.randn(t.shape, generator=generator).to(dtype) for k, t in tensors.items()}
    gradients = {k: t for k, t in drawn.items() if k not in found.buffers}
    return Facts(tensors, found.buffers, seed=1), gradients


def _scored(
    used: Any, places: Sequence[Site], facts: Facts, gradients: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    return scores(used, places, replace(facts, notes=[]), lambda visit: visit(gradients))


def _doubled(site: Site, index: int, facts: Facts) -> Facts:
    """The same tensors with every element that an index owns multiplied by two, once."""
    tensors = dict(facts.tensors)
    for name in facts.owned(site):
        tensors[name] = tensors[name] * 2
    owned: dict[str, Tensor] = {}
    for part in site.slices:
        where = torch.from_numpy(part.layout.coordinate(site.name) == index)
        tensor = tensors[part.tensor]
        if part.role != "buffer" and tensor.is_floating_point():
            shape = [-1 if d == part.dim else 1 for d in range(tensor.dim())]
            owned[part.tensor] = owned.get(part.tensor, False) | where.reshape(shape)
    for name, mask in owned.items():
        tensors[name] = torch.where(mask, tensors[name] * 2, tensors[name])
    return replace(facts, tensors=tensors)


def _refuses_nan(used: Any, site: Site, facts: Facts, gradients: Any) -> None:
    names = {part.tensor for part in site.slices} | set(facts.owned(site))
    broken = {k: t * float("nan") if k in names else t for k, t in facts.tensors.items()}
    try:
        _scored(used, [site], replace(facts, tensors=broken), gradients)
    except InputError:
        return
    raise AssertionError(f"the criterion {used.name!r} scores {site.name}, whose weights are NaN")
