"""Reads and writes integers stored in a model's Python by path: "num_heads", "config.sizes.0"."""

from __future__ import annotations

from typing import Any

from secateur.core.errors import StalePlan


def rebuilt(like: tuple[Any, ...], items: list[Any]) -> tuple[Any, ...]:
    """A tuple of the same type (a named tuple, a torch.Size) with other items."""
    return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)


def _step(owner: Any, key: str) -> Any:
    if isinstance(owner, dict):
        return owner[key]
    if isinstance(owner, (list, tuple)):
        return owner[int(key)]
    return owner.__dict__[key] if key in getattr(owner, "__dict__", {}) else getattr(owner, key)


def _store(owner: Any, key: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[key] = value
    elif isinstance(owner, list):
        owner[int(key)] = value
    else:
        owner.__dict__[key] = value


def read(owner: Any, path: str) -> Any:
    """The value at a path.

    Raises:
        StalePlan: There is no such path.

    Example:
        >>> from types import SimpleNamespace
        >>> read(SimpleNamespace(sizes=[3, (4, 5)]), "sizes.1.0")
        4
    """
    value = owner
    try:
        for key in path.split("."):
            value = _step(value, key)
    except (AttributeError, KeyError, IndexError, ValueError) as error:
        raise StalePlan(
            f"{type(owner).__name__} has no attribute {path!r}",
            hint="the plan was made for another version of this model's code",
        ) from error
    return value


def write(owner: Any, path: str, value: Any) -> None:
    """Set the value at a path; a tuple on the way is rebuilt."""
    parent, _, key = path.rpartition(".")
    holder = read(owner, parent) if parent else owner
    if isinstance(holder, tuple):
        items = list(holder)
        items[int(key)] = value
        write(owner, parent, rebuilt(holder, items))
    else:
        _store(holder, key, value)
