"""Sparse recurrent networks, ours and PyTorch's in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.runtime.recurrent import Direction, Recurrent

KINDS: dict[str, Any] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
}


def fast(kind: str, rnn: nn.RNNBase) -> Recurrent:
    def weights(end: str) -> Direction:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        found = [getattr(rnn, f"{name}_{end}", None) for name in names]
        return Direction(*(None if w is None else w.detach().numpy() for w in found))

    ends = ["", "_reverse"] if rnn.bidirectional else [""]
    layers = [[weights(f"l{n}{end}") for end in ends] for n in range(rnn.num_layers)]
    return Recurrent(kind, layers, rnn.batch_first)


def network(
    kind: str, inputs: int, hidden: int, density: float = 0.4, **options: Any
) -> nn.RNNBase:
    rnn = KINDS[kind](inputs, hidden, **options)
    with torch.no_grad():
        for weight in rnn.parameters():
            weight *= torch.rand_like(weight) < density
    return rnn


def both(kind: str, rnn: nn.RNNBase, x: Tensor, state: Any = None) -> tuple[list, list]:
    """Outputs and states, ours and those of PyTorch in float64."""
    model = fast(kind, rnn)
    y, last = model(x, state)
    wide = tuple(s.double() for s in state) if isinstance(state, tuple) else state
    wide = wide.double() if isinstance(wide, Tensor) else wide
    with torch.no_grad():
        right, right_last = rnn.double()(x.double(), wide)
    as_list = lambda s: list(s) if isinstance(s, tuple) else [s]  # noqa: E731
    return [y, *as_list(last)], [right, *as_list(right_last)]


def same(ours: list, right: list) -> None:
    for a, b in zip(ours, right, strict=True):
        assert a.shape == b.shape and a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-6)
