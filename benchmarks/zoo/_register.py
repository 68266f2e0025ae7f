"""Registration of hand-written models by decorator."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from . import Builder

Kind = TypeVar("Kind", bound="type[nn.Module]")


class Registry(dict[str, Builder]):
    """name -> builder; classes are named after themselves, in snake case."""

    def add(self, example: Callable[[], Any], **options: Any) -> Callable[[Kind], Kind]:
        """Register a class, built with `options`, with what makes its example."""

        def decorate(kind: Kind) -> Kind:
            self.put(snake(kind.__name__), lambda: kind(**options), example)
            return kind

        return decorate

    def put(self, name: str, make: Callable[[], nn.Module], example: Callable[[], Any]) -> None:
        """Register what a function makes."""
        if name in self:
            raise ValueError(f"there are two models named {name}")
        self[name] = lambda: (make(), example())


def snake(name: str) -> str:
    """CamelCase to snake_case."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
