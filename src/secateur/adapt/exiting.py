"""A classifier that inputs leave as soon as a head is sure enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from secateur.adapt.heads import confidence, confidence_of_one
from secateur.adapt.timed import timed_line
from secateur.apply.verify import compare
from secateur.core.batches import Call, untouched
from secateur.core.errors import RecipeError
from secateur.core.page import Line, Page, Table, plain, plural

Decide = Callable[[int, Tensor], Any]
"""Of an exit's number and the logits there: which samples leave, `[n]`; of one sample whether."""


class Visitor(Protocol):
    """What is told of every module that inputs could leave behind."""

    def arrive(self, number: int, out: Any) -> Any:
        """See the output of exit `number`; what is returned, unless None, takes its place."""
        ...


_NEVER = float("inf")
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


class Left(BaseException):
    """All samples have left: the rest of the network is not run.

    Not an `Exception`, so that no `except Exception` in a model's code holds it up.
    """


def visit(model: nn.Module, call: Call, visitor: Visitor) -> Any:
    """Run a model, and lead the stops on the way to a visitor; None where all samples left."""
    token = _visitor.set(visitor)
    try:
        return call.run(model)
    except Left:
        return None
    finally:
        _visitor.reset(token)


class Run:
    """One forward pass: who is still in it, and what those who left were told.

    compact: samples that left are taken out of the batch, so that the rest of the network works
    on fewer; otherwise it runs on all until none is left.
    """

    def __init__(self, heads: Sequence[nn.Module], decide: Decide, compact: bool) -> None:
        self.heads, self.decide, self.compact = heads, decide, compact
        self.left: Tensor | None = None  # numbers of the samples that are in the pass
        self.parts: list[tuple[int, Tensor, Tensor]] = []  # exit, samples, logits
        self.alone: tuple[int, Tensor] | None = None  # exit and logits of a single sample

    def arrive(self, number: int, out: Any) -> Any:
        """Let those who are sure leave."""
        x = first(out)
        if self.left is None:
            if len(x) == 1:  # most of the time is in what need not be done here
                logits = self.heads[number](x)
                if self.decide(number, logits):
                    self.alone = number, logits
                    raise Left
                return None
            self.left = torch.arange(len(x), device=x.device)
        inside = x if self.compact or len(self.left) == len(x) else x[self.left]
        logits = self.heads[number](inside)
        leaving = torch.as_tensor(self.decide(number, logits), device=x.device).reshape(-1)
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
        if self.alone is not None:
            number, logits = self.alone
            return logits, torch.tensor([number], device=logits.device)
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
    times: milliseconds of a single sample in the whole network and here, the means of `timed` test
    samples; None where nothing was timed.
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
        self.times: tuple[float, float] | None = None
        self.timed = 0
        self.notes: tuple[str, ...] = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Logits `[n, classes]`: the head's of samples that left, the network's of the others."""
        if self.training or min(self.thresholds.tolist(), default=_NEVER) == _NEVER:
            return self.model(*args, **kwargs)
        return self.leave(*args, **kwargs)[0]

    def leave(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The logits, and the number of the exit at which each sample left (the last: none)."""
        thresholds = self.thresholds.tolist()

        def sure(number: int, logits: Tensor) -> Tensor | bool:
            if len(logits) == 1:
                return confidence_of_one(logits) >= thresholds[number]
            return confidence(logits) >= thresholds[number]

        return self._run(Call(args, kwargs), sure, self.compacts)

    def close(self) -> None:
        """Let no input leave."""
        self.thresholds.fill_(_NEVER)
        self.leaving, self.agreed = (0,) * len(self.names), self.tested

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
        run = Run(list(self.heads), decide, compact)
        return run.outputs(visit(self.model, call, run), len(self.names))

    @property
    def agreement(self) -> float:
        """The share of test samples with the whole network's class; 1 where none is needed."""
        return self.agreed / self.tested if self.tested else 1.0

    @property
    def mean_cost(self) -> float:
        """The mean share of the whole network's work on the test samples."""
        if not self.tested:
            return 1.0
        early = sum(n * cost for n, cost in zip(self.leaving, self.costs, strict=True))
        return (early + self.tested - sum(self.leaving)) / self.tested

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
        table = (Table(("behind", "work", "sure from", "leave"), tuple(rows)),) if rows else ()
        lines = [Line(batch, "quiet")] if rows else []
        lines += timed_line(self.times, self.timed)
        promise = (
            Line(
                f"on {plural(self.tested, 'test sample')}: {self.mean_cost:.1%} of the work, "
                f"{self.agreement:.2%} with the class of the whole network"
            ),
            Line(
                f"promise: at least {self.guarantee:g} agree, unless the test samples were a "
                f"chance of {self.delta:g}"
            ),
        )
        return (
            Line(f"Exits of {type(self.model).__name__}", title=True),
            *table,
            *(promise if self.tested else ()),
            *lines,
            *(Line(f"note: {note}", "warn") for note in self.notes),
        )

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)


def stops(model: nn.Module, names: Sequence[str]) -> Callable[[Sequence[int]], None]:
    """Put a stop behind each of the modules; returns what leaves only some of them, by number.

    Raises:
        RecipeError: There is no such module.
    """
    made = list[tuple[Stop, Any]]()
    for number, name in enumerate(names):
        try:
            module = model.get_submodule(name)
        except AttributeError as error:
            raise RecipeError(
                f"there is no module {name!r}", hint="names are those of model.named_modules()"
            ) from error
        stop = Stop(number)
        made.append((stop, module.register_forward_hook(stop)))

    def keep(numbers: Sequence[int]) -> None:
        for number, (stop, handle) in enumerate(made):
            if number in numbers:
                stop.number = numbers.index(number)
            else:
                handle.remove()

    return keep
