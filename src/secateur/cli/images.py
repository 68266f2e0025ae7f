"""Samples from a folder of images, one subfolder for each class; decoded when asked for."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.cli.wanted import Read, Wanted
from secateur.core.errors import FileError, InputError

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))


@dataclass(frozen=True)
class ImageSource:
    """Samples of image files, as a source for `cli.data`. labels: a class for each file."""

    wanted: Wanted
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    @property
    def labelled(self) -> bool:
        """Whether the folder has classes."""
        return bool(self.classes)

    @property
    def samples(self) -> int:
        """How many images there are."""
        return len(self.files)

    def opened(self) -> Read:
        """A function from indices to a batch."""
        name = next(iter(self.wanted.tensors))
        channels, height, width = self.wanted.first.shape[1:]

        def read(indices: np.ndarray) -> Any:
            pixels = [decode(self.files[k], channels, height, width) for k in indices]
            images = self.wanted.fit(name, torch.stack(pixels), "the folder of images")
            labels = torch.tensor([self.labels[k] for k in indices]) if self.classes else None
            return self.wanted.batch([images], labels)

        return read


def image_source(folder: Path, wanted: Wanted) -> ImageSource:
    """The images of a folder, sorted by path; classes are its subfolders, sorted by name.

    A folder with images directly in it, or in one subfolder only, has no labels. Files and folders
    whose names begin with a dot are passed over, and so is what is not an image.

    Raises:
        InputError: Pillow is not installed, the model does not take one image, there are no images,
            images are both in the folder and in subfolders, or the subfolders are splits.
    """
    _pillow()
    _check_wanted(wanted)
    direct = sorted(e.path for e in os.scandir(folder) if e.is_file() and _is_image(e.name))
    inside = {
        entry.name: files
        for entry in sorted(os.scandir(folder), key=lambda e: e.name)
        if entry.is_dir() and not entry.name.startswith(".") and (files := _below(entry.path))
    }
    if direct and inside:
        name = next(iter(inside))
        raise InputError(
            f"{folder} has images both directly in it and in subfolders such as {name}",
            hint="for labels, give each class its own subfolder; without, keep them flat",
        )
    if len(inside) > 1 and {name.lower() for name in inside} <= _SPLITS:
        raise InputError(
            f"the subfolders of {folder} are splits, not classes: {', '.join(inside)}",
            hint=f"give one of them: --data {folder / next(iter(inside))}",
        )
    files = direct + [file for found in inside.values() for file in found]
    if not files:
        raise InputError(
            f"there are no images in {folder}",
            hint=f"images end in {', '.join(sorted(SUFFIXES))}",
        )
    if len(inside) < 2:
        return ImageSource(wanted, tuple(files), (), ())
    labels = tuple(k for k, found in enumerate(inside.values()) for _ in found)
    return ImageSource(wanted, tuple(files), labels, tuple(inside))


def decode(path: str, channels: int, height: int, width: int) -> Tensor:
    """One image as uint8 `[channels, height, width]`: cropped around its centre, then resized.

    The crop is the largest one with the wanted proportions; resizing is bilinear with antialiasing.
    An image of the wanted size keeps its pixels.

    Raises:
        FileError: The image is damaged, too large to be one, or has more than 8 bits a channel.
    """
    image_module, operations = _pillow()
    mode = _MODES[channels]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            warnings.filterwarnings("ignore", message="Palette images with Transparency")
            with image_module.open(path) as image:
                deep = image.mode[0] in "IF"
                image = image.convert("F" if deep else mode)
        if (image.width, image.height) != (width, height):
            bilinear = image_module.Resampling.BILINEAR
            image = operations.fit(image, (width, height), method=bilinear)
    except Exception as error:  # decoders raise whatever a damaged file makes them raise
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileError(
            f"the image {path} cannot be read: {detail}", hint="remove it, or get it again"
        ) from error
    if deep:
        raise FileError(
            f"the image {path} has more than 8 bits a channel",
            hint="convert it, or give the images as an .npz array of numbers",
        )
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)


def _check_wanted(wanted: Wanted) -> None:
    shape = tuple(wanted.first.shape)
    if len(wanted.tensors) > 1 or len(shape) != 4 or shape[1] not in _MODES:
        raise InputError(
            f"a folder of images is for a model of one input [n, 1 or 3 or 4, height, width], and "
            f"there are {len(wanted.tensors)} inputs, the first of the shape {shape}",
            hint="write --input 1,3,224,224, or give the data as an .npz file",
        )


def _below(folder: str) -> list[str]:
    """All images in a folder and the folders below, sorted."""
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [str(Path(place, name)) for name in files if _is_image(name)]
    return sorted(found)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise InputError(
            "reading images needs Pillow, which is not installed",
            hint="pip install 'secateur[images]'",
        ) from None
    return Image, ImageOps


__all__ = ["SUFFIXES", "ImageSource", "decode", "image_source"]
