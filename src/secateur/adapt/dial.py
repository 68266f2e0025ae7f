"""Dial: one set of weights, nested networks of several sizes, and a knob between them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from time import perf_counter
from typing import Any

import torch
from torch import nn

from secateur.adapt.fitting import fit
from secateur.adapt.folded import Pairs, fold
from secateur.adapt.level import Level
from secateur.adapt.memory import Memory
from secateur.core.batches import Call, as_call
from secateur.core.errors import InfeasibleBudget, InputError, RecipeError
from secateur.core.history import remember
from secateur.core.measured import Latency
from secateur.core.page import Line, Page, Table, amount, plain
from secateur.core.plan import Plan
from secateur.measure.clock import compare
from secateur.measure.cost import Amounts

_chosen: ContextVar[Mapping[int, float]] = ContextVar("chosen")
_SPREADS = 3  # quartile distances above the median within which a quiet machine stays


class Dial(nn.Module):
    """A network with a knob: `dial.set(.5)` runs a cut and repaired network of half the cost.

    It is made by `sc.dial`. Each level keeps a part of what the larger ones keep, and is stored as
    what it does not share with the dense network (see `Level`). To run, a level is unpacked once
    and stays in memory with the `cache` levels used last; between those, switching is a look-up.
    In evaluation mode batch normalisations (`folds`) are then a part of the layers before them.

    `set` is for all threads; `at` and `within` are for the thread (or task) that they are used in,
    so that threads can run several levels at once. Levels are for inference: what they unpack is
    not trained with the module. `state_dict` holds the dense weights and all levels as stored.

    dense: the whole network, its channels in the order in which they go. table: milliseconds of
    each level on this machine, once `measure` was called.

    Paper: Yu et al., Slimmable Neural Networks, ICLR 2019 (there trained; here repaired).
    """

    def __init__(
        self,
        dense: nn.Module,
        levels: Sequence[Level],
        before: Amounts,
        cost: str,
        *,
        cache: int = 4,
        notes: tuple[str, ...] = (),
        history: tuple[Plan, ...] = (),
        folds: Pairs = (),
    ) -> None:
        super().__init__()
        if cache < 1:
            raise RecipeError(f"cache={cache!r}: expected at least 1 level")
        self.dense = dense
        self.stored = nn.ModuleList(levels)
        self.before, self.cost, self.cache, self.notes = before, cost, cache, notes
        self.history, self.folds = history, folds
        self.table: dict[float, Latency] = {}
        self._tails: dict[float, float] = {}
        self._level = 1.0
        self._ready: OrderedDict[float, nn.Module] = OrderedDict()
        self._lock = Lock()
        self.train(dense.training)
        self.register_load_state_dict_post_hook(_forget)

    @property
    def levels(self) -> tuple[float, ...]:
        """The shares of the cost that can be set, largest first."""
        return (1.0, *(level.share for level in self.stored))  # type: ignore[misc]

    @property
    def level(self) -> float:
        """The share that runs here and now."""
        return _chosen.get({}).get(id(self), self._level)

    def set(self, level: float) -> None:
        """Run a level from now on, in every thread that is not inside `at` or `within`."""
        self._level = self._check(level)

    @contextmanager
    def at(self, level: float) -> Iterator[Dial]:
        """Run a level inside the block, in this thread only."""
        token = _chosen.set({**_chosen.get({}), id(self): self._check(level)})
        try:
            yield self
        finally:
            _chosen.reset(token)

    def within(self, ms: float) -> Any:
        """A block like `at`, with the largest level whose measured time stays below a deadline.

        A level fits if its median plus three times its spread does, and 99 of 100 calls did, on the
        example and the machine that `measure` was called with.

        Raises:
            InputError: Nothing was measured yet.
            InfeasibleBudget: No level fits; the message says what the fastest one takes.
        """
        return self.at(self.fitting(ms))

    def fitting(self, ms: float) -> float:
        """The level that `within` chooses; raises as it does."""
        if not self.table:
            raise InputError(
                "the levels' times are not known on this machine",
                hint="call dial.measure(example) first, on a batch of the size that is served",
            )
        bounds = self.bounds
        for level, bound in bounds.items():
            if bound <= ms:
                return level
        fastest = min(bounds, key=bounds.__getitem__)
        raise InfeasibleBudget(
            f"no level fits {ms:g} ms: level {fastest:g} takes {self.table[fastest]}, "
            f"which is up to {bounds[fastest]:.3g} ms",
            hint="give more time, or make a dial with smaller levels",
        )

    @property
    def bounds(self) -> dict[float, float]:
        """The milliseconds that a measured level needs, but for one call in a hundred."""
        return {
            level: max(_bound(latency), self._tails.get(level, 0.0))
            for level, latency in self.table.items()
        }

    def measure(self, example: Any, **options: Any) -> dict[float, Latency]:
        """Time all levels in turns on an example, here; the options are those of `clock.compare`.

        Memory: all levels are unpacked at once.
        """
        call = as_call(self.dense, example)
        models = {level: self._network(level) for level in self.levels}
        runs = {f"{level:g}": _Timed(call, model) for level, model in models.items()}
        device = next((t.device for t in self.dense.parameters()), torch.device("cpu"))
        times = compare(runs, models=list(models.values()), device=device, **options)
        self.table = {level: times[f"{level:g}"] for level in self.levels}
        self._tails = {level: runs[f"{level:g}"].tail(times[f"{level:g}"].runs) for level in models}
        return dict(self.table)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the level that is set, or of the one of the block."""
        return self._at(self.level)(*args, **kwargs)

    def fit(self, data: Iterable[Any], *, middle: int = 2, **settings: Any) -> tuple[str, ...]:
        """Train all levels together, in place; returns what was done, in sentences.

        Each step trains the largest level on the labels, and the smallest one and `middle` others,
        drawn anew, on the answers of the largest one. Levels keep what they share with the dense
        weights, and the stored changes of the rest. Without labels all levels learn what the whole
        network answered before. If held-out data gets no better on average over all levels, nothing
        changes. Modes, gradients and random states are as before.

        Args:
            data: Batches, `(inputs, labels)` or whatever `loss` takes.
            middle: How many levels between the largest and the smallest a step trains.
            **settings: epochs, steps, lr, loss, optimizer, validation, ...: as in `sc.Finetune`.

        Example:
            >>> x = torch.randn(400, 4)
            >>> net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))
            >>> dial = sc.dial(net, data=[x], levels=[0.5, 0.25])
            >>> print(*dial.fit((x, x[:, :3].argmax(1)), epochs=2))
            all levels trained together: held-out loss ... -> ... after 12 of 12 steps (1: ...)

        Paper: Yu & Huang, Universally Slimmable Networks and Improved Training Techniques, ICCV
        2019 (the sandwich rule, in-place distillation).

        Raises:
            RecipeError: Accelerate is not installed, or a setting makes no sense.
        """
        said = fit(self.dense, self._levels(), data, middle, settings)
        self.notes += said
        _forget(self)
        return said

    def export(self, level: float) -> nn.Module:
        """An ordinary cut model with its own memory, which gives what the level gives.

        `sc.save` can write it: it knows the plan that leads to it.
        """
        share = self._check(level)
        found = [stored for stored in self._levels() if stored.share == share]
        model = copy.deepcopy(found[0].network(self.dense) if found else self.dense)
        remember(model.train(self.training), (*self.history, *(one.plan for one in found)))
        return model

    @property
    def memory(self) -> Memory:
        """Bytes of the dense network, of every level as stored, and of what is unpacked now."""
        tensors = [*self.dense.parameters(), *self.dense.buffers()]
        with self._lock:
            ready = dict(self._ready)
        shared = {t.untyped_storage().data_ptr() for t in tensors}
        unpacked = {
            t.untyped_storage().data_ptr(): t.nbytes
            for model in ready.values()
            for t in [*model.parameters(), *model.buffers()]
            if t.untyped_storage().data_ptr() not in shared
        }
        return Memory(
            sum(t.nbytes for t in tensors),
            {level.share: level.nbytes for level in self.stored},  # type: ignore[misc]
            sum(unpacked.values()),
            tuple(ready),
        )

    @property
    def page(self) -> Page:
        """What is printed: a row for every level."""
        before = self.before
        whole = (f"{before.params:,}", amount(before.macs), amount(self.memory.dense, "B"), "", "")
        rows = [("1", *whole)]
        for level in self._levels():
            repaired, stored = level.distance
            rows.append((
                f"{level.share:g}", f"{level.amounts.params:,}", amount(level.amounts.macs),
                amount(level.nbytes, "B"), f"{level.bits:.1f}" if level.bits else "",
                "" if stored != stored else f"{stored:.3g} ({repaired:.3g})",
            ))  # fmt: skip
        if self.table:
            rows = [(*row, str(self.table[s])) for row, s in zip(rows, self.levels, strict=True)]
        head = ("level", "parameters", "MACs", "stored", "bits", "distance (before packing)")
        notes = [Line(f"note: {note}", "warn") for note in self.notes]
        return (
            Line(f"Dial of {type(self.dense).__name__}, by {self.cost}", title=True),
            Table((*head, "latency")[: len(rows[0])], tuple(rows)),
            Line(str(self.memory)),
            *notes,
        )

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)

    def __repr__(self) -> str:
        """Short: the weights are not printed."""
        return f"Dial({type(self.dense).__name__}, levels={list(self.levels)}, at {self.level:g})"

    def train(self, mode: bool = True) -> Dial:
        """Set the mode of all levels."""
        if mode != self.training and self.folds:
            _forget(self)
        super().train(mode)
        for model in list(self._ready.values()):
            model.train(mode)
        return self

    def _levels(self) -> list[Level]:
        return list(self.stored)  # type: ignore[arg-type]

    def _check(self, level: float) -> float:
        """The level meant, in the dial's own spelling."""
        for share in self.levels:
            if abs(share - level) < 1e-9:
                return share
        raise RecipeError(
            f"there is no level {level!r}",
            hint=f"the levels are {', '.join(f'{share:g}' for share in self.levels)}",
        )

    def _network(self, share: float) -> nn.Module:
        """What a level runs, unpacked or from the cache; the cache is left as it is."""
        if share == 1.0:
            return self.dense
        found = self._ready.get(share)
        if found is None:
            level = next(level for level in self._levels() if level.share == share)
            found = level.network(self.dense)
            if not self.training:
                fold(found, self.folds)
            found.train(self.training).requires_grad_(False)
        return found

    def _at(self, share: float) -> nn.Module:
        if share == 1.0:
            return self.dense
        with self._lock:
            model = self._ready[share] = self._network(share)
            self._ready.move_to_end(share)
            while len(self._ready) > self.cache:
                self._ready.popitem(last=False)
        return model

    def _apply(self, fn: Any, recurse: bool = True) -> Dial:
        """Move or convert; what is unpacked is forgotten."""
        super()._apply(fn, recurse)
        _forget(self)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without the lock, and without what is unpacked."""
        return {**self.__dict__, "_lock": None, "_ready": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._lock, self._ready = Lock(), OrderedDict()


def _forget(dial: nn.Module, _: Any = None) -> None:
    """Unpack anew, after the stored tensors have changed."""
    assert isinstance(dial, Dial)
    with dial._lock:
        dial._ready.clear()


class _Timed:
    """A call of a network that remembers what it took."""

    def __init__(self, call: Call, model: nn.Module) -> None:
        self.call, self.model, self.ms = call, model, list[float]()

    def __call__(self) -> None:
        start = perf_counter()
        self.call.run(self.model)
        self.ms.append(1000 * (perf_counter() - start))

    def tail(self, runs: int) -> float:
        """What all but one in a hundred of the last runs took at most, but at least all but one."""
        ordered = sorted(self.ms[-runs:])
        return ordered[max(0, len(ordered) - 1 - max(1, len(ordered) // 100))]


def _bound(latency: Latency) -> float:
    return latency.median_ms + _SPREADS * latency.spread_ms
