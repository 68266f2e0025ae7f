"""Least-squares repair: every layer behind a cut is solved anew, front to back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil, inf
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import Call, tensors_in
from secateur.measure.linear import Parameters
from secateur.recover.follow import Follow, Pending, Slot
from secateur.recover.imagine import imagined
from secateur.recover.job import Job
from secateur.recover.layer import Layer, Place, find_places
from secateur.recover.lockstep import Run, together, trim, twin
from secateur.recover.uses import plain

_LOOKED_AT = 4  # calls whose layers are solved; others may take other paths
_LOOKED_SAMPLES, _LOOKED_BYTES = 64, 2**22  # in those of them that have the same form
_STEPS = 16  # of many uses in one pass so many are looked at, at least
_MUCH = 2**27  # bytes of inputs and outputs at the stops above which further calls start late
_VARIED = 256  # samples, so many that they show the variety of the data
_PLENTY = 2  # rows on offer for each one that is used: neighbours are alike

Calls = Sequence[tuple[Call, bool]]
"""Calls, and whether each is held out."""


@dataclass(frozen=True)
class Reconstruct:
    """Re-solve the layers behind a cut so that they give what the dense network gave.

    Front to back, in one pass of the dense and of the smaller network side by side: the inputs are
    those of the already repaired smaller network, the targets those of the dense one, and where the
    layer's result joins a residual sum it also makes up for what the other branch lacks. No labels.

    Layers are solved by ridge regression with intercept on im2col rows, whatever their kind; a
    layer whose held-out rows do not get closer stays as it is. Weights that are used many times in
    one pass (recurrent, shared) are solved from all their uses: first on the dense inputs, and all
    other layers behind them, then on those of the smaller network, and all other layers again.
    Weights that other operations use too (tied embeddings) stay as they are.

    Without calibration data the layers are solved on noise that looks like images or series to a
    network (`synthetic`), while batch normalisations use the statistics of that noise: then what
    they pass on has the means and deviations that it has on real data.

    Where single weights were removed (`unit=Weight()` and its like) they stay zero: every output is
    solved on its own support, all with the same second moments.

    everywhere: also solve layers of which no input was removed, behind the first that lost some.
    rows: how many rows of inputs a layer is solved from (three times its columns at least).
    sweeps: how often all is solved where there are layers that are used many times.

    Time: where every layer has rows in plenty (sequences) only a part of the data is run.

    Memory: the activations of all samples between two layers, twice, and 16 k² bytes for a layer
    of k inputs (channels times kernel positions). Where activations are large, early layers are
    solved from the rows of the first calls, and the others start when their rows are wanted.

    Papers: He et al., Channel Pruning, ICCV 2017; Luo et al., ThiNet, ICCV 2017; Frantar et al.,
    Optimal Brain Compression, NeurIPS 2022; Meng et al., OSSCAR, ICML 2024.
    """

    everywhere: bool = True
    rows: int = 16_384
    sweeps: int = 2

    def run(self, job: Job) -> None:
        """Repair `job.small` in place; what does not help is taken back."""
        if job.calibration is None:
            with imagined(job) as made:
                if made is not None:
                    self.run(made)
            return
        with plain(job.dense, job.small) as kept:
            calls = _varied(job.calls)
            places = find_places(
                job.dense, job.small, job.plan, calls,
                everywhere=self.everywhere, masked=job.masks or (),
            )  # fmt: skip
            if not any(place.lost for place in places) and not job.plan.removed:
                job.note("least squares: no layer lost inputs, so there is nothing to solve")
                return
            often = [place for place in places if place.uses > 1]
            once = [place for place in places if place.uses == 1]
            wanted = (self._wanted(place) / place.rows for place in places if place.rows)
            used = calls_of(job, max(wanted, default=1))

            def first() -> None:
                self._teach(job, often, used)
                self._sweep(job, once, kept, used)

            def again() -> None:
                self._sweep(job, often, kept, used)
                self._sweep(job, once, kept, used)

            if not often or not job.attempt("least squares, recurrent layers first", first):
                job.attempt("least squares", lambda: self._sweep(job, places, kept, used))
            for _ in range(self.sweeps - 1 if often else 0):
                if not job.attempt("least squares again", again):
                    break

    def _wanted(self, place: Place) -> int:
        """The rows that a layer is to choose from."""
        return _PLENTY * max(self.rows, 3 * len(place.columns))

    def _layers(self, job: Job, places: Sequence[Place], calls: int) -> dict[Slot, Layer]:
        parameters, masks, made = Parameters(job.small), job.masks or {}, dict[Slot, Layer]()
        for p in places:
            layer = Layer(p, parameters, self.rows, calls, job.seed, masks.get(p.slot[0]))
            layer.every = max(1, min(int(p.rows * calls / layer.wanted), p.uses // _STEPS))
            made[p.slot] = layer
        return made

    def _teach(self, job: Job, places: Sequence[Place], calls: Calls) -> None:
        """Solve layers that are used often, from the dense network's own inputs."""
        layers = self._layers(job, places, len(calls))
        wanted = dict.fromkeys(layers, False)

        def looks(slot: Slot, number: int) -> bool:
            return layers[slot].looks(number)

        for call, held in calls:

            def take(pending: Pending, held: bool = held) -> None:
                layers[pending.slot].teach(pending, held)

            with torch.no_grad(), Follow(job.dense, wanted, take, looks=looks):
                call.run(job.dense)
        for layer in layers.values():
            layer.solve(None)

    def _sweep(self, job: Job, places: Sequence[Place], kept: list[Tensor], calls: Calls) -> None:
        """One pass of both networks, all calls together, from stop to stop.

        Those that are furthest behind go first, so that a layer is solved when all calls that use
        it are there, whatever other layers a call uses, and how often.
        """
        if not places:
            return
        layers = self._layers(job, places, len(calls))
        order = {slot: number for number, slot in enumerate(layers)}
        wanted = {place.slot: place.uses == 1 for place in places}
        waiting, pairs, runs = deque(calls), list[_Pair](), list[Run]()

        def looks(slot: Slot, number: int) -> bool:
            return layers[slot].looks(number)

        def start() -> None:
            call, held = waiting.popleft()
            dense = _run(twin(job.dense), call, wanted, looks)
            small = _run(twin(job.small), call, wanted, looks, lambda slot: not layers[slot].done)
            runs.extend((dense, small))
            pairs.append(_Pair(dense, small, held))
            dense.advance()
            small.advance()

        with together(runs):
            while waiting or any(pair.alive for pair in pairs):
                alive = [pair for pair in pairs if pair.alive]
                if not alive:
                    start()
                    continue
                slot = min((slot for pair in alive for slot in pair.slots), key=order.__getitem__)
                here = [pair for pair in alive if pair.slots == (slot, slot)]
                layer = layers[slot]
                much, new = _much(alive), not layer.done
                if waiting and new and not (much and _enough(layer, here)):
                    start()  # it is the furthest behind now
                else:
                    self._step(layer, here)
                    for pair in alive:
                        pair.leave(slot)
                if much and new:
                    trim()
        for layer in layers.values():
            if layer.place.uses > 1:
                layer.solve(None)
            if layer.shifted is not None:
                kept.append(layer.shifted)

    def _step(self, layer: Layer, pairs: Sequence[_Pair]) -> None:
        """Both runs of some calls are at a layer: gather, and solve it if it is used once."""
        if layer.done:
            return
        if layer.place.uses == 1:
            layer.calls = len(pairs)
        alike = list[Pending]()
        for pair in pairs:
            dense, small = pair.dense.event, pair.small.event
            again = layer.place.uses == 1 and small.number > 0  # it is solved already
            if dense.use.count == small.use.count and not again:
                layer.add(dense, small, pair.held)
                alike.append(small)
        if layer.place.uses > 1 or not alike:
            return
        layer.done = True
        if layer.solve(alike[0].shift):
            for small in alike:
                if not small.stale:  # or it runs for the first time when it goes on
                    small.refresh(layer.weight, layer.bias)


@dataclass(frozen=True)
class _Pair:
    """The runs of one call, of the dense and of the smaller network, at a stop or done."""

    dense: Run
    small: Run
    held: bool

    @property
    def alive(self) -> bool:
        return not (self.dense.done or self.small.done)

    @property
    def slots(self) -> tuple[Slot, Slot]:
        return self.dense.event.slot, self.small.event.slot

    def leave(self, slot: Slot) -> None:
        """Continue those that are at a layer."""
        at = self.slots
        for run, mine in zip((self.dense, self.small), at, strict=True):
            if mine == slot:
                run.advance()


def _varied(calls: Sequence[Call]) -> list[Call]:
    """A few calls that show which layers there are: of all forms, and more where they are small."""
    chosen, seen, size, samples = list[Call](), set[Any](), 0, 0
    for call in calls:
        tensors = list(tensors_in((call.args, dict(call.kwargs))))
        form = tuple(tensor.shape[1:] for tensor in tensors)
        few = size < _LOOKED_BYTES and samples < _LOOKED_SAMPLES
        if len(chosen) < _LOOKED_AT and (form not in seen or few):
            chosen.append(call)
            seen.add(form)
            size += sum(tensor.nbytes for tensor in tensors)
            samples += max((len(tensor) for tensor in tensors if tensor.dim()), default=1)
    return chosen


def _much(pairs: Sequence[_Pair]) -> bool:
    """Whether what the runs hold at their stops is much for a machine's memory."""
    uses = [run.event.use for pair in pairs for run in (pair.dense, pair.small)]
    return sum(use.x.nbytes + use.out.nbytes for use in uses) > _MUCH


def _enough(layer: Layer, pairs: Sequence[_Pair]) -> bool:
    """Whether the runs at a layer have rows in plenty, and some that are held out."""
    held = [pair for pair in pairs if pair.held]
    offered = sum(pair.dense.event.use.count for pair in pairs)
    return 0 < len(held) < len(pairs) and offered >= _PLENTY * layer.wanted


def calls_of(job: Job, wanted: float = inf) -> Calls:
    """As many calls as are wanted, and whether each is held out; these are spread over the others.

    Of both kinds there is the same part: one call at least, and `_VARIED` samples together.
    """
    data = job.calibration
    if data is None:
        return []
    part = min(1.0, max(wanted / len(data.calls), _VARIED / data.samples))
    fit = [(call, False) for call in data.fit[: ceil(part * len(data.fit))]]
    if data.held is data.fit:
        return fit
    held_out = data.held[: ceil(part * len(data.held))]
    step = max(1, len(fit) // max(1, len(held_out)))
    held = iter([(call, True) for call in held_out])
    mixed = list[tuple[Call, bool]]()
    for number, item in enumerate(fit, 1):
        mixed.append(item)
        if number % step == 0:
            mixed.extend(islice(held, 1))
    return [*mixed, *held]


def _run(
    model: nn.Module,
    call: Call,
    wanted: Mapping[Slot, bool],
    looks: Callable[[Slot, int], bool],
    soon: Callable[[Slot], bool] | None = None,
) -> Run:
    def work(run: Run) -> None:
        with Follow(model, wanted, run.stop, soon, looks) as follow:
            call.run(model)
            follow.finish()

    return Run(work)
