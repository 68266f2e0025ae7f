"""Gram matrices against unfold and numpy, and their memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur.measure.stats_grams as module
from secateur.core.batches import Call
from secateur.core.errors import InputError
from secateur.measure.linear import Spec
from secateur.measure.stats_grams import GramFacts, Grams, gather, shapes


def grams(net: nn.Module, calls: list[Call], *names: str) -> dict[str, GramFacts]:
    found = shapes(net, calls[0], set(names), len(calls))
    return gather(net, calls, found, 0)


def images(count: int = 6, channels: int = 4, size: int = 6) -> Call:
    generator = torch.Generator().manual_seed(count)
    return Call((torch.randn(count, channels, size, size, generator=generator) + 3,), {})


def patches(net: nn.Conv2d, x: Tensor) -> Tensor:
    """Rows `[groups, n, k]` by torch's own unfold."""
    flat = nn.functional.unfold(
        x, net.kernel_size, net.dilation, net.padding, net.stride
    ).transpose(1, 2)
    return flat.reshape(-1, flat.shape[2]).reshape(-1, net.groups, flat.shape[2] // net.groups)


@pytest.mark.parametrize(
    "net",
    [
        nn.Conv2d(4, 3, 3, padding=1),
        nn.Conv2d(4, 6, 3, groups=2, stride=2),
        nn.Conv2d(4, 2, (1, 3), dilation=2),
        nn.Conv2d(4, 5, 1, bias=False),
    ],
    ids=str,
)
def test_a_convolution_s_is_that_of_its_patches(net: nn.Conv2d) -> None:
    calls = [images(6), images(5)]
    found = grams(net, calls, "weight")["weight"]
    rows = torch.cat([patches(net, call.args[0]) for call in calls]).double()
    assert found.count == len(rows)
    for group in range(net.groups):
        mine = rows[:, group].numpy()
        assert found.mean[group].numpy() == pytest.approx(mine.mean(0), rel=1e-5)
        expected = np.cov(mine.T, bias=True)
        assert found.gram[group].numpy() == pytest.approx(expected, abs=1e-5)
    # The matrix is in the same columns: outputs' covariance is that of the layer's outputs.
    matrix = found.matrix(net.weight)
    outputs = torch.cat([net(c.args[0]).flatten(2).transpose(1, 2).flatten(0, 1) for c in calls])
    expected = torch.diagonal(matrix @ found.gram @ matrix.mT, dim1=1, dim2=2).reshape(-1)
    torch.testing.assert_close(
        expected, outputs.detach().double().var(0, correction=0), rtol=1e-4, atol=1e-6
    )


def test_a_linear_layer_s_and_blocks_of_rows() -> None:
    net = nn.Linear(5, 2)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 5, generator=generator) + 1000
    found = grams(net, [Call((x,), {})], "weight")["weight"]
    assert found.gram[0].numpy() == pytest.approx(np.cov(x.double().numpy().T, bias=True), abs=1e-3)


def test_stripes_make_one_symmetric_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STRIPE", 3)
    net, call = nn.Conv2d(4, 6, 2, groups=2), images()
    found = grams(net, [call], "weight")["weight"].gram
    rows = patches(net, call.args[0]).double()
    for group in range(2):
        expected = np.cov(rows[:, group].numpy().T, bias=True)
        assert found[group].numpy() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(found, found.mT)


def test_rows_are_sampled_to_a_quota() -> None:
    net = nn.Conv2d(2, 2, 1)
    calls = [Call((torch.randn(8, 2, 64, 64),), {})] * 3
    found = grams(net, calls, "weight")["weight"]
    assert 8192 <= found.count < 8192 + 3
    assert torch.equal(grams(net, calls, "weight")["weight"].gram, found.gram)


def test_a_wide_convolution_gets_that_of_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WIDEST", 20)
    net, call = nn.Conv2d(4, 3, 3), images()
    found = grams(net, [call], "weight")["weight"]
    rows = patches(net, call.args[0]).reshape(-1, 4, 9).transpose(1, 2).reshape(-1, 4).double()
    assert found.taps == 1 and found.gram.shape == (1, 4, 4)
    assert found.gram[0].numpy() == pytest.approx(np.cov(rows.numpy().T, bias=True), abs=1e-5)
    matrix = found.matrix(net.weight)[0]
    assert matrix.shape == (27, 4)
    assert torch.equal(matrix[:9, 2].float(), net.weight[0, 2].reshape(-1).detach())


def test_what_is_too_wide_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEVER", 4)
    net = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2))
    assert set(shapes(net, Call((torch.ones(2, 5),), {}), {"0.weight", "1.weight"}, 1)) == {
        "1.weight"
    }


def test_activations_that_are_not_finite_are_named() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].bias[1] = float("inf")
    with pytest.raises(InputError, match=r"the input of 1\.weight"):
        grams(net, [Call((torch.ones(3, 2),), {})], "1.weight")


def made(name: str) -> GramFacts:
    spec = Spec(name, None, "dense")
    return GramFacts(name, spec, torch.eye(2)[None], torch.zeros(1, 2), 1, 1)


def test_grams_come_in_passes_that_fit() -> None:
    asked: list[Sequence[str]] = []

    def fill(names: Sequence[str]) -> dict[str, GramFacts]:
        asked.append(list(names))
        return {name: made(name) for name in names}

    found = Grams(dict.fromkeys("abcde", 10), fill, limit=30)
    assert list(found) == list("abcde") and len(found) == 5
    assert found["a"].weight == "a"
    assert found["b"].weight == "b" and found["c"].weight == "c"
    assert asked == [["a", "b", "c"]]
    assert set(found.load(["c", "e"])) == {"c", "e"}
    assert asked[1:] == [["d", "e"]]  # c is still there
    assert set(found.load(["a", "b", "d", "e"])) == {"a", "d"}  # evenly spread ones that fit
    assert len(found._held) <= 3
    with pytest.raises(KeyError):
        found["f"]
