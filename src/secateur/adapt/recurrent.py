"""Recurrent layers step by step, which skip the small part of input and hidden vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from secateur.adapt.skipping import Skipping, transposed

State = tuple[Tensor, ...]
"""Hidden state, and of an LSTM its cell state: each `[n, units]`."""


class SkipRecurrent(Skipping, nn.RNNBase):
    """An LSTM, GRU or plain recurrent layer that skips; it takes and gives what that does.

    The inputs of all steps of a sequence are multiplied together, which reads all weights unless
    there is a single step; hidden vectors come one at a time.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        nn.Module.__init__(self)
        self.inputs = _names(layer)
        self.matrices = tuple(
            f"weight_{part}{end}" for end in _ends(layer) for part in ("ih", "hh")
        )
        self.adopt(layer)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                transposed(parameter)
        self._flat_weights = [getattr(self, name) for name in self._flat_weights_names]

    def weight_of(self, number: int) -> Tensor:
        """Of every layer and direction the input's matrix, then the hidden state's."""
        return getattr(self, self.matrices[number])

    def forward(self, input: Any, hx: Any = None) -> Any:  # type: ignore[override]
        """The outputs of all steps, and the final state."""
        lengths, packed = None, isinstance(input, PackedSequence)
        x = input
        if packed:
            x, lengths = pad_packed_sequence(input)
        alone = x.dim() == 2
        x = x.unsqueeze(1) if alone else x.transpose(0, 1) if self.batch_first and not packed else x
        start = self._start(x, hx, alone)
        x, final = self._layers(x, start, lengths)
        states = tuple(torch.stack(parts) for parts in zip(*final, strict=True))
        if alone:
            x, states = x.squeeze(1), tuple(state.squeeze(1) for state in states)
        if packed:
            assert lengths is not None
            x = pack_padded_sequence(x, lengths, enforce_sorted=input.sorted_indices is None)
        elif self.batch_first and not alone:
            x = x.transpose(0, 1)
        return x, states if self.mode == "LSTM" else states[0]

    def _start(self, x: Tensor, hx: Any, alone: bool) -> list[State]:
        """The first state of every layer and direction."""
        count = self.num_layers * (2 if self.bidirectional else 1)
        kinds = 2 if self.mode == "LSTM" else 1
        if hx is None:
            zero = x.new_zeros(x.shape[1], self.hidden_size)
            return [(zero,) * kinds for _ in range(count)]
        given = hx if kinds == 2 else (hx,)
        given = tuple(state.unsqueeze(1) if alone else state for state in given)
        return [tuple(state[k] for state in given) for k in range(count)]

    def _layers(
        self, x: Tensor, start: list[State], lengths: Tensor | None
    ) -> tuple[Tensor, list[State]]:
        ways, final = 2 if self.bidirectional else 1, list[State]()
        for layer in range(self.num_layers):
            outs = list[Tensor]()
            for way in range(ways):
                cell = layer * ways + way
                out, state = self._cell(cell, x, start[cell], lengths, backwards=way == 1)
                outs.append(out)
                final.append(state)
            x = torch.cat(outs, -1) if ways == 2 else outs[0]
            if self.dropout and self.training and layer + 1 < self.num_layers:
                x = nn.functional.dropout(x, self.dropout)
        return x, final

    def _cell(
        self, cell: int, x: Tensor, state: State, lengths: Tensor | None, backwards: bool
    ) -> tuple[Tensor, State]:
        """One layer in one direction over all steps."""
        end = _ends(self)[cell]
        bias = [getattr(self, f"bias_{part}{end}") if self.bias else None for part in ("ih", "hh")]
        given = self.product(2 * cell, x, bias[0])
        steps = range(len(x) - 1, -1, -1) if backwards else range(len(x))
        outs: list[Any] = [None] * len(x)
        for t in steps:
            new = self._step(2 * cell + 1, given[t], state, bias[1])
            if lengths is not None:
                inside = (t < lengths).unsqueeze(1).to(x.device)
                new = tuple(torch.where(inside, a, b) for a, b in zip(new, state, strict=True))
                outs[t] = torch.where(inside, new[0], torch.zeros_like(new[0]))
            else:
                outs[t] = new[0]
            state = new
        return torch.stack(outs), state

    def _step(self, number: int, given: Tensor, state: State, bias: Tensor | None) -> State:
        """The state after one more input, of which `given` is what its matrix makes of it."""
        h = state[0]
        if self.mode == "GRU":
            own = self.product(number, h, bias)
            size = self.hidden_size
            both = torch.sigmoid(given[:, : 2 * size] + own[:, : 2 * size])
            reset, keep = both.chunk(2, 1)
            new = torch.tanh(given[:, 2 * size :] + reset * own[:, 2 * size :])
            return (torch.lerp(new, h, keep),)
        given = given if bias is None else given + bias
        total = self.product(number, h, given, add=True)
        if self.mode != "LSTM":
            return (torch.tanh(total) if self.mode == "RNN_TANH" else torch.relu(total),)
        enter, forget, cell, leave = total.chunk(4, 1)
        c = torch.sigmoid(forget) * state[1] + torch.sigmoid(enter) * torch.tanh(cell)
        return torch.sigmoid(leave) * torch.tanh(c), c


def _ends(layer: nn.RNNBase) -> tuple[str, ...]:
    """How the names of each layer's and direction's parameters end."""
    ways = ("", "_reverse") if layer.bidirectional else ("",)
    return tuple(f"_l{k}{way}" for k in range(layer.num_layers) for way in ways)


def _names(layer: nn.RNNBase) -> tuple[str, ...]:
    return tuple(f"{part}{end}" for end in _ends(layer) for part in ("input", "hidden"))
