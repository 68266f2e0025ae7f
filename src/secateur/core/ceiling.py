"""Budgets that a plan can be held to by counting: shares of units, parameters, MACs and bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from secateur.core.errors import RecipeError
from secateur.core.quantity import amount, number, percent, plain, share


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
        found = share(fraction) if isinstance(fraction, str) else None
        exact = number("Sparsity", fraction) if found is None else found
        if exact >= 1:
            raise RecipeError(
                f"Sparsity({fraction!r}) would remove everything",
                hint="it is the fraction removed, at least 0 and below 1"
                + (f"; did you mean Sparsity({percent(exact)})?" if 1 < exact < 100 else ""),
            )
        object.__setattr__(self, "fraction", float(exact))

    def kept(self, n: int) -> int:
        """The most out of `n` units that may stay."""
        return math.floor((1 - Fraction(repr(self.fraction))) * n)

    def __repr__(self) -> str:
        """The expression that makes this budget."""
        return f"Sparsity({self.fraction!r})"


@dataclass(frozen=True, repr=False)
class Limit(Budget):
    """The most that there may be of one amount.

    limit: an absolute number (at least 1), or a share of the original as a string ("50%").
    """

    limit: int | str
    kind: ClassVar[str] = ""
    binary: ClassVar[bool] = False

    def __init__(self, limit: float | str) -> None:
        name = type(self).__name__
        if isinstance(limit, str):
            part = share(limit)
            if part is not None:
                if not 0 < part <= 1:
                    raise RecipeError(
                        f"{name}({limit!r}) is not a share of the original",
                        hint="it is the share that stays: above 0% and at most 100%",
                    )
                object.__setattr__(self, "limit", f"{plain(part * 100)}%")
                return
            exact = amount(name, limit, bytes_allowed=self.binary)
        else:
            exact = number(name, limit)
        if exact < 1:
            share_hint = f"for a share of the original write {name}('{plain(exact * 100)}%')"
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
        part = math.ceil(Fraction(amount, max(original, 1)) * 10000) / 100
        return f"{part:g}% of the {self.kind}"

    def __repr__(self) -> str:
        """The expression that makes this budget."""
        return f"{type(self).__name__}({self.limit!r})"


class Ceiling(Limit):
    """The most that may stay of an amount that is counted; parent of `Params`, `MACs`, `Bytes`."""


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
