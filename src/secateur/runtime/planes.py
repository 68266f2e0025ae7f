"""The contract of the kernels: a sparse matrix times shifted planes.

The activations of one sample are planes `[C, pitch]` of float32 in one buffer. A plane is an image
whose rows are `row` floats apart, with a border of zeros in place: the columns that fill a row up
(the right border of a row is the left one of the next), and rows above and below. A position `p` is
`y * row + x`, counted from the image's own first pixel, the *origin*, so that a kernel tap is one
constant offset, the same for all positions. What holds for images holds for signals (one row) and
for tokens (`[features, tokens]`, no border).

With a stride, inputs are split into *phases* beforehand: phase `(a, b)` of a channel is the plane
of the pixels `(stride * i + a, stride * j + b)`. Output and input planes then have the same `row`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from secateur.core.errors import InputError

ACTIVATIONS = ("none", "relu", "relu6", "silu", "gelu", "gelu_tanh", "hardswish")


@dataclass(frozen=True)
class Planes:
    """One layer as numbers: `y[r, p] = act(bias[r] + residual[r, p] + sum_i v[i] x[p + o[i]])`.

    rows: output planes. indptr: int64 `[rows + 1]`, where each row's non-zeros are. offsets: int64
    `[nnz]`, where each non-zero reads for position 0, in floats from the input's origin; negative
    above and to the left of it. values: float32 `[nnz]`. bias: float32 `[rows]`. activation: one of
    `ACTIVATIONS`. residual: whether a tensor of the output's layout is added before the activation.
    out_pitch: floats between output planes. mask: uint32 `[positions]`, all ones where an output is
    written and zero where a zero is (the border between rows, so that it stays zero); positions
    behind its end are written as zeros; None: every position is written.

    Example:
        >>> layer = from_linear(np.array([[0.0, 2.0], [0.0, 0.0]]), pitch=8)
        >>> layer.offsets, layer.values, layer.indptr
        (array([8]), array([2.], dtype=float32), array([0, 1, 1]))
        >>> layer.density
        0.25
    """

    rows: int
    indptr: np.ndarray
    offsets: np.ndarray
    values: np.ndarray
    bias: np.ndarray | None = None
    activation: str = "none"
    residual: bool = False
    out_pitch: int = 0
    mask: np.ndarray | None = None
    columns: int = 0

    def __post_init__(self) -> None:
        """Refuse what native code must never see."""
        given = len(self.indptr)
        if given != self.rows + 1:
            raise InputError(f"indptr has {given} entries for {self.rows} rows")
        steps = np.diff(self.indptr)
        if self.indptr[0] != 0 or self.indptr[-1] != self.nnz or (steps < 0).any():
            raise InputError(f"indptr does not rise from 0 to {self.nnz}, the number of values")
        if len(self.offsets) != self.nnz:
            raise InputError(f"there are {len(self.offsets)} offsets for {self.nnz} values")
        if self.bias is not None and len(self.bias) != self.rows:
            raise InputError(f"there are {len(self.bias)} biases for {self.rows} rows")
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"activation {self.activation!r} is not known",
                hint="one of " + ", ".join(ACTIVATIONS),
            )
        for name, array, kind in (
            ("indptr", self.indptr, np.int64),
            ("offsets", self.offsets, np.int64),
            ("values", self.values, np.float32),
            ("bias", self.bias, np.float32),
            ("mask", self.mask, np.uint32),
        ):
            if array is not None and (array.dtype != kind or not array.flags.c_contiguous):
                raise InputError(f"{name} is {array.dtype}, not contiguous {np.dtype(kind)}")

    @property
    def nnz(self) -> int:
        """Non-zeros."""
        return len(self.values)

    @property
    def density(self) -> float:
        """Non-zeros for each entry of the matrix `[rows, columns]`."""
        return self.nnz / max(1, self.rows * self.columns)

    @property
    def reach(self) -> tuple[int, int]:
        """Lowest and highest offset: positions `[b, e)` read `x[b + low]` to `x[e - 1 + high]`."""
        return (int(self.offsets.min()), int(self.offsets.max())) if self.nnz else (0, 0)


class Kernel(Protocol):
    """A compiled layer; a call writes positions `[begin, end)` of output planes `[first, last)`.

    name: what it is ("emit-avx2", "llvm-csr"). step: `begin` and `end` are multiples of it; what is
    behind an image's end is computed as well, so buffers have that much slack behind them (`x` up
    to `end + reach[1]`, `y` and the residual up to `end`). wide: positions that are worked on
    together; fewer take longer. block: `first` is a multiple of it, and `last` is one or the number
    of rows (1: any range). bytes: packed weights and code. address:
    of `void f(const float* x, float* y, const float* residual, int64 begin, int64 end, int64 first,
    int64 last)`, which may run on any thread, with other ranges at the same time, as long as the
    kernel lives. Calls take addresses and release the GIL; `residual` is 0 where there is none.

    `x`, `y` and `residual` point to origins; `first` and `last` count planes, so `y` is the origin
    of plane 0 whatever `first` is.
    """

    name: str
    step: int
    wide: int
    block: int
    bytes: int
    address: int

    def __call__(
        self, x: int, y: int, residual: int, begin: int, end: int, first: int, last: int
    ) -> None:
        """Run on addresses of float32 buffers."""
        ...


def phases(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    """The phases of the input that a convolution reads, in the order of its planes.

    Example:
        >>> phases((3, 3), (2, 2), (1, 1), (1, 1))
        [(0, 0), (0, 1), (1, 0), (1, 1)]
        >>> phases((1, 1), (2, 2), (0, 0), (1, 1))
        [(0, 0)]
    """
    down, across = (
        sorted({(t * d - p) % s for t in range(k)})
        for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True)
    )
    return [(a, b) for a in down for b in across]


def from_conv(
    weight: np.ndarray,
    *,
    pitch: int,
    row: int,
    out_pitch: int,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    bias: np.ndarray | None = None,
    activation: str = "none",
    residual: bool = False,
    size: tuple[int, int] | None = None,
) -> Planes:
    """A convolution `[out, in / groups, kh, kw]` over planes, in PyTorch's words.

    pitch: floats between the input's planes; plane `c * n + i` is phase `i` of the `n` phases
    (`phases`) of channel `c`. row: floats between rows, of input and output. size: the output's
    `(height, width)` if it has a border, from which the mask follows. A 1-d convolution has one
    row: give its weight as `[out, in / groups, 1, k]`.

    Example:
        >>> weight = np.zeros((1, 1, 3, 3)); weight[0, 0, 0, 1] = 5
        >>> layer = from_conv(weight, pitch=99, row=9, out_pitch=99, padding=(1, 1), size=(1, 8))
        >>> layer.offsets
        array([-9])
    """
    out, inside, *kernel = weight.shape
    found = phases(kernel, stride, padding, dilation)
    order = {phase: i for i, phase in enumerate(found)}
    taps = np.empty(kernel, np.int64)
    for y in range(kernel[0]):
        for x in range(kernel[1]):
            down, a = divmod(y * dilation[0] - padding[0], stride[0])
            across, b = divmod(x * dilation[1] - padding[1], stride[1])
            taps[y, x] = order[a, b] * pitch + down * row + across
    channels = np.arange(inside)[:, None] * (len(found) * pitch)
    columns = (channels + taps.reshape(-1)).reshape(-1)
    group = np.arange(out) // (out // groups) * (inside * len(found) * pitch)
    mask = None
    if size is not None:
        kept = np.arange(size[0] * row) % row < size[1]
        mask = np.where(kept, np.uint32(0xFFFFFFFF), np.uint32(0))
    return _sparse(
        weight.reshape(out, -1),
        columns,
        group,
        bias=bias,
        activation=activation,
        residual=residual,
        out_pitch=out_pitch,
        mask=mask,
    )


def from_linear(
    weight: np.ndarray,
    *,
    pitch: int,
    out_pitch: int | None = None,
    bias: np.ndarray | None = None,
    activation: str = "none",
    residual: bool = False,
) -> Planes:
    """A matrix `[out, in]` over tokens that lie as `[in, tokens]`: feature `c` is plane `c`."""
    columns = np.arange(weight.shape[1], dtype=np.int64) * pitch
    return _sparse(
        weight,
        columns,
        None,
        bias=bias,
        activation=activation,
        residual=residual,
        out_pitch=pitch if out_pitch is None else out_pitch,
    )


def _sparse(
    weight: np.ndarray,
    columns: np.ndarray,
    group: np.ndarray | None,
    *,
    bias: np.ndarray | None,
    **others: Any,
) -> Planes:
    """The non-zeros of a matrix whose column `k` reads at `columns[k]` (plus `group[row]`).

    A NaN is a non-zero.
    """
    rows, where = np.nonzero(weight)
    offsets = columns[where] + (0 if group is None else group[rows])
    indptr = np.zeros(len(weight) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(weight)), out=indptr[1:])
    return Planes(
        rows=len(weight),
        indptr=indptr,
        offsets=offsets.astype(np.int64),
        values=np.ascontiguousarray(weight[rows, where], np.float32),
        bias=None if bias is None else np.ascontiguousarray(bias, np.float32),
        columns=weight.shape[1],
        **others,
    )
