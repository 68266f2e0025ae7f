"""Moments of the columns of what weights read: of every input channel at every kernel position."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.weight_site import WeightSite
from secateur.measure.linear import Spec, Use
from secateur.measure.stats_inputs import InputFacts, Moments, check_finite, same_form, watch

_PIECE = 2**22  # elements of im2col rows at a time


@dataclass(frozen=True)
class ColumnFacts:
    """The columns of a weight `[out, k]`: what its single entries are multiplied with.

    parts: one, but for packed projections, whose rows may read different inputs. Their vectors are
    `[groups, k]`; padding counts, as what the weight reads.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
        >>> found = column_facts(nn.Linear(2, 1), [Call((x,), {})])["weight"]
        >>> found.squared(WeightSite("weight", (1, 2))).tolist()
        [[10.0, 0.0]]
    """

    weight: str
    parts: tuple[InputFacts, ...]

    def squared(self, site: WeightSite) -> Tensor:
        """Sum of squares, `[out, k]`, or `[1, k]` where all rows read the same."""
        return self._rows(site, [part.squared for part in self.parts])

    def mean(self, site: WeightSite) -> Tensor:
        """Mean, `[out, k]` or `[1, k]`."""
        return self._rows(site, [part.mean for part in self.parts])

    def variance(self, site: WeightSite) -> Tensor:
        """Mean squared deviation, `[out, k]` or `[1, k]`."""
        return self._rows(site, [part.variance for part in self.parts])

    def _rows(self, site: WeightSite, values: list[Tensor]) -> Tensor:
        first = self.parts[0].spec
        if len(values) == 1 and first.rows is None and len(values[0]) == 1:
            return values[0]
        out = site.n // values[0].shape[1]
        rows = values[0].new_zeros(out, values[0].shape[1])
        for part, value in zip(self.parts, values, strict=True):
            if part.spec.rows is None:
                rows.copy_(value.repeat_interleave(out // len(value), 0))
            else:
                rows[slice(*part.spec.rows)] = value
        return rows


def column_facts(
    model: nn.Module, calls: Iterable[Call], wanted: Collection[str] | None = None
) -> dict[str, ColumnFacts]:
    """Moments of the columns of every weight that a linear operation used, in one exact pass.

    The model runs in eval mode and is left as it was. Memory: two float64 vectors a weight, and
    pieces of im2col rows. Rows that several uses share are added up.

    wanted: names of weights; by default all.

    Raises:
        InputError: An input is not finite; the message names the weight that reads it.
    """
    found: dict[str, dict[tuple[int, int] | None, tuple[Spec, Moments]]] = {}

    def see(use: Use) -> None:
        parts = found.setdefault(use.spec.weight, {})
        spec, moments = parts.setdefault(use.spec.rows, (use.spec, Moments()))
        if not same_form(spec, use.spec):
            return
        width = use.x.shape[0 if use.left else 1 if spec.kernel else -1] * spec.taps
        step = max(1, _PIECE // max(1, width))
        for piece in torch.arange(use.count, device=use.x.device).split(step):
            moments.add(use.inputs(piece).transpose(0, 1)[..., None])

    watch(model, calls, see, wanted)
    for name, parts in found.items():
        for _, moments in parts.values():
            check_finite(moments.mean, name)
    return {
        name: ColumnFacts(
            name,
            tuple(
                InputFacts(name, spec, m.count, m.mean, m.variance) for spec, m in parts.values()
            ),
        )
        for name, parts in found.items()
    }


__all__ = ["ColumnFacts", "column_facts"]
