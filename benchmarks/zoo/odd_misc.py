"""Experts, shared modules, odd outputs, buffers, bare parameters, control flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._register import Registry, floats

MODELS = Registry()
_ROWS = floats(5, 10)
_IMAGE = floats(2, 3, 16, 16)


@MODELS.add(_ROWS)
class SwiGlu(nn.Module):
    """Two gated feed-forward layers: separate matrices, and one matrix chunked."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(10, 36), nn.Linear(10, 36), nn.Linear(36, 10)
        self.both, self.out = nn.Linear(10, 2 * 28), nn.Linear(28, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.down(F.silu(self.gate(x)) * self.up(x))
        value, gate = self.both(x).chunk(2, dim=-1)
        return self.out(value * F.gelu(gate))


@MODELS.add(_ROWS)
class SoftExperts(nn.Module):
    """All experts run; their outputs are mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(10, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 12)) for _ in range(4)
        )
        self.out = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return self.out((weights.unsqueeze(-1) * outputs).sum(1))


@MODELS.add(floats(9, 10))
class RoutedExperts(nn.Module):
    """The best expert of each row runs, on the rows that chose it."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(10, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(10, 20), nn.GELU(), nn.Linear(20, 12)) for _ in range(3)
        )
        self.out = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        weight, choice = self.router(x).softmax(-1).max(-1)
        y = x.new_zeros(x.shape[0], 12)
        for i, expert in enumerate(self.experts):
            rows = (choice == i).nonzero().squeeze(1)
            if rows.numel():
                y.index_add_(0, rows, expert(x[rows]) * weight[rows, None])
        return self.out(y)


@MODELS.add(floats(6, 10))
class StackedExperts(nn.Module):
    """Experts as three-dimensional parameters, in batched products."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(10, 4, bias=False)
        self.w1 = nn.Parameter(torch.randn(4, 10, 2 * 22) * 0.3)
        self.w2 = nn.Parameter(torch.randn(4, 22, 10) * 0.2)
        self.out = nn.Linear(10, 7)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        hidden, gate = torch.bmm(x.expand(4, -1, -1), self.w1).chunk(2, dim=-1)
        y = torch.bmm(hidden * F.silu(gate), self.w2)
        return self.out(x + torch.einsum("erd,re->rd", y, weights))


@MODELS.add(_ROWS)
class SharedLoop(nn.Module):
    """One residual module called many times, and a matrix used in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(10, 24)
        self.block = nn.Sequential(nn.Linear(24, 32), nn.Tanh(), nn.Linear(32, 24))
        self.down, self.out = nn.Linear(24, 14, bias=False), nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        for _ in range(4):
            x = x + 0.5 * self.block(x)
        return self.out(torch.sigmoid(self.down(x)) @ self.down.weight)


@MODELS.add(lambda: (torch.randn(2, 3, 20, 20), torch.randn(2, 3, 16, 16)))
class Siamese(nn.Module):
    """One encoder for two inputs of different sizes; a distance and a joint head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 20, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.embed, self.head = nn.Linear(20, 16), nn.Linear(33, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        u, v = (self.embed(self.encoder(t).flatten(1)) for t in (a, b))
        near = F.cosine_similarity(u, v, dim=-1)[:, None]
        return self.head(torch.cat([torch.abs(u - v), u * v, near], 1))


@dataclass
class Found:
    """What a detector says."""

    scores: Tensor
    boxes: Tensor
    extra: dict[str, list[Tensor]]


@MODELS.add(lambda: {"image": torch.randn(2, 3, 16, 16)})
class DataclassOutput(nn.Module):
    """Outputs in a dataclass with a dict of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 24, 3, 2), nn.ReLU()
        )
        self.scores, self.boxes = nn.Conv2d(24, 5, 1), nn.Conv2d(24, 4, 1)

    def forward(self, image: Tensor) -> Found:
        x = self.body(image)
        boxes = self.boxes(x)
        return Found(self.scores(x).sigmoid(), boxes, {"levels": [boxes[:, :2], boxes[:, 2:]]})


@MODELS.add(floats(4, 18))
class ChannelBuffers(nn.Module):
    """Buffers that follow the channels: a scale, a moving mean, a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(18, 30), nn.Linear(30, 7)
        self.register_buffer("scale", torch.rand(30) + 0.5)
        self.register_buffer("mean", torch.randn(1, 30))
        self.register_buffer("mask", torch.arange(30) % 3 > 0)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.fc1(x) - self.mean) * self.scale
        return self.fc2(torch.where(self.mask, F.relu(x), x))


@MODELS.add(floats(3, 6, 10))
class BareParameters(nn.Module):
    """Parameters without modules, in einsum, tensordot and addmm."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(10, 4, 9) * 0.3)
        self.b = nn.Parameter(torch.randn(4, 9, 26) * 0.2)
        self.c, self.bias = nn.Parameter(torch.randn(26, 7) * 0.2), nn.Parameter(torch.zeros(7))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(torch.einsum("btc,chd->bthd", x, self.a))
        y = torch.relu(torch.tensordot(y, self.b, dims=([2, 3], [0, 1])))
        return torch.addmm(self.bias, y.mean(1), self.c)


@MODELS.add(_ROWS)
class DataDependent(nn.Module):
    """The branch taken, and how often a loop runs, depend on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.a, self.b = nn.Linear(10, 24), nn.Linear(24, 24), nn.Linear(24, 24)
        self.out = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.inside(x))
        x = torch.relu(self.a(x)) if x.mean() > 0 else torch.tanh(self.b(x))
        for _ in range(4):
            if x.abs().max() < 1e-6:
                break
            x = x * 0.5 + torch.tanh(self.a(x))
        return self.out(x)


@MODELS.add(lambda: (torch.randn(4, 9), torch.randn(4, 12)))
class Bilinear(nn.Module):
    """nn.Bilinear, and an outer-product fusion."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(9, 14), nn.Linear(12, 11)
        self.both, self.out = nn.Bilinear(14, 11, 16), nn.Linear(16 + 14 * 11, 7)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = torch.relu(self.left(a)), torch.relu(self.right(b))
        outer = (a.unsqueeze(2) * b.unsqueeze(1)).flatten(1)
        return self.out(torch.cat([self.both(a, b), outer], dim=1))


@MODELS.add(lambda: (torch.randint(0, 40, (17,)), torch.tensor([0, 4, 5, 11]), torch.randn(4, 6)))
class EmbeddingBag(nn.Module):
    """Recommendation: bags of words, dense features, pairwise products."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(40, 16, mode="mean")
        self.dense = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 16))
        self.top = nn.Sequential(nn.Linear(17, 18), nn.ReLU(), nn.Linear(18, 1))

    def forward(self, words: Tensor, offsets: Tensor, dense: Tensor) -> Tensor:
        a, b = self.bag(words, offsets), self.dense(dense)
        return self.top(torch.cat([b, (a * b).sum(1, keepdim=True)], 1)).sigmoid()


@MODELS.add(_IMAGE)
class AttributeSizes(nn.Module):
    """Split sizes in a list, view sizes in a tuple, and a width computed from attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes, self.shape = [8, 12, 16], (3, 4)
        self.stem = nn.Conv2d(3, sum(self.sizes), 3)
        self.parts = nn.ModuleList(nn.Conv2d(size, 12, 1) for size in self.sizes)
        self.mix, self.out = nn.Linear(self.shape[1], 5), nn.Linear(15, 7)

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.split(F.relu(self.stem(x)), self.sizes, dim=1)
        y = sum(part(piece) for part, piece in zip(self.parts, pieces, strict=True))
        y = y.mean((2, 3)).view(-1, *self.shape)
        return self.out(torch.relu(self.mix(y)).flatten(1))


def _scripted() -> nn.Module:
    inner = nn.Sequential(nn.Linear(20, 28), nn.ReLU(), nn.Linear(28, 20))
    return nn.Sequential(nn.Linear(10, 20), torch.jit.script(inner), nn.ReLU(), nn.Linear(20, 7))


MODELS.put("scripted_submodule", _scripted, _ROWS)
MODELS.put(
    "sequential_of_everything",
    lambda: nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.Hardswish(),
        nn.MaxPool2d(2),
        nn.ZeroPad2d(1),
        nn.Conv2d(16, 24, 3, groups=2),
        nn.GroupNorm(3, 24),
        nn.SiLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(24, 20, 3),
        nn.InstanceNorm2d(20),
        nn.Dropout2d(),
        nn.LeakyReLU(),
        nn.Flatten(2),
        nn.LayerNorm(196),
        nn.Unflatten(2, (14, 14)),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(180, 32),
        nn.BatchNorm1d(32),
        nn.Softplus(),
        nn.Linear(32, 7),
        nn.LogSoftmax(-1),
    ),
    _IMAGE,
)
