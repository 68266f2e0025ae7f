"""Integers that remember where they come from, and the equations they must satisfy after a cut.

A `TracedInt` carries an expression over two kinds of atoms: integers stored in the model's Python
(attributes) and entries of tensor shapes (axes). Arithmetic builds larger expressions. Wherever the
user's code relies on a value, the recorder writes an `Equation`: it must still hold with the sizes
that are left after a cut. The solver (`ties.py`) evaluates equations with numpy arrays, all
candidate counts at once.
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

Expr = Any  # int | ("attr", key) | ("count", Axis) | (operator name, Expr, ...)

OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "truediv": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "neg": operator.neg,
    "ceildiv": lambda a, b: -(-a // b),
    "eq": lambda a, b: (a == b) * 1,
    "lt": lambda a, b: (a < b) * 1,
    "le": lambda a, b: (a <= b) * 1,
}

_recorder: list[Any] = []  # the active Recorder (see trace.py), or nothing


def activate(recorder: Any) -> None:
    """Make traced integers record into `recorder` from now on (None: stop)."""
    _recorder[:] = [] if recorder is None else [recorder]


def expr_of(value: int) -> Expr:
    """The expression behind an integer; a plain one stands for itself."""
    return value.expr if type(value) is TracedInt else int(value)


def atoms(expr: Expr) -> Iterator[tuple[str, Any]]:
    """The ("attr", key) and ("count", Axis) atoms of an expression."""
    if isinstance(expr, tuple):
        if expr[0] in ("attr", "count"):
            yield expr
        else:
            for part in expr[1:]:
                yield from atoms(part)


@dataclass(frozen=True)
class Equation:
    """`left == right` must hold after every cut; `where` is the user's file:line."""

    left: Expr
    right: Expr
    what: str
    where: str


def _traced(name: str, value: Any, *operands: Any) -> Any:
    if not _recorder or type(value) is not int:
        return value
    return TracedInt.make(value, (name, *[expr_of(operand) for operand in operands]))


def _arithmetic(name: str, swapped: bool = False) -> Callable[[Any, Any], Any]:
    method = getattr(int, f"__{'r' if swapped else ''}{name}__")

    def run(self: TracedInt, other: Any) -> Any:
        value = method(self, other)
        if value is NotImplemented or not isinstance(other, int):
            if value is NotImplemented and isinstance(other, float):
                self.used_as_number()
            return value
        pair = (other, self) if swapped else (self, other)
        if type(value) is float:  # a scale such as dim ** -0.5 or a ratio: must not change
            if _recorder:
                _recorder[0].pin((name, expr_of(pair[0]), expr_of(pair[1])), value)
            return value
        return _traced(name, value, *pair)

    return run


def _comparison(name: str, base: str, swap: bool, negate: bool) -> Callable[[Any, Any], Any]:
    method = getattr(int, f"__{name}__")

    def run(self: TracedInt, other: Any) -> Any:
        value = method(self, other)
        if _recorder and isinstance(other, int) and value is not NotImplemented:
            pair = (other, self) if swap else (self, other)
            outcome = value != negate
            left, right = expr_of(pair[0]), expr_of(pair[1])
            if base == "eq" and outcome:
                _recorder[0].equate(left, right, "compared in the model's code")
            else:
                _recorder[0].equate(
                    (base, left, right), int(outcome), "compared in the model's code"
                )
        return value

    return run


class TracedInt(int):
    """An `int` with an expression; equal to and hashed like the plain one."""

    expr: Expr

    @classmethod
    def make(cls, value: int, expr: Expr) -> TracedInt:
        """A traced copy of `value`."""
        new = int.__new__(cls, value)
        new.expr = expr
        return new

    def used_as_number(self) -> None:
        """The value itself matters to the result (not only as a size): it must stay."""
        if _recorder:
            _recorder[0].pin(self.expr, int(self))

    def __float__(self) -> float:
        self.used_as_number()
        return int.__float__(self)

    def __neg__(self) -> int:
        return _traced("neg", int.__neg__(self), self)  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: Any) -> int:
        return int(self)

    def __copy__(self) -> int:
        return int(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int.__int__(self),)

    __add__ = _arithmetic("add")
    __radd__ = _arithmetic("add", swapped=True)
    __sub__ = _arithmetic("sub")
    __rsub__ = _arithmetic("sub", swapped=True)
    __mul__ = _arithmetic("mul")
    __rmul__ = _arithmetic("mul", swapped=True)
    __floordiv__ = _arithmetic("floordiv")
    __rfloordiv__ = _arithmetic("floordiv", swapped=True)
    __mod__ = _arithmetic("mod")
    __rmod__ = _arithmetic("mod", swapped=True)
    __truediv__ = _arithmetic("truediv")
    __rtruediv__ = _arithmetic("truediv", swapped=True)
    __pow__ = _arithmetic("pow")  # type: ignore[assignment]
    __rpow__ = _arithmetic("pow", swapped=True)  # type: ignore[assignment]
    __eq__ = _comparison("eq", "eq", swap=False, negate=False)  # type: ignore[assignment]
    __ne__ = _comparison("ne", "eq", swap=False, negate=True)  # type: ignore[assignment]
    __lt__ = _comparison("lt", "lt", swap=False, negate=False)
    __gt__ = _comparison("gt", "lt", swap=True, negate=False)
    __le__ = _comparison("le", "le", swap=False, negate=False)
    __ge__ = _comparison("ge", "le", swap=True, negate=False)
    __hash__ = int.__hash__


_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parent.parent) + os.sep
_DEMO = _HERE + "demo"  # stands for a user's model


def call_site() -> str:
    """`file:line` of the innermost frame of the user's code (or of torch.nn if there is none)."""
    frame: FrameType | None = sys._getframe(1)
    fallback = ""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_TORCH):
            if not fallback and name.startswith(_TORCH + "nn"):
                fallback = f"{short_path(name)}:{frame.f_lineno}"
        elif name.startswith(_DEMO) or not name.startswith((_HERE, "<")):
            return f"{short_path(name)}:{frame.f_lineno}"
        frame = frame.f_back
    return fallback


def short_path(name: str) -> str:
    """A path without what is private to this machine: its last parts."""
    for anchor in ("/site-packages/", "/dist-packages/"):
        if anchor in name:
            return name.split(anchor)[-1]
    return "/".join(name.split("/")[-2:])
