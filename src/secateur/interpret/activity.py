"""What excites each unit: its values by sample, and which units are nearly the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.core.batches import Call, tensors_in
from secateur.core.panel import Picture
from secateur.interpret.ablate import Places, Reader
from secateur.measure.linear import Use
from secateur.measure.stats_inputs import channels, watch

_ROWS = 4096  # by which units are compared
_PIXELS = 32


@dataclass(frozen=True)
class Activity:
    """One site over the data. peak: the largest value of every unit by sample, `[samples, n]`.

    rows: values at some places, to compare units by, `[rows, n]`. Of units of several channels
    (heads) a value is their norm.
    """

    peak: Tensor
    rows: Tensor

    def excited(self, unit: int, most: int) -> tuple[int, ...]:
        """The numbers of the samples that excite a unit most, the strongest first."""
        return tuple(self.peak[:, unit].topk(min(most, len(self.peak))).indices.tolist())

    def twins(self, alike: float) -> list[tuple[int, int, float]]:
        """Pairs of units whose values correlate at least so much, and how much."""
        centred = (self.rows - self.rows.mean(0)).double()
        length = centred.norm(dim=0)
        alive = length > 1e-9 * length.max().clamp(min=1e-300)
        unit = centred / torch.where(alive, length, torch.ones_like(length))
        close = (unit.T @ unit).triu(1)
        pairs = (close >= alike).nonzero().tolist()
        return [(i, k, float(close[i, k])) for i, k in pairs if bool(alive[i] & alive[k])]


def activities(model: nn.Module, places: Places, calls: Sequence[Call]) -> dict[str, Activity]:
    """What the first weight that reads each site sees, by site."""
    readers: dict[str, Reader] = {}
    for reader in places.readers.values():
        if reader.mean.numel() == reader.layout.size:  # not grouped
            for site in reader.layout.names:
                readers.setdefault(site, reader)
    peaks: dict[str, list[Tensor]] = {}
    rows: dict[str, list[Tensor]] = {}
    for call in calls:
        seen: dict[str, Tensor] = {}
        samples = _samples(call)

        def see(use: Use, seen: dict[str, Tensor] = seen, samples: int = samples) -> None:
            x = channels(use)[:, 0]  # [rows, k, positions]
            old = seen.get(use.spec.weight)
            if old is not None and len(x) == samples and old.shape[1] == x.shape[1]:
                x = torch.cat([old, x], 2)  # step by step: one more position
            seen[use.spec.weight] = x

        watch(model, [call], see, {reader.weight for reader in readers.values()})
        for site in places.sites:
            reader = readers.get(site.name)
            if reader is None or reader.weight not in seen:
                continue
            values = _units(seen[reader.weight], reader, site.name, site.n)  # [rows, n, positions]
            if not samples or len(values) % samples:
                continue
            by_sample = values.reshape(samples, -1, *values.shape[1:])
            peaks.setdefault(site.name, []).append(by_sample.amax((1, 3)).cpu())
            flat = values.transpose(1, 2).reshape(-1, site.n)
            step = max(1, len(flat) * len(calls) // _ROWS)
            rows.setdefault(site.name, []).append(flat[::step].cpu())
    return {name: Activity(torch.cat(p), torch.cat(rows[name])) for name, p in peaks.items()}


def pictures(call_inputs: Sequence[Call], wanted: Sequence[tuple[str, int]]) -> tuple[Picture, ...]:
    """Images of samples by number, with captions; none where inputs are no images."""
    images = [_image(call) for call in call_inputs]
    if not images or any(image is None for image in images):
        return ()
    every = torch.cat([image for image in images if image is not None])
    low, high = float(every.min()), float(every.max())
    scale = 255 / (high - low) if high > low else 0.0
    found = []
    for caption, number in wanted:
        image = every[number]
        step = max(1, -(-max(image.shape[1:]) // _PIXELS))
        small = ((image[:, ::step, ::step] - low) * scale).round().to(torch.uint8)
        found.append(Picture.of(caption, _pixels(small)))
    return tuple(found)


def _units(x: Tensor, reader: Reader, site: str, n: int) -> Tensor:
    """Channels `[rows, k, positions]` to units `[rows, n, positions]`."""
    where = torch.from_numpy(reader.layout.coordinate(site)).to(x.device)
    owned = where >= 0
    if int(owned.sum()) == n and bool((where[owned] == torch.arange(n, device=x.device)).all()):
        return x[:, owned]
    total = x.new_zeros(x.shape[0], n, x.shape[2])
    return total.index_add_(1, where[owned], x[:, owned].square()).sqrt()


def _samples(call: Call) -> int:
    sizes = {t.shape[0] for t in tensors_in((call.args, dict(call.kwargs))) if t.dim()}
    return sizes.pop() if len(sizes) == 1 else 0


def _image(call: Call) -> Tensor | None:
    found: list[Any] = list(tensors_in((call.args, dict(call.kwargs))))
    fits = len(found) == 1 and found[0].dim() == 4 and found[0].shape[1] in (1, 3)
    return found[0].detach().float().cpu() if fits and found[0].is_floating_point() else None


def _pixels(image: Tensor) -> npt.NDArray[np.uint8]:
    return image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()


__all__ = ["Activity", "activities", "pictures"]
