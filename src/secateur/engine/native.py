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
from secateur.runtime.machine import Tasks


class Slot:
    """A value that each run makes anew, by its place in the run's list."""

    def __init__(self, place: int) -> None:
        self.place = place


class NativeStep:
    """A native function over ranges `[first, last)`, for every image.

    source: where it reads, in our memory or made by each run. grain: ranges are multiples of it.
    held: what must live as long as the step.
    """

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
        self._address, self._source, self._target = address, source, target
        self._held = held
        self._geometry = np.array(geometry, np.int64)
        self._like = like.shape, like.stride()
        self._ahead, self._grain, self._images, self._steps = 4 * ahead, grain, rows, steps
        self._count = -(-count // grain) * grain
        self._tasks: dict[int, tuple[Tasks, np.ndarray]] = {}

    def __call__(self, run: list[Any]) -> None:
        """Run it on the threads that torch has now."""
        source = self._source
        x = run[source.place] if isinstance(source, Slot) else source
        if (x.shape, x.stride()) != self._like:  # another shape cannot be copied: that is refused
            x = torch.empty_strided(*self._like).copy_(x)
        threads = torch.get_num_threads()
        if threads not in self._tasks:
            table = self._table(threads)
            self._tasks[threads] = Tasks(self._address, table), table[:, 0].copy()
        tasks, offsets = self._tasks[threads]
        np.add(offsets, x.data_ptr() + self._ahead, out=tasks.table[:, 0])
        tasks()

    def _table(self, threads: int) -> np.ndarray:
        """One row for each image and range; the first column counts from the input's start."""
        size = -(-self._count // (threads * self._grain)) * self._grain
        ranges = [(b, min(b + size, self._count)) for b in range(0, self._count, size)]
        y, place = self._target.data_ptr(), self._geometry.ctypes.data
        rows = [
            (4 * i * self._steps[0], y + 4 * i * self._steps[1], place, *limits, 0, 0)
            for i in range(self._images)
            for limits in ranges
        ]
        return np.array(rows, np.int64).reshape(-1, 7)


def phases(
    source: Tensor | Slot, value: Tensor, layer: Layer, form: Form, whole: Tensor
) -> list[NativeStep]:
    """Steps that split images for a stride of two; none where there is no code for the shape.

    whole: where phases go, `[n, channels * phases, h, w]`.
    """
    found = split_phases(layer)
    across = [b for a, b in found if a == found[0][0]]
    if layer.stride != (2, 2) or value.dim() != 4 or across not in ([0], [0, 1]):
        return []
    wide = value.shape[3] // 2
    if not _fits(value, wide):
        return []
    steps = []
    for i in range(0, len(found), len(across)):
        down = found[i][0]
        numbers = (
            value.stride(1), 2 * value.stride(2), len(found) * form.pitch, form.row,
            -(-(value.shape[2] - down) // 2), wide, form.pitch,
        )  # fmt: skip
        steps.append(
            NativeStep(
                images.split(wide, len(across) == 2), source, value, whole[:, i:], numbers,
                value.shape[1], ahead=down * value.stride(2), rows=value.shape[0],
                steps=(value.stride(0), whole.stride(0)),
            )
        )  # fmt: skip
    return steps


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
    numbers = (source.stride(1), form.positions, _low(1 / size))
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
        _low(1 / features), _low(eps),
    )  # fmt: skip
    return NativeStep(
        norms.layer_norm(), source, source, target, numbers, form.positions, grain=16, held=both
    )


def _fits(value: Tensor, wide: int) -> bool:
    """Whether rows can be taken apart: of an even length, without gaps, long enough."""
    even = value.shape[3] == 2 * wide and value.stride(3) == 1
    plain = value.dtype == torch.float32 and llvm.available()
    return even and plain and images.lanes(wide) > 0


def _low(value: float) -> int:
    """A float32 in the low half of an integer."""
    return int(np.float32(value).view(np.uint32))
