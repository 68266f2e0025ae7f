"""Inputs made up where there is no data: noise with the spectrum of natural images and series."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from secateur.core.batches import Call, map_tensors, tensors_in
from secateur.core.errors import InputError

_EXPONENT = 1.5
_COLOURS = 0.9
_BATCH = 32
_MOST = 2**27  # elements in all


def synthetic(call: Call, samples: int = 256, seed: int = 0) -> tuple[list[Call] | None, str]:
    """Calls of the example's form filled with noise, and what they are, or why there are none.

    Images (`[n, channels, height, width]`, channels last where only the last dimension can be
    colours), volumes and series (`[n, time, features]` or `[n, channels, time]`; the longer one is
    time) get noise whose amplitude falls with the 1.5th power of the frequency, over all dimensions
    but channels; rows of features (`[n, features]`) get white noise. Three channels of images are
    colours, which go together (a correlation of 0.9). Each channel has the mean and
    standard deviation that it has in the example, or 0 and 1 where the example is constant. Further
    inputs that are integers, or have two values at most (lengths, masks), are the example's,
    repeated. Fewer samples are made where they would take more than 2**27 numbers.

    Where the first input holds integers (tokens) there is no noise: the first item is None.

    Example:
        >>> batches, words = synthetic(Call((torch.zeros(1, 3, 8, 8),), {}), samples=40)
        >>> [tuple(batch.args[0].shape) for batch in batches], words
        ([(32, 3, 8, 8), (8, 3, 8, 8)], '40 samples of 1/f^1.5 noise')

    Raises:
        InputError: `samples` is not at least 1.
    """
    if samples < 1:
        raise InputError(f"samples={samples!r}: expected an integer of at least 1")
    tensors = list(tensors_in((call.args, dict(call.kwargs))))
    first = tensors[0] if tensors else torch.zeros(())
    if not first.is_floating_point() or first.dim() < 2:
        what = "one number each" if first.is_floating_point() else "integers"
        return None, f"inputs are {what}, and noise of that kind says nothing about real ones"
    if len({t.shape[0] for t in tensors if t.dim()}) > 1:
        return (
            None,
            "inputs disagree on the number of samples, so no batch of another size can be made",
        )
    samples = max(1, min(samples, _MOST // prod(first.shape[1:])))
    generator = torch.Generator().manual_seed(seed)
    made = [
        _batch(call, first, min(_BATCH, samples - start), generator)
        for start in range(0, samples, _BATCH)
    ]
    colour = f"1/f^{_EXPONENT}" if first.dim() > 2 else "white"
    return made, f"{samples} samples of {colour} noise"


def _batch(call: Call, first: Tensor, count: int, generator: torch.Generator) -> Call:
    def fill(tensor: Tensor) -> Tensor:
        if not tensor.dim():
            return tensor
        if tensor is first or (tensor.is_floating_point() and tensor.dim() > 1 and _varied(tensor)):
            return _noise(tensor, count, generator)
        return tensor[torch.arange(count, device=tensor.device) % len(tensor)]

    args, kwargs = map_tensors((call.args, dict(call.kwargs)), fill)
    return Call(args, kwargs)


def _varied(tensor: Tensor) -> bool:
    return len(tensor.unique()) > 2


def _noise(like: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Noise of the shape and with the statistics of an example."""
    dim = _channels(like)
    example = like.detach().float().cpu().movedim(dim, 1)
    shape = (count, *example.shape[1:])
    noise = torch.randn(shape, generator=generator)
    space = shape[2:]
    if space:
        noise = _coloured(noise, space)
    if len(space) > 1 and noise.shape[1] == 3:
        together = _coloured(torch.randn((count, 1, *space), generator=generator), space)
        noise = _COLOURS**0.5 * together + (1 - _COLOURS) ** 0.5 * noise
    mean, deviation = _statistics(example)
    wide = [1, -1] + [1] * len(space)
    made = noise * deviation.view(wide) + mean.view(wide)
    return made.movedim(1, dim).contiguous().to(like)


def _coloured(noise: Tensor, space: tuple[int, ...]) -> Tensor:
    """White noise with a falling spectrum, of variance 1."""
    dims = tuple(range(2, 2 + len(space)))
    squares: Any = 0.0
    for position, n in enumerate(space):
        shape = [1] * len(space)
        shape[position] = n
        squares = squares + torch.fft.fftfreq(n).view(shape).square()
    frequency = squares.sqrt()
    lowest = 1 / max(space)
    amplitude = frequency.clamp(min=lowest) ** -_EXPONENT
    amplitude = amplitude / amplitude.square().mean().sqrt()
    spectrum = torch.fft.fftn(noise, dim=dims) * amplitude
    return torch.fft.ifftn(spectrum, dim=dims).real


def _channels(tensor: Tensor) -> int:
    """The dimension of the channels."""
    shape = tensor.shape
    if tensor.dim() == 3:
        return 2 if shape[1] >= shape[2] else 1
    last = tensor.dim() > 3 and shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4)
    return tensor.dim() - 1 if last else 1


def _statistics(example: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of an example, `[channels]`; 0 and 1 where it has none."""
    rows = example.transpose(0, 1).flatten(1)
    if rows.shape[1] < 2 or not bool(torch.isfinite(rows).all()):
        return torch.zeros(len(rows)), torch.ones(len(rows))
    mean, deviation = rows.mean(1), rows.std(1)
    flat = deviation <= 1e-6 * mean.abs().clamp(min=1e-6)
    return mean.masked_fill(flat, 0), deviation.masked_fill(flat, 1)


__all__ = ["synthetic"]
