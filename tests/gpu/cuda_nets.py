"""Small networks and data, on the CPU and on the GPU alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.core.batches import tensors_in

GPU = torch.device("cuda")
FAMILIES = ("convolutions", "recurrent", "attention")


class Convolutions(nn.Module):
    """A stem, a residual block with batch normalisation, groups, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.each = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.second = nn.Conv2d(32, 16, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        inner = F.relu(self.each(F.relu(self.norm(self.first(x)))))
        return self.fc(F.relu(x + self.second(inner)).mean((2, 3)))


class Recurrent(nn.Module):
    """Two recurrent layers of either kind, read at the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 24, num_layers=2, batch_first=True)
        self.gru = nn.GRU(24, 16, batch_first=True)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.gru(self.lstm(x)[0])[0][:, -1])


class Attention(nn.Module):
    """torch's own encoder layer, then attention written by hand on the fused function."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.layer = nn.TransformerEncoderLayer(width, heads, 64, dropout=0.0, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1)
        return self.fc((x + self.out(y)).mean(1))


_MADE = {"convolutions": Convolutions, "recurrent": Recurrent, "attention": Attention}
_SHAPES = {"convolutions": (3, 8, 8), "recurrent": (7, 6), "attention": (9, 32)}


def net(family: str, device: torch.device | str = GPU, dtype: Any = torch.float32) -> nn.Module:
    """A network in evaluation mode; its weights are the same on every device."""
    torch.manual_seed(0)
    made: nn.Module = _MADE[family]()
    if family == "convolutions":
        for _ in range(5):  # statistics of its own
            made(torch.randn(32, 3, 8, 8))
    return made.eval().to(device, dtype)


def data(
    family: str, n: int = 48, device: torch.device | str = "cpu", dtype: Any = torch.float32
) -> Tensor:
    """Inputs, the same on every device."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, *_SHAPES[family], generator=generator).to(device, dtype)


def labelled(family: str, n: int = 48, device: torch.device | str = "cpu") -> list[Any]:
    """Batches with labels that can be learned."""
    x = data(family, n)
    y = (x.flatten(1)[:, :5]).argmax(1)
    return [(a.to(device), b.to(device)) for a, b in zip(x.split(16), y.split(16), strict=True)]


def tensors_of(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def at_home(*values: Any) -> bool:
    """Whether everything is on the GPU; of modules parameters and buffers."""
    for value in values:
        found = tensors_of(value) if isinstance(value, nn.Module) else tensors_in(value)
        if any(tensor.device.type != "cuda" for tensor in found):
            return False
    return True


def run(model: nn.Module, x: Tensor) -> Tensor:
    """The outputs without gradients, in evaluation mode."""
    was = model.training
    with torch.no_grad():
        out = model.eval()(x.to(next(model.parameters()).device))
    model.train(was)
    return out


def apart(a: Tensor, b: Tensor) -> float:
    """How far the second is from the first, relative to the first; wherever they are."""
    x, y = a.detach().double().cpu(), b.detach().double().cpu()
    return float((x - y).norm() / x.norm())
