"""Convolutional models with awkward wiring."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from ._register import Registry, floats

MODELS = Registry()

_IMAGE = floats(2, 3, 24, 24)


def _unit(inside: int, outside: int, kernel: int = 3, **options: int) -> nn.Sequential:
    conv = nn.Conv2d(inside, outside, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU())


class _Image(nn.Module):
    """A stem, a body, a classifier; subclasses make the body."""

    width = 24

    def __init__(self) -> None:
        super().__init__()
        self.stem = _unit(3, self.width)
        self.body = self.make()
        self.head = nn.Linear(self.width, 7)

    def make(self) -> nn.Module:
        return nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(self.stem(x)).mean((2, 3)))


@MODELS.add(_IMAGE)
class ConvBnPairs(_Image):
    """A plain chain."""

    def make(self) -> nn.Module:
        return nn.Sequential(_unit(24, 40), _unit(40, 56, stride=2), _unit(56, 24))


@MODELS.add(_IMAGE)
class ChannelShuffle(_Image):
    """ShuffleNet's unit: split, transform, concatenate, shuffle."""

    def make(self) -> nn.Module:
        return nn.ModuleList(
            nn.Sequential(_unit(12, 12, groups=2), _unit(12, 12)) for _ in range(3)
        )

    def features(self, x: Tensor) -> Tensor:
        for branch in self.body:
            a, b = x.chunk(2, dim=1)
            x = torch.cat((a, branch(b)), dim=1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return x


MODELS.put(
    "channel_shuffle_module",
    lambda: nn.Sequential(
        _unit(3, 24),
        nn.Conv2d(24, 24, 3, groups=4),
        nn.ChannelShuffle(4),
        nn.Conv2d(24, 32, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 7),
    ),
    _IMAGE,
)


@MODELS.add(floats(2, 3, 12, 12))
class PixelShuffle(nn.Module):
    """Super-resolution: sub-pixel upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = _unit(3, 32), nn.Conv2d(32, 4 * 16, 3, padding=1)
        self.up, self.out = nn.PixelShuffle(2), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.up(self.b(self.a(x))))) + F.interpolate(x, scale_factor=2)


@MODELS.add(_IMAGE)
class PixelUnshuffle(_Image):
    """Space to depth and back."""

    def make(self) -> nn.Module:
        return nn.Sequential(
            nn.PixelUnshuffle(2), _unit(96, 48), nn.Conv2d(48, 96, 1), nn.PixelShuffle(2)
        )


@MODELS.add(_IMAGE)
class DenseConcat(_Image):
    """DenseNet: every layer sees all before it."""

    def make(self) -> nn.Module:
        return nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(24 + 8 * i), nn.ReLU(), nn.Conv2d(24 + 8 * i, 8, 3, padding=1)
            )
            for i in range(3)
        )

    def __init__(self) -> None:
        super().__init__()
        self.transition = _unit(48, 24, 1)

    def features(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.body:
            seen.append(layer(torch.cat(seen, 1)))
        return self.transition(torch.cat(seen, 1))


@MODELS.add(_IMAGE)
class InceptionLike(_Image):
    """Parallel branches of different sizes."""

    def make(self) -> nn.Module:
        pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), _unit(24, 6, 1))
        return nn.ModuleList(
            [_unit(24, 8, 1), nn.Sequential(_unit(24, 12, 1), _unit(12, 10)), pool]
        )

    def features(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.body], 1)


@MODELS.add(_IMAGE)
class CspSplit(_Image):
    """Cross-stage partial: one half goes through, the other joins later."""

    def make(self) -> nn.Module:
        return nn.ModuleDict({"a": _unit(12, 12), "b": _unit(12, 12), "join": _unit(36, 24, 1)})

    def features(self, x: Tensor) -> Tensor:
        left, right = torch.split(x, x.shape[1] // 2, dim=1)
        one = self.body["a"](right)
        return self.body["join"](torch.cat((left, one, self.body["b"](one)), dim=1))


@MODELS.add(floats(2, 3, 32, 32))
class UNet(nn.Module):
    """Skips by concatenation, upsampling by transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.d1, self.d2, self.d3 = _unit(3, 12), _unit(12, 20), _unit(20, 36)
        self.up2, self.up1 = nn.ConvTranspose2d(36, 20, 2, 2), nn.ConvTranspose2d(20, 12, 2, 2)
        self.u2, self.u1, self.out = _unit(40, 20), _unit(24, 12), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.d1(x)
        b = self.d2(F.max_pool2d(a, 2))
        c = self.d3(F.max_pool2d(b, 2))
        c = self.u2(torch.cat([self.up2(c), b], dim=1))
        return self.out(self.u1(torch.cat([self.up1(c), a], dim=1)))


@MODELS.add(_IMAGE)
class OptionAResNet(nn.Module):
    """CIFAR ResNet with channel-padded shortcuts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (
            _unit(3, 16),
            _unit(16, 32, stride=2),
            nn.Conv2d(32, 32, 3, padding=1),
        )
        self.c, self.norm, self.head = (
            nn.Conv2d(16, 16, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.Linear(32, 7),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.c(x))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8), "constant", 0.0)
        return self.head(F.relu(self.norm(self.b(self.a(x))) + short).mean((-1, -2)))


@MODELS.add(_IMAGE)
class SqueezeExcite(_Image):
    """Channel gates by global pooling, inside an inverted residual."""

    def make(self) -> nn.Module:
        se = nn.Sequential(nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 48), nn.Sigmoid())
        return nn.ModuleDict(
            {
                "up": _unit(24, 48, 1),
                "dw": _unit(48, 48, groups=48),
                "se": se,
                "down": nn.Conv2d(48, 24, 1),
            }
        )

    def features(self, x: Tensor) -> Tensor:
        y = self.body["dw"](self.body["up"](x))
        b, c, _, _ = y.size()
        gate = self.body["se"](F.adaptive_avg_pool2d(y, 1).view(b, c)).view(b, c, 1, 1)
        return x + self.body["down"](y * gate.expand_as(y))


@MODELS.add(_IMAGE)
class EcaAndSpatial(_Image):
    """A gate by a 1d convolution over channels, and a spatial gate of channel mean and maximum."""

    def make(self) -> nn.Module:
        return nn.ModuleDict(
            {
                "eca": nn.Conv1d(1, 1, 3, padding=1),
                "map": nn.Conv2d(2, 1, 7, padding=3),
                "conv": _unit(24, 24),
            }
        )

    def features(self, x: Tensor) -> Tensor:
        x = self.body["conv"](x)
        gate = self.body["eca"](x.mean((2, 3)).unsqueeze(1)).sigmoid()
        x = x * gate.transpose(1, 2).unsqueeze(-1)
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * self.body["map"](both).sigmoid()


@MODELS.add(_IMAGE)
class Maxout(_Image):
    """The maximum of two halves, and a gated linear unit over channels."""

    def make(self) -> nn.Module:
        return nn.ModuleList([nn.Conv2d(24, 56, 3, padding=1), nn.Conv2d(28, 48, 1)])

    def features(self, x: Tensor) -> Tensor:
        y = self.body[0](x)
        y = y.view(y.shape[0], 2, 28, *y.shape[2:]).amax(1)
        return F.glu(self.body[1](y), dim=1)


@MODELS.add(_IMAGE)
class ChannelsLastNorm(_Image):
    """ConvNeXt's block: layer norm and linear layers over the last dimension."""

    def make(self) -> nn.Module:
        parts = {"dw": nn.Conv2d(24, 24, 7, padding=3, groups=24), "norm": nn.LayerNorm(24)}
        return nn.ModuleDict(parts | {"up": nn.Linear(24, 96), "down": nn.Linear(96, 24)})

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(1e-6 * torch.ones(24))

    def features(self, x: Tensor) -> Tensor:
        y = self.body["norm"](self.body["dw"](x).permute(0, 2, 3, 1))
        y = self.gamma * self.body["down"](F.gelu(self.body["up"](y)))
        return x + y.permute(0, 3, 1, 2)


def _volume() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 12, 3, padding=1), nn.BatchNorm3d(12), nn.ReLU(), nn.MaxPool3d(2),
        nn.ConvTranspose3d(12, 16, 2, 2, groups=2), nn.ReLU(), nn.Conv3d(16, 2, 1),
    )  # fmt: skip


MODELS.put("conv3d", _volume, floats(2, 2, 6, 8, 10))
MODELS.put(
    "conv1d_everything",
    lambda: nn.Sequential(
        nn.Conv1d(4, 18, 5, padding=2), nn.BatchNorm1d(18), nn.ELU(), nn.AvgPool1d(2),
        nn.Conv1d(18, 36, 3, groups=6), nn.CELU(), nn.ConvTranspose1d(36, 14, 4, 2), nn.Mish(),
        nn.AdaptiveMaxPool1d(3), nn.Flatten(), nn.Linear(42, 7),
    ),
    floats(3, 4, 40),
)  # fmt: skip
MODELS.put(
    "grouped_and_depthwise",
    lambda: nn.Sequential(
        _unit(3, 24),
        _unit(24, 48, groups=4),
        _unit(48, 48, groups=48),
        _unit(48, 96, groups=48),
        _unit(96, 32, 1, groups=2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 7),
    ),
    _IMAGE,
)


@MODELS.add(_IMAGE)
class UnfoldFold(nn.Module):
    """Convolution written as patches times a matrix, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.mix, self.back = nn.Linear(90, 32), nn.Linear(32, 90)
        self.out = nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(self.stem(x), 3, padding=1).transpose(1, 2)
        y = self.back(F.relu(self.mix(patches))).transpose(1, 2)
        return self.out(F.fold(y, x.shape[-2:], 3, padding=1))


@MODELS.add(_IMAGE)
class RollChannels(_Image):
    """Channels are shifted, then convolved."""

    def make(self) -> nn.Module:
        return nn.Sequential(_unit(24, 24), _unit(24, 24))

    def features(self, x: Tensor) -> Tensor:
        return self.body[1](torch.roll(self.body[0](x), 5, dims=1))


@MODELS.add(_IMAGE)
class FlipChannels(_Image):
    """Channels in reverse order added to themselves, and a gather by a fixed permutation."""

    def make(self) -> nn.Module:
        return _unit(24, 24)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(24))

    def features(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return y + y.flip(1) + y[:, self.order]


@MODELS.add(floats(3, 1, 60))
class WaveNet(nn.Module):
    """Dilated causal convolutions, gates, residuals and skips."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 20, 1)
        self.gated = nn.ModuleList(nn.Conv1d(20, 2 * 18, 2, dilation=2**i) for i in range(4))
        self.residual = nn.ModuleList(nn.Conv1d(18, 20, 1) for _ in range(4))
        self.skip = nn.ModuleList(nn.Conv1d(18, 26, 1) for _ in range(4))
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(26, 22, 1), nn.ReLU(), nn.Conv1d(22, 9, 1))

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.stem(x), 0
        for i, layer in enumerate(self.gated):
            a, b = layer(F.pad(x, (2**i, 0))).chunk(2, dim=1)
            z = torch.tanh(a) * torch.sigmoid(b)
            x, total = x + self.residual[i](z), total + self.skip[i](z)
        return self.out(total)


@MODELS.add(floats(3, 6, 40))
class Tcn(nn.Module):
    """Weight-normed causal blocks that chomp what they padded."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [6, 16, 24, 24]
        self.convs = nn.ModuleList(
            parametrizations.weight_norm(nn.Conv1d(a, b, 3, padding=2 * 2**i, dilation=2**i))
            for i, (a, b) in enumerate(pairwise(sizes))
        )
        self.down = nn.ModuleList(
            nn.Conv1d(a, b, 1) if a != b else nn.Identity() for a, b in pairwise(sizes)
        )
        self.head = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        for conv, down in zip(self.convs, self.down, strict=True):
            x = F.relu(conv(x)[:, :, : -conv.padding[0]] + down(x))
        return self.head(x[:, :, -1])
