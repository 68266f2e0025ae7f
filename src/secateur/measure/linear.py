"""Linear operations as what they are: rows of inputs times a matrix, whatever layer made them.

Statistics of inputs and least-squares repair see `Use`s only: a fully connected layer, a
convolution of any kind (strided, padded, dilated, grouped, transposed, 1 to 3 dimensions) and a
gate of a recurrent layer all give `inputs [groups, n, k]`, `outputs [n, out]` and a matrix
`[groups, out / groups, k]`, where column `c * taps + t` belongs to channel `c` at kernel position
`t` (a fully connected layer has one tap).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.matrix import Kind, Matrix
from secateur.core.tensors import named_tensors

_aten = torch.ops.aten
_CONVOLUTIONS = (_aten.convolution, _aten._convolution)


@dataclass(frozen=True)
class Spec:
    """How a linear operation uses its weight; equal for every call of the same layer.

    weight, bias: names of parameters. rows: the weight's rows that are used (the key rows of a
    packed attention projection), or None for all. kind: "dense" ([out, in]), "flipped" ([in, out]),
    "conv" or "transposed". bias_rows: the part of the bias that is used, or None for all. The rest
    describes a convolution.
    """

    weight: str
    bias: str | None
    kind: Kind
    rows: tuple[int, int] | None = None
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    bias_rows: tuple[int, int] | None = None

    @property
    def taps(self) -> int:
        """Kernel positions; 1 for a fully connected layer."""
        return prod(self.kernel)

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as `[groups, out / groups, k]` (a view where possible)."""
        whole = self._form.of(weight)
        rows = whole if self.rows is None else whole[slice(*self.rows)]
        return rows.reshape(self.groups, rows.shape[0] // self.groups, rows.shape[1])

    def store(self, weight: Tensor, matrix: Tensor) -> None:
        """Write a matrix of `matrix`'s form into the weight, in place."""
        with torch.no_grad():
            target = weight if self.rows is None else weight[slice(*self.rows)]
            flat = matrix.reshape(-1, matrix.shape[-1])
            target.copy_(self._form.back(flat, tuple(target.shape)))

    @property
    def _form(self) -> Matrix:
        return Matrix(self.kind, self.groups)

    @property
    def in_dim(self) -> int:
        """The weight's dimension that is contracted."""
        return 0 if self.kind in ("flipped", "transposed") else 1

    @property
    def out_dim(self) -> int:
        """The weight's dimension that makes outputs."""
        return 1 - self.in_dim


@dataclass(frozen=True)
class Use:
    """One executed linear operation: its input and, once it has run, its output.

    left: the weight was the left factor, so that samples lie in the columns.
    """

    spec: Spec
    x: Tensor
    out: Tensor
    left: bool = False

    @property
    def count(self) -> int:
        """How many rows there are: samples times positions."""
        if self.spec.kernel:
            return self.out.shape[0] * prod(self.out.shape[2:])
        return self.out.shape[-1] if self.left else self.out.numel() // max(1, self.out.shape[-1])

    def outputs(self, index: Tensor | None = None, of: Tensor | None = None) -> Tensor:
        """Rows of the output, or of another tensor of its shape; `[n, out]`."""
        y = self.out if of is None else of
        if self.spec.kernel:
            flat = y.flatten(2)
            if index is None:
                return flat.transpose(1, 2).reshape(-1, y.shape[1])
            size = flat.shape[2]
            return flat[index // size, :, index % size]
        y = y.t() if self.left else y.reshape(-1, y.shape[-1])
        return y if index is None else y.index_select(0, index)

    def inputs(self, index: Tensor | None = None) -> Tensor:
        """Rows of the input, `[groups, n, k]`; for convolutions every kernel position (im2col).

        Memory: n times the size of a patch, plus a padded copy of the input.
        """
        if not self.spec.kernel:
            x = self.x.t() if self.left else self.x.reshape(-1, self.x.shape[-1])
            return (x if index is None else x.index_select(0, index))[None]
        if index is None:
            index = torch.arange(self.count, device=self.x.device)
        spec, x = self.spec, self.x
        padded, step, flip = self._padded()
        space = padded.shape[2:]
        strides = [prod(space[d + 1 :]) for d in range(len(space))]
        out_space = self.out.shape[2:]
        size = prod(out_space)
        sample, left_over = index // size, index % size
        base = torch.zeros_like(index)
        for d in reversed(range(len(space))):
            base += (left_over % out_space[d]) * step[d] * strides[d]
            left_over = left_over // out_space[d]
        offsets = torch.zeros(1, dtype=torch.long, device=x.device)
        for d, k in enumerate(spec.kernel):
            tap = torch.arange(k, device=x.device) * spec.dilation[d]
            tap = tap.flip(0) if flip else tap
            offsets = (offsets[:, None] + tap[None] * strides[d]).reshape(-1)
        where = (sample * prod(space) + base)[:, None] + offsets[None]
        last = padded.flatten(2).transpose(1, 2).reshape(-1, x.shape[1])
        rows = last.index_select(0, where.reshape(-1)).view(len(index), spec.taps, spec.groups, -1)
        return rows.permute(2, 0, 3, 1).reshape(spec.groups, len(index), -1)

    def _padded(self) -> tuple[Tensor, Sequence[int], bool]:
        """The input so padded that output `q` reads from `q * step` on; steps; taps reversed?"""
        spec, x = self.spec, self.x
        if spec.kind == "conv":
            pads = [p for p in reversed(spec.padding) for _ in (0, 1)]
            return (nn.functional.pad(x, pads) if any(pads) else x), spec.stride, False
        spread = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], spec.stride, strict=True)]
        stuffed = x.new_zeros(*x.shape[:2], *spread)
        stuffed[(slice(None), slice(None), *(slice(None, None, s) for s in spec.stride))] = x
        pads = []
        for d in reversed(range(len(spec.kernel))):
            low = spec.dilation[d] * (spec.kernel[d] - 1) - spec.padding[d]
            pads += [low, low + spec.output_padding[d]]
        return nn.functional.pad(stuffed, pads), [1] * len(spec.kernel), True

    def again(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The output for another weight and bias (that of the operation's own add, if any)."""
        spec = self.spec
        if spec.kernel:
            return _aten.convolution(
                self.x, weight, bias, spec.stride, spec.padding, spec.dilation,
                spec.kind == "transposed", spec.output_padding, spec.groups,
            )  # fmt: skip
        matrix = spec.matrix(weight)[0]
        if self.left:
            return matrix @ self.x if bias is None else matrix @ self.x + bias[:, None]
        if bias is not None and spec.bias_rows is not None:
            bias = bias[slice(*spec.bias_rows)]
        return nn.functional.linear(self.x, matrix, bias)


class Parameters:
    """Finds the parameter that an operand of an operation is, by the memory that it uses."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._by_storage: dict[int, list[str]] = {}
        for name, tensor in named_tensors(model):
            if isinstance(tensor, nn.Parameter) and tensor.numel() and tensor.is_floating_point():
                self.tensors[name] = tensor
                self._by_storage.setdefault(_storage(tensor), []).append(name)

    def name(self, operand: Any) -> str | None:
        """The name of the parameter whose memory an operand shares."""
        if not isinstance(operand, Tensor) or operand.layout != torch.strided:
            return None
        for name in self._by_storage.get(_storage(operand), ()):
            whole = self.tensors[
                name
            ]  # one of many in one storage, as cuDNN keeps recurrent layers
            start = operand.storage_offset() - whole.storage_offset()
            if 0 <= start < _extent(whole):
                return name
        return None

    def whole(self, operand: Tensor) -> bool:
        """Whether an operand is a parameter as it is, not a part or another view of it."""
        name = self.name(operand)
        return name is not None and _same(operand, self.tensors[name])

    def use(
        self, func: Any, args: Sequence[Any], out: Any, kwargs: Mapping[str, Any] | None = None
    ) -> Use | None:
        """The linear operation that was executed, or None if it is none of a plain parameter.

        A product that is scaled (`alpha`, `beta`), or to which something else than a plain bias is
        added, is none.
        """
        packet = func._overloadpacket
        if kwargs and any(kwargs.get(key, 1) != 1 for key in ("alpha", "beta")):
            return None
        if packet in _CONVOLUTIONS:
            return self._convolution(args, out)
        if packet is _aten.addmm:
            bias, first, second = args[:3]
            return self._product(first, second, bias, out)
        if packet is _aten.mm:
            return self._product(args[0], args[1], None, out)
        if packet is _aten.linear:
            bias = args[2] if len(args) > 2 else None
            return self._product(args[0], args[1].t(), bias, out)
        return None

    def _convolution(self, args: Sequence[Any], out: Tensor) -> Use | None:
        x, weight, bias, stride, padding, dilation, transposed, extra, groups = args[:9]
        name = self.name(weight)
        if name is None or not _same(weight, self.tensors[name]) or x.dim() != weight.dim():
            return None
        added = self._bias(bias, out.shape[1])
        if added is None:
            return None
        n = weight.dim() - 2
        steps, pads, spread, more = (
            tuple(v) * n if len(v) == 1 else tuple(v) for v in (stride, padding, dilation, extra)
        )
        kind = "transposed" if transposed else "conv"
        kernel = tuple(int(k) for k in weight.shape[2:])
        spec = Spec(name, added[0], kind, None, groups, kernel, steps, pads, spread, more, added[1])
        return Use(spec, x, out)

    def _product(self, first: Tensor, second: Tensor, bias: Any, out: Tensor) -> Use | None:
        name, other = self.name(second), self.name(first)
        if name is not None and other is None:
            added = self._bias(bias, out.shape[-1])
            spec = None if added is None else self._dense(name, second.t(), *added)
            return None if spec is None else Use(spec, first, out)
        if other is None or name is not None or bias is not None:
            return None
        spec = self._dense(other, first)
        return None if spec is None else Use(spec, second, out, left=True)

    def _bias(self, bias: Any, size: int) -> tuple[str | None, tuple[int, int] | None] | None:
        """Name and rows of a bias; None where something else is added."""
        if bias is None:
            return None, None
        name = self.name(bias)
        if name is None or bias.dim() != 1 or len(bias) != size:
            return None
        whole = self.tensors[name]
        if whole.dim() != 1 or bias.stride() != whole.stride():
            return None
        if len(whole) == size:
            return name, None
        start = int((bias.storage_offset() - whole.storage_offset()) // max(1, whole.stride(0)))
        return name, (start, start + size)

    def _dense(
        self, name: str, used: Tensor, bias: str | None = None, part: tuple[int, int] | None = None
    ) -> Spec | None:
        """How `used` ([out, in]) lies in its parameter."""
        whole = self.tensors[name]
        if whole.dim() < 2 or prod(whole.shape[2:]) != 1:
            return None
        out, inside = whole.shape[:2]
        start = used.storage_offset() - whole.storage_offset()
        stride = (whole.stride(0), whole.stride(1))
        if tuple(used.shape) == (out, inside) and used.stride() == stride and start == 0:
            return Spec(name, bias, "dense", bias_rows=part)
        if tuple(used.shape) == (inside, out) and used.stride() == stride[::-1] and start == 0:
            return Spec(name, bias, "flipped", bias_rows=part)
        if used.shape[1] == inside and used.stride() == stride and start % stride[0] == 0:
            first = int(start // stride[0])
            rows = (first, first + int(used.shape[0]))
            return Spec(name, bias, "dense", rows, bias_rows=part)
        return None


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _extent(tensor: Tensor) -> int:
    """How many elements of its storage a tensor spans."""
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one storage are the same view of it."""
    start = int(a.storage_offset()) == int(b.storage_offset())
    return start and a.shape == b.shape and a.stride() == b.stride()


def sample_rows(count: int, most: int, generator: torch.Generator) -> Tensor:
    """At most `most` of `count` row numbers, ascending, drawn without replacement."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:most].sort().values


def kept_columns(spec: Spec, keep: Tensor) -> Tensor:
    """The columns of a matrix (of one group) that belong to kept input channels."""
    return (keep[:, None] * spec.taps + torch.arange(spec.taps)[None]).reshape(-1)


__all__ = ["Parameters", "Spec", "Use", "kept_columns", "sample_rows"]
