"""Budgets: what a network may cost, and how good it has to stay; joined with `&`.

Those of `core/ceiling.py` are counted, those of `core/goal.py` are measured.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from secateur.core.ceiling import Both, Budget, Bytes, Ceiling, Limit, MACs, Params, Sparsity
from secateur.core.errors import RecipeError
from secateur.core.goal import Drop, Latency, PeakMemory, Quality, QualityBudget
from secateur.core.quantity import to_float
from secateur.core.registry import did_you_mean

__all__ = [
    "Both",
    "Budget",
    "Bytes",
    "Ceiling",
    "Drop",
    "Latency",
    "Limit",
    "MACs",
    "Params",
    "PeakMemory",
    "Quality",
    "QualityBudget",
    "Sparsity",
    "counted",
    "join",
    "measured",
    "parse_budget",
]

_CALL = r"([A-Za-z_]+)\s*\((.*)\)"
_WORDS = r"([A-Za-z_]+)\s*(<=|>=|=|:)?\s*(.*)"
_PAIR = r"([A-Za-z_]+)\s*=\s*('[^']*'|\"[^\"]*\"|[^\s,='\"]+)\s*,?"
_KINDS: dict[str, Any] = {
    "sparsity": Sparsity, "params": Params, "macs": MACs, "bytes": Bytes, "latency": Latency,
    "peakmemory": PeakMemory, "memory": PeakMemory, "drop": Drop, "quality": Quality,
}  # fmt: skip


def counted(budget: Budget) -> tuple[Budget, ...]:
    """The parts that a plan can be held to before anything is measured."""
    return tuple(part for part in budget.parts if isinstance(part, (Ceiling, Sparsity)))


def measured(budget: Budget) -> tuple[Budget, ...]:
    """The parts that only a measurement of the network can decide."""
    return tuple(part for part in budget.parts if not isinstance(part, (Ceiling, Sparsity)))


def join(*budgets: Budget) -> Budget:
    """All of them at once.

    Example:
        >>> join(MACs("50%"), Drop(1))
        MACs('50%') & Drop(points=1.0)

    Raises:
        RecipeError: there is none.
    """
    if not budgets:
        raise RecipeError("there is no budget to join")
    return budgets[0] if len(budgets) == 1 else Both(tuple(p for b in budgets for p in b.parts))


def parse_budget(text: str) -> Budget:
    """A budget from a line of text: kinds and values, joined with `&`.

    A part is `kind value`, with further settings as `key=value`; or the expression in Python. Of a
    drop, a bare number is points, "%" is of the original's value, and "nats" is of a loss.

    Example:
        >>> parse_budget("macs 50% & params 1e6")
        MACs('50%') & Params(1000000)
        >>> parse_budget("drop 1 & latency 60% batch=1")
        Drop(points=1.0) & Latency('60%', batch=1)
        >>> parse_budget("drop 0.5%"), parse_budget("drop 0.05 nats"), parse_budget("latency 4ms")
        (Drop(relative=0.005), Drop(nats=0.05), Latency(ms=4.0))
        >>> parse_budget("quality >= 0.9 & memory 2MB")
        Quality(at_least=0.9) & PeakMemory(2000000)
        >>> parse_budget(repr(Bytes("2GiB") & Sparsity(0.5)))
        Bytes(2147483648) & Sparsity(0.5)

    Raises:
        RecipeError: a part is not `kind value`, the kind is unknown or the value makes no sense.
    """
    return join(*(_parse_part(part.strip()) for part in text.split("&")))


def _parse_part(part: str) -> Budget:
    match = re.fullmatch(_CALL, part, re.DOTALL)
    sign = None
    if match is None:
        match = re.fullmatch(_WORDS, part, re.DOTALL)
        sign = match[2] if match else None
    body = "" if match is None else match[match.lastindex or 1].strip()
    if match is None or not body:
        raise RecipeError(f"{part!r} is not a budget", hint="for example 'macs 50% & drop 1'")
    kind = match[1].lower().replace("_", "")
    if kind not in _KINDS:
        raise RecipeError(f"there is no budget on {match[1]!r}", hint=did_you_mean(kind, _KINDS))
    settings = {key: _literal(value) for key, value in re.findall(_PAIR, body)}
    known = list(inspect.signature(_KINDS[kind]).parameters)
    for key in settings:
        if key not in known:
            name = _KINDS[kind].__name__
            raise RecipeError(f"{name} has no setting {key!r}", hint=did_you_mean(key, known))
    rest = re.sub(_PAIR, "", body).strip(" ,")
    if rest and known[0] in settings:
        raise RecipeError(f"{part!r} has two values: {rest!r} and {settings[known[0]]!r}")
    return _make(_KINDS[kind], sign, _unquoted(rest), settings)


def _make(kind: Any, sign: str | None, value: str, settings: dict[str, Any]) -> Budget:
    if kind is Quality and value:
        if sign not in (">=", "<="):
            raise RecipeError(
                f"quality {value}: at least or at most?",
                hint=f"write 'quality >= {value}', or 'quality <= {value}' for a loss",
            )
        settings["at_least" if sign == ">=" else "at_most"] = to_float("Quality", value)
    elif sign == ">=":
        raise RecipeError(f"{kind.__name__} is a ceiling, not a floor", hint="write <=")
    elif kind is Sparsity and value and not value.endswith("%"):
        return Sparsity(to_float("Sparsity", value))
    if not value or kind is Quality:
        if not settings:
            raise RecipeError(f"{kind.__name__} has no value")
        return kind(**settings)
    return kind(value, **settings)


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1].strip() if quoted else text


def _literal(text: str) -> Any:
    """A setting's value: true, false, none, an integer, a number, or a text."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return _unquoted(text)
