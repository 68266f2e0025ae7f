"""What excites units, by sample, whatever layer reads them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.core.batches import Call, as_call
from secateur.interpret.ablate import Places
from secateur.interpret.activity import activities, pictures


def places(model: nn.Module, calls: list[Call]) -> Places:
    return Places.of(model, as_call(model, calls[0]), calls)


def test_peaks_of_images_over_their_places() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Flatten())
    calls = [Call((torch.randn(n, 1, 5, 5),), {}) for n in (4, 3)]
    found = activities(net, places(net, calls), calls)["0"]
    with torch.no_grad():
        wanted = torch.cat([net[1](net[0](call.args[0])) for call in calls])
    assert torch.allclose(found.peak, wanted.amax((2, 3)), atol=1e-6)
    assert found.excited(1, 2) == tuple(wanted.amax((2, 3))[:, 1].topk(2).indices.tolist())


def test_steps_of_a_sequence_belong_to_their_samples() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    torch.manual_seed(0)
    net, x = Recurrent(), torch.randn(5, 6, 3)
    calls = [Call((x,), {})]
    found = activities(net, places(net, calls), calls)
    (activity,) = found.values()
    with torch.no_grad():
        states = net.rnn(x)[0]
    before = torch.cat([torch.zeros(5, 1, 4), states[:, :-1]], 1)  # what the next step reads
    assert torch.allclose(activity.peak, before.amax(1), atol=1e-6)


def test_twins_are_found() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        net[0].weight[3] = 2 * net[0].weight[1]
        net[0].bias[3] = 2 * net[0].bias[1]
        net[0].weight[0], net[0].bias[0] = 0, 1  # it never changes, like no other
    calls = [Call((torch.randn(50, 4),), {})]
    pairs = activities(net, places(net, calls), calls)["0"].twins(0.99)
    assert [(i, k) for i, k, _ in pairs] == [(1, 3)]
    assert pairs[0][2] > 0.999


def test_pictures_are_of_images_only() -> None:
    images = [Call((torch.rand(2, 3, 40, 40),), {})]
    assert [p.caption for p in pictures(images, [("a", 0), ("b", 1)])] == ["a", "b"]
    assert pictures([Call((torch.rand(2, 3),), {})], [("a", 0)]) == ()
    assert pictures([], []) == ()
