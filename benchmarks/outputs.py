"""What a model returns, whatever its form: the tensors in it, and how two sets of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors in nested tuples, lists, mappings and dataclasses; opaque objects are skipped."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name, None))


def shapes(outputs: list[Tensor]) -> list[tuple[int, ...]]:
    """The shape of every output."""
    return [tuple(t.shape) for t in outputs]


def finite(outputs: list[Tensor]) -> bool:
    """Whether every floating-point output is finite; minus infinity is taken for a mask."""
    return all(
        bool((torch.isfinite(t) | (t == float("-inf"))).all())
        for t in outputs
        if t.is_floating_point() or t.is_complex()
    )


def difference(reference: list[Tensor], candidate: list[Tensor]) -> float:
    """The largest difference relative to the largest value of its tensor; infinite if unlike."""
    if shapes(reference) != shapes(candidate):
        return float("inf")
    worst = 0.0
    for a, b in zip(reference, candidate, strict=True):
        if a.numel() == 0:
            continue
        if not (a.is_floating_point() or a.is_complex()):
            worst = max(worst, 0.0 if torch.equal(a, b) else float("inf"))
            continue
        there = torch.isfinite(a)
        if not torch.equal(there, torch.isfinite(b)):
            return float("inf")
        if bool(there.any()):
            wide = torch.complex128 if a.is_complex() else torch.float64
            x, y = a[there].to(wide), b[there].to(wide)
            worst = max(worst, float((x - y).abs().max() / x.abs().max().clamp_min(1e-12)))
    return worst
