"""Fused attention kernels, where a backend runs them as one operation."""

from __future__ import annotations

import torch

from secateur.graph.axes import Axis, factor
from secateur.graph.op import Op, atens, rule


@rule(
    *atens(
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math"
    )
)
def attention(op: Op) -> None:
    """[b, h, n, d] queries, [b, h, m, d] keys, [b, h, m, e] values; key heads may be shared."""
    query = op.args["query"]
    q, k, v = (op.axes(op.args[name]) for name in ("query", "key", "value"))
    op.unify(k[-2], v[-2])
    op.unify(q[-1], k[-1])
    for axes in (k, v):
        op.unify(q[0], axes[0])
        _share_heads(op, q[1], axes[1])
    for axis in (q[-2], k[-2]):
        op.freeze(axis, "positions of attention")
    q[1].mark("batched")
    mask = op.get("attn_mask", op.get("attn_bias"))
    if mask is not None:
        for axis, target in zip(op.axes(mask)[::-1], [k[-2], q[-2], q[1], q[0]], strict=False):
            if axis.size == target.size:
                op.unify(axis, target)
    op.macs(1, [q[0], q[1], q[2], k[2], q[3]])
    op.macs(1, [q[0], q[1], q[2], k[2], v[3]])
    op.contract(query, query.dim() - 1)
    first, *others = op.outputs
    op.give(first, [*q[:-1], v[-1]])
    for tensor in others:
        op.give(tensor, _saved(op, tensor, q))


def _share_heads(op: Op, query: Axis, key: Axis) -> None:
    if query.size == key.size:
        op.unify(query, key)
        return
    pair = factor(query, [key.size, query.size // key.size])
    if pair is None:
        raise ValueError("query heads do not line up with key heads")
    op.unify(pair[0], key)


def _saved(op: Op, tensor: torch.Tensor, q: list[Axis]) -> list[Axis]:
    known = {axis.size: axis for axis in (q[2], q[1], q[0])}
    return [known.get(n) or op.spatial(n) for n in tensor.shape]
