"""Session: a model, its optimizers and a recipe through time."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.core.batches import untouched
from secateur.core.chart import Chart, Mark
from secateur.core.errors import FileError, RecipeError
from secateur.core.page import Line, Page, Table, amount, plain
from secateur.core.panel import Panel
from secateur.core.schedule import Adaptive, Schedule
from secateur.train.ascent import Ascent
from secateur.train.held import Held
from secateur.train.settings import Settings
from secateur.train.state import KEY, VERSION, dump, restore
from secateur.train.steps import Steps
from secateur.train.update import Update

ACTIVE: weakref.WeakSet[Session] = weakref.WeakSet()
"""The sessions that are not finished."""
_FIRST, _LAST = 10, 40  # events that a report lists


class Session:
    """What `attach` gives: masks that follow a recipe while a model is trained.

    The model's parameters always hold the weights in use, zeros included; names, modules and the
    optimizer's parameters are never changed. Everything happens in the optimizer's own hooks. The
    state rides in the (first) optimizer's `state_dict` under "secateur": attach first, then load
    the model's and the optimizer's state, and a resumed run goes on bit for bit.

    Memory: one bit for each weight, and what the form keeps. Before an optimizer's step, where
    gradients are clipped, those of removed weights count too.

    events: what happened, as plain dicts with
    "step", "kind", "sparsity" and what belongs to it.
    """

    def __init__(
        self, model: nn.Module, root: nn.Module, held: Sequence[Held], settings: Settings
    ) -> None:
        self.model = model
        self.events: list[dict[str, Any]] = []
        self.finished = False
        self._held = list(held)
        self._settings = settings
        self._peers = settings.chooser.peers
        schedule = settings.schedule
        self._ascent = Ascent(schedule) if isinstance(schedule, Adaptive) else None
        self._steps = Steps(root, self._held, settings, self._stepped)
        self._handles: list[Any] = []
        self._count()

    def start(
        self,
        optimizers: Sequence[Optimizer],
        gradients: Mapping[str, Tensor],
        masked: bool,
        state: Mapping[str, Any] | None,
    ) -> None:
        """The first update, if it is due before the first step; then hook into the optimizers.

        gradients: for that update. masked, state: there is something to start from, so there is
        none.
        """
        self._steps.begin()
        if state is not None:
            self.load_state_dict(state)
        elif not masked:
            self._stepped(gradients)
        if not self.events:
            self._note("attach")
        self._steps.show()
        first = optimizers[0]
        self._handles = [
            *self._steps.hooks(optimizers),
            first.register_state_dict_post_hook(self._save),
            first.register_load_state_dict_pre_hook(self._load),
        ]
        ACTIVE.add(self)

    @property
    def step(self) -> int:
        """How many steps the first optimizer has taken."""
        return self._steps.step

    @property
    def masks(self) -> dict[str, Tensor]:
        """What is kept, by parameter name: new booleans of its shape (of its part, if spread)."""
        return {item.name: item.mask for item in self._held}

    @property
    def sparsity(self) -> float:
        """The fraction of the weights in scope that are zero, as of the last update."""
        return 1 - self._kept / sum(item.total for item in self._held)

    def finish(self) -> nn.Module:
        """Set what is removed to zero for good, take all hooks away, and return the model.

        Warns if training ended before the schedule did.
        """
        if self.finished:
            return self.model
        if self._ascent is not None and self._ascent.trial is not None:
            self._note(**self._judged())
        schedule = self._settings.schedule
        self._steps.close()
        self._count()
        self._note("finish")
        self._detach()
        if schedule is not None and self.step < schedule.final:
            warnings.warn(
                f"training ended after {self.step:,} steps, before the schedule, which ends at "
                f"{schedule.final:,}: the sparsity is {self.sparsity:.1%}",
                stacklevel=2,
            )
        return self.model

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors and plain values, for checkpoints without the optimizer's state."""
        return {
            "version": VERSION,
            "step": self.step,
            "seed": self._settings.seed,
            "events": [dict(event) for event in self.events],
            "weights": dump(self._held),
            "ascent": None if self._ascent is None else self._ascent.dump(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a session of the same recipe was.

        Raises:
            FileError: The state is of a newer version, of other weights or of another recipe.
        """
        if state.get("version") != VERSION:
            raise FileError(
                f"the session's state has version {state.get('version')!r}, not {VERSION}",
                hint="load it with the version of Secateur that wrote it, or a newer one",
            )
        if (state["ascent"] is None) != (self._ascent is None):
            raise FileError("the session's state is of another schedule")
        with torch.no_grad():
            restore(self._held, state["weights"])
            self._steps.show()
        if self._ascent is not None:
            self._ascent.restore(state["ascent"], self._held)
        if state["seed"] != self._settings.seed:
            raise FileError(
                f"the session's state was made with seed={state['seed']}, not {self._settings.seed}"
            )
        self._steps.step = state["step"]
        self.events = [dict(event) for event in state["events"]]
        self._count()

    @property
    def page(self) -> Page:
        """What is printed."""
        total = sum(item.total for item in self._held)
        title = f"Session after {self.step:,} steps: {self.sparsity:.1%} of {amount(total)} weights"
        rows = tuple(
            (item.name, f"{item.total:,}", f"{1 - kept / item.total:.1%}")
            for item, kept in zip(self._held, self._each, strict=True)
        )
        return (Line(f"{title} are zero", title=True), Table(("", "weights", "zero"), rows))

    def __str__(self) -> str:
        """The sparsity of every weight."""
        return plain(self.page)

    @property
    def panel(self) -> Panel:
        """What a report shows: every weight, the sparsity over time, and what happened when."""
        marks = tuple(
            Mark(event["step"], 100 * event["sparsity"], label=f"{event['kind']}", joined=True)
            for event in self.events
        )
        chart = Chart("Sparsity over time", "step", "zero, % of the weights", marks)
        shown = [*self.events[:_FIRST], *self.events[max(_FIRST, len(self.events) - _LAST) :]]
        rows = tuple(
            (f"{event['step']:,}", event["kind"], f"{event['sparsity']:.1%}", _facts(event))
            for event in shown
        )
        heads = ("step", "what", "zero", "")
        _, *rest = self.page
        page = (*rest, Table(heads, rows, left=frozenset({1, 3})))
        return Panel("History of the training", page, chart=chart)

    def holds(self, parameter: nn.Parameter) -> bool:
        """Whether this session masks a parameter."""
        return any(item.parameter is parameter for item in self._held)

    def _stepped(self, gradients: Mapping[str, Tensor] | None = None) -> None:
        """An update, if one is due now."""
        schedule = self._settings.schedule
        if schedule is not None and schedule.due(self.step):
            self._update(schedule, gradients or {})

    @torch.no_grad()
    def _update(self, schedule: Schedule, gradients: Mapping[str, Tensor]) -> None:
        """What the schedule asks for after this step."""
        part: float | None = schedule.fraction(self.step)
        kind = "update"
        if self._ascent is not None:
            event = self._judged()
            self._count()
            self._note(**event)
            part, kind = self._ascent.next(event), "raise"
        if part is not None:
            old = [item.mask for item in self._held]
            self._choose(part, gradients, schedule.last)
            self._note(kind, part=part, **self._changed(old))

    def _choose(self, part: float, gradients: Mapping[str, Tensor], last: int | None) -> None:
        """New masks at a part of the final sparsity."""
        form = self._settings.form
        update = Update(self._settings, self._held, self.step, part, gradients)
        old = [item.mask for item in self._held]
        if form.chosen:
            masks = update.run()
            wide = update.wider(form.more) if form.more else masks
            if self._ascent is not None:
                self._ascent.try_(part, self._held, masks)
            for item, mask, wider in zip(self._held, masks, wide, strict=True):
                item.mask = mask
                if form.more:
                    item.extra["wider"] = mask | wider
        else:
            self._steps.show()
        for item, mask in zip(self._held, old, strict=True):
            form.renew(item, mask, self.step == last, self._peers)
            if item.latent is None:
                opened = item.mask & ~mask
                item.used.masked_fill_(opened, 0)  # the optimizer has moved it already
                item.forget(opened)
        self._count()
        goal = self._settings.sparsity
        if not form.chosen and goal is not None and self.sparsity >= goal:
            form.rest(self._held)

    def _changed(self, old: Sequence[Tensor]) -> dict[str, int]:
        """How many weights were removed and how many came back, on all processes."""
        pairs = [(item.mask, mask) for item, mask in zip(self._held, old, strict=True)]
        removed = sum(int((mask & ~new).sum()) for new, mask in pairs)
        grown = sum(int((new & ~mask).sum()) for new, mask in pairs)
        return {"removed": self._peers.count(removed), "grown": self._peers.count(grown)}

    def _judged(self) -> dict[str, Any]:
        """The metric, and what follows for the last rise."""
        assert self._ascent is not None
        self._steps.show()
        with untouched(self.model):
            value = float(self._ascent.schedule.metric(self.model))
        return self._ascent.judge(self._peers.mean(value), self._held)

    def _count(self) -> None:
        self._each = [self._peers.count(int(item.mask.sum())) for item in self._held]
        self._kept = sum(self._each)
        self._steps.refresh()

    def _note(self, kind: str, **facts: Any) -> None:
        self.events.append({"step": self.step, "kind": kind, "sparsity": self.sparsity, **facts})

    def _save(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, KEY: self.state_dict()}

    def _load(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        if KEY in state:
            self.load_state_dict(state[KEY])

    def _detach(self) -> None:
        self.finished = True
        for handle in self._handles:
            handle.remove()
        self._handles = []
        ACTIVE.discard(self)


def _facts(event: Mapping[str, Any]) -> str:
    """What else an event says, in words."""
    rest = {k: v for k, v in event.items() if k not in ("step", "kind", "sparsity")}
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in rest.items()
    )


def check_free(parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise `RecipeError` if a session that is not finished masks one of the parameters."""
    for session in list(ACTIVE):
        for name, parameter in parameters.items():
            if session.holds(parameter):
                raise RecipeError(
                    f"{name} is in a session already",
                    hint="call finish() on that session first",
                )
