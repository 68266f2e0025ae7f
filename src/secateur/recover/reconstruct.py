"""Least-squares repair: every layer behind a cut is solved anew, front to back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from secateur.core.batches import Call, untouched
from secateur.graph.trace import decomposed
from secateur.measure.linear import Parameters, Use
from secateur.recover.follow import Follow, Pending, Slot
from secateur.recover.job import Job
from secateur.recover.layer import Layer, Place
from secateur.recover.lockstep import Run, together, twin


@dataclass(frozen=True)
class Reconstruct:
    """Re-solve the layers behind a cut so that they give what the dense network gave.

    Front to back, in one pass of the dense and of the smaller network side by side: the inputs are
    those of the already repaired smaller network, the targets those of the dense one, and where the
    layer's result joins a residual sum it also makes up for what the other branch lacks. No labels.

    Layers are solved by ridge regression with intercept on im2col rows, whatever their kind; a
    layer whose held-out rows do not get closer stays as it is. Weights that are used many times in
    one pass (recurrent, shared) are solved from all their uses: first on the dense inputs, then on
    those of the smaller network.

    everywhere: also solve layers of which no input was removed, behind the first that lost some.
    rows: how many rows of inputs a layer is solved from (three times its columns at least).
    sweeps: passes where there are recurrent layers.

    Memory: the activations of all samples between two layers, twice, and 16 k² bytes for a layer
    of k inputs (channels times kernel positions).

    Papers: He et al., Channel Pruning, ICCV 2017; Luo et al., ThiNet, ICCV 2017; Frantar et al.,
    Optimal Brain Compression, NeurIPS 2022; Meng et al., OSSCAR, ICML 2024.
    """

    everywhere: bool = True
    rows: int = 16_384
    sweeps: int = 2

    def run(self, job: Job) -> None:
        """Repair `job.small` in place; what does not help is taken back."""
        with _plain(job.dense, job.small):
            places = list(self._places(job))
            if not any(place.lost for place in places) and not job.plan.removed:
                job.note("least squares: no layer lost inputs, so there is nothing to solve")
                return
            often = [place for place in places if place.uses > 1]
            if often:
                job.attempt("recurrent layers, on dense inputs", lambda: self._teach(job, often))
            for _ in range(self.sweeps if often else 1):
                if not job.attempt("least squares", lambda: self._sweep(job, places)):
                    break

    def _places(self, job: Job) -> Iterator[Place]:
        """The layers to solve, in the order of their first use."""
        call = job.calibration.calls[0]
        dense, small = _uses(job.dense, call), _uses(job.small, call)
        behind = bool(job.plan.removed)
        for slot, (use, count) in dense.items():
            other, again = small.get(slot, (None, 0))
            if other is None or again != count:
                continue
            place = Place.find(slot, use, other, count, job.plan)
            if place is not None and (place.lost or (behind and self.everywhere)):
                behind = True
                yield place

    def _layers(self, job: Job, places: Sequence[Place]) -> dict[Slot, Layer]:
        parameters, calls = Parameters(job.small), len(job.calibration.calls)
        return {p.slot: Layer(p, parameters, self.rows, calls, job.seed) for p in places}

    def _teach(self, job: Job, places: Sequence[Place]) -> None:
        """Solve layers that are used often, from the dense network's own inputs."""
        layers = self._layers(job, places)
        wanted = dict.fromkeys(layers, False)
        for call, held in _calls(job):

            def take(pending: Pending, held: bool = held) -> None:
                layers[pending.slot].teach(pending, held)

            with torch.no_grad(), Follow(job.dense, wanted, take):
                call.run(job.dense)
        for layer in layers.values():
            layer.solve(None)

    def _sweep(self, job: Job, places: Sequence[Place]) -> None:
        """One pass of both networks, all calls together, from stop to stop."""
        layers = self._layers(job, places)
        wanted = {place.slot: place.uses == 1 for place in places}
        pairs = [
            (_run(twin(job.dense), call, wanted), _run(twin(job.small), call, wanted), held)
            for call, held in _calls(job)
        ]
        with together([run for a, b, _ in pairs for run in (a, b)]):
            while True:
                stopped = [(a.advance(), b.advance(), held) for a, b, held in pairs]
                alive = [(a, b, held) for a, b, held in stopped if a is not None and b is not None]
                if not alive:
                    break
                self._step(layers, alive)
        for layer in layers.values():
            if layer.place.uses > 1:
                layer.solve(None)

    def _step(
        self, layers: Mapping[Slot, Layer], stopped: Sequence[tuple[Pending, Pending, bool]]
    ) -> None:
        """All runs are at a stop: gather, and solve if it is a layer that is used once."""
        slot = stopped[0][0].slot
        layer, alike = layers[slot], []
        for dense, small, held in stopped:
            # where the data decides which layers run, only the calls that agree count
            if dense.slot == small.slot == slot and dense.use.count == small.use.count:
                layer.add(dense, small, held)
                alike.append(small)
        if layer.place.uses == 1 and alike and layer.solve(alike[0].mean):
            for small in alike:
                small.refresh(layer.weight, layer.bias)


def _calls(job: Job) -> list[tuple[Call, bool]]:
    """All calls, and whether each is held out."""
    data = job.calibration
    held = [] if data.held is data.fit else [(call, True) for call in data.held]
    return [*((call, False) for call in data.fit), *held]


def _run(model: nn.Module, call: Call, wanted: Mapping[Slot, bool]) -> Run:
    def work(run: Run) -> None:
        with Follow(model, wanted, run.stop) as follow:
            call.run(model)
            follow.finish()

    return Run(work)


def _uses(model: nn.Module, call: Call) -> dict[Slot, tuple[Use, int]]:
    """Every linear operation of one pass and how often it runs, in the order of first use."""
    found: dict[Slot, tuple[Use, int]] = {}

    def take(pending: Pending) -> None:
        use = pending.use
        light = Use(use.spec, use.x.detach()[:1], use.out.detach()[:1], use.left)
        first, count = found.get(pending.slot, (light, 0))
        found[pending.slot] = (first, count + 1)

    with torch.no_grad(), Follow(model, None, take):
        call.run(model)
    return found


@contextmanager
def _plain(dense: nn.Module, small: nn.Module) -> Iterator[None]:
    """Evaluation mode and plain kernels; `small` keeps what is solved, all else is put back."""
    modes = [(module, module.training) for module in small.modules()]
    with ExitStack() as stack:
        stack.enter_context(untouched(dense))
        stack.enter_context(decomposed())
        try:
            small.eval()
            yield
        finally:
            for module, mode in modes:
                module.training = mode
