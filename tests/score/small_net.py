"""A small network, its sites and loss, and formulas over single weights for the tests of scores."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.core.layout import Concat, Fixed, Leaf, Product
from secateur.core.site import Site, Slice

CHANNELS, UNITS = Leaf("c", 3), Leaf("h", 2)
GATES = Concat((UNITS,) * 3)
FLAT = Product((CHANNELS, Fixed(4)))


class Net(nn.Module):
    """A convolution with norm, a linear layer on flattened maps, and a GRU over two steps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3)
        self.fc = nn.Linear(12, 4)
        self.rnn = nn.GRU(2, 2, batch_first=True)
        self.out = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 1, 3, 3] -> [N, 2]."""
        y = torch.tanh(self.norm(self.conv(x)))
        steps = self.fc(y.flatten(1)).reshape(-1, 2, 2)
        return self.out(self.rnn(steps)[0][:, -1])


SITES = [
    Site(
        "c",
        "channel",
        3,
        (
            Slice("conv.weight", 0, CHANNELS, "out"),
            Slice("norm.weight", 0, CHANNELS, "scale"),
            Slice("fc.weight", 1, FLAT, "in"),
        ),
    ),
    Site(
        "h",
        "channel",
        2,
        (
            Slice("rnn.weight_ih_l0", 0, GATES, "out"),
            Slice("rnn.weight_hh_l0", 0, GATES, "out"),
            Slice("rnn.weight_hh_l0", 1, UNITS, "in"),
            Slice("out.weight", 1, UNITS, "in"),
        ),
    ),
]


def net() -> Net:
    torch.manual_seed(0)
    made = Net()
    made.norm.running_var.uniform_(0.5, 2)
    return made.eval()


def batches() -> list[tuple[Tensor, Tensor]]:
    """Two batches of unequal size."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 1, 3, 3, generator=generator),
            torch.randint(0, 2, (n,), generator=generator),
        )
        for n in (5, 3)
    ]


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """By plain backward."""
    model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def consumed(where: Site, values: Mapping[str, Tensor]) -> Tensor:
    """Sum of values over the weights that consume an index, element by element."""
    total = torch.zeros(where.n, dtype=torch.float64)
    for part in where.slices:
        if part.role == "in":
            owner = part.layout.coordinate(where.name)
            for position in range(values[part.tensor].shape[part.dim]):
                total[owner[position]] += values[part.tensor].select(part.dim, position).sum()
    return total


def hessian(model: nn.Module, x: Tensor, y: Tensor) -> tuple[list[str], Tensor, Tensor]:
    """Names of single weights (one entry each), all weights, and the whole Hessian, float64."""
    model = model.double()
    named = dict(model.named_parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in named.values()])

    def loss(vector: Tensor) -> Tensor:
        given, start = {}, 0
        for name, parameter in named.items():
            part = vector[start : start + parameter.numel()]
            given[name] = part.reshape(parameter.shape)
            start += parameter.numel()
        out = torch.func.functional_call(model, given, (x.double(),))
        return nn.functional.cross_entropy(out, y)

    names = [name for name, p in named.items() for _ in range(p.numel())]
    return names, flat, torch.autograd.functional.hessian(loss, flat)


def by_name(model: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    """A flat vector over all weights as tensors."""
    found, start = {}, 0
    for name, p in model.named_parameters():
        found[name] = vector[start : start + p.numel()].reshape(p.shape)
        start += p.numel()
    return found
