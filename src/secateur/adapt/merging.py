"""Merging tokens that are alike: the matching, and blocks of vision transformers that do it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.core.errors import RecipeError


@dataclass
class Sizes:
    """How many patches each token of the pass stands for, `[n, t]`; None before any merge."""

    value: Tensor | None = None


current: ContextVar[Sizes] = ContextVar("sizes")


def merge(
    x: Tensor, keys: Tensor, sizes: Tensor | None, r: int, fixed: int = 1
) -> tuple[Tensor, Tensor | None]:
    """Merge the `r` most similar pairs of tokens into their means; the order stays.

    Tokens at even places each propose the most similar token at an odd place; the best `r`
    proposals are made. Means are weighted by sizes. The first `fixed` tokens stay as they are.

    x: `[n, t, c]`; keys: `[n, t, d]`, by whose cosines tokens are compared; sizes: `[n, t]`.

    Example:
        >>> x = torch.tensor([[[1.0, 0.0], [0.9, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
        >>> merge(x, x, None, 1, fixed=0)[0][0, 0]
        tensor([0.9500, 0.0000])
    """
    n, t, c = x.shape
    r = min(r, (t - fixed) // 2)
    if r <= 0:
        return x, sizes
    unit = F.normalize(keys.float(), dim=-1)
    alike = unit[:, ::2] @ unit[:, 1::2].mT
    alike[:, : (fixed + 1) // 2] = float("-inf")
    alike[:, :, : fixed // 2] = float("-inf")
    best, partner = alike.max(-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    source, target = 2 * order[:, :r], 2 * partner.gather(1, order[:, :r]) + 1
    weight = x.new_ones(n, t) if sizes is None else sizes
    heavy = x * weight[..., None]
    moved = heavy.gather(1, source[..., None].expand(-1, -1, c))
    heavy = heavy.scatter_add(1, target[..., None].expand(-1, -1, c), moved)
    weight = weight.scatter_add(1, target, weight.gather(1, source))
    stays = torch.ones(n, t, dtype=torch.bool, device=x.device).scatter(1, source, False)
    places = stays.nonzero()[:, 1].reshape(n, t - r)
    weight = weight.gather(1, places)
    return heavy.gather(1, places[..., None].expand(-1, -1, c)) / weight[..., None], weight


class Merging(nn.Module):
    """A transformer block that merges `r` pairs of tokens between its attention and its MLP.

    Attention counts a token as often as the patches that it stands for.
    """

    def __init__(self, block: nn.Module, r: int, fixed: int) -> None:
        super().__init__()
        self.block, self.r, self.fixed = block, r, fixed

    def forward(self, x: Tensor, attn_mask: Any = None, is_causal: bool = False) -> Tensor:
        """The block's output, of fewer tokens."""
        if attn_mask is not None or is_causal:
            raise RecipeError(
                "tokens that attend to some tokens only cannot be merged",
                hint="call the model without a mask",
            )
        sizes = current.get(None) or Sizes()
        bias = None if sizes.value is None else sizes.value.log()[:, None, None].to(x.dtype)
        attend, finish = _PARTS[kind(self.block)]
        x, keys = attend(self.block, x, bias)
        x, sizes.value = merge(x, keys, sizes.value, self.r, self.fixed)
        return finish(self.block, x)


def kind(block: nn.Module) -> str:
    """Whose block it is: "timm", "torchvision", or "" for neither."""
    parts = dict(block.named_children())
    if {"norm1", "attn", "norm2", "mlp"} <= parts.keys() and hasattr(parts["attn"], "qkv"):
        return "timm"
    if {"ln_1", "self_attention", "ln_2", "mlp"} <= parts.keys():
        return "torchvision"
    return ""


def width(block: nn.Module) -> int:
    """How long a token is."""
    norm: Any = block.norm1 if kind(block) == "timm" else block.ln_1
    return int(norm.weight.shape[0])


def _heads(x: Tensor, weight: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """Queries, keys and values, `[3, n, heads, t, d]`."""
    n, t, _ = x.shape
    return F.linear(x, weight, bias).reshape(n, t, 3, heads, -1).permute(2, 0, 3, 1, 4)


def _together(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _attend_timm(block: Any, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    attn = block.attn
    q, k, v = _heads(block.norm1(x), attn.qkv.weight, attn.qkv.bias, attn.num_heads)
    q, k = attn.q_norm(q), attn.k_norm(k)
    out = _together(F.scaled_dot_product_attention(q, k, v, attn_mask=bias))
    out = attn.proj_drop(attn.proj(attn.norm(out) if hasattr(attn, "norm") else out))
    return x + block.drop_path1(block.ls1(out)), k.mean(1)


def _finish_timm(block: Any, x: Tensor) -> Tensor:
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def _attend_torchvision(block: Any, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    attn = block.self_attention
    q, k, v = _heads(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias, attn.num_heads)
    out = attn.out_proj(_together(F.scaled_dot_product_attention(q, k, v, attn_mask=bias)))
    return x + block.dropout(out), k.mean(1)


def _finish_torchvision(block: Any, x: Tensor) -> Tensor:
    return x + block.mlp(block.ln_2(x))


_PARTS = {
    "timm": (_attend_timm, _finish_timm),
    "torchvision": (_attend_torchvision, _finish_torchvision),
}
