"""HRank and CHIP against numpy on feature maps taken by hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.core.layout import Fixed, Leaf, Product
from secateur.core.site import Site, Slice
from secateur.measure.stats import Gather
from secateur.score import Facts, scores

LEAF = Leaf("c", 4)


class Net(nn.Module):
    """Maps of low rank for some channels, read by a convolution and, flattened, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv, self.fc = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 2), nn.Linear(64, 3)

    def maps(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        y = torch.cat([y[:, :1], y[:, 1:2].mean(3, keepdim=True) + 0 * y[:, 1:2], y[:, 2:]], 1)
        return y * torch.tensor([1.0, 1, 0, 1])[:, None, None]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.maps(x)
        return self.conv(y), self.fc(y.flatten(1))


PARTS = (
    Slice("first.weight", 0, LEAF, "out"),
    Slice("conv.weight", 1, LEAF, "in"),
    Slice("fc.weight", 1, Product((LEAF, Fixed(16))), "in"),
)


def setup() -> tuple[Net, Tensor, np.ndarray]:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(20, 1, 4, 4)
    with torch.no_grad():
        net.first.weight.copy_(torch.tensor([1.0, 2, 1, -1]).reshape(4, 1, 1, 1))
        net.first.bias.copy_(torch.tensor([0.5, 0, 1, 0.2]))
    return net, x, net.maps(x).detach().double().numpy()


@pytest.mark.parametrize("parts", [PARTS[:2], PARTS[::2], PARTS], ids=["conv", "fc", "both"])
def test_hrank_is_the_mean_rank_of_maps(parts: tuple[Slice, ...]) -> None:
    net, x, maps = setup()
    where = Site("c", "channel", 4, parts)
    found = scores("hrank", [where], Facts.of(net), Gather(net, None, [x[:13], x[13:]]))["c"]
    expected = [
        np.mean([np.linalg.matrix_rank(m, tol=1e-5 * np.abs(m).max()) for m in maps[:, c]])
        for c in range(4)
    ]
    assert found.tolist() == pytest.approx(expected)
    assert expected[1] <= 1 and expected[2] == 0 < expected[0]


def nuclear(a: np.ndarray) -> float:
    return float(np.linalg.svd(a, compute_uv=False).sum())


@pytest.mark.parametrize("parts", [PARTS[:2], PARTS[::2]], ids=["conv", "fc"])
def test_chip_is_the_fall_of_the_nuclear_norm(parts: tuple[Slice, ...]) -> None:
    net, x, maps = setup()
    where = Site("c", "channel", 4, parts)
    found = scores("chip", [where], Facts.of(net), Gather(net, None, [x[:13], x[13:]]))["c"]
    expected = np.zeros(4)
    for image in maps.reshape(20, 4, 16):
        for c in range(4):
            without = image.copy()
            without[c] = 0
            expected[c] += (nuclear(image) - nuclear(without)) / 20
    assert found.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_chip_with_more_channels_than_positions() -> None:
    torch.manual_seed(0)
    net, leaf = nn.Conv2d(6, 2, 1), Leaf("c", 6)
    x = torch.randn(3, 6, 2, 2)
    where = Site("c", "channel", 6, (Slice("weight", 1, leaf, "in"),))
    found = scores("chip", [where], Facts.of(net), Gather(net, None, [x]))["c"]
    flat = x.double().reshape(3, 6, 4).numpy()
    expected = [np.mean([nuclear(a) - nuclear(np.delete(a, c, 0)) for a in flat]) for c in range(6)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_without_space_samples_are_positions_and_ranks_say_what_is_zero() -> None:
    torch.manual_seed(0)
    net, leaf = nn.Linear(3, 2), Leaf("c", 3)
    x = torch.randn(12, 3).relu() * torch.tensor([1.0, 0, 1])
    where = Site("c", "channel", 3, (Slice("weight", 1, leaf, "in"),))
    given = Gather(net, None, [x])
    assert scores("hrank", [where], Facts.of(net), given)["c"].tolist() == pytest.approx(
        (x > 0).double().mean(0).tolist()
    )
    found = scores("chip", [where], Facts.of(net), given)["c"]
    a = x.double().numpy().T
    expected = [nuclear(a) - nuclear(np.delete(a, c, 0)) for c in range(3)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_grouped_convolution_has_an_index_in_every_group() -> None:
    torch.manual_seed(0)
    net, leaf = nn.Conv2d(4, 4, 1, groups=2), Leaf("c", 2)
    x = torch.randn(5, 4, 3, 3)
    x[:, 2] = 0
    where = Site("c", "channel", 2, (Slice("weight", 1, leaf, "in"),))
    found = scores("hrank", [where], Facts.of(net), Gather(net, None, [x]))["c"]
    assert found.tolist() == [1.5, 3.0]


@pytest.mark.parametrize("name", ["hrank", "chip"])
def test_what_nothing_reads_is_scored_by_weights_with_one_note(name: str) -> None:
    net = nn.Linear(2, 3)
    facts = Facts.of(net)
    where = Site("c", "channel", 3, (Slice("weight", 0, Leaf("c", 3), "out"),))
    found = scores(name, [where], facts, Gather(net, None, [torch.ones(40, 2)]))["c"]
    torch.testing.assert_close(found.float(), scores("l1", [where], facts)["c"])
    assert facts.notes == [f"{name}: no linear operation reads c, scored by l1 instead"]
