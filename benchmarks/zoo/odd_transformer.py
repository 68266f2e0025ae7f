"""The library's attention layers and transformers, and small ones built on blocks by hand."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._register import Registry, floats
from .odd_attention import DerivedHeads, RmsNorm

MODELS = Registry()
_VOCAB = 60


@MODELS.add(lambda: (torch.randn(6, 2, 32), torch.randn(8, 2, 20)))
class MhaCross(nn.Module):
    """nn.MultiheadAttention with keys and values of another width, sequence first."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(32, 48)
        self.mha = nn.MultiheadAttention(48, 6, kdim=20, vdim=20, add_bias_kv=True)
        self.out = nn.Linear(48, 7)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        y, weights = self.mha(self.inside(x), memory, memory)
        return self.out(y), weights


def _encoder(norm_first: bool, activation: str) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        48, 4, 72, batch_first=True, norm_first=norm_first, activation=activation
    )
    stack = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(10, 48), stack, nn.Linear(48, 7))


MODELS.put("transformer_encoder", partial(_encoder, False, "relu"), floats(3, 9, 10))
MODELS.put("transformer_encoder_pre_norm", partial(_encoder, True, "gelu"), floats(3, 9, 10))


@MODELS.add(lambda: (torch.randint(0, _VOCAB, (2, 9)), torch.randint(0, _VOCAB, (2, 6))))
class TransformerWhole(nn.Module):
    """nn.Transformer with masks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(_VOCAB, 48)
        self.body = nn.Transformer(48, 4, 2, 2, 72, batch_first=True)
        self.out = nn.Linear(48, _VOCAB)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        y = self.body(self.embed(source), self.embed(target), tgt_mask=mask, tgt_is_causal=True)
        return self.out(y)


@MODELS.add(lambda: {"queries": torch.randn(2, 5, 48), "memory": torch.randn(2, 9, 48)})
class TransformerDecoder(nn.Module):
    """nn.TransformerDecoder with a final norm."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(48, 6, 72, batch_first=True)
        self.body = nn.TransformerDecoder(layer, 2, nn.LayerNorm(48))
        self.boxes = nn.Sequential(nn.Linear(48, 40), nn.ReLU(), nn.Linear(40, 4), nn.Sigmoid())

    def forward(self, queries: Tensor, memory: Tensor) -> dict[str, Tensor]:
        y = self.body(queries, memory)
        return {"boxes": self.boxes(y), "features": y}


@MODELS.add(floats(2, 3, 32, 32))
class TinyVit(nn.Module):
    """Patches, a class token, learned positions."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width) * 0.1)
        self.blocks = nn.Sequential(*[_VitBlock(width, 4) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class _VitBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = DerivedHeads(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma * self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


@MODELS.add(floats(2, 12, 16, 16))
class WindowAttention(nn.Module):
    """Shifted windows with a relative-position table."""

    def __init__(self, width: int = 36, heads: int = 3, window: int = 4) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.stem, self.norm = nn.Conv2d(12, width, 1), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads) * 0.1)
        grid = torch.stack(
            torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        )
        offset = grid.flatten(1)[:, :, None] - grid.flatten(1)[:, None] + window - 1
        self.register_buffer("index", offset[0] * (2 * window - 1) + offset[1])
        self.head = nn.Linear(width, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        B, H, W, C = x.shape
        w, short = self.window, x
        x = torch.roll(self.norm(x), (-2, -2), dims=(1, 2))
        x = x.view(B, H // w, w, W // w, w, C).transpose(2, 3).reshape(-1, w * w, C)
        q, k, v = (
            self.qkv(x).reshape(-1, w * w, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        )
        bias = self.table[self.index.view(-1)].view(w * w, w * w, -1).permute(2, 0, 1)
        a = (q @ k.transpose(-2, -1) * (C // self.heads) ** -0.5 + bias).softmax(-1)
        x = self.proj((a @ v).transpose(1, 2).reshape(-1, w * w, C))
        x = x.view(B, H // w, W // w, w, w, C).transpose(2, 3).reshape(B, H, W, C)
        return self.head((short + torch.roll(x, (2, 2), dims=(1, 2))).mean((1, 2)))


@MODELS.add(lambda: (torch.randn(2, 30, 11), torch.randn(2, 30, 11)))
class PerceiverLike(nn.Module):
    """Learned latents attend to a long input; the same block is applied three times."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(6, 40))
        self.inside = nn.Linear(22, 32)
        self.cross = nn.MultiheadAttention(40, 4, kdim=32, vdim=32, batch_first=True)
        self.block = nn.TransformerEncoderLayer(40, 4, 64, batch_first=True, dropout=0.0)
        self.head = nn.Linear(40, 7)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        data = self.inside(torch.cat([x, y], dim=-1))
        latents = self.latents.expand(x.shape[0], -1, -1)
        for _ in range(3):
            latents = self.block(latents + self.cross(latents, data, data)[0])
        return self.head(latents.mean(dim=1))


@MODELS.add(floats(2, 9, 30))
class LatentAttention(nn.Module):
    """Multi-head latent attention: keys and values from one low-rank projection, split by size."""

    def __init__(self, heads: int = 4, nope: int = 10, rope: int = 6, value: int = 12) -> None:
        super().__init__()
        self.heads, self.nope, self.rope, self.value, self.rank = heads, nope, rope, value, 20
        self.q = nn.Linear(30, heads * (nope + rope), bias=False)
        self.down = nn.Linear(30, self.rank + rope, bias=False)
        self.norm = RmsNorm(self.rank)
        self.up = nn.Linear(self.rank, heads * (nope + value), bias=False)
        self.out = nn.Linear(heads * value, 30, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q = self.q(x).view(n, t, self.heads, self.nope + self.rope).transpose(1, 2)
        latent, k_rope = self.down(x).split([self.rank, self.rope], dim=-1)
        kv = self.up(self.norm(latent)).view(n, t, self.heads, self.nope + self.value)
        k, v = kv.transpose(1, 2).split([self.nope, self.value], dim=-1)
        k = torch.cat([k, k_rope[:, None].expand(-1, self.heads, -1, -1)], dim=-1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).reshape(n, t, -1))
