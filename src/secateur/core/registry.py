"""A small open registry: a decorator in, a name or a callable out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

from secateur.core.errors import RecipeError

T = TypeVar("T", bound=Callable[..., object])


def did_you_mean(given: str, known: Iterable[str]) -> str | None:
    """A hint that names what is closest to `given`, or lists what there is; None if nothing is.

    Example:
        >>> did_you_mean("layer5", ["conv1", "layer1", "layer4"])
        'did you mean layer4 or layer1?'
        >>> did_you_mean("zebra", ["fc", "conv1"])
        'known: conv1, fc'
    """
    names = sorted(known)
    nested = [name for name in names if name.endswith("." + given)]
    close = (nested or get_close_matches(given, names, n=3, cutoff=0.6))[:3]
    if close:
        return f"did you mean {' or '.join(close)}?"
    if not names:
        return None
    more = f", … ({len(names)} in all)" if len(names) > 12 else ""
    return f"known: {', '.join(names[:12])}{more}"


def wears(record: object, function: object) -> None:
    """Give a record that wraps a function the function's name and docstring, for `help`."""
    for key in ("__module__", "__qualname__", "__name__", "__doc__"):
        if hasattr(function, key):
            object.__setattr__(record, key, getattr(function, key))
    object.__setattr__(record, "__wrapped__", function)


class Registry(Generic[T]):
    """Names to callables of one kind; a callable that is given instead of a name passes through.

    noun: what an entry is, for the messages ("criterion").

    Example:
        >>> shapes: Registry = Registry("shape")
        >>> @shapes.add("square", "quadrat")
        ... def square(side: float) -> float:
        ...     return side * side
        >>> shapes.get("quadrat")(3), shapes.get(abs)(-3), list(shapes)
        (9, 3, ['quadrat', 'square'])
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._entries: dict[str, T] = {}

    def add(self, *names: str) -> Callable[[T], T]:
        """Decorator: register a callable under one or more names.

        Raises:
            RecipeError: a name is empty, or already taken.
        """
        for name in names:
            if not isinstance(name, str) or not name:
                raise RecipeError(f"a {self.noun}'s name must be a non-empty string, not {name!r}")
            if name in self._entries:
                raise RecipeError(
                    f"there is already a {self.noun} called {name!r}: {self._entries[name]!r}",
                    hint="choose another name",
                )
        if not names:
            raise RecipeError(f"a {self.noun} needs a name")

        def register(entry: T) -> T:
            for name in names:
                self._entries[name] = entry
            return entry

        return register

    def get(self, key: str | T) -> T:
        """The callable called `key`, or `key` itself when it is a callable.

        Raises:
            RecipeError: nothing has that name (with what is close), or `key` is neither.
        """
        if callable(key):
            return key
        if not isinstance(key, str):
            raise RecipeError(f"a {self.noun} is a name or a callable, not {key!r}")
        if key not in self._entries:
            raise RecipeError(
                f"there is no {self.noun} called {key!r}", hint=did_you_mean(key, self._entries)
            )
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        """The names, sorted."""
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        """Whether something is registered under `name`."""
        return name in self._entries

    def __len__(self) -> int:
        """How many names there are."""
        return len(self._entries)
