"""Samples from `.npz`, `.npy` and `.safetensors` files, a few at a time; nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from secateur.cli.wanted import Read, Wanted, check_finite
from secateur.core.errors import FileError, InputError, SecateurError
from secateur.core.registry import did_you_mean
from secateur.ship.weights import open_tensors

SUFFIXES = (".npz", ".npy", ".safetensors")
INPUT_KEYS = ("x", "inputs", "input", "images", "image", "data", "features", "samples")
LABEL_KEYS = ("y", "labels", "label", "targets", "target", "classes", "class")
_MOST_UNPACKED = 4 * 2**30
_DAMAGED = "the file was changed, or not written to its end; get it again"
_HEADERS: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class Array:
    """One array of a file, of which nothing is read before it is asked for.

    kind: NumPy's letter: b, i, u and f are numbers. load: gives something with `[indices]`.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    load: Callable[[], Any]


@dataclass(frozen=True)
class ArraySource:
    """Samples of arrays, as a source for `cli.data`."""

    path: str
    wanted: Wanted
    inputs: tuple[Array, ...]
    labels: Array | None
    samples: int

    @property
    def labelled(self) -> bool:
        """Whether there are labels."""
        return self.labels is not None

    def opened(self) -> Read:
        """A function from indices to a batch; the files are open for as long as it lives."""
        arrays = [(array, array.load()) for array in self.inputs]
        labels = None if self.labels is None else self.labels.load()

        def read(indices: np.ndarray) -> Any:
            parts = [
                self.wanted.fit(name, _rows(data, indices), f"{array.name} in {self.path}")
                for name, (array, data) in zip(self.wanted.tensors, arrays, strict=True)
            ]
            return self.wanted.batch(
                parts, None if labels is None else self._labels(labels, indices)
            )

        return read

    def _labels(self, data: Any, indices: np.ndarray) -> Tensor:
        rows = _rows(data, indices)
        check_finite(rows, f"{self.labels.name if self.labels else ''} in {self.path}")
        if rows.is_floating_point():
            return rows.float()
        return rows.long().squeeze(1) if rows.dim() == 2 and rows.shape[1] == 1 else rows.long()


def array_source(path: Path, wanted: Wanted) -> ArraySource:
    """Which arrays of a file are the inputs and which the labels.

    With one input it is the array with a usual name (x, inputs, images, data, ...), or the only one
    that is not labels (y, labels, target, ...); with named inputs the arrays of these names; with
    several without names all arrays but the labels, in the order of the file.

    Raises:
        FileError: The file is missing, damaged, or holds objects instead of numbers.
        InputError: The arrays do not say which is which, have unequal lengths, no samples, or
            samples of another shape than the input.
    """
    arrays = {array.name: array for array in _listed(path)}
    if not arrays:
        raise InputError(
            f"{path} holds no array", hint="save one with np.savez(path, x=..., y=...)"
        )
    taken = set(wanted.tensors) if wanted.named else set()
    labels = _one_of(arrays, LABEL_KEYS, path, without=taken) if len(arrays) > 1 else None
    inputs = _inputs(arrays, labels, wanted, path)
    for array in (*inputs, *([labels] if labels else [])):
        _check_numbers(array, path)
    sizes = {array.name: array.shape[0] for array in (*inputs, *([labels] if labels else []))}
    samples = sizes[inputs[0].name]
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{size:,} in {name}" for name, size in sizes.items())
        raise InputError(
            f"the arrays of {path} have unequal lengths: {listed}",
            hint="the first dimension of each is the samples",
        )
    if samples == 0:
        raise InputError(f"{path} holds no samples", hint="give at least one")
    for name, array in zip(wanted.tensors, inputs, strict=True):
        wanted.check_row(name, array.shape[1:], f"{array.name} in {path}")
    return ArraySource(str(path), wanted, inputs, labels, samples)


def _inputs(
    arrays: dict[str, Array], labels: Array | None, wanted: Wanted, path: Path
) -> tuple[Array, ...]:
    rest = {name: array for name, array in arrays.items() if array is not labels}
    if wanted.named:
        for name in wanted.tensors:
            if name not in rest:
                hint = did_you_mean(name, rest)
                raise InputError(f"{path} has no array for the input {name}", hint=hint)
        return tuple(rest[name] for name in wanted.tensors)
    count = len(wanted.tensors)
    if count == 1:
        found = _one_of(rest, INPUT_KEYS, path)
        if found is not None:
            return (found,)
    if len(rest) != count:
        raise InputError(
            f"{path} holds {', '.join(arrays)}: which of these the model's input is, is not clear",
            hint=f"name the inputs {INPUT_KEYS[0]} and the labels {LABEL_KEYS[0]}, or name the "
            "arrays in --input, as in --input name=1,3,32,32",
        )
    return tuple(rest.values())


def _one_of(
    arrays: dict[str, Array], names: Sequence[str], path: Path, without: set[str] | None = None
) -> Array | None:
    """The array with one of some names, whatever its case."""
    found = [
        a for name, a in arrays.items() if name.lower() in names and name not in (without or ())
    ]
    if len(found) > 1:
        raise InputError(
            f"{path} holds both {found[0].name} and {found[1].name}",
            hint=f"keep one of them, named {names[0]}",
        )
    return found[0] if found else None


def _check_numbers(array: Array, path: Path) -> None:
    if array.kind == "O":
        raise FileError(
            f"{array.name} in {path} holds Python objects, and reading it could run code",
            hint="save an array of numbers; sequences of unequal lengths are padded first",
        )
    if array.kind not in "biuf":
        raise InputError(
            f"{array.name} in {path} does not hold real numbers", hint="save it as numbers"
        )
    if not array.shape:
        raise InputError(
            f"{array.name} in {path} is one number", hint="the first dimension is the samples"
        )


def _rows(data: Any, indices: np.ndarray) -> Tensor:
    """Rows of a NumPy array or a tensor, copied, in a dtype that PyTorch computes with."""
    if isinstance(data, Tensor):
        rows = data[torch.as_tensor(indices)]
        return rows
    rows = np.asarray(data[np.asarray(indices)])
    if rows.dtype.kind == "u" and rows.dtype.itemsize > 1:
        rows = rows.astype(np.int64)
    if rows.dtype.kind == "f" and rows.dtype.itemsize > 8:
        rows = rows.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("=")))


def _listed(path: Path) -> list[Array]:
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            return _in_safetensors(path)
        return _in_npz(path) if path.suffix == ".npz" else [_in_npy(path)]
    except SecateurError:
        raise
    except Exception as error:  # the readers raise whatever a damaged file makes them raise
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileError(f"{path} cannot be read: {detail}", hint=_DAMAGED) from error


def _in_safetensors(path: Path) -> list[Array]:
    def load(name: str) -> Tensor:
        with open_tensors(path) as (file, _):
            return file.get_tensor(name)

    with open_tensors(path) as (file, stored):
        return [
            Array(name, file.shape(target), _letter(file.dtype(target)), lambda t=target: load(t))
            for name, target in stored.items()
        ]


def _letter(dtype: str) -> str:
    """NumPy's letter of a safetensors dtype."""
    return {"F": "f", "B": "f", "I": "i", "U": "u", "C": "c"}[dtype[0]] if dtype != "BOOL" else "b"


def _in_npy(path: Path) -> Array:
    with path.open("rb") as file:
        return _described(file, path.stem, path.stat().st_size, path)


def _in_npz(path: Path) -> list[Array]:
    """The members of an archive: those that are stored plainly are mapped, others are unpacked."""
    found: list[Array] = []
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.filename.endswith(".npy"):
                continue
            plain = entry.compress_type == zipfile.ZIP_STORED
            name = entry.filename.removesuffix(".npy")
            with archive.open(entry) as file:
                start = _data_start(path, entry) if plain else None
                found.append(_described(file, name, entry.file_size, path, entry.filename, start))
    return found


def _data_start(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, whose lengths are its own."""
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        lengths = np.frombuffer(file.read(4), dtype="<u2")
    return entry.header_offset + 30 + int(lengths.sum())


def _described(
    file: IO[bytes], name: str, size: int, path: Path, member: str = "", start: int | None = 0
) -> Array:
    """Read the header of one array; `start` is where it begins in the file, None if packed."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise FileError(f"{name} in {path} is of an unknown format {version}", hint=_DAMAGED)
    shape, fortran, dtype = _HEADERS[version](file)
    header = file.tell()
    if dtype.hasobject:
        return Array(name, shape, "O", lambda: None)
    length = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if header + length != size:
        raise FileError(
            f"{name} in {path} is truncated: it has {size - header:,} bytes of {length:,}",
            hint=_DAMAGED,
        )
    if start is None and length > _MOST_UNPACKED:
        raise FileError(
            f"{name} in {path} unpacks to {length / 2**30:.1f} GiB",
            hint="save it with np.savez, not np.savez_compressed: it is then read piece by piece",
        )

    def load() -> Any:
        if length == 0:
            return np.zeros(shape, dtype)
        order = "F" if fortran else "C"
        if start is not None:
            return np.memmap(path, dtype, "r", start + header, shape, order)
        return _unpacked(path, member)

    return Array(name, tuple(shape), dtype.kind, load)


def _unpacked(path: Path, member: str) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # the same
        raise FileError(f"{member} in {path} cannot be read: {error}", hint=_DAMAGED) from error


__all__ = ["INPUT_KEYS", "LABEL_KEYS", "SUFFIXES", "Array", "ArraySource", "array_source"]
