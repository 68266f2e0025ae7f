"""Tensors that are mostly zeros, in a plain safetensors file: where values are, and the values.

A weight `name` becomes `name::values` and one of two records of their places: `name::mask`, a bit
for each entry, or `name::gaps`, a byte for the zeros before each value (Han et al. 2016, "Deep
Compression"; 255 stands for 255 zeros and no value). The smaller one is written. The metadata
entry `secateur.sparse` lists shapes. Values come back bit for bit; a negative zero, which is what
a mask makes of a negative weight, comes back as zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from secateur.core.errors import FileError

KEY = "secateur.sparse"
SCHEMA = 1
MOST = 64
"""How many times its stored bytes a tensor may take in memory."""
_LEAST = 0.1
_HEADER = 160  # about what the header says of two more tensors
_SKIP = 255
_MAX_SIZE = 2**31 - 1
_MAX_DIMENSIONS = 64
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_HINT = "the file was changed or damaged; save the result again"


def encode(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    """What to write instead of contiguous tensors, and the metadata entry.

    Nothing changes, and the entry is None, unless all of them together get a tenth smaller: other
    readers know dense files only, and a few zeros are not worth that.

    Example:
        >>> weight = torch.zeros(64, 64)
        >>> weight[:, 3] = 2.5
        >>> written, entry = encode({"weight": weight})
        >>> {name: len(tensor) for name, tensor in written.items()}
        {'weight::values': 64, 'weight::gaps': 64}
        >>> entry
        '{"schema": 1, "shapes": {"weight": [64, 64]}}'
    """
    written: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        parts = {} if any(f"{name}::{part}" in tensors for part in _PARTS) else _smaller(tensor)
        written |= {f"{name}::{part}": value for part, value in parts.items()}
        if parts:
            shapes[name] = list(tensor.shape)
        else:
            written[name] = tensor
    if _bytes(written) > (1 - _LEAST) * _bytes(tensors):
        return dict(tensors), None
    return written, json.dumps({"schema": SCHEMA, "shapes": shapes})


def _smaller(tensor: Tensor) -> dict[str, Tensor]:
    """The parts of one tensor; nothing where they are no smaller than it is."""
    if not tensor.is_floating_point():
        return {}
    flat = tensor.reshape(-1)
    kept = flat != 0 if flat.element_size() > 1 else flat.float() != 0
    values, n = _bits(flat)[kept].view(flat.dtype), flat.numel()
    dense, mask = n * flat.element_size(), -(-n // 8)
    parts = {"values": values}
    if dense <= _HEADER + mask + _bytes(parts) and len(values) + n // _SKIP > mask:
        return {}  # neither will do, and gaps need not be counted
    gaps = _gaps(kept.numpy())
    if len(gaps) < mask and dense <= MOST * (len(gaps) + _bytes(parts)):
        parts["gaps"] = torch.from_numpy(gaps)
    else:
        parts["mask"] = torch.from_numpy(np.packbits(kept.numpy(), bitorder="little"))
    return parts if _bytes(parts) + _HEADER < dense else {}


def _bits(flat: Tensor) -> Tensor:
    """The same memory as bytes, where a number is one: not all versions index float8."""
    return flat.view(torch.uint8) if flat.element_size() == 1 else flat


def _gaps(kept: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """For each kept entry, and the end, the zeros before it: skips, then the rest."""
    places = np.flatnonzero(kept)
    runs = np.diff(places, prepend=-1, append=len(kept)) - 1
    skips = runs // _SKIP
    ends = np.cumsum(skips + 1) - 1
    gaps = np.full(ends[-1] + 1, _SKIP, dtype=np.uint8)
    gaps[ends] = runs % _SKIP
    return gaps[:-1]  # the end has no value; how many zeros are left follows from the shape


class SparseFile:
    """An open safetensors file whose tensors come whole, whatever they are stored as.

    Sizes are compared on opening, from the header alone: nothing is read, and later nothing is
    made that takes more than `MOST` times what is stored for it.

    Raises:
        FileError: What is listed as sparse is not stored as such.
    """

    def __init__(self, file: Any, path: Path) -> None:
        self._file, self._path = file, path
        metadata = file.metadata() or {}
        plain = dict.fromkeys(file.keys())
        self._shapes = _shapes(metadata[KEY], path) if KEY in metadata else {}
        self._parts = {name: self._checked(name, plain) for name in self._shapes}
        for name, parts in self._parts.items():
            for part in parts:
                del plain[f"{name}::{part}"]
        self.names = [*plain, *self._shapes]
        self.metadata = {name: text for name, text in metadata.items() if name != KEY}

    def dtype(self, name: str) -> str:
        """The name that safetensors has for the dtype, such as "F32"."""
        stored = f"{name}::values" if name in self._shapes else name
        return self._file.get_slice(stored).get_dtype()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the whole tensor."""
        return tuple(self._shapes.get(name) or self._file.get_slice(name).get_shape())

    def get_tensor(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            FileError: The places of its values are not as many as the values.
        """
        if name not in self._shapes:
            return self._file.get_tensor(name)
        shape, part = self._shapes[name], self._parts[name][1]
        values = self._file.get_tensor(f"{name}::values")
        record = self._file.get_tensor(f"{name}::{part}").numpy()
        n = math.prod(shape)
        kept = (_from_mask if part == "mask" else _from_gaps)(record, n, len(values))
        if kept is None:
            _fail(
                self._path, f"the {part} of {name!a} is not that of {len(values)} values among {n}"
            )
        dense = torch.zeros(n, dtype=values.dtype)
        bits = _BITS[dense.element_size()]
        dense.view(bits)[torch.from_numpy(kept)] = values.view(bits)
        return dense.view(shape)

    def _checked(self, name: str, plain: Mapping[str, None]) -> tuple[str, str]:
        """The two parts that a sparse tensor is stored as."""
        found = [part for part in _PARTS if f"{name}::{part}" in plain]
        if name in plain or len(found) != 2 or found[0] != "values":
            stored = [name] * (name in plain) + [f"{name}::{part}" for part in found]
            _fail(
                self._path,
                f"{name!a} should be stored as its values, and a mask or gaps; there is {stored}",
            )
        values, record = (self._file.get_slice(f"{name}::{part}") for part in found)
        kinds = [part.get_dtype() for part in (values, record)]
        sizes = [part.get_shape() for part in (values, record)]
        if kinds[1] != "U8" or kinds[0] not in _SIZES or any(len(size) != 1 for size in sizes):
            _fail(
                self._path, f"{name!a} is stored as {kinds[0]}{sizes[0]} and {kinds[1]}{sizes[1]}"
            )
        n, (count,), (length,) = math.prod(self._shapes[name]), *sizes
        bytes = _SIZES[kinds[0]]
        fits = length == -(-n // 8) if found[1] == "mask" else count <= length <= count + n // _SKIP
        if not fits or count > n or n * bytes > MOST * (length + count * bytes):
            _fail(self._path, f"{name!a} of shape {self._shapes[name]} cannot be stored in {sizes}")
        return found[0], found[1]


def _from_mask(record: np.ndarray[Any, Any], n: int, count: int) -> np.ndarray[Any, Any] | None:
    """Which entries have a value; None if those are not `count` (a long integer counts bits)."""
    bits = int.from_bytes(record.tobytes(), "little")
    if bits.bit_count() != count or bits.bit_length() > n:
        return None
    return np.unpackbits(record, count=n, bitorder="little").view(np.bool_)


def _from_gaps(record: np.ndarray[Any, Any], n: int, count: int) -> np.ndarray[Any, Any] | None:
    valued = record < _SKIP
    places = np.cumsum(record + valued, dtype=np.int64)  # 255 + False stays: no sum overflows
    if int(valued.sum()) != count or (len(places) and places[-1] > n):
        return None
    kept = np.zeros(n, dtype=np.bool_)
    kept[places[valued] - 1] = True
    return kept


def _shapes(text: str, path: Path) -> dict[str, tuple[int, ...]]:
    """The metadata entry; anything but a closed schema is refused."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        _fail(path, f"its list of sparse tensors cannot be read: {error}")
    schema = value.get("schema") if isinstance(value, dict) else None
    if type(schema) is int and schema > SCHEMA:
        raise FileError(
            f"{path} was written by a newer Secateur (sparse tensors of schema {schema}; this one "
            f"reads {SCHEMA})",
            hint="pip install --upgrade secateur",
        )
    shapes = value.get("shapes") if isinstance(value, dict) else None
    if type(schema) is not int or schema != SCHEMA or value.keys() != {"schema", "shapes"}:
        _fail(path, "its list of sparse tensors has other fields than schema and shapes")
    if not isinstance(shapes, dict) or not all(map(_is_shape, shapes.values())):
        _fail(path, "its list of sparse tensors has something that is no shape")
    return {name: tuple(shape) for name, shape in shapes.items()}


def _is_shape(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _MAX_DIMENSIONS
        and all(type(size) is int and 0 < size <= _MAX_SIZE for size in value)
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _fail(path: Path, message: str) -> NoReturn:
    raise FileError(f"{path} cannot be read: {message}", hint=_HINT)


_PARTS = ("values", "mask", "gaps")
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
