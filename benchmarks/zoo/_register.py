"""Registration of hand-written models by decorator."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

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


def floats(*shape: int) -> partial[Tensor]:
    """What draws a tensor of normal values."""
    return partial(torch.randn, *shape)


def tokens(vocabulary: int, *shape: int) -> partial[Tensor]:
    """What draws a tensor of token numbers."""
    return partial(torch.randint, 0, vocabulary, shape)
