"""A linear layer with all that was fused into it, and its weight in little room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "hardswish": F.hardswish,
}


@dataclass(frozen=True)
class Packed:
    """A tensor as its non-zero values and a bit for each entry.

    Example:
        >>> packed = pack(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
        >>> packed.nnz, packed.density, packed.dense().tolist()
        (1, 0.25, [[0.0, 2.0], [0.0, 0.0]])
    """

    shape: tuple[int, ...]
    values: np.ndarray
    bits: np.ndarray

    @property
    def nnz(self) -> int:
        """Non-zeros."""
        return len(self.values)

    @property
    def numel(self) -> int:
        """Entries."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def density(self) -> float:
        """Non-zeros for each entry."""
        return self.nnz / max(1, self.numel)

    @property
    def bytes(self) -> int:
        """Memory."""
        return self.values.nbytes + self.bits.nbytes

    def dense(self) -> Tensor:
        """The whole tensor, anew."""
        flat = np.zeros(self.numel, np.float32)
        flat[np.unpackbits(self.bits, count=self.numel).view(np.bool_)] = self.values
        return torch.from_numpy(flat).view(self.shape)


def pack(tensor: Tensor) -> Packed:
    """A float32 tensor in little room; NaN is a value, and a negative zero is zero."""
    flat = np.ascontiguousarray(tensor.detach().cpu().numpy(), np.float32).reshape(-1)
    kept = flat != 0
    return Packed(tuple(tensor.shape), flat[kept], np.packbits(kept))


@dataclass(frozen=True)
class Layer:
    """`activation(conv(x) + residual)`, or the same of a linear map over the last dimension.

    label: the user's name for it. weight: `[out, in / groups, kh, kw]` for a convolution, whatever
    its dimensions (`dims`: 1 or 2), `[out, in]` for a linear layer (`dims` 0).
    """

    label: str
    weight: Packed
    bias: np.ndarray | None
    dims: int = 0
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: str = "none"
    residual: bool = False

    @property
    def density(self) -> float:
        """Non-zeros for each entry of the weight."""
        return self.weight.density

    @property
    def numel(self) -> int:
        """Entries of the weight."""
        return self.weight.numel

    @property
    def bytes(self) -> int:
        """Memory of weight and bias as they are kept."""
        return self.weight.bytes + (0 if self.bias is None else self.bias.nbytes)

    @property
    def out(self) -> int:
        """Output channels or features."""
        return self.weight.shape[0]

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width of the window; (1, 1) for linear layers."""
        return (self.weight.shape[2], self.weight.shape[3]) if self.dims else (1, 1)

    @property
    def kind(self) -> str:
        """What people call it: `conv 3x3`, `depthwise 3x3`, `linear`.

        Example:
            >>> Layer("fc", pack(torch.ones(2, 3)), None).kind
            'linear'
        """
        if not self.dims:
            return "linear"
        depthwise = self.groups > 1 and self.weight.shape[1] == 1
        window = "x".join(str(k) for k in self.kernel[2 - self.dims :])
        stride = f"/{max(self.stride)}" if max(self.stride) > 1 else ""
        return f"{'depthwise' if depthwise else 'conv'} {window}{stride}"

    def named(self, **changes: object) -> Layer:
        """The same layer with some things changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output for those of the input."""
        high, wide = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                size, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return high, wide


class Dense:
    """A layer through torch: weight and bias as dense tensors, made once.

    Example:
        >>> layer = Layer("fc", pack(torch.eye(2)), None, activation="relu")
        >>> Dense(layer)(torch.tensor([[1.0, -1.0]]))
        tensor([[1., 0.]])
    """

    def __init__(self, layer: Layer, weight: Tensor | None = None) -> None:
        self.layer = layer
        weight = layer.weight.dense() if weight is None else weight
        self.weight = weight.squeeze(2) if layer.dims == 1 else weight
        self.bias = None if layer.bias is None else torch.from_numpy(layer.bias)
        self._act = ACTIVATIONS[layer.activation]

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Run the layer on a tensor of its kind of input."""
        y = self.linear(x)
        if residual is not None:
            y = y + residual
        return self._act(y)

    def linear(self, x: Tensor) -> Tensor:
        """The layer without what was fused behind it."""
        layer = self.layer
        if not layer.dims:
            return F.linear(x, self.weight, self.bias)
        at = 2 - layer.dims
        conv = F.conv2d if layer.dims == 2 else F.conv1d
        return conv(
            x, self.weight, self.bias, layer.stride[at:], layer.padding[at:],
            layer.dilation[at:], layer.groups,
        )  # fmt: skip
