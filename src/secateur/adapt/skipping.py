"""Layers that skip the weights of inputs near zero, where one row at a time comes in."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from secateur.runtime.kernels import skip

Watch = Callable[[int, Tensor], None]
"""Is told of every input: its number in the layer, and the values before any is dropped."""


def sparse(x: Tensor, threshold: float) -> Tensor:
    """The input with zeros where its magnitude is not above the threshold; NaN stays.

    Example:
        >>> sparse(torch.tensor([0.1, -2.0]), 0.5)
        tensor([ 0., -2.])
    """
    return x if threshold <= 0 else x.masked_fill(x.abs() <= threshold, 0)


def transposed(weight: Tensor) -> None:
    """Lay a matrix `[out, in]` out column by column, in place; its shape and values stay."""
    weight.data = weight.data.t().contiguous().t()


class Skipping(nn.Module):
    """What all layers that skip have in common.

    thresholds: for every input vector, what its magnitudes must exceed to count. kernels: whether
    single rows go through a kernel that reads the weights of live inputs only; otherwise, and of
    several rows, small inputs are set to zero and all weights are read.
    """

    inputs: tuple[str, ...]

    def adopt(self, layer: nn.Module) -> None:
        """Take over the parameters, hooks and settings of an ordinary layer."""
        self.__dict__.update(layer.__dict__)
        self.thresholds = [0.0] * len(self.inputs)
        self.kernels = skip.available()
        self.watch: Watch | None = None

    def weight_of(self, number: int) -> Tensor:
        """The matrix that an input is multiplied with, `[out, in]`."""
        raise NotImplementedError

    def product(self, number: int, x: Tensor, bias: Tensor | None, add: bool = False) -> Tensor:
        """`x @ weight.T + bias` of the input's live part; x: `[..., k]`.

        add: the bias has the output's shape, and is used up.
        """
        if self.watch is not None:
            self.watch(number, x)
        weight, threshold = self.weight_of(number), self.thresholds[number]
        ready = self.kernels and x.numel() == x.shape[-1] and weight.stride(0) == 1
        if ready and skip.usable(x, weight, bias):
            columns, row = weight.detach().t(), x.reshape(-1)
            if add and bias is not None:
                return skip.skipping(row, columns, None, threshold, bias.view(-1)).view_as(bias)
            return skip.skipping(row, columns, bias, threshold).view(*x.shape[:-1], -1)
        found = F.linear(sparse(x, threshold), weight, None if add else bias)
        return found + bias if add and bias is not None else found


class SkipLinear(Skipping, nn.Linear):
    """A fully connected layer that skips."""

    inputs = ("",)

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.adopt(layer)
        transposed(self.weight)

    def weight_of(self, number: int) -> Tensor:
        """The weight."""
        return self.weight

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        return self.product(0, input, self.bias)


class SkipFlipped(Skipping):
    """A layer of transformers that keeps its weight as `[in, out]`, as GPT-2's do."""

    inputs = ("",)

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.adopt(layer)

    def weight_of(self, number: int) -> Tensor:
        """The weight, turned."""
        return self.get_parameter("weight").t()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        return self.product(0, x, self.get_parameter("bias"))


def can_skip(layer: nn.Module) -> bool:
    """Whether a layer is of a kind that has a counterpart that skips."""
    if type(layer) in (nn.LSTM, nn.GRU, nn.RNN):
        return not layer.proj_size  # type: ignore[attr-defined]
    if type(layer) in (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return True
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")


def skipper(layer: nn.Module) -> Skipping | None:
    """A layer's counterpart that skips, or None; its weights are the layer's own memory or copies.

    Example:
        >>> skipper(nn.Linear(3, 2)), skipper(nn.ReLU())
        (SkipLinear(in_features=3, out_features=2, bias=True), None)
    """
    from secateur.adapt.recurrent import SkipRecurrent

    if not can_skip(layer):
        return None
    if isinstance(layer, nn.RNNBase):
        return SkipRecurrent(layer)
    return SkipLinear(layer) if isinstance(layer, nn.Linear) else SkipFlipped(layer)


def replace(model: nn.Module, names: list[str]) -> dict[str, Skipping]:
    """Put layers that skip in the place of those layers of a model that can."""
    found: dict[str, Skipping] = {}
    for name in names:
        layer = skipper(model.get_submodule(name))
        if layer is not None:
            model.set_submodule(name, layer)
            found[name] = layer
    return found


__all__ = ["SkipFlipped", "SkipLinear", "Skipping", "can_skip", "replace", "skipper", "sparse"]
