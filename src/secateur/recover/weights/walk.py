"""Prunes the weights of a network by a solver, layer by layer, front to back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.core.weight_site import WeightSite
from secateur.measure.linear import Parameters
from secateur.recover.follow import Slot
from secateur.recover.job import Job
from secateur.recover.layer import Layer, Place, find_places
from secateur.recover.masked import solve_sparse
from secateur.recover.reconstruct import Reconstruct, calls_of
from secateur.recover.solve import Solution, Sums
from secateur.recover.uses import plain
from secateur.recover.weights.solvers import Solver
from secateur.units.pattern import Pattern

_LOOKED_AT = 4


@dataclass(frozen=True)
class Walk(Reconstruct):
    """Choose and update the weights of every layer, on the inputs of the already pruned network.

    The pass is that of `Reconstruct`: the targets are the dense network's outputs. Weights that are
    used many times in one pass (recurrent, shared) are pruned first, on the dense network's inputs.
    What no linear operation uses, or other operations use too, is pruned by magnitude before that.

    solver: see `Solver`. sites, pattern, densities: what is pruned, how, and what part of each
    weight stays.
    """

    solver: Solver | None = None
    sites: Sequence[WeightSite] = ()
    pattern: Pattern = field(default_factory=Pattern)
    densities: Mapping[str, float] = field(default_factory=dict)

    def run(self, job: Job) -> None:
        """Prune `job.small` in place, and set `job.masks`."""
        known = {site.name: site for site in self.sites}
        parameters = Parameters(job.small).tensors
        with plain(job.dense, job.small) as kept:
            places = [
                place
                for place in find_places(
                    job.dense, job.small, job.plan, job.calls[:_LOOKED_AT],
                    everywhere=False, masked=known,
                )
                if place.slot[0] in known
            ]  # fmt: skip
            reached = {place.slot[0] for place in places}
            for site in self.sites:
                if site.name not in reached:
                    self._by_magnitude(site, parameters[site.name])
                    job.note(f"{site.name}: no layer that can be solved alone; by magnitude")
            calls = calls_of(job)
            self._teach(job, [place for place in places if place.uses > 1], calls)
            self._sweep(job, [place for place in places if place.uses == 1], kept, calls)
        job.masks = {site.name: self._mask(job, site, parameters[site.name]) for site in self.sites}
        job.refresh()
        job.note(f"layers solved as they were pruned: distance from the dense {job.distance:.3g}")

    def _layers(self, job: Job, places: Sequence[Place], calls: int) -> dict[Slot, Layer]:
        parameters = Parameters(job.small)
        return {
            place.slot: _Pruned(place, parameters, self.rows, calls, job.seed, walk=self)
            for place in places
        }

    def _by_magnitude(self, site: WeightSite, weight: Tensor) -> None:
        with torch.no_grad():
            weight.mul_(site.tensor(self._largest(site, weight)))

    def _largest(self, site: WeightSite, weight: Tensor) -> Tensor:
        matrix = site.matrix(weight.detach()).abs()
        return self.pattern.choose(matrix, self.densities[site.name], site.taps)

    def _mask(self, job: Job, site: WeightSite, weight: Tensor) -> Tensor:
        """What stayed; a layer that the calls did not reach is pruned by magnitude now.

        Groups of a convolution, and parts of a packed projection, round their counts by themselves.
        """
        stayed, wanted = int((weight != 0).sum()), int(self._largest(site, weight).sum())
        if stayed > wanted + len(site.matrix(weight)):
            self._by_magnitude(site, weight)
            job.note(f"{site.name}: partly without inputs on the data; by magnitude")
        return weight.detach() != 0


class _Pruned(Layer):
    """A layer that is pruned where others are repaired."""

    def __init__(self, *given: object, walk: Walk) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.walk = walk

    def _solution(self, held: Sums, intercept: bool) -> Solution | None:
        assert self.walk.solver is not None
        spec = self.place.small
        return solve_sparse(
            self.fit, held, spec.matrix(self.weight.detach()), self.walk.solver,
            self.walk.pattern, self.walk.densities[spec.weight], spec.taps, intercept=intercept,
        )  # fmt: skip


__all__ = ["Walk"]
