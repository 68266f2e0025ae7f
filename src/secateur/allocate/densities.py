"""How much of each weight stays, from shapes alone: uniform, Erdős-Rényi, or what the user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from secateur.core.errors import RecipeError
from secateur.core.registry import did_you_mean
from secateur.core.weight_site import WeightSite

FIXED = ("uniform", "erk", "er")
"""The allocations whose densities depend on shapes only."""


def densities(
    name: str | Mapping[str, float], sites: Sequence[WeightSite], sparsity: float
) -> dict[str, float]:
    """The part of each weight that stays, by name, so that together `sparsity` of all are gone.

    name: "uniform" (the same of each), "erk" (more of small and thin ones), "er" (the same without
    kernel sizes), or a density for each weight by its name (`sparsity` is then not looked at).

    Papers: Mocanu et al., Nature Communications 2018 (ER); Evci et al., Rigging the Lottery, ICML
    2020 (ERK).

    Example:
        >>> sites = [WeightSite("thin", (10, 10)), WeightSite("wide", (100, 100))]
        >>> {name: round(x, 3) for name, x in densities("erk", sites, 0.9).items()}
        {'thin': 0.918, 'wide': 0.092}

    Raises:
        RecipeError: there is no such allocation, or a weight has no density between 0 and 1.
    """
    if isinstance(name, Mapping):
        return _given(name, sites)
    if name == "uniform":
        return {site.name: 1 - sparsity for site in sites}
    if name in ("erk", "er"):
        return _scaled(sites, 1 - sparsity, kernels=name == "erk")
    raise RecipeError(
        f"there is no allocation of weights called {name!r}", hint=did_you_mean(str(name), FIXED)
    )


def erdos_renyi(shapes: Sequence[Sequence[int]]) -> float:
    """The sum of sizes over their product, or sums of these over several weights; 0 of none.

    What a random bipartite graph keeps of a weight, but for a factor that is the same for all.

    Example:
        >>> erdos_renyi([(10, 10)]), erdos_renyi([(64, 3, 3, 3)])
        (0.2, 0.04224537037037037)
    """
    return sum(map(sum, shapes)) / max(1, sum(map(prod, shapes)))


def _scaled(sites: Sequence[WeightSite], density: float, kernels: bool) -> dict[str, float]:
    """`scale * erdos_renyi`; what would exceed 1 stays whole.

    The sizes are those of the tensor: the inputs of a grouped convolution are those of one group.
    """
    raw = {site.name: erdos_renyi([site.shape if kernels else site.shape[:2]]) for site in sites}
    whole: set[str] = set()
    while True:
        rest = [site for site in sites if site.name not in whole]
        budget = density * sum(site.n for site in sites) - sum(
            site.n for site in sites if site.name in whole
        )
        weighted = sum(raw[site.name] * site.n for site in rest)
        scale = budget / weighted if weighted else 0.0
        over = {site.name for site in rest if scale * raw[site.name] > 1}
        if not over:
            return {s.name: 1.0 if s.name in whole else scale * raw[s.name] for s in sites}
        whole |= over


def _given(given: Mapping[str, float], sites: Sequence[WeightSite]) -> dict[str, float]:
    names = [site.name for site in sites]
    for name in given:
        if name not in names:
            raise RecipeError(
                f"a density is given for {name!r}, which is no weight in scope",
                hint=did_you_mean(str(name), names),
            )
    for name in names:
        value = given.get(name)
        if value is None or not 0 < value <= 1:
            raise RecipeError(
                f"the density of {name} is {value!r}: expected a number above 0 and up to 1",
                hint="give one for each weight in scope, or narrow the scope",
            )
    return {name: float(given[name]) for name in names}
