"""What `--data` means: a folder of images, a file of arrays, or `path/file.py:loader`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from secateur.cli import arrays, images
from secateur.cli.arrays import array_source
from secateur.cli.images import image_source
from secateur.cli.loader import own_batches
from secateur.cli.wanted import Read, Wanted
from secateur.core.errors import FileError, InputError, RecipeError

FORMS = "a folder of images, an .npz, .npy or .safetensors file, or path/file.py:loader"


class Source(Protocol):
    """Samples by index."""

    @property
    def samples(self) -> int:
        """How many there are."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether they have labels."""
        ...

    def opened(self) -> Read:
        """A function from indices to a batch."""
        ...


class Batches(Protocol):
    """What can be iterated again and again, and gives the same batches each time."""

    def __iter__(self) -> Iterator[Any]:
        """From the first batch on."""
        ...

    def split(self, samples: int) -> tuple[Batches, Batches]:
        """Two disjoint parts, the first of at most about `samples` samples."""
        ...


@dataclass(frozen=True)
class Loaded:
    """Data for a model, read batch by batch; one batch is in memory at a time.

    batches: `x` or `(x, y)`, with several inputs `(a, b, y)`, with named ones a dict with "labels".
    labelled: whether there are labels. samples: how many, or None where only reading everything
    would tell (a loader of no known length).
    """

    batches: Batches
    labelled: bool
    samples: int | None

    def split(self, calibration: int = 512) -> tuple[Loaded, Loaded]:
        """Disjoint parts for calibration and for evaluation, the same ones each time.

        calibration: samples of the first part, at most half of all. A loader's batches stay whole:
        every other one goes to the first part until it has as many.

        Raises:
            InputError: There are not two samples, or a loader has not two batches.
        """
        if calibration < 1:
            raise RecipeError(f"{calibration} samples for calibration", hint="take at least 1")
        first, second = self.batches.split(calibration)
        return (
            replace(self, batches=first, samples=_samples_of(first)),
            replace(self, batches=second, samples=_samples_of(second)),
        )


def load(
    data: str,
    inputs: Any,
    *,
    batch: int = 64,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> Loaded:
    """The data that `--data` names, made to fit what the model is called with.

    Samples of folders and arrays come in an order drawn once with `seed`, so that the first n are a
    fair sample; loaders keep their own order and run under the seed.

    Args:
        data: A folder of images (a subfolder for each class, or flat without labels), a file of
            arrays, or `path/file.py:loader`: batches, or a function that gives them.
        inputs: The example call, from `cli.inputs.example`.
        batch: Samples in a batch, for folders and arrays.
        mean: Subtracted from the first input, for each channel; pixels are in [0, 1] before.
        std: Divides what is left.
        seed: Of the order.

    Raises:
        FileError: A file is missing, damaged, or would run code when read.
        InputError: The data does not fit the model's input, or makes no sense.
        RecipeError: An option makes no sense.
    """
    if batch < 1:
        raise RecipeError(f"batches of {batch} samples", hint="take at least 1")
    wanted = Wanted.of(inputs, mean, std)
    path = Path(data)
    if path.is_dir():
        return _indexed(image_source(path, wanted), batch, seed)
    if path.suffix.lower() in arrays.SUFFIXES:
        return _indexed(array_source(path, wanted), batch, seed)
    where, colon, name = data.rpartition(":")
    if colon and where.endswith(".py") and name:
        if mean or std:
            raise RecipeError(
                "--mean and --std are for images and arrays", hint="normalise in the loader"
            )
        return Loaded(*own_batches(data, Path(where), name, wanted, seed))
    if not path.exists():
        raise FileError(f"there is no file or folder {data}", hint=f"data is {FORMS}")
    alone = path.suffix.lower() in images.SUFFIXES
    raise InputError(
        f"{data} is not data", hint="give the folder that it is in" if alone else f"data is {FORMS}"
    )


def numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas, as `--mean` and `--std` take them.

    Example:
        >>> numbers("0.485, 0.456, 0.406")
        (0.485, 0.456, 0.406)

    Raises:
        InputError: One of them is not a finite number.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (float("nan"),)
    if not all(np.isfinite(found)):
        raise InputError(f"{text!r} is not numbers", hint="write 0.485,0.456,0.406")
    return found


@dataclass(frozen=True)
class _Indexed:
    """Batches of a source, in a fixed order of its samples."""

    source: Source
    order: np.ndarray
    size: int

    def __iter__(self) -> Iterator[Any]:
        read = self.source.opened()
        for start in range(0, len(self.order), self.size):
            yield read(self.order[start : start + self.size])

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def split(self, samples: int) -> tuple[Batches, Batches]:
        if len(self.order) < 2:
            raise InputError(
                "there is one sample, and calibration and evaluation need different ones",
                hint="give more data",
            )
        middle = min(samples, len(self.order) // 2)
        return (
            replace(self, order=self.order[:middle]),
            replace(self, order=self.order[middle:]),
        )


def _indexed(source: Source, batch: int, seed: int) -> Loaded:
    order = torch.randperm(source.samples, generator=torch.Generator().manual_seed(seed))
    return Loaded(_Indexed(source, order.numpy(), batch), source.labelled, source.samples)


def _samples_of(batches: Batches) -> int | None:
    return len(batches.order) if isinstance(batches, _Indexed) else None


__all__ = ["FORMS", "Batches", "Loaded", "Source", "load", "numbers"]
