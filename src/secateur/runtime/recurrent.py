"""Whole sequences through sparse LSTM, GRU and plain recurrent layers.

The input's part of all gates is a sparse matrix times planes, for many steps at once. The recurrent
part goes step by step, in one native call: a matrix-vector product for a single sample, planes of
samples for several, then the cell. Steps are taken in runs, so that what a run needs stays in the
cache. Directions and groups of samples run side by side on torch's threads.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.runtime.formats import fitting, sliced
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.cells import GATES, Sequence, sequence
from secateur.runtime.kernels.csr import CsrKernel, Tile, tiles
from secateur.runtime.kernels.matvec import MatVec
from secateur.runtime.kernels.transpose import transpose
from secateur.runtime.machine.parallel import parallel
from secateur.runtime.planes import from_linear

_POSITIONS = 128  # of the input's planes in one run
_PITCH = _POSITIONS + 16  # an odd number of cache lines, so that planes do not evict each other


@dataclass(frozen=True)
class Direction:
    """The weights of one layer in one direction, float32, as PyTorch has them.

    w_ih: `[gates * hidden, inputs]`; w_hh: `[gates * hidden, hidden]`; b_ih, b_hh: `[gates *
    hidden]` or None.
    """

    w_ih: np.ndarray
    w_hh: np.ndarray
    b_ih: np.ndarray | None = None
    b_hh: np.ndarray | None = None


class Recurrent:
    """Layers of LSTM, GRU or plain recurrence, as `nn.LSTM` computes them.

    kind: "lstm", "gru", "rnn_tanh" or "rnn_relu". layers: for each layer its directions, one or
    two (the second runs from the end).

    Example:
        >>> rnn = nn.GRU(3, 4)
        >>> weights = [w.detach().numpy() for w in rnn.parameters()]
        >>> if llvm.available():
        ...     fast = Recurrent("gru", [[Direction(*weights)]])
        ...     x = torch.randn(5, 1, 3)
        ...     assert torch.allclose(fast(x)[0], rnn(x)[0], atol=1e-5)
    """

    def __init__(self, kind: str, layers: Many[Many[Direction]], batch_first: bool = False) -> None:
        if kind not in GATES:
            raise InputError(f"cell {kind!r} is not known", hint="one of " + ", ".join(GATES))
        self.kind = kind
        self.batch_first = batch_first
        self.layers = [[_Layer(kind, d) for d in directions] for directions in layers]
        self.address = sequence(kind)

    @property
    def bytes(self) -> int:
        """Packed weights, of the kernels that were used so far."""
        return sum(layer.bytes for directions in self.layers for layer in directions)

    @torch.no_grad()
    def __call__(
        self, x: Tensor, state: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        """Outputs and last states, with the shapes of `nn.LSTM` and `nn.GRU`.

        x: `[steps, batch, inputs]`, `[batch, steps, inputs]` with `batch_first`, or `[steps,
        inputs]`. state: the states before the first step, zeros where it is None.
        """
        if x.device.type != "cpu" or x.dtype != torch.float32:
            raise InputError(f"the input is {x.dtype} on {x.device}", hint="float32 on the CPU")
        single = x.dim() == 2
        if x.dim() not in (2, 3) or x.shape[-1] != self.layers[0][0].inputs:
            raise InputError(
                f"the input has shape {list(x.shape)}",
                hint=f"steps, batch and {self.layers[0][0].inputs} features",
            )
        if single:
            x = x[:, None]
        elif self.batch_first:
            x = x.transpose(0, 1)
        if x.shape[0] == 0:
            raise InputError("the sequence has no steps")
        states = self._states(state, x.shape[1], single)
        runs, number = [], 0
        for directions in self.layers:
            runs.append([])
            for i, layer in enumerate(directions):
                given = [s[number] for s in states]
                runs[-1].append(_Run(layer, x.shape[0], given, backwards=i == 1))
                number += 1
        x = _through(self.address, runs, x)
        last = [run.state() for directions in runs for run in directions]
        stacked = torch.stack(last, 1)  # [hidden and cell, layers * directions, batch, units]
        if single:
            x, stacked = x[:, 0], stacked[:, :, 0]
        elif self.batch_first:
            x = x.transpose(0, 1).contiguous()
        return x, ((stacked[0], stacked[1]) if self.kind == "lstm" else stacked[0])

    def _states(
        self, state: Tensor | tuple[Tensor, Tensor] | None, batch: int, single: bool
    ) -> list[Tensor]:
        """Hidden and cell states, `[layers * directions, batch, units]`."""
        shape = (sum(map(len, self.layers)), batch, self.layers[0][0].hidden)
        if state is None:
            return [torch.zeros(shape)] * 2
        found = list(state) if isinstance(state, tuple) else [state]
        found = [s[:, None] if single else s for s in found]
        if len(found) != 1 + (self.kind == "lstm") or any(s.shape != shape for s in found):
            shapes = ", ".join(str(list(s.shape)) for s in found)
            raise InputError(f"the states have shapes {shapes}", hint=f"{list(shape)}")
        return [found[0], found[-1]]


class _Layer:
    """One direction of one layer: its kernels."""

    def __init__(self, kind: str, weights: Direction) -> None:
        gates = GATES[kind]
        rows, self.inputs = weights.w_ih.shape
        self.hidden = weights.w_hh.shape[1]
        if rows != gates * self.hidden or weights.w_hh.shape[0] != rows:
            raise InputError(
                f"the weights have shapes {weights.w_ih.shape} and {weights.w_hh.shape}",
                hint=f"{kind} has {gates} gates of equal size, and no projection",
            )
        self.gates = gates
        self.lanes = llvm.host().lanes
        self.padded = -(-self.hidden // self.lanes) * self.lanes
        given = from_linear(weights.w_ih, pitch=_PITCH, bias=weights.b_ih)
        self.given = CsrKernel(given, tiles(given, _POSITIONS)[0])
        self._recurrent = sliced(weights.w_hh, 1)  # exact, without what fills rows up
        self._bias = weights.b_hh

    @cached_property
    def one(self) -> MatVec:
        """The recurrent matrix for one sample."""
        window = llvm.host().window
        formats = fitting(self._recurrent.dense(), 2 * self.lanes, window=window)
        return MatVec(formats[0], self._bias)

    @cached_property
    def many(self) -> CsrKernel:
        """The recurrent matrix for samples side by side."""
        layer = from_linear(self._recurrent.dense(), pitch=self.lanes, bias=self._bias)
        return CsrKernel(layer, Tile(1))

    @property
    def bytes(self) -> int:
        """Packed weights and code, of what has been used so far."""
        built = [self.__dict__.get(name) for name in ("one", "many")]
        kept = self.given.bytes + self._recurrent.nbytes
        return kept + sum(kernel.bytes for kernel in built if kernel is not None)


class _Run:
    """One direction of one layer on one input: its buffers, and how far it is."""

    def __init__(self, layer: _Layer, steps: int, state: Many[Tensor], backwards: bool) -> None:
        self.layer, self.steps, self.backwards = layer, steps, backwards
        self.batch = state[0].shape[0]
        lanes = layer.lanes
        # one sample: a vector is neighbouring units; several: a vector is neighbouring samples
        self.width = 1 if self.batch == 1 else lanes
        self.groups = max(1, -(-self.batch // self.width))
        self.stride = _POSITIONS // self.width  # steps in one run
        if torch.get_num_threads() > 1:  # shorter runs, so that layers overlap
            self.stride = max(8, min(self.stride, -(-steps // 8)))
        self.count = -(-steps // self.stride)
        units = layer.padded if self.width == 1 else layer.hidden
        self.states = torch.zeros(2, self.groups, units, self.width)
        for kept, given in zip(self.states, state, strict=True):
            for group, part in enumerate(given.split(self.width)):
                kept[group, : layer.hidden, : len(part)] = part.t()
        rows = layer.gates * layer.hidden
        self.sums = torch.empty(self.groups, rows * self.width + lanes)
        self.planes = torch.zeros(self.groups, layer.inputs, _PITCH)
        self.given = torch.empty(self.groups, rows, _PITCH)
        self.turned = torch.empty(self.stride, rows + lanes) if self.width == 1 else None
        self.out = torch.empty(self.groups, steps, units, self.width)

    def part(self, number: int) -> tuple[int, int]:
        """The steps `[start, stop)` of a run of steps."""
        start, stop = number * self.stride, min(self.steps, (number + 1) * self.stride)
        return (self.steps - stop, self.steps - start) if self.backwards else (start, stop)

    def inputs(self, x: Tensor) -> list[list[int]]:
        """Write samples `[steps, batch, inputs]` as planes; the calls of the input's kernel."""
        count = len(x)
        tasks = []
        for group in range(self.groups):
            samples = x[:, group * self.width : (group + 1) * self.width]
            planes = self.planes[group, :, : count * self.width]
            if self.width == 1 and self.batch:
                transpose(samples[:, 0], planes)
            else:
                wide = planes.view(-1, count, self.width)
                wide[:, :, : samples.shape[1]] = samples.permute(2, 0, 1)
            step = self.layer.given.step
            end = -(-count * self.width // step) * step
            place = (self.planes[group].data_ptr(), self.given[group].data_ptr(), 0)
            tasks.append([*place, 0, end, 0, self.given.shape[1]])
        return tasks

    def sequences(self, number: int) -> list[np.ndarray]:
        """What the steps of a run work on, one for each group of samples."""
        start, stop = self.part(number)
        count, layer, lanes = stop - start, self.layer, self.layer.lanes
        first, sign = (count - 1, -1) if self.backwards else (0, 1)
        found = []
        for group in range(self.groups):
            if self.turned is not None:
                transpose(self.given[group, :, :count], self.turned[:count, :-lanes])
                gates, step, gate, following = (
                    self.turned,
                    self.turned.shape[1],
                    layer.hidden,
                    lanes,
                )
            else:
                gates, step = self.given[group], lanes
                gate, following = layer.hidden * _PITCH, _PITCH
            out = self.out[group, start + first]
            one = self.width == 1
            what = Sequence(
                kernel=layer.one.address if one else layer.many.address,
                end=1 if one else lanes,
                last=layer.one.lanes if one else layer.gates * layer.hidden,
                hidden=self.states[0, group].data_ptr(),
                cell=self.states[1, group].data_ptr(),
                sums=self.sums[group].data_ptr(),
                sums_gate=layer.hidden * self.width,
                gates=gates.data_ptr() + 4 * first * step,
                gates_step=sign * step,
                gates_gate=gate,
                gates_next=following,
                out=out.data_ptr(),
                out_step=sign * out.numel(),
                out_next=lanes,
                steps=count,
                vectors=out.numel() // lanes,
            )
            found.append(what.array())
        return found

    def outputs(self, start: int, stop: int) -> Tensor:
        """Hidden states of steps, `[steps, batch, units]`."""
        out = self.out[:, start:stop, : self.layer.hidden].permute(1, 0, 3, 2)
        return out.reshape(stop - start, -1, self.layer.hidden)[:, : self.batch]

    def state(self) -> Tensor:
        """Hidden and cell state, `[2, batch, units]`."""
        found = self.states[:, :, : self.layer.hidden].transpose(2, 3)
        return found.reshape(2, -1, self.layer.hidden)[:, : self.batch]


def _through(address: int, runs: list[list[_Run]], x: Tensor) -> Tensor:
    """All layers; the outputs `[steps, batch, directions * units]`.

    In one direction, a layer starts as soon as the one before has done a run of steps, so that
    layers as well may be on several threads.
    """
    count = runs[0][0].count
    if all(len(directions) == 1 for directions in runs):
        for wave in range(count + len(runs) - 1):
            work = []
            for depth, (run,) in enumerate(runs):
                number = wave - depth
                if 0 <= number < count:
                    part = run.part(number)
                    samples = runs[depth - 1][0].outputs(*part) if depth else x[slice(*part)]
                    work.append((run, number, samples))
            _together(address, work)
        return runs[-1][0].outputs(0, len(x))
    for directions in runs:
        for number in range(count):
            _together(address, [(r, number, x[slice(*r.part(number))]) for r in directions])
        x = torch.cat([run.outputs(0, len(x)) for run in directions], 2)
    return x


def _together(address: int, work: list[tuple[_Run, int, Tensor]]) -> None:
    """One run of steps of layers that do not depend on each other, side by side."""
    for run, _, samples in work:
        _spread(run.layer.given.address, run.inputs(samples))
    held = [array for run, number, _ in work for array in run.sequences(number)]
    tasks = np.zeros((len(held), 7), np.int64)
    tasks[:, 0] = [array.ctypes.data for array in held]
    parallel(address, tasks)


def _spread(address: int, tasks: list[list[int]]) -> None:
    """Tasks of a kernel, cut by rows where there are more threads than tasks."""
    parts = -(-torch.get_num_threads() // len(tasks))
    cut = []
    for *place, first, last in tasks:
        edges = np.linspace(first, last, parts + 1).astype(int)
        cut += [[*place, a, b] for a, b in pairwise(edges.tolist())]
    parallel(address, np.array(cut, np.int64))
