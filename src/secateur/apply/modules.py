"""What PyTorch's own modules say about their sizes, brought up to date after a cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from secateur.apply.edit import Edit

Facts = Iterator[tuple[str, Any]]


def _linear(m: Any) -> Facts:
    yield "out_features", m.weight.shape[0]
    yield "in_features", m.weight.shape[1]


def _convolution(m: Any) -> Facts:
    out, inside = m.weight.shape[:2]
    yield "out_channels", inside * m.groups if m.transposed else out
    yield "in_channels", out if m.transposed else inside * m.groups


def _batch_norm(m: Any) -> Facts:
    known = m.weight if m.weight is not None else m.running_mean
    if known is not None:
        yield "num_features", known.shape[0]


def _layer_norm(m: Any) -> Facts:
    if m.weight is not None:
        yield "normalized_shape", tuple(m.weight.shape)


def _group_norm(m: Any) -> Facts:
    if m.weight is not None:
        yield "num_channels", m.weight.shape[0]


def _embedding(m: Any) -> Facts:
    yield "num_embeddings", m.weight.shape[0]
    yield "embedding_dim", m.weight.shape[1]


def _recurrent(m: Any) -> Facts:
    gates = {"LSTM": 4, "GRU": 3}.get(m.mode, 1)
    yield "hidden_size", m.weight_ih_l0.shape[0] // gates
    yield "input_size", m.weight_ih_l0.shape[1]
    if m.proj_size:
        yield "proj_size", m.weight_hr_l0.shape[0]


def _cell(m: Any) -> Facts:
    yield "hidden_size", m.weight_hh.shape[1]
    yield "input_size", m.weight_ih.shape[1]


def _attention(m: Any) -> Facts:
    if m.in_proj_weight is not None:
        yield "kdim", m.in_proj_weight.shape[1]
        yield "vdim", m.in_proj_weight.shape[1]
        yield "embed_dim", m.in_proj_weight.shape[1]
    else:
        yield "kdim", m.k_proj_weight.shape[1]
        yield "vdim", m.v_proj_weight.shape[1]
        yield "embed_dim", m.q_proj_weight.shape[1]
    yield "head_dim", m.out_proj.weight.shape[1] // m.num_heads


def _prelu(m: Any) -> Facts:
    yield "num_parameters", m.weight.shape[0]


def _bilinear(m: Any) -> Facts:
    yield "out_features", m.weight.shape[0]
    yield "in1_features", m.weight.shape[1]
    yield "in2_features", m.weight.shape[2]


_FACTS: tuple[tuple[type[nn.Module], Callable[[Any], Facts]], ...] = (
    (nn.Linear, _linear),
    (nn.modules.conv._ConvNd, _convolution),
    (nn.modules.batchnorm._NormBase, _batch_norm),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (nn.GroupNorm, _group_norm),
    (nn.Embedding, _embedding),
    (nn.EmbeddingBag, _embedding),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _cell),
    (nn.MultiheadAttention, _attention),
    (nn.PReLU, _prelu),
    (nn.Bilinear, _bilinear),
)


def refresh(edit: Edit, module: nn.Module) -> None:
    """Set the size attributes of one of PyTorch's own modules from its tensors."""
    for kind, facts in _FACTS:
        if isinstance(module, kind) and _is_whole(module):
            for name, value in facts(module):
                if hasattr(module, name):
                    edit.attribute(module, name, value)
    if isinstance(module, nn.RNNBase):
        module.flatten_parameters()


def _is_whole(module: nn.Module) -> bool:
    """Whether the module still has the plain tensors (subclasses may have dropped them)."""
    return not any(
        isinstance(value, Tensor) and value.dim() == 0
        for value in (getattr(module, "weight", None),)
        if value is not None
    )


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
