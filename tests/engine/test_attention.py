from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.engine.attention import OP, Attention, full, has_code, mask_of, native, usable
from secateur.engine.graph import Node, Ref

REFS = (Ref("q"), Ref("k"), Ref("v"))


def planes(batch: int, heads: int, length: int, size: int) -> Tensor:
    """Tokens side by side, as linear layers on planes leave them."""
    memory = torch.randn(heads * size, batch * length + 5)[:, : batch * length]
    return memory.view(heads, size, batch, length).permute(2, 0, 3, 1)


@pytest.mark.parametrize("length", [7, 16, 37])
@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float"])
def test_same_as_torch(kind: str, length: int) -> None:
    q, k, v, out = (planes(2, 3, length, 5) for _ in range(4))
    assert q.stride(2) == 1
    given, args = None, (*REFS, None, 0.0, kind == "causal")
    if kind == "bool":
        given = torch.rand(2, 1, length, length) > 0.4
        given[..., 0] = True
    elif kind == "float":
        given = torch.randn(length, length)
    node = Node("a", OP, args, {"scale": 0.3})
    assert usable(node, q, k, v)
    mask = mask_of(node, given, q, k)
    assert full(mask)
    wanted = F.scaled_dot_product_attention(q, k, v, given, is_causal=kind == "causal", scale=0.3)
    code = native(q, k, v, out, mask, 0.3)
    assert (code is None) == (not has_code(q))
    for step in (Attention(q, k, v, out, mask, 0.3), code):
        out.fill_(float("nan"))
        if step is not None:
            step([])
            assert torch.allclose(out, wanted, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_keys_of_another_length_on_several_threads(threads: int) -> None:
    q, out = (planes(2, 3, 40, 6) for _ in range(2))
    k, v = (planes(2, 3, 23, 6) for _ in range(2))
    step = native(q, k, v, out, None, 0.4)
    if step is None:
        pytest.skip("no native code")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        step([])
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(out, F.scaled_dot_product_attention(q, k, v, scale=0.4), atol=1e-6)


def test_long_sequences_have_no_matrix_of_scores() -> None:
    q, k, v = (planes(1, 1, 5000, 2) for _ in range(3))
    assert usable(Node("a", OP, REFS), q, k, v) == has_code(q)
    assert not usable(Node("a", OP, (*REFS, None, 0.0, True)), q, k, v)  # a mask would be one


def test_what_is_left_to_torch() -> None:
    q, k, v = (planes(2, 3, 7, 4) for _ in range(3))
    assert not usable(Node("a", OP, (*REFS, None, 0.1)), q, k, v)
    assert not usable(Node("a", OP, REFS, {"enable_gqa": True}), q, k, v)
    assert not usable(Node("a", OP, REFS), q.contiguous(), k, v)
    assert not usable(Node("a", OP, REFS), q, k[:, :1], v)
    nothing = torch.ones(7, 7, dtype=torch.bool)
    nothing[2] = False
    assert not full(mask_of(Node("a", OP, REFS), nothing, q, k))
