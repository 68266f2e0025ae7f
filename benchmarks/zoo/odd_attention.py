"""Attention by hand: sizes written in every way in which people write them."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._register import Registry, floats, tokens

MODELS = Registry()
_VOCAB = 60


class _Stack(nn.Module):
    """Embedding, attention and feed-forward blocks, classifier; subclasses say how to attend."""

    def __init__(self, width: int = 48, inner: int = 80) -> None:
        super().__init__()
        self.embed = nn.Linear(10, width)
        self.blocks = nn.ModuleList(self.attention(width) for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
            for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.head = nn.Linear(width, 7)

    def attention(self, width: int) -> nn.Module:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for i, (block, mlp) in enumerate(zip(self.blocks, self.mlps, strict=True)):
            x = x + block(self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.head(x.mean(1))


class _LiteralHeads(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, 6, 8).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1)
        return self.out((a @ v).transpose(1, 2).reshape(x.shape[0], x.shape[1], 48))


class _AttributeHeads(nn.Module):
    def __init__(self, width: int, heads: int = 6) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.scale = self.head_dim**-0.5
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.v, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q = self.q(x).view(n, t, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k(x).view(n, t, self.num_heads, self.head_dim).transpose(1, 2)
        v = self.v(x).view(n, t, self.num_heads, self.head_dim).transpose(1, 2)
        a = torch.softmax(torch.matmul(q, k.transpose(2, 3)) * self.scale, dim=-1)
        y = torch.matmul(a, v).transpose(1, 2).contiguous()
        return self.out(y.view(n, t, self.num_heads * self.head_dim))


class DerivedHeads(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(B, N, C))


class _MinusOneHeads(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        def apart(t: Tensor) -> Tensor:
            return t.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = map(apart, self.qkv(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class _EinsumHeads(nn.Module):
    def __init__(self, width: int, heads: int = 4, size: int = 14) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, heads, width, size) / math.sqrt(width))
        self.o = nn.Parameter(torch.randn(heads, size, width) / math.sqrt(width))
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = torch.einsum("btc,phcd->pbhtd", x, self.w)
        a = torch.einsum("bhtd,bhsd->bhts", q, k).div(math.sqrt(self.size)).softmax(-1)
        return torch.einsum("bhts,bhsd,hdc->btc", a, v, self.o)


class _LinearAttention(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q = F.elu(self.q(x).view(n, t, self.heads, -1)) + 1
        k, v = self.kv(x).view(n, t, 2, self.heads, c // self.heads).unbind(2)
        k = F.elu(k) + 1
        context = torch.einsum("nthd,nthe->nhde", k, v)
        z = torch.einsum("nthd,nhd->nth", q, k.sum(1)).reciprocal()
        return self.out(torch.einsum("nthd,nhde,nth->nthe", q, context, z).reshape(n, t, c))


class _MultiQuery(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.dim = heads, width // heads
        self.split = [width, self.dim, self.dim]
        self.qkv, self.out = nn.Linear(width, sum(self.split)), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).split(self.split, dim=-1)
        q = q.view(n, t, self.heads, self.dim).transpose(1, 2)
        a = (q @ k[:, None].transpose(-1, -2) * self.dim**-0.5).softmax(-1)
        return self.out((a @ v[:, None]).transpose(1, 2).reshape(n, t, c))


class _Relative(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)
        self.bias = nn.Parameter(torch.randn(heads, 9, 9) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        mask = self.bias.repeat(x.shape[0], 1, 1)
        return self.inner(x, x, x, attn_mask=mask, need_weights=False)[0]


def _stack(kind: type[nn.Module]) -> nn.Module:
    return type("Stack", (_Stack,), {"attention": lambda self, width: kind(width)})()


for _label, _kind in {
    "literal": _LiteralHeads, "attribute": _AttributeHeads, "derived": DerivedHeads,
    "minus_one": _MinusOneHeads, "einsum": _EinsumHeads, "linear": _LinearAttention,
    "multi_query": _MultiQuery, "relative_bias": _Relative,
}.items():  # fmt: skip
    MODELS.put(f"attention_{_label}", partial(_stack, _kind), floats(3, 9, 10))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class _LlamaBlock(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, inner: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dim = heads, kv_heads, width // heads
        self.q = nn.Linear(width, heads * self.dim, bias=False)
        self.k = nn.Linear(width, kv_heads * self.dim, bias=False)
        self.v = nn.Linear(width, kv_heads * self.dim, bias=False)
        self.o = nn.Linear(heads * self.dim, width, bias=False)
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)
        self.norm1, self.norm2 = RmsNorm(width), RmsNorm(width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        n, t, _ = x.shape
        h = self.norm1(x)
        q = self.q(h).view(n, t, self.heads, self.dim).transpose(1, 2)
        k = self.k(h).view(n, t, self.kv_heads, self.dim).transpose(1, 2)
        v = self.v(h).view(n, t, self.kv_heads, self.dim).transpose(1, 2)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        k = k.repeat_interleave(self.heads // self.kv_heads, dim=1)
        v = v.repeat_interleave(self.heads // self.kv_heads, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(n, t, self.heads * self.dim))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


@MODELS.add(tokens(_VOCAB, 3, 11))
class LlamaLike(nn.Module):
    """Grouped queries, rotary positions, gated feed-forward, tied output."""

    def __init__(self, width: int = 64, heads: int = 8, kv_heads: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(_VOCAB, width)
        self.blocks = nn.ModuleList(_LlamaBlock(width, heads, kv_heads, 104) for _ in range(2))
        self.norm = RmsNorm(width)
        self.out = nn.Linear(width, _VOCAB, bias=False)
        self.out.weight = self.embed.weight
        angle = torch.outer(torch.arange(32.0), 100.0 ** -torch.linspace(0, 1, width // heads // 2))
        self.register_buffer("angle", torch.cat((angle, angle), -1), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        angle = self.angle[: tokens.shape[1]]
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, angle.cos(), angle.sin())
        return self.out(self.norm(x))


@MODELS.add(tokens(_VOCAB, 2, 9))
class GptLike(nn.Module):
    """Learned positions, a causal mask in a buffer, attention with gated heads."""

    def __init__(self, width: int = 48, heads: int = 4) -> None:
        super().__init__()
        self.n_head, self.n_embd = heads, width
        self.embed, self.position = nn.Embedding(_VOCAB, width), nn.Embedding(16, width)
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.gate = nn.Parameter(torch.ones(heads, 1, 1))
        self.proj, self.head = nn.Linear(width, width), nn.Linear(width, _VOCAB, bias=False)
        self.register_buffer("mask", torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16))

    def forward(self, tokens: Tensor) -> Tensor:
        B, T = tokens.size()
        x = self.embed(tokens) + self.position(torch.arange(T))
        q, k, v = self.qkv(self.norm(x)).split(self.n_embd, dim=2)
        shape = (B, T, self.n_head, self.n_embd // self.n_head)
        q, k, v = (t.view(shape).transpose(1, 2) for t in (q, k, v))
        a = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        a = a.masked_fill(self.mask[:, :, :T, :T] == 0, float("-inf")).softmax(-1)
        y = (self.gate * (a @ v)).transpose(1, 2).contiguous().view(B, T, self.n_embd)
        return self.head(x + self.proj(y))
