"""The data of a looping kernel: records of non-zeros, in the order in which they are read."""

from __future__ import annotations

import numpy as np

from secateur.runtime.planes import Planes

HEAD = 3
"""Words of a record in front of its bias or non-zeros."""
_LATER = 2  # records; lines of an output that come from level 3 take longer than one
NEAR = 8
"""Bytes in which the distances of near columns are counted."""


def stream(
    layer: Planes, block: np.ndarray, many: int, rows: int, near: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Int64 `[blocks, row blocks + 1]`, where records begin in bytes, and the records in words.

    block: of columns, `many` of them, for each non-zero. rows: of a row block, within which records
    are sorted by length. A record is one row's part of a block: the distance of the output row in
    bytes, how many bytes its non-zeros take, the output row of a later record, and in the first
    block the bias; then, for each non-zero, the distance in bytes that it reads at, and its value.

    near: two non-zeros take three words instead of four, the first of which has both distances,
    divided by `NEAR`; the last of an odd number still takes two.

    Example:
        >>> from secateur.runtime.planes import from_linear
        >>> import numpy as np
        >>> layer = from_linear(np.array([[2.0, 3.0], [0.0, 1.0]]), pitch=8)
        >>> index, data = stream(layer, np.zeros(3, np.int64), 1, 2)
        >>> data[:6].tolist()  # the second row comes first: it has one non-zero
        [32, 8, 0, 0, 32, 1065353216]
        >>> index.tolist()
        [[0, 56]]
    """
    row = np.repeat(np.arange(layer.rows), np.diff(layer.indptr))
    key = block * layer.rows + row
    counts = np.bincount(key, minlength=many * layer.rows)
    number, of = np.divmod(np.arange(many * layer.rows), layer.rows)
    at = np.lexsort((counts, of // rows, number))
    number, of, count = number[at], of[at], counts[at]
    opens = number == 0
    head = HEAD + opens
    body = 3 * (count // 2) + 2 * (count % 2) if near else 2 * count
    words = head + body
    starts = np.cumsum(words) - words

    data = np.zeros(int(words.sum()), np.int32)
    floats = data.view(np.float32)
    outputs = 4 * layer.out_pitch * of
    data[starts] = outputs
    data[starts + 1] = 4 * body
    data[starts + 2] = np.append(outputs[_LATER:], outputs[-1:].repeat(_LATER))[: len(outputs)]
    if layer.bias is not None:
        floats[starts[opens] + HEAD] = layer.bias[of[opens]]
    begin = np.empty_like(starts)
    begin[at] = starts + head
    order = np.lexsort((layer.offsets, key))
    key = key[order]
    inside = np.arange(len(key)) - (np.cumsum(counts) - counts)[key]
    distances = 4 * layer.offsets[order]
    if near:
        pair, second = np.divmod(inside, 2)
        to = begin[key] + 3 * pair
        data.view(np.uint16)[2 * to + second] = distances // NEAR
        to += second
    else:
        to = begin[key] + 2 * inside
        data[to] = distances
    floats[to + 1] = layer.values[order]

    begins = np.append(starts, words.sum())
    first = np.append(np.arange(0, layer.rows, rows), layer.rows)
    return 4 * begins[np.arange(many)[:, None] * layer.rows + first], data
