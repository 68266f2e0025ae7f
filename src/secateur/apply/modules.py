"""What PyTorch's own modules say about their sizes, brought up to date after a cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from secateur.apply.edit import Edit
from secateur.graph.builtin import own_tensor, size_facts

Facts = Iterator[tuple[str, Any]]


def _convolution(m: Any) -> Facts:
    weight = own_tensor(m, "weight")
    if weight is not None:
        out, inside = weight.shape[:2]
        yield "out_channels", inside * m.groups if m.transposed else out
        yield "in_channels", out if m.transposed else inside * m.groups


def _layer_norm(m: Any) -> Facts:
    weight = own_tensor(m, "weight")
    if weight is not None:
        yield "normalized_shape", tuple(weight.shape)


def _recurrent(m: Any) -> Facts:
    gates = {"LSTM": 4, "GRU": 3}.get(m.mode, 1)
    rows = own_tensor(m, "weight_ih_l0")
    if rows is not None:
        yield "hidden_size", rows.shape[0] // gates
    projection = own_tensor(m, "weight_hr_l0")
    if projection is not None:
        yield "proj_size", projection.shape[0]


def _attention(m: Any) -> Facts:
    query, key, value = (
        own_tensor(m, "in_proj_weight") if m.in_proj_weight is not None else own_tensor(m, name)
        for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    )
    out = own_tensor(m.out_proj, "weight")
    if query is None or key is None or value is None or out is None:
        return
    yield "kdim", key.shape[1]
    yield "vdim", value.shape[1]
    yield "embed_dim", query.shape[1]
    yield "head_dim", out.shape[1] // m.num_heads


def _bilinear(m: Any) -> Facts:
    weight = own_tensor(m, "weight")
    if weight is not None:
        yield from zip(("out_features", "in1_features", "in2_features"), weight.shape, strict=True)


_FACTS: tuple[tuple[type[nn.Module], Callable[[Any], Facts]], ...] = (
    (nn.modules.conv._ConvNd, _convolution),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (nn.RNNBase, _recurrent),
    (nn.MultiheadAttention, _attention),
    (nn.Bilinear, _bilinear),
)


def refresh(edit: Edit, module: nn.Module) -> None:
    """Set the size attributes of one of PyTorch's own modules from its tensors."""
    facts = [(name, tensor.shape[dim]) for name, tensor, dim in size_facts(module)]
    for kind, more in _FACTS:
        if isinstance(module, kind):
            facts += more(module)
    for name, value in facts:
        if hasattr(module, name):
            edit.attribute(module, name, value)
    if isinstance(module, nn.RNNBase):
        module.flatten_parameters()


class Skip(nn.Module):
    """Stands where a residual block was: returns its first argument, in the block's form of output.

    as_tuple: the block returned a tuple whose first item was the features.
    """

    def __init__(self, *, as_tuple: bool = False) -> None:
        super().__init__()
        self.as_tuple = as_tuple

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The features, unchanged."""
        features = args[0] if args else next(v for v in kwargs.values() if isinstance(v, Tensor))
        return (features,) if self.as_tuple else features
