"""A network that computes other channels for every input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from secateur.adapt.gating import Gate, Pass, current
from secateur.core.batches import Call, as_call, tensors_in
from secateur.core.measured import Latency
from secateur.core.page import Line, Page, Table, plain, plural
from secateur.measure.clock import compare
from secateur.measure.loss import loss_of
from secateur.recover.accelerated import require_accelerate
from secateur.recover.course import Course
from secateur.recover.feed import feed
from secateur.recover.loop import Loss, train
from secateur.recover.training import said


class GatedModel(nn.Module):
    """A network whose channels are chosen for every input, made by `sc.gate`.

    Print it to see what is gained, and where nothing is.

    distance: how far held-out outputs are from the dense network's, as a part of their variance.
    times: by the samples of a batch, what it takes in the dense network and here. notes: what was
    left out or trained.
    """

    def __init__(self, model: nn.Module, gates: Mapping[str, Gate], widths: Mapping[str, int]):
        super().__init__()
        self.model, self.widths = model, dict(widths)
        self.parts = nn.ModuleDict()
        self.use(gates)
        self.distance = float("nan")
        self.times: dict[int, tuple[Latency, Latency]] = {}
        self.notes: tuple[str, ...] = ()

    def use(self, gates: Mapping[str, Gate]) -> None:
        """Have these gates in force, by the names of the channels that they choose."""
        self.parts = nn.ModuleDict({name.replace(".", "/"): gate for name, gate in gates.items()})

    @property
    def gates(self) -> dict[str, Gate]:
        """The gates in force, by the names of the channels that they choose."""
        found: Any = self.parts.items()
        return {name.replace("/", "."): gate for name, gate in found}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs, with the channels that the inputs call for."""
        return self.run(Call(args, kwargs))

    def run(self, call: Call, gathers: bool = True) -> Any:
        """The outputs; gathers: whether of a single sample only live channels are computed."""
        with self.passing(gathers):
            return call.run(self.model)

    @contextmanager
    def passing(self, gathers: bool = True) -> Iterator[None]:
        """One run."""
        token = current.set(Pass(self.gates, gathers))
        try:
            yield
        finally:
            current.reset(token)

    def fit(self, data: Iterable[Any], **settings: Any) -> str:
        """Train the weights and the gates together, in place; returns what was done.

        Gates get the gradient of a sigmoid around the last saliency that is kept. If held-out data
        gets no better, nothing changes. Modes, gradients and random states are as before.

        Args:
            data: Batches, `(inputs, labels)` or whatever `loss` takes.
            **settings: epochs, steps, lr, loss, optimizer, validation, ...: as in `sc.Finetune`.

        Raises:
            RecipeError: Accelerate is not installed, or a setting makes no sense.
        """
        require_accelerate("fit")
        course, seed = Course(**settings), settings.get("seed") or 0
        loss = loss_of(course.loss)

        def objective(student: nn.Module) -> Any:
            found: Loss = lambda model, batch, name: loss(model, batch)  # noqa: E731
            return nullcontext(found)

        self.parts.requires_grad_(True)
        try:
            outcome = train(
                self, feed(data, validation=course.validation, seed=seed), objective, course,
                seed=seed,
            )  # fmt: skip
        finally:
            self.parts.requires_grad_(False)
        text = f"trained: {said(outcome)}"
        self.notes += (text,)
        self.distance = float("nan") if outcome.best < outcome.before else self.distance
        return text

    def measure(self, dense: nn.Module, *examples: Any) -> None:
        """Time the dense network and this one, in turns, on examples of any number of samples."""
        for example in examples:
            call = as_call(self.model, example)
            size = len(next(tensors_in((call.args, dict(call.kwargs)))))
            runs = {"dense": partial(call.run, dense), "gated": partial(call.run, self)}
            with torch.no_grad():
                times = compare(runs, repeats=9, min_time=0.02, max_time=1.0)
            self.times[size] = times["dense"], times["gated"]

    @property
    def page(self) -> Page:
        """What is printed."""
        rows = tuple(
            (name, str(self.widths[name]), str(gate.keep)) for name, gate in self.gates.items()
        )
        lines = []
        for size, (dense, gated) in sorted(self.times.items()):
            text = f"{plural(size, 'sample')} at a time: {dense} -> {gated}"
            if size > 1:
                text += " (all channels are computed: samples differ in theirs)"
            lines.append(Line(text, "plain" if gated.median_ms < dense.median_ms else "warn"))
        return (
            Line(f"Gated {type(self.model).__name__}", title=True),
            Table(("channels of", "all", "chosen"), rows),
            Line(f"held-out outputs change by {self.distance:.3g} of their variance"),
            *lines,
            *(Line(f"note: {note}", "warn") for note in self.notes),
        )

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)
