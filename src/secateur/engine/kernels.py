"""Kernels of a layer for given forms: which there are, and how one is made from its name.

A name says all: `emit-avx2-loop 8/24576/64`, `emit-avx512 30x1x4`, `llvm-csr 4/1`, `vec-sliced 8`.
Those that end with `+` ask for memory ahead. Those that begin with `vec` are for few tokens, and
read and write these as they are, one after the other.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from secateur.core.errors import SecateurError
from secateur.engine.arena import LINE
from secateur.engine.layer import Layer
from secateur.engine.layout import SLACK, Form
from secateur.engine.recurrence import Recurrence
from secateur.runtime import formats
from secateur.runtime.emit import planes as emitted
from secateur.runtime.emit.isa import FORMS, Isa
from secateur.runtime.emit.order import Tile as Straight
from secateur.runtime.kernels import bcsr, csr, depthwise, llvm
from secateur.runtime.kernels.activated import ActivatedKernel, plain
from secateur.runtime.kernels.matvec import MatVec
from secateur.runtime.machine import pieces
from secateur.runtime.planes import Kernel, Planes, from_conv, from_linear

_FULL = 0.75
_SMALL = 1 << 16
_LEAST = 1 << 15  # multiplications of a task
_FEW = 8  # tokens up to which a matrix is multiplied with one after the other
ANY = "llvm-csr 4/1"
"""A kernel for every layer."""
_KINDS = {
    "sliced": formats.sliced,
    "banked": formats.banked,
    "blocks": formats.blocks,
    "windowed": lambda weight, lanes: formats.windowed(weight, llvm.host().window, lanes),
}


def planes_of(layer: Layer, inside: Form, outside: Form) -> Planes:
    """A layer as numbers. inside: of what it reads: the phases, for a strided convolution."""
    weight = layer.weight.dense().numpy()
    bias = layer.bias
    if not layer.dims:
        return from_linear(
            weight, pitch=inside.pitch, out_pitch=outside.pitch, bias=bias,
            activation=layer.activation, residual=layer.residual,
        )  # fmt: skip
    return from_conv(
        weight, pitch=inside.pitch, row=outside.row, out_pitch=outside.pitch,
        stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups,
        bias=bias, activation=layer.activation, residual=layer.residual,
        size=outside.size if outside.bordered else None,
    )  # fmt: skip


def is_depthwise(layer: Layer | Recurrence | None) -> bool:
    """Whether there may be a kernel that reads one plane for each output, with its stride."""
    if not isinstance(layer, Layer) or not layer.dims or layer.weight.shape[1] != 1:
        return False
    return layer.stride[1] <= 2 and llvm.available()


def depthwise_of(layer: Layer, inside: Form, outside: Form) -> depthwise.Depthwise | None:
    """A depthwise convolution over planes as they are; None if it is none, or there is no code."""
    if not is_depthwise(layer):
        return None
    found = depthwise.Depthwise(
        layer.weight.dense().squeeze(1).numpy(), inside.pitch, inside.row, outside.pitch,
        outside.row, outside.size, layer.stride, layer.padding, layer.dilation,
        layer.out // layer.groups, layer.bias, layer.activation, layer.residual,
    )  # fmt: skip
    return found if depthwise.supports(found) else None


def depthwise_names(layer: Layer, inside: Form, outside: Form) -> list[str]:
    """Kernels for depthwise convolutions, which read planes as they are."""
    found = depthwise_of(layer, inside, outside)
    sizes = () if found is None else depthwise.rows_of(found)
    return [f"llvm-depthwise {rows}" for rows in sizes]


def is_direct(name: str) -> bool:
    """Whether a kernel with a stride reads planes as they are, and no phases."""
    return name.startswith("llvm-depthwise")


def block_of(name: str) -> int:
    """Output planes that a kernel makes together.

    Example:
        >>> [block_of(n) for n in ("emit-avx2-loop 8/28672/64/1+", "emit-avx2 6x2", "llvm-csr 4/1")]
        [64, 6, 1]
    """
    kind, _, sizes = name.partition(" ")
    if kind == "llvm-bcsr":
        return int(sizes.split("x")[0])
    if not kind.startswith("emit-"):
        return 1
    return int(sizes.rstrip("+").split("/")[2] if kind.endswith("-loop") else sizes.split("x")[0])


def is_flat(name: str) -> bool:
    """Whether a kernel takes tokens as they are, and no planes."""
    return name.startswith("vec-")


def names(layer: Layer, planes: Planes, positions: int) -> list[str]:
    """Kernels that this machine has for a layer, the likely best first."""
    found: list[str] = []
    if layer.weight.density > _FULL and planes.nnz > _SMALL:
        return found  # torch has good code for large dense layers
    if not layer.dims and positions <= _FEW and llvm.available():
        window = llvm.host().window
        for packed in formats.fitting(layer.weight.dense().numpy(), window=window):
            size = packed.bank if packed.kind == "banked" else packed.lanes
            found.append(f"vec-{packed.kind} {size}")
    for isa in emitted.available()[:1]:
        if _activates(planes.activation) and emitted.supports(plain(planes)):
            found += [_way(isa.name, way) for way in emitted.ways(planes, isa, positions)]
    if llvm.available():
        found += [f"llvm-csr {t.vectors}/{t.blocks}" for t in csr.tiles(planes, positions)]
        if positions > _FEW:
            found += [f"llvm-bcsr {t.rows}x{t.vectors}" for t in bcsr.tiles(planes)]
    return found


def _way(isa: str, way: emitted.Way) -> str:
    ahead = "+" * way.ahead
    if isinstance(way, emitted.Loop):
        sizes = f"{way.vectors}/{way.columns}/{way.rows}" + "/1" * way.packed
        return f"emit-{isa}-loop {sizes}{ahead}"
    several = f"x{way.tiles}" if way.tiles > 1 else ""
    return f"emit-{isa} {way.rows}x{way.vectors}{several}{ahead}"


def build(
    name: str, layer: Layer, planes: Planes, forms: tuple[Form, Form] | None = None
) -> Kernel:
    """Make a kernel by its name, as `names` gives it.

    planes: what `planes_of` gives. forms: for those of `depthwise_names`: what they were given.

    Raises:
        SecateurError: This machine has no such kernel.
    """
    try:
        if is_direct(name) and forms is not None:
            return _direct(name, layer, *forms)
        found = _build(name, layer, planes)
    except (ValueError, LookupError, TypeError):
        found = None
    if found is None or found.step > SLACK:  # it would write behind the memory of its layer
        raise SecateurError(f"kernel {name!a} is not one of this machine")
    return found


def _direct(name: str, layer: Layer, inside: Form, outside: Form) -> Kernel:
    found = depthwise_of(layer, inside, outside)
    if found is None:
        raise LookupError(name)
    return depthwise.DepthwiseKernel(found, int(name.partition(" ")[2]))


def _build(name: str, layer: Layer, planes: Planes) -> Kernel | None:
    kind, _, tile = name.partition(" ")
    compressed = _tile(name) if llvm.available() else None
    if isinstance(compressed, csr.Tile):
        return csr.CsrKernel(planes, compressed)
    if isinstance(compressed, bcsr.Tile):
        return bcsr.BcsrKernel(planes, compressed)
    if is_flat(name) and not layer.dims and llvm.available():
        weight, number = layer.weight.dense().numpy(), int(tile)
        packed = _KINDS[kind.removeprefix("vec-")](weight, number)
        return MatVec(packed, layer.bias, layer.activation, layer.residual)
    sizes, ahead = tile.removesuffix("+"), tile.endswith("+")
    for isa in emitted.available():
        if kind == f"emit-{isa.name}-loop":
            vectors, columns, rows, *packed = (int(n) for n in sizes.split("/"))
            way = emitted.Loop(vectors, columns, rows, packed == [1], ahead)
            return _emitted(planes, way, isa)
        if kind == f"emit-{isa.name}":
            numbers = [int(n) for n in sizes.split("x")]
            rows, vectors, tiles = numbers if len(numbers) == 3 else (*numbers, 1)
            way = Straight(rows, vectors, tiles, ahead=ahead)
            return _emitted(planes, way, isa)
    return None


def _activates(activation: str) -> bool:
    """Whether an activation goes with emitted kernels: theirs, or LLVM's behind them."""
    return activation in FORMS or llvm.available()


def _emitted(planes: Planes, way: emitted.Way, isa: Isa) -> Kernel:
    if emitted.supports(planes):
        return emitted.EmittedKernel(planes, way, isa)
    return ActivatedKernel(emitted.EmittedKernel(plain(planes), way, isa), planes)


def _tile(name: str) -> csr.Tile | bcsr.Tile | None:
    """The tile of a kernel of LLVM's over compressed rows; None if it is another one."""
    kind, _, sizes = name.partition(" ")
    if kind == "llvm-csr":
        vectors, blocks = (int(n) for n in sizes.split("/"))
        return csr.Tile(vectors, blocks)
    if kind == "llvm-bcsr":
        rows, vectors = (int(n) for n in sizes.split("x"))
        return bcsr.Tile(rows, vectors)
    return None


def runs_here(name: str, activation: str = "none") -> str:
    """The kernel of this name if this machine has it, else one that can stand in for it."""
    kind = name.partition(" ")[0]
    if kind.startswith("emit-"):
        isas = [isa.name for isa in emitted.available()]
        here = kind.removeprefix("emit-").removesuffix("-loop") in isas
        here &= _activates(activation)
    elif kind == "torch" or not llvm.available():
        return "torch"
    else:
        tile = _tile(name)
        here = tile is None or tile.fits
        here &= kind != "vec-windowed" or llvm.host().picks
    return name if here else ANY if llvm.available() else "torch"


def tasks(
    kernel: Kernel, planes: int, positions: int, threads: int, weights: np.ndarray
) -> list[tuple[int, int, int, int]]:
    """How a layer is split: (begin, end, first, last), for as many threads.

    weights: non-zeros by plane, by which rows are shared out. A thread's positions come one after
    the other, alike in layers of one form, and each has several tasks, so that a thread that is
    late or slow has less to do. No task is so small that it takes longer to hand it out.

    Example:
        >>> kernel = type("", (), {"step": 8, "wide": 16, "block": 1})
        >>> tasks(kernel, 4, 20, 1, np.ones(4))
        [(0, 24, 0, 4)]
        >>> tasks(kernel, 4, 20, 2, np.array([9000, 3000, 3000, 3000]))
        [(0, 24, 0, 1), (0, 24, 1, 2), (0, 24, 2, 3), (0, 24, 3, 4)]
        >>> tasks(kernel, 4, 40, 2, np.full(4, 500))
        [(0, 32, 0, 4), (32, 40, 0, 4)]
    """
    step, end = kernel.step, -(-positions // kernel.step) * kernel.step
    most = int(weights.sum()) * end // _LEAST
    many = max(1, min(pieces(threads), most))
    if isinstance(kernel, MatVec):
        return [(0, positions, *rows) for rows in kernel.ranges(many)]
    wide = end // (kernel.wide * threads) * threads  # alike for all threads
    across = max(1, min(wide, many))
    grain = max(step, LINE)  # no line of memory is written by two threads
    size = max(1, -(-end // (across * grain))) * grain
    ranges = [(b, min(b + size, end)) for b in range(0, end, size)]
    cuts = _cuts(weights, max(1, many // max(1, len(ranges))), kernel.block)
    return [(*part, *rows) for part in ranges for rows in pairwise(cuts)]


def _cuts(weights: np.ndarray, parts: int, block: int) -> list[int]:
    """Row numbers between which there are about as many non-zeros, at multiples of `block`."""
    rows = len(weights)
    if parts == 1:
        return [0, rows]
    before = np.concatenate([[0], np.cumsum(weights + 1)])
    wanted = before[-1] * np.arange(1, parts) / parts
    inner = abs(before[::block, None] - wanted).argmin(0) * block
    return sorted({0, *(int(n) for n in inner if 0 < n < rows), rows})
