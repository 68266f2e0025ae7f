"""Small networks that the tests of this room share."""

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A stem, two residual blocks with batch normalisation, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList([block(8, 24) for _ in range(2)])
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for part in self.blocks:
            x = torch.relu(x + part(x))
        return self.fc(x.mean((2, 3)))


def block(outer: int, inner: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(outer, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
        nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer),
    )  # fmt: skip


def residual() -> tuple[nn.Module, Tensor]:
    """The network in eval mode, with statistics of its own, and data."""
    torch.manual_seed(0)
    net, x = Residual(), torch.randn(80, 3, 6, 6)
    for _ in range(20):
        net(x)
    return net.eval(), x


def perceptron() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    return net, torch.randn(64, 6)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 16, batch_first=True)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0][:, -1])


class Chain(nn.Module):
    """A stem and four blocks in a list, then a classifier; most inputs are easy."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(4)]
        )
        self.fc = nn.Linear(16, 3)
        self.ran = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for part in self.blocks:
            self.ran += 1
            x = x + 0.3 * part(x)
        return 5 * self.fc(x)


def chain() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Chain().eval(), torch.randn(3000, 8)
