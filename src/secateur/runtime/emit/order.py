"""In which order a kernel's non-zeros are worked through: tiles, row groups, column blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.runtime.planes import Planes


@dataclass(frozen=True)
class Tile:
    """What is held in registers, and what in caches.

    rows, vectors: of the accumulators. tiles: how many tiles of positions go through a segment of
    code before the next segment runs. columns: bytes of input that a block of columns may touch
    (the level-1 cache). code: bytes of code after which rows are split (the level-2 cache). ahead:
    the lines that the next positions read and write are asked for, from further away than that.
    """

    rows: int
    vectors: int
    tiles: int = 1
    columns: int = 24 << 10
    code: int = 256 << 10
    ahead: bool = False


@dataclass(frozen=True)
class Order:
    """Non-zeros as they are worked through, sorted by segment, offset and row.

    A segment is a group of rows in a block of columns; its number is `block * groups + group`.
    row: within the group. first: where a run of non-zeros at one offset begins; run: its length;
    place: within the run.
    """

    groups: int
    blocks: int
    segment: np.ndarray
    row: np.ndarray
    offset: np.ndarray
    value: np.ndarray
    first: np.ndarray
    run: np.ndarray
    place: np.ndarray


def order(layer: Planes, tile: Tile, lanes: int) -> Order:
    """Sort a layer's non-zeros for a tile; `lanes` is how many floats are in a vector."""
    group, row = np.divmod(np.repeat(np.arange(layer.rows), np.diff(layer.indptr)), tile.rows)
    block = blocks(layer.offsets, tile.tiles * tile.vectors * lanes, tile.columns)
    groups, many = -(-layer.rows // tile.rows), int(block.max(initial=0)) + 1
    segment = block * groups + group
    # Rows are in order already, and sorting keeps what is equal in order.
    at = np.lexsort((layer.offsets, segment))
    again = np.zeros(len(at), np.int64)
    same = _same(segment[at], layer.offsets[at], row[at])
    if same.any():  # two taps of a row at one place: the second one is in a run of its own
        number = np.arange(len(at))
        again[at] = number - np.maximum.accumulate(np.where(same, 0, number))
        at = np.lexsort((row, again, layer.offsets, segment))
    first = ~_same(segment[at], layer.offsets[at], again[at])
    segment, offset = segment[at], layer.offsets[at]
    starts = np.flatnonzero(first)
    lengths = np.diff(starts, append=len(at))
    return Order(
        groups=groups,
        blocks=many,
        segment=segment,
        row=row[at],
        offset=offset,
        value=layer.values[at],
        first=first,
        run=np.repeat(lengths, lengths),
        place=np.arange(len(at)) - np.repeat(starts, lengths),
    )


def _same(*columns: np.ndarray) -> np.ndarray:
    """Where all columns are as they are one place before."""
    found = np.zeros(len(columns[0]), bool)
    found[1:] = np.all([c[1:] == c[:-1] for c in columns], axis=0)
    return found


def blocks(offsets: np.ndarray, positions: int, budget: int) -> np.ndarray:
    """The block of columns that each non-zero is in, so that a block's input fits the cache.

    What a run of positions touches is the union of intervals `[offset, offset + positions)`, which
    grows along the sorted offsets by the gap to the one before, at most by a whole interval.
    """
    columns, which = np.unique(offsets, return_inverse=True)
    grown = np.cumsum(np.minimum(np.diff(columns, prepend=columns[:1] - positions), positions))
    total = 4 * int(grown[-1]) if len(grown) else 0
    many = max(1, min(-(-total // budget), len(columns)))  # no block is empty of columns
    return ((grown - 1) * many // max(1, total // 4))[which]
