"""The verb that selects features: prune with several seeds, and see which inputs are left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.api.pruning import prune
from secateur.core.batches import Call, map_tensors
from secateur.core.budget import Sparsity
from secateur.core.errors import InfeasibleBudget, InputError
from secateur.core.scope import only
from secateur.core.tensors import light_copy, own_memory
from secateur.graph.analyze import analyze
from secateur.interpret.ablate import Places
from secateur.interpret.features import Features, Run, Visit
from secateur.interpret.inputs import Inputs
from secateur.interpret.wiring import wiring
from secateur.measure.calibration import batch_call, example_call, take
from secateur.measure.gradients import samples
from secateur.measure.quality import Evaluate
from secateur.measure.quality import evaluate as _evaluate
from secateur.recover import Finetune, Recover
from secateur.units import Channel, Weight, sites

STEP = 0.75
"""What a step on the way leaves of the units, inputs or weights."""
PATIENCE = 2
"""Steps in a row that may miss before a way ends."""
CLOSE = 0.05
"""Numbers of inputs or weights that are told apart, as a part of them."""
_MANY = 2**31


@torch.inference_mode(False)
def features(
    model: nn.Module,
    data: Iterable[Any],
    *,
    evaluate: Evaluate,
    names: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    seeds: int | Sequence[int] = 3,
    part: float = 0.8,
    tolerance: float = 0.01,
    most: int | None = None,
    recover: Sequence[Recover] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    lower_is_better: bool | None = None,
    on_visit: Callable[[Visit], None] | None = None,
) -> Features:
    """Which inputs still reach the output of the smallest network that is as good.

    For each seed, on a part of the data drawn by it: hidden units go, then inputs, then single
    weights, in small steps that are trained after each; the smallest network on the way whose
    quality is within `tolerance` of the best one is the seed's. For trained networks on tables and
    time series: of convolutions the features are the channels, else the last dimension.

    Args:
        model: Left as it was.
        data: Batches `(inputs, labels)` to train on.
        evaluate: `model -> number`, or one number for each sample; best on other data.
        names: Of the inputs, for people.
        outputs: Names of what the model gives.
        seeds: How many, or which.
        part: Of the samples of each batch that a seed sees.
        tolerance: In the unit of `evaluate`.
        most: Inputs that are read and hidden units, together, for a network that people can look
            into. Where none of so few is within the tolerance, it is the best of those.
        recover: The training after each step; by default `[Finetune(epochs=3, lr=3e-3)]`.
        loss: See `prune_`.
        lower_is_better: Of `evaluate`; by default what it says of itself, else no.
        on_visit: Called with the record of every network.

    Raises:
        UnsupportedModel: The first layer is not linear in the input, or there are several inputs.
        InputError, RecipeError: Arguments do not fit.
    """
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not numbers:
        raise InputError("there is no seed", hint="for example seeds=3")
    if not 0 < part <= 1 or not tolerance >= 0:
        raise InputError(
            f"part={part!r}, tolerance={tolerance!r}", hint="a share, and a number from 0 on"
        )
    if most is not None and most < 2:
        raise InputError(f"most={most!r}", hint="an input and a hidden unit are two")
    batches = take(data, _MANY)
    calls = [batch_call(model, batch) for batch in batches]
    inputs = Inputs.of(model, calls)
    if names is not None and len(names) != inputs.n:
        raise InputError(f"{len(names)} names for {inputs.n} inputs")
    lower = getattr(evaluate, "lower_is_better", False) if lower_is_better is None else (
        lower_is_better
    )  # fmt: skip
    tune = (Finetune(epochs=3, lr=3e-3),) if recover is None else recover
    call = example_call(model, None, batches)
    sign = -1.0 if lower else 1.0
    way = _Way(evaluate, sign, tolerance, most, inputs, call, tune, loss, on_visit)
    dense = _evaluate(evaluate, model)
    runs = []
    for seed in numbers:
        drawn = [_drawn(batch, part, seed * 10_007 + k) for k, batch in enumerate(batches)]
        seen, best = way.walk(model, drawn, seed)
        small = seen[best].model
        used = tuple(inputs.reaching(small, calls).nonzero()[:, 0].tolist())
        runs.append(Run(seed, used, tuple(step.visit for step in seen), best, small))
    labels = tuple(names) if names is not None else tuple(f"x{k}" for k in range(inputs.n))
    smallest = min(runs, key=lambda run: run.smallest.weights).model
    assert smallest is not None
    drawing = wiring(
        smallest, Places.of(smallest, call, calls), title=type(model).__name__, inputs=labels,
        outputs=outputs, bare=False,
    )  # fmt: skip
    return Features(type(model).__name__, labels, tuple(runs), dense, tolerance, drawing)


@dataclass(frozen=True)
class _Step:
    model: nn.Module
    visit: Visit


@dataclass
class _Way:
    """From a network to the smallest one that is as good, in steps."""

    evaluate: Evaluate
    sign: float
    tolerance: float
    most: int | None
    inputs: Inputs
    call: Call
    tune: Sequence[Recover]
    loss: Any
    on_visit: Callable[[Visit], None] | None
    best: float = field(default=0.0, init=False)

    def walk(self, model: nn.Module, data: list[Any], seed: int) -> tuple[list[_Step], int]:
        """All networks on the way, and which of them is the smallest that is good."""
        start = self._step(model)
        self.best = self._quality(start)
        seen = [start]
        for stage, fits in (
            (self._units, self._narrow), (self._inputs, self._fits), (self._weights, self._fits)
        ):  # fmt: skip
            here = [start]
            for step in stage(start, data, seed):
                here.append(step)
                self.best = max(self.best, self._quality(step))
            seen += here[1:]
            start = self._chosen(here, fits)
        return seen, next(k for k, step in enumerate(seen) if step is start)

    def _chosen(self, steps: list[_Step], fits: Callable[[_Step], bool]) -> _Step:
        """The last one that is good, or else the best, of those that fit, if any does."""
        small = [step for step in steps if fits(step)] or steps
        good = [step for step in small if self._good(step)]
        return good[-1] if good else max(small, key=self._quality)

    def _fits(self, step: _Step) -> bool:
        inputs, units = step.visit.inputs, step.visit.units
        return self.most is None or inputs + units <= self.most

    def _narrow(self, step: _Step) -> bool:
        """Whether units leave half of the room to inputs."""
        return self.most is None or step.visit.units <= self.most // 2

    def _good(self, step: _Step) -> bool:
        return self._quality(step) >= self.best - self.tolerance

    def _quality(self, step: _Step) -> float:
        return self.sign * step.visit.quality

    def _units(self, start: _Step, data: list[Any], seed: int) -> Iterator[_Step]:
        """Hidden units go, a quarter at a time."""
        step, missed = start, 0
        while missed < PATIENCE:
            before = step.visit.units
            how: dict[str, Any] = {"unit": Channel(floor=2), "budget": Sparsity(1 - STEP)}
            try:
                step = self._pruned(step.model, data, seed, **how)
            except InfeasibleBudget:
                return
            if step.visit.units == before:
                return
            yield step
            missed = 0 if self._good(step) or not self._narrow(step) else missed + 1

    def _inputs(self, start: _Step, data: list[Any], seed: int) -> Iterator[_Step]:
        """Whole inputs go."""

        def make(model: nn.Module, left: int) -> _Step:
            return self._pruned(
                model, data, seed, unit=Weight(), criterion=self.inputs.criterion(model),
                allocate="uniform", scope=only(*self.inputs.readers),
                budget=Sparsity(1 - left / self.inputs.n),
            )  # fmt: skip

        yield from self._down(start, start.visit.inputs, make)

    def _weights(self, start: _Step, data: list[Any], seed: int) -> Iterator[_Step]:
        """Single weights go."""
        total = sum(p.numel() for p in start.model.parameters() if p.dim() > 1)

        def make(model: nn.Module, left: int) -> _Step:
            budget = Sparsity(1 - left / total)
            return self._pruned(model, data, seed, unit=Weight(), allocate="global", budget=budget)

        yield from self._down(start, start.visit.weights, make)

    def _down(
        self, start: _Step, left: int, make: Callable[[nn.Module, int], _Step]
    ) -> Iterator[_Step]:
        """A quarter at a time until it misses twice in a row; then between the last two."""
        good, bad, model, missed = (left, start.model), 0, start.model, 0
        while left > 1 and missed < PATIENCE:
            left = min(left - 1, round(STEP * left))
            step = make(model, left)
            yield step
            model = step.model
            if self._good(step) or not self._fits(step):
                good, bad, missed = (left, model), 0, 0
            else:
                bad, missed = bad or left, missed + 1
        while bad and good[0] - bad > max(1, CLOSE * good[0]):
            middle = (good[0] + bad) // 2
            step = make(good[1], middle)
            yield step
            if self._good(step):
                good = (middle, step.model)
            else:
                bad = middle

    def _pruned(self, model: nn.Module, data: list[Any], seed: int, **how: Any) -> _Step:
        result = prune(
            model, self.call, data=data, recover=self.tune, loss=self.loss, seed=seed,
            latency=False, **how,
        )  # fmt: skip
        return self._step(result.model)

    def _step(self, model: nn.Module) -> _Step:
        twin = light_copy(model)
        own_memory(twin, model)
        visit = Visit(
            int(self.inputs.read(model).sum()),
            _units(model, self.call),
            sum(int((p != 0).sum()) for p in model.parameters() if p.dim() > 1),
            _evaluate(self.evaluate, model),
        )
        if self.on_visit is not None:
            self.on_visit(visit)
        return _Step(twin, visit)


def _units(model: nn.Module, call: Call) -> int:
    """How many channels there are that could go."""
    return sum(site.n for site in sites(analyze(model, call), Channel(), None, model))


def _drawn(batch: Any, part: float, seed: int) -> Any:
    """A part of the samples of a batch, drawn without replacement."""
    plain = dict(batch) if isinstance(batch, Mapping) else batch
    n = samples(plain)
    if n is None or part == 1:
        return plain
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    rows = order[: max(1, round(part * n))].sort().values
    return map_tensors(plain, lambda t: t[rows.to(t.device)])
