"""OWL: layers with more outliers keep more."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

OUTLIER = 5.0
SPREAD = 0.08


def owl(
    scores: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    sparsity: float,
    *,
    outlier: float = OUTLIER,
    spread: float = SPREAD,
) -> dict[str, float]:
    """The part of each weight that stays, by its share of scores above `outlier` times the mean.

    scores: Wanda's, by name. sizes: entries by name. The shares of outliers are scaled to a range
    of densities of width `2 * spread`, and moved so that over all entries `sparsity` go; what
    exceeds 1 (or falls below 0) stays there, and the others make up for it. The paper takes the
    scores of a whole block together, this takes every weight by itself.

    Paper: Yin et al., Outlier Weighed Layerwise Sparsity (OWL), ICML 2024.

    Example:
        >>> import torch
        >>> even, odd = torch.ones(100), torch.cat([torch.full((5,), 100.0), torch.ones(95)])
        >>> found = owl({"even": even, "odd": odd}, {"even": 100, "odd": 100}, 0.5)
        >>> {name: round(density, 2) for name, density in found.items()}
        {'even': 0.42, 'odd': 0.58}
    """
    shares = {}
    for name in sizes:
        values = scores[name]
        shares[name] = float((values > outlier * values.mean()).double().mean())
    low, high = min(shares.values()), max(shares.values())
    width = 2 * spread / (high - low) if high > low else 0.0
    raw = {name: (share - low) * width for name, share in shares.items()}
    total = (1 - sparsity) * sum(sizes.values())
    least, most = -2.0, 2.0
    for _ in range(100):  # the mean density grows with the shift
        shift = (least + most) / 2
        have = sum(_clipped(raw[name] + shift) * size for name, size in sizes.items())
        least, most = (shift, most) if have < total else (least, shift)
    return {name: _clipped(value + least) for name, value in raw.items()}


def _clipped(density: float) -> float:
    return min(1.0, max(0.0, density))
