"""Which blocks are passed by, and the promise."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from adapting import perceptron
from torch import Tensor, nn

import secateur as sc
from secateur.core.errors import InputError, RecipeError


class Add(nn.Module):
    def __init__(self, size: float) -> None:
        super().__init__()
        self.inner, self.size = nn.Linear(16, 16), size

    def forward(self, x: Tensor) -> Tensor:
        return x + self.size * torch.tanh(self.inner(x))


class Net(nn.Module):
    """Blocks that matter less and less; `words`: on embedded words, without a mean."""

    def __init__(self, words: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = words
        self.stem = nn.Embedding(12, 16) if words else nn.Linear(8, 16)
        self.blocks = nn.ModuleList([Add(s) for s in (1.0, 0.6, 0.02, 0.3, 0.1)])
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(x)


def test_blocks_that_matter_least_go_first() -> None:
    layers = sc.adapt.skip(Net().eval(), torch.randn(1500, 8), guarantee=0.9)
    assert layers.names == ("blocks.2", "blocks.4")
    assert layers.passed > 0.5 * layers.tested
    text = str(layers)
    assert "blocks.2" in text and "promise: at least 0.9 agree" in text


def test_the_promise_holds_on_new_samples() -> None:
    net = Net().eval()
    layers = sc.adapt.skip(net, torch.randn(2000, 8), guarantee=0.95, most=4)
    x = torch.randn(2000, 8)
    with torch.no_grad():
        found, wanted = layers(x), net(x)
        alone = torch.cat([layers(one) for one in x[:20].split(1)])
    assert float((found.argmax(1) == wanted.argmax(1)).float().mean()) >= 0.94
    assert not torch.equal(found, wanted)
    assert torch.allclose(alone, found[:20], atol=1e-5)
    for other in (copy.deepcopy(layers), pickle.loads(pickle.dumps(layers))):
        with torch.no_grad():
            assert torch.equal(other(x), found)


def test_language_models_pass_blocks_by() -> None:
    net, ids = Net(words=True).eval(), torch.randint(12, (1500, 6))
    layers = sc.adapt.skip(net, [ids], guarantee=0.9)
    with torch.no_grad():
        found, wanted = layers(ids[:50]), net(ids[:50])[:, -1]
    assert found.shape == (50, 5) and layers.passed > 0
    assert float((found.argmax(1) == wanted.argmax(1)).float().mean()) >= 0.85


def test_what_cannot_be_promised_is_not_done() -> None:
    net, x = Net().eval(), torch.randn(100, 8)
    layers = sc.adapt.skip(net, x, guarantee=0.999)
    assert "no block can be passed by" in str(layers)
    with torch.no_grad():
        assert torch.equal(layers(x), net(x))


def test_the_model_stays_as_it_was() -> None:
    net, x = Net().train(), torch.randn(500, 8)
    kinds, state = [type(m) for m in net.modules()], torch.get_rng_state()
    layers = sc.adapt.skip(net, x, guarantee=0.9)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training and layers.training and [type(m) for m in net.modules()] == kinds


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RecipeError, match="fewer than two residual blocks"):
        sc.adapt.skip(perceptron()[0], torch.randn(200, 6))
    with pytest.raises(RecipeError):
        sc.adapt.skip(Net(), torch.randn(200, 8), guarantee=1.0)
    with pytest.raises(InputError, match="skipping needs 5"):
        sc.adapt.skip(Net(), torch.randn(3, 8))
