"""Does a criterion keep the promises that everything built on scores relies on?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.layout import Leaf
from secateur.core.site import Site, Slice
from secateur.measure.cost import Amounts
from secateur.measure.linear import Spec
from secateur.measure.stats import Visit
from secateur.measure.stats_grams import GramFacts
from secateur.measure.stats_inputs import InputFacts
from secateur.score import Facts, resolve, scores
from secateur.testing.samples import samples
from secateur.units import Channel, Head, Layer, sites

_HESSIAN = ("hessian_gradient", "hessian_weights")


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
            facts, made = _facts(model, places, dtype)
            watched = {**facts.tensors, **made.tensors()}
            before = {name: tensor.clone() for name, tensor in watched.items()}
            state = torch.random.get_rng_state()
            try:
                first = _scored(used, places, facts, made)
            except InputError as error:
                raise AssertionError(f"{label}, {dtype}: {error}") from error
            moved = not state.equal(torch.random.get_rng_state())
            assert not moved, f"{label} draws from the global random state: use facts.seed"
            for name, tensor in watched.items():
                assert tensor.equal(before[name]), f"{label} changes {name}"
            for name, score in _scored(used, places, facts, made).items():
                assert score.equal(first[name]), f"{label} scores {name} otherwise the second time"
        facts, made = _facts(model, places, torch.float32)
        first = _scored(used, places, facts, made)
        other = {name: tensor.double().square() + 1 for name, tensor in facts.tensors.items()}
        others = _scored(used, places, replace(facts, tensors=other), made)
        for site in places:
            if first[site.name].equal(others[site.name]):
                continue  # it does not look at weights
            _refuses_nan(used, site, facts, made)
            for index in range(site.n if monotone else 0):
                doubled = _doubled(site, index, facts)
                score = _scored(used, [site], doubled, made)[site.name][index]
                old = first[site.name][index]
                change = f"{old:g} to {score:g} when all of its weights are doubled"
                grows = bool(score >= old - 1e-5 * abs(old))
                assert grows, f"{label}: index {index} of {site.name} goes from {change}"


def _facts(model: nn.Module, places: Sequence[Site], dtype: torch.dtype) -> tuple[Facts, _MadeUp]:
    """A model's tensors in another type (large in float16), one more, and made-up facts."""
    found, generator = Facts.of(model), torch.Generator().manual_seed(0)
    scale = 2000 if dtype == torch.float16 else 1
    given = {**found.tensors, "one.weight": torch.ones(1, 4)}
    tensors = {k: (t * scale).to(dtype) if t.is_floating_point() else t for k, t in given.items()}
    parameters = {k: t for k, t in tensors.items() if k not in found.buffers}
    made = _MadeUp(model, parameters, generator)
    costs = {site.name: Amounts(8, 16, 32) for site in places}
    return Facts(tensors, found.buffers, seed=1, costs=costs), made


class _MadeUp:
    """Facts of the right shapes, drawn at random, for two batches."""

    def __init__(
        self, model: nn.Module, parameters: Mapping[str, Tensor], generator: torch.Generator
    ) -> None:
        self.generator = generator
        specs = _specs(model)
        each = ("gradients", "sample_gradients", "mean_gradients", *_HESSIAN)
        self.facts: dict[str, Any] = {
            need: {k: self._draw(t.shape).to(t.dtype) for k, t in parameters.items()}
            for need in each
        }
        self.facts |= {
            "paths": {k: self._draw(t.shape).double().abs() for k, t in parameters.items()},
            "inputs": {k: self._inputs(spec, parameters[k]) for k, spec in specs.items()},
            "grams": {k: self._gram(spec, parameters[k]) for k, spec in specs.items()},
            "features": {k: self._features(spec, parameters[k]) for k, spec in specs.items()},
        }

    def _draw(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def _inputs(self, spec: Spec, weight: Tensor) -> InputFacts:
        shape = (spec.groups, spec.matrix(weight).shape[2] // spec.taps)
        mean, spread = self._draw(shape).double(), self._draw(shape).double().square()
        return InputFacts(spec.weight, spec, 10, mean, spread)

    def _gram(self, spec: Spec, weight: Tensor) -> GramFacts:
        k = spec.matrix(weight).shape[2]
        rows = self._draw((spec.groups, 2 * k, k)).double()
        gram = rows.mT @ rows / (2 * k)
        return GramFacts(spec.weight, spec, gram, rows.mean(1), 2 * k, spec.taps)

    def _features(self, spec: Spec, weight: Tensor) -> Tensor:
        channels = spec.groups * spec.matrix(weight).shape[2] // spec.taps
        return self._draw((5, channels, 4, 4) if spec.kernel else (5, channels)).relu()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, by a name to show."""
        found = {}
        for need, by_name in self.facts.items():
            for name, fact in by_name.items():
                parts = {"": fact} if isinstance(fact, Tensor) else vars(fact)
                tensors = {k: v for k, v in parts.items() if isinstance(v, Tensor)}
                found |= {f"{k or need} of {name}": v for k, v in tensors.items()}
        return found

    def can(self, need: str) -> bool:
        """All of them."""
        return True

    def once(self, needs: Collection[str], weights: Collection[str]) -> dict[str, Any]:
        """What is gathered over all data."""
        return {need: self.facts[need] for need in needs}

    def mean(
        self, needs: Collection[str], visit: Visit, weights: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """Of two equal batches."""
        found = visit(self.once(needs, ()))
        return {
            k: (v.double() + visit(self.once(needs, ()))[k].double()) / 2 for k, v in found.items()
        }


def _specs(model: nn.Module) -> dict[str, Spec]:
    """The weights that linear operations of a sample use, and how."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            spec = Spec(f"{name}.weight", None, "conv", None, module.groups, module.kernel_size)
            found[f"{name}.weight"] = spec
        elif isinstance(module, (nn.Linear, nn.LSTM, nn.MultiheadAttention)):
            for key, weight in module.named_parameters(recurse=False):
                if weight.dim() == 2:
                    found[f"{name}.{key}"] = Spec(f"{name}.{key}", None, "dense")
    return found


def _scored(used: Any, places: Sequence[Site], facts: Facts, made: _MadeUp) -> Mapping[str, Tensor]:
    return scores(used, places, replace(facts, notes=[]), made)


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


def _refuses_nan(used: Any, site: Site, facts: Facts, made: _MadeUp) -> None:
    names = {part.tensor for part in site.slices} | set(facts.owned(site))
    broken = {k: t * float("nan") if k in names else t for k, t in facts.tensors.items()}
    try:
        _scored(used, [site], replace(facts, tensors=broken), made)
    except InputError:
        return
    raise AssertionError(f"the criterion {used.name!r} scores {site.name}, whose weights are NaN")
