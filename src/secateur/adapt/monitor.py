"""Monitor: says when a network sees other data than in calibration, and calibrates it anew."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from secateur.adapt.depths import depths
from secateur.adapt.drift import Bet, Normal
from secateur.adapt.heads import pool
from secateur.core.batches import Call, check_model, tensors_in, untouched
from secateur.core.errors import InputError, RecipeError
from secateur.core.history import plans_of
from secateur.core.page import Line, Page, Table, plain, plural
from secateur.graph.analyze import analyze
from secateur.measure.calibration import Calibration, calibration, first_sample, take
from secateur.recover import Recalibrate, Reconstruct, repair
from secateur.recover.recalibrate import measure, norms_of

_RECENT = 256  # samples whose means are compared with calibration, to say where the drift is
_MOST = 64  # features of a place; of wider ones, evenly spread channels
_taken: ContextVar[dict[str, Tensor] | None] = ContextVar("taken", default=None)


class Tap:
    """A forward hook that keeps pooled features for the monitor of this thread, if there is one."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, args: Any, out: Any) -> None:
        """Keep the features."""
        taken = _taken.get()
        value = out[0] if isinstance(out, tuple) else out
        if taken is not None and isinstance(value, Tensor):
            taken[self.name] = _few(pool(value.detach()))


class Monitor:
    """Watches the inputs and activations of a network, and says when it should be recalibrated.

    Call it instead of the model. `drifted` becomes True once the samples are no longer like the
    calibration data; where they are, and come in any order, that ever happens with probability at
    most `alarm`. Samples that depend on each other (frames of a film) break that promise.

    Half of the data says what is usual, the other half how unusual usual samples are (see `Bet`).

    Args:
        model: Hooks are put on it, until `close`; it is changed by `recalibrate` and `restore`.
        data: Batches that are like what the network was calibrated on.
        alarm: The chance of a false alarm, ever.
        dense: The network before it was pruned, from which `recalibrate` can repair.
        at: Modules whose outputs are watched; by default up to four blocks. Inputs always are.
        samples: How many samples of the data are used at most.
        seed: For the order of equal samples.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> monitor = sc.adapt.Monitor(net, torch.randn(200, 4))
        >>> _ = monitor(torch.randn(50, 4)); monitor.drifted
        False
        >>> _ = monitor(torch.randn(50, 4) + 3); monitor.drifted
        True

    Raises:
        InputError: There is too little data.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Iterable[Any],
        *,
        alarm: float = 0.01,
        dense: nn.Module | None = None,
        at: Sequence[str] | None = None,
        samples: int = 1024,
        seed: int = 0,
    ) -> None:
        check_model(model)
        if not 0 < alarm < 1:
            raise RecipeError(f"alarm={alarm!r}", hint="a chance between 0 and 1, such as 0.01")
        self.model, self.alarm, self.dense, self.samples = model, alarm, dense, samples
        self.seed, self._kept = seed, list[list[Tensor]]()
        self._lock = Lock()
        known = self._calibration(data)
        self.names = self._places(known.calls[0]) if at is None else tuple(at)
        self._handles = [
            model.get_submodule(name).register_forward_hook(Tap(name)) for name in self.names
        ]
        self._start(known)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model, and look at what it sees."""
        call = Call(args, kwargs)
        out, features = self._look(call)
        scores, rows = self.normal.scores(features).tolist(), self.normal.standard(features)
        with self._lock:
            for score, z in zip(scores, rows, strict=True):
                self.bet.see(score)
                self._recent.append(z)
                self.seen += 1
                if self.since is None and self.bet.capital >= 1 / self.alarm:
                    self.since = self.seen
        return out

    @property
    def drifted(self) -> bool:
        """Whether the data is no longer that of the calibration."""
        return self.since is not None

    @property
    def shifts(self) -> dict[str, float]:
        """How far recent means are from calibration at each place, in deviations of a sample."""
        with self._lock:
            seen = list(self._recent)
        if not seen:
            return {}
        recent = torch.stack(seen).mean(0)
        parts = zip(self._sizes, recent.split(list(self._sizes.values())), strict=True)
        return {name: float(part.square().mean().sqrt()) for name, part in parts}

    def recalibrate(self, recent: Iterable[Any]) -> tuple[str, ...]:
        """Calibrate the model on recent, unlabelled data, and watch for changes from there.

        With the dense network, the layers behind the cut are solved anew on this data, and what
        brings held-out data no closer to the dense outputs is taken back. Without it, batch-norm
        statistics are measured anew, and nothing can be checked. The weights before are kept for
        `restore`. Returns what was done, in sentences.

        Raises:
            RecipeError: There is nothing that could be recalibrated.
            InputError: There is too little data.
        """
        data = self._calibration(recent)
        plans = plans_of(self.model)
        before = [tensor.detach().clone() for tensor in self._state()]
        if self.dense is not None and len(plans) == 1:
            roles = analyze(self.dense, first_sample(data.calls[0])).roles
            steps = [Reconstruct(), Recalibrate()]
            notes = repair(self.dense, self.model, plans[0], roles, data, steps, seed=self.seed)
        elif norms_of(self.model):
            measure(self.model, data.fit)
            notes = ("batch-norm statistics: measured anew, not checked (no dense network)",)
        else:
            raise RecipeError(
                "there is nothing to recalibrate: no batch normalisation, and no dense network "
                "with one cut in between",
                hint="give the network before it was pruned: Monitor(model, data, dense=…)",
            )
        self._kept.append(before)
        self._start(data)
        return notes

    def restore(self) -> None:
        """Put back the weights from before the last `recalibrate`.

        Raises:
            RecipeError: There are none.
        """
        if not self._kept:
            raise RecipeError("no weights are kept", hint="recalibrate keeps those before it")
        with torch.no_grad():
            for tensor, value in zip(self._state(), self._kept.pop(), strict=True):
                tensor.copy_(value)

    def close(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    @property
    def page(self) -> Page:
        """What is printed."""
        said = "like the calibration data"
        if self.since is not None:
            said = f"other data than in calibration, noticed at sample {self.since:,}: recalibrate"
        tone = "good" if self.since is None else "warn"
        rows = tuple((name, f"{shift:.2f}") for name, shift in self.shifts.items())
        return (
            Line(f"Monitor of {type(self.model).__name__}", title=True),
            Line(f"{plural(self.seen, 'sample')}: {said}", tone),
            Line(f"chance of a false alarm, ever: at most {self.alarm:g}", "quiet"),
            *((Table(("place", "shift of the mean (deviations)"), rows),) if rows else ()),
        )

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)

    def _state(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.model.buffers()]

    def _calibration(self, data: Iterable[Any]) -> Calibration:
        found = calibration(self.model, take(data, self.samples), samples=self.samples)
        if len(found.calls) < 2 or found.samples < 40:
            raise InputError(
                f"there are {found.samples} samples; a monitor needs 40 at least",
                hint="give more batches",
            )
        return found

    def _places(self, call: Call) -> tuple[str, ...]:
        try:
            return depths(self.model, call)
        except RecipeError:  # a single layer: its inputs say all
            return ()

    def _start(self, known: Calibration) -> None:
        """Learn what is usual."""
        with untouched(self.model), torch.no_grad():
            looks = [self._look(call)[1] for call in known.calls]
        features = torch.cat(looks)
        self.normal = Normal(features[::2])
        self.bet = Bet(self.normal.scores(features[1::2]).tolist(), self.seed)
        self.seen, self.since = 0, None
        self._recent: deque[Tensor] = deque(maxlen=_RECENT)

    def _look(self, call: Call) -> tuple[Any, Tensor]:
        """The outputs, and a vector of features for each sample."""
        taken: dict[str, Tensor] = {}
        for k, value in enumerate(tensors_in((call.args, dict(call.kwargs)))):
            if value.is_floating_point() and value.dim() > 1:
                taken[f"input {k}" if k else "input"] = _few(pool(value.detach()))
        token = _taken.set(taken)
        try:
            out = call.run(self.model)
        finally:
            _taken.reset(token)
        if not taken:
            raise InputError(
                "there is nothing to watch: the inputs are no floating-point tensors [n, …]",
                hint="name modules with at=, such as the embedding",
            )
        self._sizes = {name: part.shape[1] for name, part in taken.items()}
        return out, torch.cat([part.double().cpu() for part in taken.values()], 1)


def _few(x: Tensor) -> Tensor:
    step = -(-x.shape[1] // _MOST)
    return x[:, ::step]
