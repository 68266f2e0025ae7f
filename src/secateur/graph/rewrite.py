"""A model's forward as a graph whose sizes are attributes, for code that writes sizes as literals.

`torch.export` records the operations of one run; every integer that they were given becomes an
attribute of the graph module. The usual analysis then traces these attributes as it traces a
user's own, and a cut corrects them. What is lost: the Python code (branches are those that the
example took), and the difference between train and eval mode.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.core.batches import Call, as_call, map_tensors, untouched
from secateur.core.errors import UnsupportedModel


def rewrite(model: nn.Module, example: Any) -> fx.GraphModule:
    """The same function as a graph module that shares the model's parameters.

    Batch and other input sizes stay dynamic where `torch.export` can keep them so.

    Raises:
        UnsupportedModel: `torch.export` cannot record the model.

    Example:
        >>> class Literal(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.inner, self.out = nn.Linear(4, 12), nn.Linear(6, 2)
        ...     def forward(self, x):
        ...         return self.out(self.inner(x).view(-1, 2, 6).sum(1))
        >>> graph = rewrite(Literal(), torch.zeros(3, 4))
        >>> graph(torch.zeros(5, 4)).shape
        torch.Size([5, 2])
    """
    call = as_call(model, example)
    with untouched(model), _quiet():
        module = _export(model, call)
    _sizes_to_attributes(module)
    return module


def _export(model: nn.Module, call: Call) -> fx.GraphModule:
    kwargs = dict(call.kwargs)
    auto = torch.export.Dim.AUTO
    dynamic = map_tensors((call.args, kwargs), lambda t: [auto] * t.dim())
    error: Exception | None = None
    for shapes in ((*dynamic[0], *dynamic[1].values()), None):
        try:
            program = torch.export.export(
                model,
                call.args,
                kwargs,
                dynamic_shapes=shapes if not kwargs else None,
                strict=False,
            )
            return _module(program)
        except Exception as failure:
            error = failure
    raise UnsupportedModel(
        f"torch.export cannot record this model: {type(error).__name__}: {_first_line(error)}",
        hint="leave out rewrite=True; what cannot be followed is then frozen and explained",
    ) from error


def _first_line(error: Exception | None) -> str:
    return (str(error).splitlines() or [""])[0][:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the export's own log: its failure is reported once, as an error."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _module(program: Any) -> fx.GraphModule:
    try:
        return program.module(check_guards=False)  # type: ignore[no-any-return]
    except TypeError:  # before torch 2.9
        return program.module()  # type: ignore[no-any-return]


def _sizes_to_attributes(module: fx.GraphModule) -> None:
    """Replace every integer above 1 in the arguments of operations by an attribute `size_k`."""
    graph = module.graph
    count = 0

    def lift(node: fx.Node, value: Any) -> Any:
        nonlocal count
        if type(value) is int and value > 1:
            name = f"size_{count}"
            count += 1
            module.__dict__[name] = value
            with graph.inserting_before(node):
                return graph.create_node("get_attr", name)
        if isinstance(value, (list, tuple)):
            return type(value)([lift(node, item) for item in value])
        return value

    for node in list(graph.nodes):
        if node.op == "call_function" and not isinstance(node.target, type(Tensor.add)):
            node.args = tuple(lift(node, value) for value in node.args)
            node.kwargs = {key: lift(node, value) for key, value in node.kwargs.items()}
    module.recompile()
