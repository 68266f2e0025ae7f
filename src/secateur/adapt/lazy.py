"""A network that does not read the weights of activations near zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur.core.page import Line, Page, Table, plain


@dataclass(frozen=True)
class Input:
    """What one input of a layer skips: weights behind it, threshold, share on held-out data."""

    name: str
    weights: int
    threshold: float
    share: float


class Lazy(nn.Module):
    """A network that skips activations near zero, made by `sc.adapt.activations`.

    inputs: what each layer skips. distance: how far held-out outputs are from those of the whole
    network, as a part of their variance. notes: which layers were left out, and why.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Input, ...]) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs
        self.distance = float("nan")
        self.notes: tuple[str, ...] = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output."""
        return self.model(*args, **kwargs)

    @property
    def skipped(self) -> float:
        """The mean share of weights that a single row does not read, in layers that skip."""
        total = sum(i.weights for i in self.inputs)
        return sum(i.share * i.weights for i in self.inputs) / max(total, 1)

    @property
    def page(self) -> Page:
        """What is printed."""
        total = sum(p.numel() for p in self.model.parameters())
        inside = sum(i.weights for i in self.inputs)
        rows = tuple(
            (i.name, f"{i.weights:,}", f"{i.threshold:.4g}", f"{i.share:.1%}") for i in self.inputs
        )
        return (
            Line(f"Lazy {type(self.model).__name__}", title=True),
            Table(("input of", "weights", "skips up to", "share"), rows),
            Line(
                f"one row at a time reads {1 - self.skipped:.1%} of the weights of these layers, "
                f"which hold {inside / max(total, 1):.0%} of all parameters"
            ),
            Line(f"held-out outputs change by {self.distance:.3g} of their variance"),
            Line("several rows at a time read all weights: nothing is gained there", "quiet"),
            *(Line(f"note: {note}", "warn") for note in self.notes),
        )

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)
