"""Statistics of what linear operations read: moments of every input channel, and features.

A mode watches an ordinary run of the model, so that it does not matter which layer or function
executes the operation, or how often.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.batches import Call, untouched
from secateur.core.errors import InputError
from secateur.graph.trace import decomposed, fast_convolutions
from secateur.measure.linear import Parameters, Spec, Use

_aten = torch.ops.aten
_CONVOLUTIONS = (_aten.convolution, _aten._convolution)
_PIECE = 2**21  # elements that are held in float64 at a time


@dataclass(frozen=True)
class InputFacts:
    """What one weight's input channels look like over the data; vectors are `[groups, channels]`.

    weight: the consumer's name. spec: how it is used. count: rows seen (samples times positions;
    a weight that is used several times in a pass sees more). mean and variance (divided by the
    count): float64. A convolution counts every position of its input once, without its padding.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
        >>> found = input_facts(nn.Linear(2, 1), [Call((x,), {})])["weight"]
        >>> found.count, found.mean.tolist(), found.variance.tolist(), found.squared.tolist()
        (2, [[2.0, 0.0]], [[1.0, 0.0]], [[10.0, 0.0]])
    """

    weight: str
    spec: Spec
    count: int
    mean: Tensor
    variance: Tensor

    @property
    def squared(self) -> Tensor:
        """Sum of squares of every channel; `[groups, channels]`."""
        return self.count * (self.variance + self.mean.square())


def input_facts(
    model: nn.Module, calls: Iterable[Call], wanted: Collection[str] | None = None
) -> dict[str, InputFacts]:
    """Moments of the input channels of every weight that some linear operation used.

    One pass; memory: two vectors a weight. The model runs in eval mode and is left as it was.

    wanted: names of weights; by default all.

    Raises:
        InputError: An input is not finite; the message names the weight that reads it.
    """
    found: dict[str, Moments] = {}
    specs: dict[str, Spec] = {}

    def see(use: Use) -> None:
        name = use.spec.weight
        if same_form(specs.setdefault(name, whole(use.spec)), use.spec):
            found.setdefault(name, Moments()).add(channels(use))

    watch(model, calls, see, wanted)
    for name, moments in found.items():  # in the order of use, so that the first is the cause
        check_finite(moments.mean, name)
    return {
        name: InputFacts(name, specs[name], m.count, m.mean, m.variance)
        for name, m in found.items()
    }


def features(
    model: nn.Module, call: Call, wanted: Collection[str] | None = None
) -> dict[str, Tensor]:
    """What linear operations read in one run, by weight: `[samples, channels, *space]`, copies.

    Without space dimensions a row is a sample: `[rows, channels]`. Of a weight that is used several
    times, all rows.

    Raises:
        InputError: An input is not finite; the message names the weight that reads it.
    """
    found: dict[str, list[Tensor]] = {}

    def see(use: Use) -> None:
        x = use.x if use.spec.kernel else use.inputs()[0]
        earlier = found.setdefault(use.spec.weight, [])
        if not earlier or earlier[0].shape[1:] == x.shape[1:]:
            check_finite(x, use.spec.weight)
            earlier.append(x.clone())

    watch(model, [call], see, wanted)
    return {name: torch.cat(parts) for name, parts in found.items()}


class Moments:
    """Count, mean and sum of squared deviations of `[groups, channels]`, merged in float64.

    Chan, Golub and LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances (1979).
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.deviation = torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Take in values `[n, groups, channels, positions]`."""
        rows = max(1, _PIECE // max(1, prod(x.shape[1:])))
        for piece in x.split(rows):
            wide = double(piece)
            count = piece.shape[0] * piece.shape[3]
            if not count:
                continue
            mean = wide.mean((0, 3))
            deviation = (wide - mean[None, :, :, None]).square_().sum((0, 3))
            self._merge(count, mean, deviation)

    def _merge(self, count: int, mean: Tensor, deviation: Tensor) -> None:
        if not self.count:
            self.count, self.mean, self.deviation = count, mean, deviation
            return
        total = self.count + count
        gap = mean - self.mean
        self.mean = self.mean + gap * (count / total)
        self.deviation = self.deviation + deviation + gap.square() * (self.count * count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Mean squared deviation."""
        return self.deviation / max(1, self.count)


def channels(use: Use) -> Tensor:
    """An operation's input as `[n, groups, channels, positions]` (a view where possible)."""
    x = use.x
    if use.spec.kernel:
        return x.reshape(x.shape[0], use.spec.groups, -1, prod(x.shape[2:]))
    x = x.t() if use.left else x.reshape(-1, x.shape[-1])
    return x[:, None, :, None]


def watch(
    model: nn.Module,
    calls: Iterable[Call],
    see: Callable[[Use], None],
    wanted: Collection[str] | None = None,
) -> None:
    """Run the model on calls and show `see` every linear operation with a wanted weight."""
    with untouched(model), decomposed(), _Watch(Parameters(model), see, wanted):
        for call in calls:
            call.run(model)


class _Watch(TorchDispatchMode):
    def __init__(
        self, parameters: Parameters, see: Callable[[Use], None], wanted: Collection[str] | None
    ) -> None:
        super().__init__()
        self.parameters, self.see, self.wanted = parameters, see, wanted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket in _CONVOLUTIONS:
            with fast_convolutions():
                out = func(*args, **(kwargs or {}))
        else:
            out = func(*args, **(kwargs or {}))
        use = self.parameters.use(func, args, out)
        if use is not None and (self.wanted is None or use.spec.weight in self.wanted):
            self.see(use)
        return out


def whole(spec: Spec) -> Spec:
    """The same for all rows of the weight: parts of a packed projection add up."""
    return spec if spec.rows is None else replace(spec, rows=None)


def same_form(one: Spec, other: Spec) -> bool:
    """Whether two uses of a weight have the same columns, so that their statistics can be added."""
    return (one.kind, one.groups, one.kernel) == (other.kind, other.groups, other.kernel)


def double(tensor: Tensor) -> Tensor:
    """The tensor in float64; on the CPU if its device has no such type."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def check_finite(values: Tensor, weight: str) -> None:
    """Raise `InputError` unless all values are finite."""
    if not bool(torch.isfinite(values).all()):
        raise InputError(
            f"the input of {weight} holds values that are not finite on the calibration data",
            hint="the model overflows or has diverged there: try float32, or check that layer",
        )


__all__ = [
    "InputFacts",
    "Moments",
    "channels",
    "check_finite",
    "double",
    "features",
    "input_facts",
    "same_form",
    "watch",
    "whole",
]
