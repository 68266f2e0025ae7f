"""The registry of handlers: what the sizes of one Python-level call must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from secateur.graph.axes import Axis
from secateur.graph.sizes import expr_of

if TYPE_CHECKING:
    from secateur.graph.trace import Trace

Handler = Callable[["Trace", tuple[Any, ...], dict[str, Any], Any], None]
HANDLERS: dict[Any, Handler] = {}


def handles(*functions: Any) -> Callable[[Handler], Handler]:
    """Register a handler `(trace, args, kwargs, out)` for Python-level functions.

    A string names an ATen operation. The operation of the same name as a function takes the same
    arguments, and is registered with it: exported graphs call operations.
    """

    def register(handler: Handler) -> Handler:
        for function in functions:
            name = function if isinstance(function, str) else function.__name__
            packet = getattr(torch.ops.aten, name, None)
            if packet is not None:
                HANDLERS[packet] = handler
            if not isinstance(function, str):
                HANDLERS[function] = handler
        return handler

    return register


def sizes_of(args: Sequence[Any], kwargs: dict[str, Any], *names: str) -> list[Any]:
    """The sizes of a call that takes them one by one or as one sequence."""
    if not args:
        args = [next(kwargs[name] for name in names if name in kwargs)]
    if len(args) == 1 and isinstance(args[0], (tuple, list)):
        return list(args[0])
    return list(args)


def equate(trace: Trace, size: Any, axis: Axis, what: str) -> None:
    """Demand that a size that was passed equals the count of the axis that it sizes; -1 adapts."""
    if isinstance(size, int) and size != -1:
        trace.equate(expr_of(size), ("count", axis), f"{what} written in the model's code")
        trace.pending.pop(axis, None)
