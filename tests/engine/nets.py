"""Small networks that have everything the engine has to do with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.core.batches import as_call
from secateur.engine.capture import capture
from secateur.engine.decide import Decision, assemble
from secateur.engine.fast import shapes_of
from secateur.engine.fuse import fuse
from secateur.engine.kernels import is_depthwise
from secateur.engine.program import Program


class Mixed(nn.Module):
    """Strides, dilation, groups, residuals, pooling, and activations fused and not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.down = nn.Conv2d(8, 16, 3, 2, 1)
        self.side = nn.Conv2d(8, 16, 1, 2)
        self.each = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.wide = nn.Conv2d(16, 16, 5)
        self.head = nn.Linear(16, 10)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.norm(self.stem(x))))
        x = self.act(x + self.b(self.act(self.a(x))))
        x = self.act(self.down(x) + self.side(x))
        x = F.hardswish(self.each(x)) * torch.sigmoid(x)
        return self.head(self.wide(x).mean((2, 3)))


class Encoder(nn.Module):
    """Embedding, attention and a feed-forward part over tokens."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(50, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        b, t, w = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, w)
        x = self.norm1(x + self.out(y))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Inverted(nn.Module):
    """Inverted bottlenecks: wider ones with depthwise convolutions in between, of some strides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.up, self.each, self.down = self._block(6, 18, 6, 1, 3)
        self.up2, self.each2, self.down2 = self._block(6, 12, 8, 2, 5)
        self.twice = nn.Conv2d(8, 16, 3, (2, 1), 1, groups=8)
        self.head = nn.Conv2d(16, 4, 1)

    @staticmethod
    def _block(i: int, wide: int, o: int, stride: int, k: int) -> tuple[nn.Module, ...]:
        each = nn.Conv2d(wide, wide, k, stride, k // 2, groups=wide)
        return nn.Conv2d(i, wide, 1), each, nn.Conv2d(wide, o, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        x = x + self.down(F.relu6(self.each(F.relu6(self.up(x)))))
        x = self.down2(F.hardswish(self.each2(F.silu(self.up2(x)))))
        return self.head(F.relu(self.twice(F.relu(x))))


class Signal(nn.Module):
    """Convolutions over time."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(4, 8, 5, 2, 2)
        self.b = nn.Conv1d(8, 8, 3, padding="same")
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.b(F.relu6(self.a(x)))))


def prune(model: nn.Module, density: float = 0.2, seed: int = 0) -> nn.Module:
    """Random zeros in every matrix, and batch norms that do something; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.normal_(0, 1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand(parameter.shape, generator=generator) < density)
    return model.eval()


def program(
    net: nn.Module, x: Tensor, kernel: str = "llvm-csr 2/1", block: int = 0, depthwise: str = ""
) -> Program:
    """A network with one kernel for all of its layers; block: by which these take turns.

    depthwise: another one for depthwise convolutions.
    """
    graph = fuse(capture(net.eval(), as_call(net, x)))
    own = {name for name, layer in graph.layers.items() if depthwise and is_depthwise(layer)}
    decisions = {n: Decision(depthwise if n in own else kernel, 1, 1) for n in graph.layers}
    parts = assemble(graph, shapes_of(graph, [x]), decisions)
    parts.block = block
    return Program(parts, [x])
