"""Graphs, points, capsules, fields, generated weights, latent codes, spectra."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._register import Registry, floats

MODELS = Registry()
_ROWS = floats(5, 10)
_IMAGE = floats(2, 3, 16, 16)


@MODELS.add(_ROWS)
class Highway(nn.Module):
    """Gates that carry the input through."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(10, 24), nn.Linear(24, 7)
        self.h = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))
        self.t = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        for h, t in zip(self.h, self.t, strict=True):
            gate = torch.sigmoid(t(x))
            x = torch.lerp(x, torch.relu(h(x)), gate)
        return self.out(x)


@MODELS.add(_IMAGE)
class Capsules(nn.Module):
    """Capsules with squashing and two rounds of routing by agreement."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.primary = nn.Conv2d(3, 20, 5), nn.Conv2d(20, 4 * 6, 5, stride=2)
        self.weight = nn.Parameter(torch.randn(64, 5, 8, 6) * 0.3)

    @staticmethod
    def squash(x: Tensor) -> Tensor:
        square = x.pow(2).sum(-1, keepdim=True)
        return square / (1 + square) * x / (square.sqrt() + 1e-8)

    def forward(self, x: Tensor) -> Tensor:
        u = self.primary(F.relu(self.stem(x)))
        u = self.squash(u.view(u.shape[0], 4, 6, -1).transpose(2, 3).flatten(1, 2))
        votes = torch.einsum("nkdi,bni->bnkd", self.weight, u)
        logits = votes.new_zeros(votes.shape[:3])
        for _ in range(2):
            v = self.squash((logits.softmax(2).unsqueeze(-1) * votes).sum(1))
            logits = logits + (votes * v.unsqueeze(1)).sum(-1)
        return v.norm(dim=-1)


@MODELS.add(floats(4, 30))
class Vae(nn.Module):
    """Encoder, mean and variance, decoder; no noise in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(30, 40), nn.ReLU())
        self.mean, self.log_var = nn.Linear(40, 8), nn.Linear(40, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 36), nn.ReLU(), nn.Linear(36, 30))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_var = self.mean(h), self.log_var(h)
        noise = torch.randn_like(mean) * (0.5 * log_var).exp() if self.training else 0.0
        return self.decoder(mean + noise), mean, log_var


@MODELS.add(floats(2, 3, 40))
class PointNet(nn.Module):
    """A learned transform of the points, shared layers, a maximum over points, both joined."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Conv1d(3, 12, 1), nn.ReLU(), nn.AdaptiveMaxPool1d(1))
        self.matrix, self.a = nn.Linear(12, 9), nn.Conv1d(3, 20, 1)
        self.b, self.c, self.norm = nn.Conv1d(20, 32, 1), nn.Conv1d(52, 18, 1), nn.BatchNorm1d(32)
        self.out = nn.Conv1d(18, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        m = self.matrix(self.transform(x).squeeze(-1)).view(-1, 3, 3) + torch.eye(3)
        local = F.relu(self.a(torch.bmm(m, x)))
        whole = self.norm(self.b(local)).max(dim=2, keepdim=True)[0]
        both = torch.cat([local, whole.expand(-1, -1, x.shape[2])], dim=1)
        return self.out(F.relu(self.c(both)))


@MODELS.add(lambda: (torch.randn(9, 11), (torch.rand(9, 9) > 0.6).float()))
class GraphConv(nn.Module):
    """Normalised adjacency times features times weights; a readout over nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.own = nn.Linear(11, 24), nn.Linear(24, 20), nn.Linear(11, 24)
        self.out = nn.Linear(20, 7)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        links = adjacency + torch.eye(x.shape[0])
        links = links / links.sum(1, keepdim=True)
        h = F.relu(links @ self.a(x) + self.own(x))
        return self.out(F.relu(links @ self.b(h)).sum(0))


@MODELS.add(lambda: (torch.randn(8, 11), torch.randint(0, 8, (2, 20))))
class GraphAttention(nn.Module):
    """Edges by index: gather, scatter-softmax, index_add."""

    def __init__(self, heads: int = 3, size: int = 8) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.inside, self.out = nn.Linear(11, heads * size), nn.Linear(heads * size, 7)
        self.source = nn.Parameter(torch.randn(heads, size) * 0.3)
        self.target = nn.Parameter(torch.randn(heads, size) * 0.3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        i, j = edges
        h = self.inside(x).view(-1, self.heads, self.size)
        energy = (h * self.source).sum(-1)[i] + (h * self.target).sum(-1)[j]
        weight = F.leaky_relu(energy, 0.2).exp()
        total = torch.zeros(x.shape[0], self.heads).index_add(0, j, weight) + 1e-6
        message = h[i] * (weight / total[j]).unsqueeze(-1)
        y = torch.zeros_like(h).index_add(0, j, message)
        return self.out(F.elu(y.flatten(1)))


@MODELS.add(lambda: (torch.randn(2, 3, 16, 16), torch.randn(2, 6)))
class Film(nn.Module):
    """Features scaled and shifted by a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24, affine=False)
        self.film = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 48))
        self.out = nn.Conv2d(24, 3, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gamma, beta = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        return self.out(F.relu(self.norm(self.a(x)) * (1 + gamma) + beta))


@MODELS.add(_ROWS)
class NeuralOde(nn.Module):
    """Runge-Kutta steps through one small network, with time as an input."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(10, 16), nn.Linear(16, 7)
        self.field = nn.Sequential(nn.Linear(17, 32), nn.Tanh(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        x, step = self.inside(x), 0.25

        def slope(state: Tensor, time: float) -> Tensor:
            return self.field(torch.cat([state, torch.full_like(state[:, :1], time)], dim=1))

        for i in range(4):
            a = slope(x, i * step)
            b = slope(x + 0.5 * step * a, (i + 0.5) * step)
            x = x + step * (a + 2 * b) / 3
        return self.out(x)


@MODELS.add(_ROWS)
class KanLike(nn.Module):
    """Every edge has its own function: radial bases times a third-order tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-2, 2, 6))
        shapes = [(10, 18), (18, 7)]
        self.edges = nn.ParameterList(nn.Parameter(torch.randn(a, b, 6) * 0.2) for a, b in shapes)
        self.base = nn.ModuleList(nn.Linear(a, b) for a, b in shapes)

    def forward(self, x: Tensor) -> Tensor:
        for edge, base in zip(self.edges, self.base, strict=True):
            bases = torch.exp(-((x.unsqueeze(-1) - self.grid) ** 2))
            x = base(F.silu(x)) + torch.einsum("nig,iog->no", bases, edge)
        return x


@MODELS.add(lambda: (torch.randn(4, 10), torch.randn(4, 6)))
class HyperNetwork(nn.Module):
    """One network makes the weights of another."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 12
        self.context = nn.Sequential(nn.Linear(6, 20), nn.ReLU())
        self.weights, self.biases = nn.Linear(20, 10 * self.width), nn.Linear(20, self.width)
        self.out = nn.Linear(self.width, 7)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        z = self.context(context)
        weight = self.weights(z).view(-1, self.width, 10)
        y = torch.baddbmm(self.biases(z).unsqueeze(2), weight, x.unsqueeze(2)).squeeze(2)
        return self.out(torch.relu(y))


@MODELS.add(_IMAGE)
class SpatialTransformer(nn.Module):
    """The image is warped by what a small network says, then classified."""

    def __init__(self) -> None:
        super().__init__()
        self.locate = nn.Sequential(
            nn.Conv2d(3, 10, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(40, 6)
        )
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU())
        self.head = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        theta = 0.1 * self.locate(x).view(-1, 2, 3) + torch.eye(2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, align_corners=False)
        return self.head(self.body(x).amax((2, 3)))


@MODELS.add(floats(2, 12, 10))
class MlpMixer(nn.Module):
    """Layers over tokens and over channels by turns."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.norm = nn.Linear(10, 24), nn.LayerNorm(24)
        self.tokens = nn.Sequential(nn.Linear(12, 18), nn.GELU(), nn.Linear(18, 12))
        self.channels = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 24))
        self.out = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.out((x + self.channels(self.norm(x))).mean(1))


@MODELS.add(floats(2, 16, 10))
class FourierMixer(nn.Module):
    """A Fourier transform along time, filtered by complex weights (a Fourier neural operator)."""

    def __init__(self, width: int = 18, modes: int = 5) -> None:
        super().__init__()
        self.modes = modes
        self.inside, self.out = nn.Linear(10, width), nn.Linear(width, 7)
        self.filters = nn.Parameter(torch.randn(width, width, modes, 2) * 0.1)
        self.local = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x).transpose(1, 2)
        spectrum = torch.fft.rfft(x)[..., : self.modes]
        mixed = torch.einsum("nim,iom->nom", spectrum, torch.view_as_complex(self.filters))
        y = torch.fft.irfft(F.pad(mixed, (0, 9 - self.modes)), n=x.shape[-1])
        return self.out(F.gelu(y + self.local(x)).transpose(1, 2))


@MODELS.add(_ROWS)
class MixtureDensity(nn.Module):
    """Three heads of different meaning from one body."""

    def __init__(self, parts: int = 4) -> None:
        super().__init__()
        self.parts = parts
        self.body = nn.Sequential(nn.Linear(10, 30), nn.Tanh(), nn.Linear(30, 26), nn.Tanh())
        self.all = nn.Linear(26, 3 * parts)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits, mean, log_scale = self.all(self.body(x)).split(self.parts, dim=1)
        return {"weight": logits.softmax(1), "mean": mean, "scale": log_scale.exp()}


@MODELS.add(_ROWS)
class VectorQuantised(nn.Module):
    """Rows of a codebook by nearest distance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 12))
        self.codebook = nn.Embedding(17, 12)
        self.decoder = nn.Sequential(nn.Linear(12, 28), nn.ReLU(), nn.Linear(28, 10))

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x)
        code = self.codebook(torch.cdist(z, self.codebook.weight).argmin(1))
        return self.decoder(z + (code - z).detach())


@MODELS.add(floats(3, 20))
class TimeEmbedding(nn.Module):
    """A diffusion-like block: sinusoidal features made of literals, added to every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 24), nn.SiLU(), nn.Linear(24, 24))
        self.inside, self.out = nn.Conv1d(1, 24, 3, padding=1), nn.Conv1d(24, 1, 3, padding=1)
        self.norm, self.mid = nn.GroupNorm(4, 24), nn.Conv1d(24, 24, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.arange(8) * math.log(100) / 8
        feature = torch.cat([angle.sin(), angle.cos()]).expand(x.shape[0], -1)
        h = self.inside(x.unsqueeze(1)) + self.time(feature)[:, :, None]
        return self.out(h + self.mid(F.silu(self.norm(h)))).squeeze(1)
