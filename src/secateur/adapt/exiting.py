"""A classifier that inputs leave as soon as a head is sure enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from secateur.adapt.heads import confidence
from secateur.apply.verify import compare
from secateur.core.batches import Call, untouched
from secateur.core.errors import RecipeError
from secateur.core.page import Line, Page, Table, plain, plural

Decide = Callable[[int, Tensor], Tensor]
"""Of an exit's number and the logits there: which samples leave."""


class Visitor(Protocol):
    """What is told of every module that inputs could leave behind."""

    def arrive(self, number: int, out: Any) -> Any:
        """See the output of exit `number`; what is returned, unless None, takes its place."""
        ...


_visitor: ContextVar[Visitor | None] = ContextVar("visitor", default=None)


class Stop:
    """A forward hook that leads to the visitor of this thread, if there is one.

    It refers to no model, so that models with stops can be copied and pickled.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, module: nn.Module, args: Any, out: Any) -> Any:
        """Show the output."""
        visitor = _visitor.get()
        return None if visitor is None else visitor.arrive(self.number, out)


@contextmanager
def visiting(visitor: Visitor) -> Iterator[None]:
    """Lead the stops that this thread passes to a visitor."""
    token = _visitor.set(visitor)
    try:
        yield
    finally:
        _visitor.reset(token)


class Left(BaseException):
    """All samples have left: the rest of the network is not run.

    Not an `Exception`, so that no `except Exception` in a model's code holds it up.
    """


class Run:
    """One forward pass: who is still in it, and what those who left were told.

    compact: samples that left are taken out of the batch, so that the rest of the network works
    on fewer; otherwise it runs on all until none is left.
    """

    def __init__(self, heads: Sequence[nn.Module], decide: Decide, compact: bool) -> None:
        self.heads, self.decide, self.compact = heads, decide, compact
        self.left: Tensor | None = None  # numbers of the samples that are in the pass
        self.parts: list[tuple[int, Tensor, Tensor]] = []  # exit, samples, logits

    def arrive(self, number: int, out: Any) -> Any:
        """Let those who are sure leave."""
        x = first(out)
        if self.left is None:
            self.left = torch.arange(len(x), device=x.device)
        inside = x if self.compact or len(self.left) == len(x) else x[self.left]
        logits = self.heads[number](inside)
        leaving = self.decide(number, logits)
        if not bool(leaving.any()):
            return None
        self.parts.append((number, self.left[leaving], logits[leaving]))
        self.left = self.left[~leaving]
        if not len(self.left):
            raise Left
        if not self.compact:
            return None
        stay = x[~leaving]
        return stay if isinstance(out, Tensor) else type(out)((stay, *out[1:]))

    def outputs(self, last: Tensor | None, exits: int) -> tuple[Tensor, Tensor]:
        """All outputs, and at which exit each sample left (`exits` for the network's end)."""
        if not self.parts:
            assert last is not None
            return last, torch.full((len(last),), exits, device=last.device)
        assert self.left is not None
        example = self.parts[0][2]
        count = len(self.left) + sum(len(samples) for _, samples, _ in self.parts)
        out = example.new_empty(count, example.shape[1])
        where = torch.full((count,), exits, device=out.device)
        for number, samples, logits in self.parts:
            out[samples], where[samples] = logits, number
        if last is not None:
            out[self.left] = (last if self.compact else last[self.left]).to(out.dtype)
        return out, where


def first(out: Any) -> Tensor:
    """A module's result: its output, or the first of several."""
    return out if isinstance(out, Tensor) else out[0]


class Exits(nn.Module):
    """A classifier with exits, made by `sc.adapt.exits`; print it to see what it promises.

    In evaluation mode, a sample whose head is sure enough leaves: alone in its batch it stops the
    computation, in a larger batch it is taken out where that was seen to change nothing
    (`compacts`), and otherwise the batch runs until all could leave. In training mode the whole
    network runs.

    names: the modules behind which the exits are. thresholds: how sure each head must be.
    agreed, tested: samples on which the promise was tested, and on how many the class was the same.
    leaving: how many of them left at each exit. costs: the share of the work up to each exit.
    """

    def __init__(
        self, model: nn.Module, names: Sequence[str], heads: Sequence[nn.Module], thresholds: Tensor
    ) -> None:
        super().__init__()
        self.model, self.heads = model, nn.ModuleList(heads)
        self.names = tuple(names)
        self.register_buffer("thresholds", thresholds.float())
        self.compacts = False
        self.guarantee, self.delta, self.tested, self.agreed = 1.0, 0.0, 0, 0
        self.leaving: tuple[int, ...] = (0,) * len(self.names)
        self.costs: tuple[float, ...] = (1.0,) * len(self.names)
        self.notes: tuple[str, ...] = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Logits `[n, classes]`: the head's of samples that left, the network's of the others."""
        if self.training or not bool(torch.isfinite(self.thresholds).any()):
            return self.model(*args, **kwargs)
        return self.leave(*args, **kwargs)[0]

    def leave(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The logits, and the number of the exit at which each sample left (the last: none)."""

        def sure(number: int, logits: Tensor) -> Tensor:
            return confidence(logits) >= self.thresholds[number]

        return self._run(Call(args, kwargs), sure, self.compacts)

    def work(self, call: Call, number: int) -> None:
        """Do what is done where all samples leave at one exit."""
        self._run(call, lambda k, logits: torch.full((len(logits),), k == number), False)

    def check_compaction(self, call: Call) -> None:
        """Find out whether half of a batch can go at every exit and change nothing for the rest."""

        def half(_: int, logits: Tensor) -> Tensor:
            here = torch.arange(len(logits), device=logits.device)
            return (here % 2 == 0) & (len(logits) > 1)

        with untouched(self), torch.no_grad():
            wanted = self.model(*call.args, **dict(call.kwargs))
            try:
                found, where = self._run(call, half, True)
            except Exception:  # the rest of the network needs the whole batch
                return
            last = where == len(self.names)
        agree = len(found) == len(wanted) and compare(wanted[last], found[last]).ok
        self.compacts = agree and 0 < int(last.sum()) < len(last)

    def _run(self, call: Call, decide: Decide, compact: bool) -> tuple[Tensor, Tensor]:
        run, last = Run(list(self.heads), decide, compact), None
        try:
            with visiting(run):
                last = call.run(self.model)
        except Left:
            pass
        return run.outputs(last, len(self.names))

    @property
    def agreement(self) -> float:
        """The share of test samples with the whole network's class."""
        return self.agreed / max(self.tested, 1)

    @property
    def mean_cost(self) -> float:
        """The mean share of the whole network's work on the test samples."""
        early = sum(n * cost for n, cost in zip(self.leaving, self.costs, strict=True))
        return (early + self.tested - sum(self.leaving)) / max(self.tested, 1)

    @property
    def page(self) -> Page:
        """What is printed."""
        rows = [
            (name, f"{cost:.0%}", "never" if t == float("inf") else f"{t:.3f}",
             f"{left / max(self.tested, 1):.1%}")
            for name, cost, t, left in zip(
                self.names, self.costs, self.thresholds.tolist(), self.leaving, strict=True
            )
        ]  # fmt: skip
        batch = "samples that leave are taken out of their batch"
        if not self.compacts:
            batch = "a batch stops when all its samples can leave"
        return (
            Line(f"Exits of {type(self.model).__name__}", title=True),
            Table(("behind", "work", "sure from", "leave"), tuple(rows)),
            Line(
                f"on {plural(self.tested, 'test sample')}: {self.mean_cost:.1%} of the work, "
                f"{self.agreement:.2%} with the class of the whole network"
            ),
            Line(
                f"promise: at least {self.guarantee:g} agree, unless the test samples were a "
                f"chance of {self.delta:g}"
            ),
            Line(batch, "quiet"),
            *(Line(f"note: {note}", "warn") for note in self.notes),
        )

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)


def stops(model: nn.Module, names: Sequence[str]) -> None:
    """Put a stop behind each of the modules, for good.

    Raises:
        RecipeError: There is no such module.
    """
    for number, name in enumerate(names):
        try:
            module = model.get_submodule(name)
        except AttributeError as error:
            raise RecipeError(
                f"there is no module {name!r}", hint="names are those of model.named_modules()"
            ) from error
        module.register_forward_hook(Stop(number))
