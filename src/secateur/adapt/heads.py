"""Heads: what the network would say, read off the features at some depth."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_float
from math import exp, isfinite, nan
from typing import Any

import torch
from torch import Tensor, nn

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge strengths that are tried, in units of a standardised feature's variance."""


_PARTS = (0.01, 0.03, 0.1, 0.25, 0.5)
_GRIDS = (4, 3, 2)
_MOST = 1024  # means of a grid
_FEW = 128  # classes that are looked at one by one


class Head(nn.Module):
    """Means and sizes over positions (`pool`), and a linear layer.

    Of maps `[n, c, h, w]` positions are the last dimensions, of tokens `[n, t, c]` the second.
    fine: of maps it sees the means of a few parts of the map instead (`look`).
    """

    def __init__(self, linear: nn.Linear, fine: bool = False) -> None:
        super().__init__()
        self.linear, self.fine = linear, fine

    def read(self, x: Tensor) -> Tensor:
        """What the head looks at, `[n, k]`."""
        return look(x) if self.fine else pool(x)

    def of(self, features: Tensor) -> Tensor:
        """Logits from that."""
        return self.linear(features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[n, classes]`."""
        return self.of(self.read(x))


def pool(x: Tensor) -> Tensor:
    """A vector for each sample: the mean of every channel, and the root mean square.

    Not the standard deviation, which takes PyTorch 30 times as long on a map.

    Example:
        >>> pool(torch.zeros(2, 8, 4, 4)).shape, pool(torch.zeros(2, 5, 8)).shape
        (torch.Size([2, 16]), torch.Size([2, 16]))
        >>> pool(torch.zeros(2, 8)).shape
        torch.Size([2, 8])
    """
    if x.dim() <= 2:
        return x
    flat, dim = (x, 1) if x.dim() == 3 else (x.flatten(2), 2)
    size = torch.linalg.vector_norm(flat, dim=dim) / flat.shape[dim] ** 0.5
    return torch.cat([flat.mean(dim), size], 1)


def look(x: Tensor) -> Tensor:
    """Of maps the means of up to 4 x 4 parts; of all else what `pool` gives.

    Example:
        >>> look(torch.zeros(2, 8, 6, 6)).shape, look(torch.zeros(2, 8)).shape
        (torch.Size([2, 128]), torch.Size([2, 8]))
    """
    if x.dim() == 4:
        for grid in _GRIDS:
            if x.shape[1] * grid**2 <= _MOST and min(x.shape[2:]) > grid:
                return nn.functional.adaptive_avg_pool2d(x, grid).flatten(1)
    return pool(x)


def fit_finest(coarse: Tensor, fine: Tensor, wanted: Tensor) -> Head:
    """The head on what `pool` gives, or on what `look` gives: what is nearer on held-out samples.

    wanted: logits. Every fifth sample is held out.
    """
    best, finer = _best(coarse, wanted), False
    if fine.shape != coarse.shape and (other := _best(fine, wanted)) < best:
        best, finer = other, True
    return Head(_fitted(fine if finer else coarse, wanted, best[1]), finer)


def fit_head(features: Tensor, wanted: Tensor) -> Head:
    """The linear head whose outputs are nearest to wanted logits, by ridge regression.

    features: pooled, `[n, k]`. wanted: `[n, classes]`. Every fifth sample chooses the strength.
    """
    return Head(_fitted(features, wanted, _best(features, wanted)[1]))


def _fitted(features: Tensor, wanted: Tensor, strength: float) -> nn.Linear:
    ((weight, bias),) = _ridge(features.double(), wanted.double(), (strength,))
    linear = blank(features.shape[1], wanted.shape[1], like=features)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    return linear.requires_grad_(False)


def _best(features: Tensor, wanted: Tensor) -> tuple[float, float]:
    """The least error on every fifth sample, and the ridge strength that it was reached with."""
    x, y = features.double(), wanted.double()
    held = torch.arange(len(x)) % 5 == 4
    if not bool(held.any()):
        held[-1:] = True
    found = _ridge(x[~held], y[~held], _STRENGTHS)
    errors = [_error(x[held], y[held], weight, bias) for weight, bias in found]
    return min(zip(errors, _STRENGTHS, strict=True))


def blank(inputs: int, outputs: int, like: Tensor, bias: bool = True) -> nn.Linear:
    """A linear layer that nothing is in yet; no random number is drawn."""
    made: Any = nn.utils.skip_init
    return made(nn.Linear, inputs, outputs, bias=bias, device=like.device, dtype=like.dtype)


def _ridge(x: Tensor, y: Tensor, strengths: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """Weight `[classes, k]` and bias for each strength, on standardised features."""
    mean, deviation = x.mean(0), x.std(0, correction=0).clamp_min(1e-8)
    z, target = (x - mean) / deviation, y.mean(0)
    few = len(z) < z.shape[1]  # fewer samples than features: their products are fewer
    gram = z @ z.mT if few else z.mT @ z
    right, one = (y - target) if few else z.mT @ (y - target), torch.ones(len(gram)).to(x)
    found = []
    for strength in strengths:
        solved = torch.linalg.solve(gram + torch.diag(strength * len(z) * one), right)
        weight = (z.mT @ solved if few else solved).mT / deviation
        found.append((weight, target - weight @ mean))
    return found


def _error(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> float:
    return float((x @ weight.mT + bias - y).square().mean())


def confidence(logits: Tensor) -> Tensor:
    """How sure a head is, from 0 to 1: the softmax's largest value minus the one after it.

    Example:
        >>> confidence(torch.tensor([[0.0, 0.0], [0.0, 50.0]]))
        tensor([0., 1.])
    """
    top = logits.float().softmax(-1).topk(min(2, logits.shape[-1])).values
    return top[:, 0] - top[:, 1] if top.shape[1] == 2 else torch.ones_like(top[:, 0])


def confidence_of_one(logits: Tensor) -> float:
    """The same of a single sample `[1, classes]`, sooner: operations on small tensors take long.

    Example:
        >>> confidence_of_one(torch.tensor([[0.0, 50.0]]))
        1.0
    """
    if not 1 < logits.shape[-1] <= _FEW:
        return float(confidence(logits))
    values = sorted(logits[0].tolist())
    top, total = values[-1], 0.0
    if not isfinite(sum(values)):
        return nan
    for value in values:
        total += exp(value - top)
    return c_float((1.0 - exp(values[-2] - top)) / total).value  # as precise as that of many


def safer(row: Tensor) -> Tensor:
    """Thresholds between those given and certainty, safest first, `[steps, heads]`.

    Thresholds that were never wrong on a few samples are wrong on others.

    Example:
        >>> safer(torch.tensor([0.5, float("inf")]))[-1]
        tensor([0.7500,    inf])
    """
    return torch.stack([1 - (1 - row) * part for part in _PARTS])


def thresholds(sure: Sequence[Tensor], right: Sequence[Tensor], risks: Sequence[float]) -> Tensor:
    """For every risk and head, how sure it must be, `[risks, heads]`; never rising with the risk.

    sure, right: for every head `[n]`, its confidences and whether it agrees. A head's threshold is
    the lowest at which those above it are wrong no more often than the risk; infinite for none.
    """
    rows = [[_threshold(s, r, risk) for s, r in zip(sure, right, strict=True)] for risk in risks]
    return torch.tensor(rows).cummin(0).values


def _threshold(sure: Tensor, right: Tensor, risk: float) -> float:
    order = sure.argsort(descending=True, stable=True)
    ranked = sure[order]
    wrong = (~right[order]).double().cumsum(0) / torch.arange(1, len(sure) + 1)
    last = torch.ones(len(sure), dtype=torch.bool)
    last[:-1] = ranked[1:] < ranked[:-1]  # equal confidences leave together
    fine = torch.nonzero((wrong <= risk) & last).reshape(-1)
    return float(ranked[fine[-1]]) if len(fine) else float("inf")
