"""Sparse matrices as matrix-vector kernels read them: rows side by side, one a lane.

In all of them a *step* is one non-zero of each of `lanes` rows: `values[step]` and `indices[step]`
are `[lanes]`. What fills a row up repeats an entry of that row and shares its value, so that an
infinity or NaN in the input reaches exactly the rows that read it. Only `windowed` has zeros in
between, by which it reaches other rows too, as it does in a dense product.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from secateur.core.errors import InputError

_BANKS = (32, 16, 64, 8, 4, 128, 256)
"""The first fit the registers of most processors, where inputs are looked up."""
WORD = 8
"""Steps whose places in their windows are in one word."""
_SHARE = 0.4  # of the rows that have one more non-zero in a window, from which a step pays


@dataclass(frozen=True)
class Packed:
    """A matrix in groups of rows.

    kind: "sliced" (columns as they are), "banked" (columns within banks, an equal count in each),
    "blocks" (one column for all lanes of a step) or "windowed" (columns within windows, as many
    steps in each, in words; what they leave is in `rest`). shape: of the matrix. order: int32
    `[groups * lanes]`, which row a lane is; an incomplete group repeats a row. starts: int64
    `[groups + 1]`, where the steps of a group are. values: float32 or bf16 (as uint16) `[steps,
    lanes]`. indices: `[steps, lanes]`, `[steps]` for blocks, or uint32 `[steps / 8, lanes]` for
    windows. bank: columns in a bank or window. each: steps in one. rest: sliced, in groups of the
    same rows.
    """

    kind: str
    shape: tuple[int, int]
    order: np.ndarray
    starts: np.ndarray
    values: np.ndarray
    indices: np.ndarray
    bank: int = 0
    each: int = 0
    rest: Packed | None = None

    @property
    def lanes(self) -> int:
        """Rows in a group."""
        return self.values.shape[1]

    @property
    def groups(self) -> int:
        """Groups of rows."""
        return len(self.starts) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        own = sum(a.nbytes for a in (self.order, self.starts, self.values, self.indices))
        return own + (self.rest.nbytes if self.rest else 0)

    @property
    def steps(self) -> int:
        """Steps of all groups."""
        return len(self.values)

    def dense(self) -> np.ndarray:
        """The matrix again, float32."""
        values = self.values
        if values.dtype == np.uint16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        group = np.repeat(np.arange(self.groups), np.diff(self.starts))
        rows = self.order.reshape(self.groups, self.lanes)[group]
        columns = self.indices.astype(np.int64)
        if self.kind == "blocks":
            columns = np.repeat(columns[:, None], self.lanes, 1)
        if self.kind == "windowed":
            shifts = _bits(self.bank) * np.arange(WORD)
            columns = (columns[:, None] >> shifts[:, None]) % self.bank
            columns = columns.reshape(self.steps, self.lanes)
        if self.kind in ("banked", "windowed"):
            inside = np.arange(self.steps) - self.starts[:-1][group]
            columns = columns + (inside // self.each * self.bank)[:, None]
        first = np.zeros(len(self.order), bool)
        first[np.unique(self.order, return_index=True)[1]] = True
        real = first.reshape(self.groups, self.lanes)[group]
        out = np.zeros(self.shape)
        np.add.at(out, (rows[real], columns[real]), values[real])
        return out.astype(np.float32) + (self.rest.dense() if self.rest else 0)


def sliced(weight: np.ndarray, lanes: int = 8, storage: str = "float32") -> Packed:
    """Any matrix `[rows, columns]`; rows with like counts share a group.

    storage: "float32", or "bf16" for values rounded to 16 bits.

    Example:
        >>> packed = sliced(np.array([[0, 2.0, 0], [0, 0, 0], [3, 0, 4]], np.float32), lanes=2)
        >>> packed.order.tolist(), packed.starts.tolist(), packed.values.tolist()
        ([2, 0, 1, 1], [0, 2, 2], [[3.0, 1.0], [4.0, 1.0]])
    """
    rows, columns = np.nonzero(weight)
    counts = np.bincount(rows, minlength=len(weight))
    begins = np.concatenate([[0], np.cumsum(counts)])
    by_count = np.argsort(-counts, kind="stable")
    full = np.count_nonzero(counts)
    order = np.concatenate([_whole(by_count[:full], lanes), _whole(by_count[full:], lanes)])
    steps = counts[order].reshape(-1, lanes).max(1, initial=0)
    starts = np.concatenate([[0], np.cumsum(steps)]).astype(np.int64)
    group = np.repeat(np.arange(len(steps)), steps)
    lane_row = order.reshape(-1, lanes)[group]
    inside = (np.arange(starts[-1]) - starts[:-1][group])[:, None]
    entry, share = _repeat(inside, counts[lane_row], steps[group][:, None])
    entry = entry + begins[lane_row]
    found = weight[rows, columns].astype(np.float32)
    index = np.uint16 if weight.shape[1] <= 1 << 16 else np.int32
    return Packed(
        "sliced",
        (weight.shape[0], weight.shape[1]),
        order.astype(np.int32),
        starts,
        _stored(found[entry] / share, storage),
        columns.astype(index)[entry],
    )


def banked(weight: np.ndarray, bank: int, lanes: int = 16, storage: str = "float32") -> Packed:
    """A matrix that has an equal count in every bank of `bank` columns of every row, such as N:M.

    Raises:
        InputError: a bank of a row has no non-zero, or `bank` is above 256.
    """
    if not 1 <= bank <= 256:
        raise InputError(f"a bank has {bank} columns", hint="1 to 256")
    rows, columns = np.nonzero(weight)
    banks = -(-weight.shape[1] // bank)
    counts = np.bincount(rows * banks + columns // bank, minlength=len(weight) * banks)
    if not counts.all():
        raise InputError(
            f"a bank of {bank} columns of a row has no non-zero", hint="pack it as `sliced`"
        )
    each = int(counts.max(initial=1))
    begins = np.concatenate([[0], np.cumsum(counts)])[:-1].reshape(-1, banks)
    order = _whole(np.arange(len(weight)), lanes)
    groups = len(order) // lanes
    starts = np.arange(groups + 1, dtype=np.int64) * banks * each
    lane_row = order.reshape(groups, 1, 1, lanes)
    number = np.arange(banks).reshape(1, banks, 1, 1)
    inside = np.arange(each).reshape(1, 1, each, 1)
    entry, share = _repeat(inside, counts.reshape(-1, banks)[lane_row, number], each)
    entry = (entry + begins[lane_row, number]).reshape(-1, lanes)
    found = weight[rows, columns].astype(np.float32)
    return Packed(
        "banked",
        (weight.shape[0], weight.shape[1]),
        order.astype(np.int32),
        starts,
        _stored(found[entry] / share.reshape(-1, lanes), storage),
        (columns % bank).astype(np.uint8)[entry],
        bank,
        each,
    )


def blocks(weight: np.ndarray, rows: int = 16, storage: str = "float32") -> Packed:
    """A matrix whose non-zeros are columns of `rows` neighbours: whole blocks `rows x 1`.

    Within a block of which any entry is not zero, all count as non-zeros.
    """
    out, width = weight.shape
    order = _whole(np.arange(out), rows)
    groups = len(order) // rows
    padded = weight.astype(np.float32)[order].reshape(groups, rows, width)
    where, columns = np.nonzero(padded.any(1))
    starts = np.concatenate([[0], np.cumsum(np.bincount(where, minlength=groups))])
    index = np.uint16 if width <= 1 << 16 else np.int32
    return Packed(
        "blocks",
        (out, width),
        order.astype(np.int32),
        starts.astype(np.int64),
        _stored(padded[where, :, columns], storage),
        columns.astype(index),
    )


def windowed(weight: np.ndarray, window: int, lanes: int = 16, storage: str = "float32") -> Packed:
    """Any matrix whose non-zeros are neither too few nor too many, for inputs looked up in vectors.

    A step takes a non-zero of each row out of one window of columns, which is loaded as it lies.
    There are as many steps for a window as pay: where many rows have that many non-zeros in it. The
    others, and those of the last columns, are left to single loads.

    Args:
        weight: `[rows, columns]`.
        window: Columns in a window, a power of two up to 16: the processor's vector.
        lanes: Rows in a group.
        storage: As in `sliced`.

    Raises:
        InputError: No step would pay, there are fewer than eight windows, or `window` is no such.

    Example:
        >>> weight = np.tile(np.array([3, 0, 0, 5], np.float32), (4, 16))
        >>> packed = windowed(weight, window=8, lanes=4)
        >>> packed.each, packed.indices.shape, packed.rest.steps
        (4, (4, 4), 0)
    """
    if window not in (2, 4, 8, 16):
        raise InputError(f"a window has {window} columns", hint="2, 4, 8 or 16")
    rows, many = len(weight), weight.shape[1] // (WORD * window) * WORD
    inside = weight[:, : many * window].reshape(rows, many, window)
    filled = inside != 0
    rank = np.cumsum(filled, 2)
    each = 0
    while many and (rank[:, :, -1] > each).mean() >= _SHARE:
        each += 1
    if not each:
        raise InputError("no window has enough non-zeros", hint="pack it as `sliced`")
    taken = filled & (rank <= each)
    left = weight.copy()
    left[:, : many * window][taken.reshape(rows, -1)] = 0
    rest = sliced(left, lanes, storage)

    values = np.zeros((rows, many, each), np.float32)
    places = np.zeros((rows, many, each), np.uint32)
    row, number, column = np.nonzero(taken)
    step = rank[row, number, column] - 1
    values[row, number, step] = inside[row, number, column]
    places[row, number, step] = column
    steps, groups = many * each, len(rest.order) // lanes
    words = places.reshape(rows, -1, WORD) << (_bits(window) * np.arange(WORD, dtype=np.uint32))

    def grouped(lines: np.ndarray) -> np.ndarray:
        parts = lines[rest.order].reshape(groups, lanes, -1)
        return np.ascontiguousarray(parts.transpose(0, 2, 1)).reshape(-1, lanes)

    return Packed(
        "windowed",
        (rows, weight.shape[1]),
        rest.order,
        np.arange(groups + 1, dtype=np.int64) * steps,
        _stored(grouped(values.reshape(rows, steps)), storage),
        grouped(words.sum(2, dtype=np.uint32)),
        window,
        each,
        rest,
    )


def fitting(
    weight: np.ndarray, lanes: int = 8, storage: str = "float32", window: int = 0
) -> list[Packed]:
    """The formats that a matrix fits, the most regular first: worth timing in this order.

    Blocks and banks may hold at most a tenth more than the non-zeros. window: of vectors in which
    inputs can be looked up; 0: the processor has none. A bank that is one, or two, comes first.

    Example:
        >>> found = fitting(np.kron([[1, 0, 0], [0, 1, 1]], np.ones((8, 1))))
        >>> [(packed.kind, packed.lanes) for packed in found]
        [('blocks', 8), ('blocks', 4), ('sliced', 8)]
    """
    found: list[Packed] = []
    filled = weight != 0
    most = 1.1 * np.count_nonzero(filled)
    for rows in (16, 8, 4):
        padded = np.pad(filled, ((0, -len(weight) % rows), (0, 0)))
        if padded.reshape(-1, rows, weight.shape[1]).any(1).sum() * rows <= most:
            found.append(blocks(weight, rows, storage))
    for bank in dict.fromkeys((window, 2 * window, *_BANKS)) if window else _BANKS:
        padded = np.pad(filled, ((0, 0), (0, -weight.shape[1] % bank)))
        counts = padded.reshape(len(weight), -1, bank).sum(2)
        if counts.size and counts.min() and counts.max() * counts.size <= most:
            found.append(banked(weight, bank, storage=storage))
            break
    if window and not found:
        with suppress(InputError):
            found.append(windowed(weight, window, 2 * window, storage))
    return [*found, sliced(weight, lanes, storage)]


def _bits(window: int) -> int:
    """Bits of a place in a window."""
    return window.bit_length() - 1


def _whole(rows: np.ndarray, lanes: int) -> np.ndarray:
    """Rows filled up to whole groups by repeating the last."""
    return np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % lanes)])


def _repeat(
    inside: np.ndarray, count: np.ndarray, steps: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray]:
    """Which of a row's `count` entries step `inside` of `steps` is, and in how many it is split."""
    entry = inside % count
    share = (steps - 1 - entry) // count + 1
    return entry, share.astype(np.float32)


def _stored(values: np.ndarray, storage: str) -> np.ndarray:
    """Values as they are kept; bf16 is rounded to nearest, ties to even."""
    values = np.ascontiguousarray(values, np.float32)
    if storage == "float32":
        return values
    if storage != "bf16":
        raise InputError(f"storage {storage!r} is not known", hint="float32, bf16")
    bits = values.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
