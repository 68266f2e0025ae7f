"""Plan: the frozen, model-free, serialisable decision of what stays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.core.layout import Index, Layout, Mask

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Reason:
    """Why something cannot be removed: a sentence, the operation, and the user's file:line."""

    text: str
    op: str = ""
    where: str = ""

    def __str__(self) -> str:
        return self.text + (f" ({self.where})" if self.where else "")


@dataclass(frozen=True)
class Attribute:
    """An integer in the model's Python that follows an axis: value * count(layout) / size.

    module: the module's qualified name; path: "num_heads", "config.num_heads" or "sizes.0".
    """

    module: str
    path: str
    value: int
    layout: Layout

    def new_value(self, counts: Mapping[str, int]) -> int:
        """The value after a cut that leaves `counts[leaf]` indices of every leaf."""
        return self.value * self.layout.count(counts) // self.layout.size


@dataclass(frozen=True)
class Choice:
    """The indices one site keeps, ascending, out of `n`."""

    n: int
    keep: Index
    unit: str = "channel"
    what: str = "channels"

    @property
    def mask(self) -> Mask:
        """The same as a boolean vector of length `n`."""
        mask = np.zeros(self.n, dtype=np.bool_)
        mask[self.keep] = True
        return mask

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Choice)
            and (self.n, self.unit, self.what) == (other.n, other.unit, other.what)
            and np.array_equal(self.keep, other.keep)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Plan:
    """What every site keeps, and all that is needed to apply it to a fresh model.

    sites: leaf name -> choice; sites that keep everything may be left out. layouts: tensor name ->
    one layout a dimension, for every tensor that the sites touch. attributes: Python integers that
    follow. removed: modules replaced by an identity; tuples: those
    of them that returned a tuple. predicted: cost name -> (before, after).
    example: the call that the plan was made on, to verify a cut with; it is not saved.

    Example:
        >>> from secateur.core.layout import Leaf, Fixed
        >>> plan = Plan("f" * 64, {"fc": Choice(4, np.array([0, 3]))},
        ...             {"fc.weight": (Leaf("fc", 4), Fixed(2))})
        >>> plan.shape("fc.weight")
        (2, 2)
        >>> Plan.from_json(plan.to_json()) == plan
        True
    """

    fingerprint: str
    sites: Mapping[str, Choice]
    layouts: Mapping[str, tuple[Layout, ...]] = field(default_factory=dict)
    attributes: tuple[Attribute, ...] = ()
    removed: tuple[str, ...] = ()
    tuples: tuple[str, ...] = ()
    predicted: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    frozen: tuple[Reason, ...] = ()
    example: Any = field(default=None, compare=False, repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """Kept count by leaf name."""
        return {name: len(choice.keep) for name, choice in self.sites.items()}

    @property
    def keeps(self) -> dict[str, Mask]:
        """Keep-mask by leaf name."""
        return {name: choice.mask for name, choice in self.sites.items()}

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape that a tensor has after the cut."""
        return tuple(layout.count(self.counts) for layout in self.layouts[tensor])

    def to_json(self) -> str:
        """The plan as JSON (versioned, closed schema)."""
        from secateur.core import plan_json

        return json.dumps(plan_json.encode(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan; raises `FileError` on anything that is not exactly a valid plan."""
        from secateur.core import plan_json

        return plan_json.decode(text)


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and dtypes of all parameters and buffers (not their values)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(
        {**dict(model.named_parameters()), **dict(model.named_buffers())}.items()
    ):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
    return digest.hexdigest()


__all__ = ["Attribute", "Choice", "Plan", "Reason", "fingerprint"]
