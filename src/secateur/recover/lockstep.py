"""Many runs of a model, advanced together from stop to stop, so that one pass serves every layer.

A run is an ordinary forward call in a thread of its own that sleeps at its stops; only one thread
runs at any time. Whatever the user's Python does between two stops is therefore done as it always
is, without a trace, a script or an assumption about the order of modules. Memory: what the runs
hold at a stop, which is the activations between two layers for all samples.
"""

from __future__ import annotations

import copy
import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from threading import Semaphore, Thread
from typing import Any

import torch
from torch import nn


class Abandoned(BaseException):
    """Raised inside a run that nobody will continue; not an `Exception`, so that models pass it."""


class Run:
    """Work in a thread of its own that sleeps wherever it calls `stop`.

    Example:
        >>> run = Run(lambda run: [run.stop(n) for n in range(2)])
        >>> run.advance(), run.advance(), run.advance(), run.done
        (0, 1, None, True)
    """

    def __init__(self, work: Callable[[Run], object]) -> None:
        self.work = work
        self.event: Any = None
        self.error: BaseException | None = None
        self.done = False
        self._abandoned = False
        self._go, self._paused = Semaphore(0), Semaphore(0)
        self._thread = Thread(target=self._body, daemon=True)
        self._started = False
        self._device = torch.get_default_device()  # a thread does not inherit it

    def _body(self) -> None:
        self._go.acquire()
        try:
            if not self._abandoned:
                with torch.no_grad(), _on(self._device):
                    self.work(self)
        except Abandoned:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.done = True
            self.event = None
            self._paused.release()

    def stop(self, event: Any) -> None:
        """Sleep inside the run until `advance` is called again."""
        if self._abandoned:  # the model went on although it was told to end
            raise Abandoned
        self.event = event
        self._paused.release()
        self._go.acquire()
        if self._abandoned:
            raise Abandoned

    def advance(self) -> Any:
        """Continue to the next stop and return its event, or None at the end.

        Raises:
            Exception: Whatever the work raised.
        """
        if self.done:
            return None
        if not self._started:
            self._thread.start()
            self._started = True
        self._go.release()
        self._paused.acquire()
        if self.error is not None:
            raise self.error
        return self.event

    def abandon(self) -> None:
        """End the run where it is."""
        if self._started and not self.done:
            self._abandoned = True
            self._go.release()
        if self._started:
            self._thread.join()


def _on(device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if device.type == "cpu" else device


@contextmanager
def together(runs: Sequence[Run]) -> Iterator[None]:
    """Ends all runs when the block is left, whatever happens."""
    try:
        yield
    finally:
        for run in runs:
            run.abandon()


def trim() -> None:
    """Give freed memory back to the system: the C library keeps it for each thread by itself."""
    if (malloc_trim := _malloc_trim()) is not None:
        malloc_trim(0)


@cache
def _malloc_trim() -> Any:
    """The C library's own function; None where it has none (it is not glibc)."""
    if sys.platform != "linux":
        return None
    with suppress(OSError):
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None


def twin(model: nn.Module) -> nn.Module:
    """A copy with the same parameter and buffer objects, for what a forward stores on modules.

    A model that cannot be copied is used itself.
    """
    memo: dict[int, Any] = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    try:
        return copy.deepcopy(model, memo)
    except Exception:
        return model


__all__ = ["Abandoned", "Run", "together", "trim", "twin"]
