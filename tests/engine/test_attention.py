from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.engine.attention import OP, Attention, full, mask_of, usable
from secateur.engine.graph import Node, Ref

REFS = (Ref("q"), Ref("k"), Ref("v"))


def planes(batch: int, heads: int, length: int, size: int) -> Tensor:
    """Tokens side by side, as linear layers on planes leave them."""
    memory = torch.randn(heads * size, batch * length + 5)[:, : batch * length]
    return memory.view(heads, size, batch, length).permute(2, 0, 3, 1)


@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float"])
def test_same_as_torch(kind: str) -> None:
    q, k, v, out = (planes(2, 3, 7, 4) for _ in range(4))
    assert q.stride(2) == 1
    given, args = None, (*REFS, None, 0.0, kind == "causal")
    if kind == "bool":
        given = torch.rand(2, 1, 7, 7) > 0.4
        given[..., 0] = True
    elif kind == "float":
        given = torch.randn(7, 7)
    node = Node("a", OP, args, {"scale": 0.3})
    assert usable(node, q, k, v)
    mask = mask_of(node, given, q, k)
    assert full(mask)
    Attention(q, k, v, out, mask, 0.3)([])
    wanted = F.scaled_dot_product_attention(q, k, v, given, is_causal=kind == "causal", scale=0.3)
    assert torch.allclose(out, wanted, atol=1e-6)


def test_what_is_left_to_torch() -> None:
    q, k, v = (planes(2, 3, 7, 4) for _ in range(3))
    assert not usable(Node("a", OP, (*REFS, None, 0.1)), q, k, v)
    assert not usable(Node("a", OP, REFS, {"enable_gqa": True}), q, k, v)
    assert not usable(Node("a", OP, REFS), q.contiguous(), k, v)
    assert not usable(Node("a", OP, REFS), q, k[:, :1], v)
    nothing = torch.ones(7, 7, dtype=torch.bool)
    nothing[2] = False
    assert not full(mask_of(Node("a", OP, REFS), nothing, q, k))
