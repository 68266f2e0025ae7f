"""What reads a site's indices: the columns of consumers' weights, and vectors over them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

import torch
from torch import Tensor

from secateur.core.layout import Layout
from secateur.core.site import Site, Slice, pool_vector
from secateur.measure.linear import Spec
from secateur.measure.stats_inputs import InputFacts
from secateur.score.criterion import Facts, accumulator
from secateur.score.magnitude import l1


def consumers(site: Site, known: Container[str]) -> Iterator[Slice]:
    """The slices of weights that contract a site's indices, and of which facts are known."""
    for part in site.slices:
        if part.role == "in" and part.tensor in known:
            yield part


def pooled(
    site: Site, facts: Facts, element: Callable[[InputFacts, Tensor], Tensor]
) -> Tensor | None:
    """Sum `element` over everything that reads an index; `[n]`, or None if nothing is known to.

    element: from the facts of a consumer's input and its matrix `[groups, out, channels, taps]` to
    a value for every channel, `[groups, channels]`.
    """
    total: Tensor | None = None
    inputs = facts.get("inputs")
    for part in consumers(site, inputs):
        found: InputFacts = inputs[part.tensor]
        matrix = accumulator(found.spec.matrix(facts.tensors[part.tensor].detach()))
        matrix = matrix.reshape(*matrix.shape[:2], -1, found.spec.taps).to(found.mean.device)
        value = element(found, matrix)
        if part.dim == found.spec.in_dim and part.layout.size in (value.shape[1], value.numel()):
            flat = value.sum(0) if part.layout.size == value.shape[1] else value.reshape(-1)
            mine = pool_vector(flat, part.layout, site.name, site.n)
            total = mine if total is None else total + mine.to(total.device)
    return total


def unread(site: Site, facts: Facts, name: str) -> Tensor:
    """`l1` for a site that no linear operation reads, and for blocks; with a note."""
    why = f"{site.name} is a block" if site.module else f"no linear operation reads {site.name}"
    facts.notes.append(f"{name}: {why}, scored by l1 instead")
    return torch.as_tensor(l1(site, facts))


def positions(layout: Layout, leaf: str, n: int, groups: int, channels: int) -> Tensor | None:
    """Which of a consumer's channels (of each group) belong to every index: `[n, each]`.

    None where groups differ, or where indices do not have equally many channels.
    """
    owner = torch.from_numpy(layout.coordinate(leaf))
    if layout.size != channels:
        if layout.size != groups * channels:
            return None
        split = owner.reshape(groups, channels)
        if not bool((split == split[:1]).all()):
            return None
        owner = split[0]
    owned = (owner >= 0).nonzero()[:, 0]
    if len(owned) == 0 or len(owned) % n:
        return None
    order = owned[owner[owned].argsort(stable=True)].reshape(n, -1)
    return order if bool((owner[order] == torch.arange(n)[:, None]).all()) else None


def columns(part: Slice, spec: Spec, site: Site, channels: int, taps: int) -> Tensor | None:
    """Which columns of a consumer's matrix belong to every index: `[n, each]`; None as above."""
    if part.dim != spec.in_dim:
        return None
    found = positions(part.layout, site.name, site.n, spec.groups, channels)
    if found is None:
        return None
    return (found[:, :, None] * taps + torch.arange(taps)).reshape(site.n, -1)
