"""Steps of recurrent layers, where a backend runs them as one operation."""

from __future__ import annotations

from secateur.graph.axes import concat, split
from secateur.graph.op import Op, atens, rule


@rule(*atens("_thnn_fused_lstm_cell _thnn_fused_gru_cell"))
def cell(op: Op) -> None:
    """[b, k h] sums of the gates, [b, h] states; every hidden unit by itself."""
    batch, state = op.axes(op.get("cx", op.get("hx")))
    units = [state]
    for name in ("input_gates", "hidden_gates", "input_bias", "hidden_bias"):
        tensor = op.get(name)
        if tensor is None:
            continue
        *first, gates = op.axes(tensor)
        for axis in first:
            op.unify(axis, batch)
        pieces = split(gates, [state.size] * (gates.size // state.size))
        if pieces is None:
            raise ValueError("gates do not line up with the hidden units")
        units += pieces
    hidden = units[1]  # not the state's: of zeros, only how many there are matters
    for axis in units:
        op.unify(axis, hidden)
    for tensor in op.outputs:
        op.give(tensor, [batch, concat([hidden] * (tensor.shape[1] // hidden.size))])
