"""What goes, by name: `channel,head`, `layer`, `weight`, `row`, `2:4`, `block`, `16x1`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from secateur.core.errors import RecipeError
from secateur.core.registry import did_you_mean
from secateur.units import NM, Block, Channel, Head, Layer, Unit, Weight, WeightUnit

NAMES = "channel, head, layer, joined by commas; or one of weight, row, 2:4, block"
_KINDS: dict[str, Callable[[], Unit | WeightUnit]] = {
    "channel": Channel, "head": Head, "layer": Layer, "weight": Weight,
    "row": lambda: Weight(per="row"), "block": lambda: Block(4, 1),
}  # fmt: skip
_PATTERNS = {r"(\d+):(\d+)": NM, r"(\d+)x(\d+)": Block}


def units(given: Any, multiple: int = 1) -> list[Unit | WeightUnit]:
    """Units from a line of names, or from a list of them; multiple: of channels.

    Any numbers may stand in `2:4` and `4x1`; `block` is 4 x 1. That single weights are not removed
    together with others is for `sc.prune` to say.

    Example:
        >>> units("layer"), units("2:4"), units("16x1")
        ([Layer()], [NM(n=2, m=4)], [Block(rows=16, columns=1)])

    Raises:
        RecipeError: A name is none of these, or its numbers make no sense.
    """
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list):
        raise RecipeError(f"unit: {given!r}: expected names", hint="for example channel,head")
    return [_unit(str(name).strip().lower(), multiple) for name in names]


def _unit(name: str, multiple: int) -> Unit | WeightUnit:
    for form, kind in _PATTERNS.items():
        found = re.fullmatch(form, name)
        if found:
            return kind(int(found[1]), int(found[2]))
    if name not in _KINDS:
        raise RecipeError(
            f"there is no unit {name!r}", hint=did_you_mean(name, [*_KINDS, "2:4", "4x1"])
        )
    return Channel(multiple=multiple) if name == "channel" else _KINDS[name]()


__all__ = ["NAMES", "units"]
