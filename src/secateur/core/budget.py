"""Budgets: how much may stay, absolute or as a share of the original, joined with `&`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import ClassVar

from secateur.core.errors import RecipeError
from secateur.core.registry import did_you_mean

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_PART = r"([A-Za-z]+)\s*(?:<=|=|:)?\s*(?:\(\s*['\"]?)?([^()'\"=<:]+?)['\"]?\s*\)?"
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class Budget:
    """A ceiling on what stays, or several of them that must all hold (`&`)."""

    @property
    def parts(self) -> tuple[Budget, ...]:
        """The single budgets that this one joins."""
        return (self,)

    def __and__(self, other: Budget) -> Budget:
        """Both must hold."""
        if not isinstance(other, Budget):
            return NotImplemented
        return Both(self.parts + other.parts)


@dataclass(frozen=True, repr=False)
class Both(Budget):
    """Several budgets that must all hold; made by `&`."""

    budgets: tuple[Budget, ...]

    @property
    def parts(self) -> tuple[Budget, ...]:
        """The single budgets, in the order given."""
        return self.budgets

    def __repr__(self) -> str:
        """The expression that makes this budget."""
        return " & ".join(map(repr, self.budgets))


@dataclass(frozen=True, repr=False)
class Sparsity(Budget):
    """The fraction of the units (channels, heads, blocks) that is removed.

    fraction: at least 0 and below 1, or a string such as "50%".

    Example:
        >>> Sparsity(0.9).kept(10), Sparsity("50%").kept(5), Sparsity("50%")
        (1, 2, Sparsity(0.5))

    Raises:
        RecipeError: the fraction is not a number in [0, 1).
    """

    fraction: float

    def __init__(self, fraction: float | str) -> None:
        value = _share(fraction) if isinstance(fraction, str) else None
        exact = _number("Sparsity", fraction) if value is None else value
        if exact >= 1:
            raise RecipeError(
                f"Sparsity({fraction!r}) would remove everything",
                hint="it is the fraction removed, at least 0 and below 1"
                + (f"; did you mean Sparsity({_percent(exact)})?" if 1 < exact < 100 else ""),
            )
        object.__setattr__(self, "fraction", float(exact))

    def kept(self, n: int) -> int:
        """The most out of `n` units that may stay."""
        return math.floor((1 - Fraction(repr(self.fraction))) * n)

    def __repr__(self) -> str:
        """The expression that makes this budget."""
        return f"Sparsity({self.fraction!r})"


@dataclass(frozen=True, repr=False)
class Ceiling(Budget):
    """The most that may stay of one amount; the parent of `Params`, `MACs` and `Bytes`.

    limit: an absolute number (at least 1), or a share of the original as a string ("50%").
    """

    limit: int | str
    kind: ClassVar[str] = ""
    binary: ClassVar[bool] = False

    def __init__(self, limit: float | str) -> None:
        name = type(self).__name__
        if isinstance(limit, str):
            share = _share(limit)
            if share is not None:
                if not 0 < share <= 1:
                    raise RecipeError(
                        f"{name}({limit!r}) is not a share of the original",
                        hint="it is the share that stays: above 0% and at most 100%",
                    )
                object.__setattr__(self, "limit", f"{_plain(share * 100)}%")
                return
            exact = _amount(name, limit, bytes_allowed=self.binary)
        else:
            exact = _number(name, limit)
        if exact < 1:
            share_hint = f"for a share of the original write {name}('{_plain(exact * 100)}%')"
            raise RecipeError(
                f"{name}({limit!r}) is less than one",
                hint=share_hint if exact > 0 else "it is what stays, so at least 1",
            )
        object.__setattr__(self, "limit", math.floor(exact))

    def ceiling(self, original: int) -> int:
        """The most that may stay of an amount that is `original` before."""
        if isinstance(self.limit, int):
            return self.limit
        return math.floor(Fraction(self.limit[:-1]) / 100 * original)

    def show(self, amount: int, original: int) -> str:
        """An amount in the unit in which the budget was given."""
        if isinstance(self.limit, int):
            return f"{amount:,} {self.kind}"
        share = math.ceil(Fraction(amount, max(original, 1)) * 10000) / 100
        return f"{share:g}% of the {self.kind}"

    def __repr__(self) -> str:
        """The expression that makes this budget."""
        return f"{type(self).__name__}({self.limit!r})"


class Params(Ceiling):
    """The most parameters that may stay: `Params(1_000_000)`, `Params("1.5M")`, `Params("50%")`.

    Example:
        >>> Params("1.5M"), Params("12.5%").ceiling(1000), Params("50%") & MACs(1e9)
        (Params(1500000), 125, Params('50%') & MACs(1000000000))

    Raises:
        RecipeError: not a number, NaN, below one, or a share above 100 %.
    """

    kind = "params"


class MACs(Ceiling):
    """The most multiply-accumulates a run may take: `MACs(1e9)`, `MACs("1.8G")`, `MACs("40%")`."""

    kind = "macs"


class Bytes(Ceiling):
    """The most bytes of parameters and buffers: `Bytes("1.5MB")`, `Bytes("2GiB")`, `Bytes("25%")`.

    Example:
        >>> Bytes("1.5MB"), Bytes("2KiB")
        (Bytes(1500000), Bytes(2048))
    """

    kind = "bytes"
    binary = True


_KINDS: dict[str, type[Sparsity] | type[Ceiling]] = {
    "sparsity": Sparsity, "params": Params, "macs": MACs, "bytes": Bytes,
}  # fmt: skip


def parse_budget(text: str) -> Budget:
    """A budget from a line of text: kinds and values, joined with `&`.

    Example:
        >>> parse_budget("macs 50% & params 1e6")
        MACs('50%') & Params(1000000)
        >>> parse_budget(repr(Bytes("2GiB") & Sparsity(0.5)))
        Bytes(2147483648) & Sparsity(0.5)

    Raises:
        RecipeError: a part is not `kind value`, the kind is unknown or the value makes no sense.
    """
    budgets = [_parse_part(part.strip()) for part in text.split("&")]
    return budgets[0] if len(budgets) == 1 else Both(tuple(budgets))


def _parse_part(part: str) -> Budget:
    match = re.fullmatch(_PART, part)
    if match is None:
        raise RecipeError(f"{part!r} is not a budget", hint="for example 'macs 50% & params 1e6'")
    kind, value = match[1].lower(), match[2].strip()
    if kind not in _KINDS:
        raise RecipeError(f"there is no budget on {match[1]!r}", hint=did_you_mean(kind, _KINDS))
    if _KINDS[kind] is Sparsity:
        return Sparsity(value if value.endswith("%") else _to_float("Sparsity", value))
    return _KINDS[kind](value)


def _number(name: str, value: object) -> Fraction:
    """A non-negative, finite number, exactly as it is written in decimal."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise RecipeError(
            f"{name}({value!r}): expected a number, not a {type(value).__name__}",
            hint=f"for example {name}({'0.5' if name == 'Sparsity' else '1_000_000'})",
        )
    if not math.isfinite(value):
        raise RecipeError(f"{name}({value!r}) is not finite")
    if value < 0:
        raise RecipeError(f"{name}({value!r}) is negative")
    return Fraction(int(value) if isinstance(value, Integral) else repr(float(value)))


def _to_float(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RecipeError(f"{name}({text!r}): {text!r} is not a number") from None


def _share(text: str) -> Fraction | None:
    """'50%' -> 1/2; None when the text does not end in %."""
    stripped = text.strip()
    if not stripped.endswith("%"):
        return None
    number = _to_float("a share", stripped[:-1].strip())
    if not math.isfinite(number) or number < 0 or number > 100:
        raise RecipeError(f"{text!r} is not a share", hint="shares go from 0% to 100%")
    return Fraction(stripped[:-1].strip()) / 100


def _amount(name: str, text: str, *, bytes_allowed: bool) -> Fraction:
    """'1e6', '1.5M', and for bytes '1.5MB', '2GiB'."""
    match = re.fullmatch(
        r"\s*([-+]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z]*)\s*", text.lower()
    )
    suffix = match[2] if match else ""
    if bytes_allowed and suffix.endswith("b"):
        suffix = suffix[:-1]
    units = {**_DECIMAL, **_BINARY} if bytes_allowed else _DECIMAL
    if match is None or suffix not in units:
        example = "1_500_000, '1.5MB', '2GiB' or '50%'" if bytes_allowed else "1e6, '1.5M' or '50%'"
        raise RecipeError(f"{name}({text!r}) is not an amount", hint=f"for example {example}")
    value = Fraction(re.sub("[_,]", "", match[1]))
    if value < 0:
        raise RecipeError(f"{name}({text!r}) is negative")
    return value * units[suffix]


def _plain(value: Fraction) -> str:
    """A decimal without exponent or trailing zeros, exact when it has at most 12 decimals."""
    return f"{float(round(value, 12)):.12f}".rstrip("0").rstrip(".")


def _percent(value: Fraction) -> str:
    return f"{float(value) / 100:g}"
