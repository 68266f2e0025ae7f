"""Steps between sparse layers that have code of their own: phases, pooling, layer norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.engine.graph import Node
from secateur.engine.layer import Layer
from secateur.engine.layout import Form, split_phases
from secateur.runtime.kernels import images, llvm, norms
from secateur.runtime.machine import Round, Tasks, pieces


class Slot:
    """A value that each run makes anew, by its place in the run's list."""

    def __init__(self, place: int) -> None:
        self.place = place


class NativeStep:
    """A native function over ranges `[first, last)`, for every image.

    source: where it reads, in our memory or made by each run. grain: ranges are multiples of it.
    held: what must live as long as the step. planes: what ranges count, where `grain` is 1.
    """

    RANGE = 4
    """The column of `calls` where a range begins; it ends in the next."""

    def __init__(
        self,
        address: int,
        source: Tensor | Slot,
        like: Tensor,
        target: Tensor,
        geometry: Sequence[int],
        count: int,
        *,
        ahead: int = 0,
        grain: int = 1,
        rows: int = 1,
        steps: tuple[int, int] = (0, 0),
        held: Any = None,
    ) -> None:
        self.address, self.images, self.planes = address, rows, count
        self._source, self._target = source, target
        self._held = held
        self._geometry = np.array(geometry, np.int64)
        self._like = like.shape, like.stride()
        self._ahead, self._grain, self._steps = 4 * ahead, grain, steps
        self._count = -(-count // grain) * grain
        self._tasks: dict[int, tuple[Tasks, np.ndarray]] = {}

    def __call__(self, run: list[Any]) -> None:
        """Run it on the threads that torch has now."""
        threads = torch.get_num_threads()
        if threads not in self._tasks:
            tasks = Tasks(*self.rounds(threads)[0])
            self._tasks[threads] = tasks, tasks.table[:, 0].copy()
        tasks, offsets = self._tasks[threads]
        if isinstance(self._source, Slot):
            x = run[self._source.place]
            if (x.shape, x.stride()) != self._like:  # another shape cannot be copied: refused
                x = torch.empty_strided(*self._like).copy_(x)
            np.add(offsets, x.data_ptr(), out=tasks.table[:, 0])
        tasks()

    @property
    def fixed(self) -> bool:
        """Whether it reads the same memory in every run."""
        return isinstance(self._source, Tensor)

    def places(self, image: int) -> list[int]:
        """Addresses of input and output; from the input's start on, if that is not fixed."""
        x = self._source.data_ptr() if isinstance(self._source, Tensor) else 0
        ahead, behind = (4 * image * step for step in self._steps)
        return [x + self._ahead + ahead, self._target.data_ptr() + behind]

    def calls(self, image: int) -> np.ndarray:
        """The function and its arguments for one image, as one row."""
        return np.array([[self.address, *self._arguments(image, 0, self._count)]], np.int64)

    def _arguments(self, image: int, first: int, last: int) -> tuple[int, ...]:
        return (*self.places(image), self._geometry.ctypes.data, first, last, image, 0)

    def rounds(self, threads: int) -> list[Round]:
        """The function, with one row for each image and range."""
        size = -(-self._count // (pieces(threads) * self._grain)) * self._grain
        ranges = [(b, min(b + size, self._count)) for b in range(0, self._count, size)]
        rows = [self._arguments(i, *limits) for i in range(self.images) for limits in ranges]
        return [(self.address, np.array(rows, np.int64).reshape(-1, 7))]


def phases(
    source: Tensor | Slot, value: Tensor, layer: Layer, form: Form, whole: Tensor
) -> NativeStep | None:
    """The step that splits images for a stride of two; None where there is no code for the shape.

    whole: where phases go, `[n, channels * phases, h, w]`.
    """
    found = split_phases(layer)
    down, across = (sorted({phase[i] for phase in found}) for i in (0, 1))
    wide = value.shape[-1] // 2
    if layer.stride != (2, 2) or value.dim() != 4 or across not in ([0], [0, 1]):
        return None
    if not _fits(value, wide):
        return None
    numbers = (
        value.stride(1), value.stride(2), len(found) * form.pitch, form.row,
        value.shape[2] - down[0], wide, form.pitch, len(across) * form.pitch,
    )  # fmt: skip
    return NativeStep(
        images.split(wide, len(across), len(down)), source, value, whole, numbers, value.shape[1],
        ahead=down[0] * value.stride(2), rows=value.shape[0],
        steps=(value.stride(0), whole.stride(0)),
    )  # fmt: skip


def pool(
    node: Node, source: Tensor | Slot, value: Tensor, form: Form, target: Tensor
) -> NativeStep | None:
    """The step of a maximum over 3 x 3 with stride 2, into planes."""
    usual = ([3, 3], [2, 2], [1, 1])
    given = tuple(list(arg) for arg in node.args[1:4] if isinstance(arg, (list, tuple)))
    rest = tuple(node.args[4:])
    if given != usual or rest not in ((), ([1, 1],), ([1, 1], False)) or node.kwargs:
        return None
    wide = target.shape[-1]
    if value.dim() != 4 or not _fits(value, wide):
        return None
    numbers = (
        value.stride(1), value.stride(2), value.shape[2] - 1, form.pitch, form.row,
        target.shape[2], wide,
    )  # fmt: skip
    return NativeStep(
        images.pool(wide), source, value, target, numbers, value.shape[1], rows=value.shape[0],
        steps=(value.stride(0), target.stride(0)),
    )  # fmt: skip


def mean(node: Node, source: Tensor, form: Form, target: Tensor) -> NativeStep | None:
    """The step of a mean over whole images that lie as planes, border and all.

    target: `[n, channels]`, without gaps.
    """
    given = node.args[1:]
    if node.op == "aten.adaptive_avg_pool2d.default":
        whole = len(given) == 1 and list(given[0]) == [1, 1]
    else:
        axes = [d % source.dim() for d in given[0]] if given and given[0] else []
        whole = node.op == "aten.mean.dim" and sorted(axes) == [2, 3]
    if not whole or node.kwargs or source.dim() != 4 or not llvm.available():
        return None
    size = source.shape[2] * source.shape[3]
    numbers = (source.stride(1), form.positions, low(1 / size))
    return NativeStep(
        images.mean(), source, source, target, numbers, source.shape[1], rows=source.shape[0],
        steps=(source.stride(0), target.stride(0)),
    )  # fmt: skip


def norm(
    node: Node, source: Tensor, target: Tensor, weight: Any, bias: Any, form: Form
) -> NativeStep | None:
    """The step of a layer norm over features that lie as planes, as its source and target do."""
    features = target.shape[-1]
    sizes, both = list(node.args[1]), (weight, bias)
    known = all(isinstance(t, Tensor) and t.is_contiguous() and t.dim() == 1 for t in both)
    if not known or sizes != [features] or weight.dtype != torch.float32 or not llvm.available():
        return None
    eps = node.args[4] if len(node.args) > 4 else 1e-5
    numbers = (
        source.stride(-1), form.pitch, features, weight.data_ptr(), bias.data_ptr(),
        low(1 / features), low(eps),
    )  # fmt: skip
    return NativeStep(
        norms.layer_norm(), source, source, target, numbers, form.positions, grain=16, held=both
    )


def _fits(value: Tensor, wide: int) -> bool:
    """Whether rows can be taken apart: of an even length, without gaps, long enough."""
    even = value.shape[3] == 2 * wide and value.stride(3) == 1
    plain = value.dtype == torch.float32 and llvm.available()
    return even and plain and images.lanes(wide) > 0


def low(value: float) -> int:
    """A float32 in the low half of an integer."""
    return int(np.float32(value).view(np.uint32))
