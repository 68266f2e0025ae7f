"""Attention over tokens that lie as planes, without any copy.

Queries, keys and values are read where the linear layers left them, and the result is written
where the next one reads it, by native code. Without that, and for fewer queries than a vector has
lanes, it is two products of matrices: for BLAS a transposed matrix is as good as another one. For
long sequences the matrix of scores is too large for this, and torch's own operation runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.engine.graph import Node
from secateur.engine.native import NativeStep, low
from secateur.runtime.kernels import attention as kernel
from secateur.runtime.kernels import llvm

OP = "aten.scaled_dot_product_attention.default"
_MOST = 1 << 22  # scores of one sample that are in memory at once
_MASK = 1 << 24  # entries of a mask


def native(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, mask: Tensor | None, scale: float
) -> NativeStep | None:
    """The same as `Attention` in native code; None where there is none for the shapes."""
    if not has_code(q):
        return None
    batch, heads, queries, size = q.shape
    keys = k.shape[2]
    seen, image, head = None, 0, 0
    if mask is not None:
        seen = mask.reshape((1,) * (4 - mask.dim()) + mask.shape).float()
        seen = seen.expand(*seen.shape[:2], queries, keys).mT.contiguous()
        image, head = (seen.stride(i) * (seen.shape[i] > 1) for i in (0, 1))
    scores = torch.empty(batch * kernel.scratch(heads, keys))  # touched where threads work
    places = [0 if t is None else t.data_ptr() for t in (k, v, seen, scores)]
    numbers = (
        heads, queries, keys, size, q.stride(1), q.stride(3), *(k.stride(i) for i in (0, 1, 3)),
        *(v.stride(i) for i in (0, 1, 3)), out.stride(1), out.stride(3), image, head, queries,
    )  # fmt: skip
    return NativeStep(
        kernel.attention(seen is not None), q, q, out, (*places, *numbers, low(scale)), heads,
        rows=batch, steps=(q.stride(0), out.stride(0)), held=(k, v, seen, scores),
    )  # fmt: skip


def has_code(q: Tensor) -> bool:
    """Whether there is native code for as many queries."""
    return llvm.available() and q.shape[2] >= kernel.lanes()


class Attention:
    """`softmax(scale * q @ k.T + mask) @ v` into memory that is given, sample by sample.

    q, k, v, out: `[batch, heads, tokens, size]`, of which `tokens` lie side by side. mask: what is
    added to the scores, `[..., tokens, tokens]`, or None.
    """

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, mask: Tensor | None, scale: float
    ) -> None:
        self._samples = list(zip(q, k, v, out, strict=True))
        self._scale = scale
        heads, length = q.shape[1:3]
        self._mask = None if mask is None else mask.expand(len(q), heads, length, k.shape[2])
        self._scores = torch.empty(heads, length, k.shape[2])
        self._shares = torch.empty(heads, length, k.shape[2])

    def __call__(self, run: list[Any]) -> None:
        """Run it."""
        scores, shares = self._scores, self._shares
        for i, (q, k, v, out) in enumerate(self._samples):
            torch.baddbmm(scores, q, k.mT, beta=0, alpha=self._scale, out=scores)
            if self._mask is not None:
                scores += self._mask[i]
            torch.softmax(scores, -1, out=shares)
            torch.bmm(v.mT, shares.mT, out=out.mT)


def usable(node: Node, q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether there is nothing special about an attention, and its inputs lie as planes."""
    shaped = all(t.dim() == 4 and t.dtype == torch.float32 for t in (q, k, v))
    if not shaped or node.kwargs.keys() - {"scale"} or len(node.args) > 6:
        return False
    planes = all(t.stride(2) == 1 and t.shape[:2] == q.shape[:2] for t in (q, k, v))
    sizes = k.shape[2] == v.shape[2] and q.shape[3] == k.shape[3] == v.shape[3]
    dropout = node.args[4] if len(node.args) > 4 else 0.0
    seen = q.shape[2] * k.shape[2]  # by each head; with a mask, it is in memory as a whole
    masked = any(node.args[i] for i in (3, 5) if len(node.args) > i)
    small = has_code(q) and (not masked or seen <= _MASK)
    return planes and sizes and not dropout and (small or q.shape[1] * seen <= _MOST)


def mask_of(node: Node, given: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """What is added to the scores; of the causal kind where that was asked for.

    given: the mask argument, boolean (True: may be seen) or to be added.
    """
    shape = (q.shape[2], k.shape[2])
    causal = node.args[5] if len(node.args) > 5 else False
    if causal:
        given = torch.ones(shape, dtype=torch.bool).tril()
    if given is None or given.dtype != torch.bool:
        return given
    return torch.zeros(given.shape).masked_fill_(~given, float("-inf"))


def full(mask: Tensor | None) -> bool:
    """Whether every token may see something: else softmax would give no number."""
    return mask is None or not bool((mask == float("-inf")).all(-1).any())
