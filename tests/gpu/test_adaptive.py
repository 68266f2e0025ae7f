"""Networks that adapt at inference, on a GPU."""

from __future__ import annotations

import threading

import pytest
import torch
from cuda_nets import GPU, apart, at_home, data, net, run
from torch import Tensor, nn

import secateur as sc


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("family", ["convolutions", "recurrent", "attention"])
def test_dial(family: str, where: str) -> None:
    x = data(family, 32)
    dial = sc.dial(net(family), data=x.to(where), levels=[1.0, 0.5])
    assert str(dial)
    assert at_home(dial)
    other = sc.dial(net(family, "cpu"), data=x, levels=[1.0, 0.5])
    dense = run(net(family), x)
    for level in dial.levels:
        with dial.at(level), other.at(level), torch.no_grad():
            ours, theirs = apart(dense, dial(x.to(GPU))), apart(dense, other(x))
        assert ours < 1.3 * theirs + 0.02
    times = dial.measure(x.to(GPU))
    assert times[0.5].device == torch.cuda.get_device_name()
    with dial.within(ms=1e6):
        assert dial.level == 1.0
    assert at_home(dial.export(0.5))


def test_dial_levels_of_threads() -> None:
    x = data("convolutions", 16, GPU)
    dial = sc.dial(net("convolutions"), data=x, levels=[1.0, 0.5])
    with torch.no_grad():
        wanted = {}
        for level in dial.levels:
            with dial.at(level):
                wanted[level] = dial(x)
        found: dict[float, Tensor] = {}

        def work(level: float) -> None:
            with torch.no_grad(), dial.at(level):
                for _ in range(5):
                    found[level] = dial(x)

        threads = [threading.Thread(target=work, args=(level,)) for level in dial.levels]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for level, out in wanted.items():
        assert apart(out, found[level]) < 1e-4


def test_dial_trains() -> None:
    x = data("convolutions", 32, GPU)
    dial = sc.dial(net("convolutions"), data=x, levels=[1.0, 0.5])
    y = run(net("convolutions"), x).argmax(1)
    assert dial.fit([(x[:16], y[:16]), (x[16:], y[16:])], epochs=1)
    assert at_home(dial)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("family", ["convolutions", "attention"])
def test_gate(family: str, where: str) -> None:
    model, x = net(family), data(family, 64)
    gated = sc.gate(model, x.to(where), keep=0.75, only_faster=False)
    assert str(gated)
    assert at_home(gated, model)
    with torch.no_grad():
        one, many = gated(x[:1].to(GPU)), gated(x.to(GPU))
    assert apart(many[:1], one) < 1e-3
    assert apart(run(model, x), many) < 0.7


class Chain(nn.Module):
    """Blocks in a list, then a classifier; most inputs are easy."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(4)
        )
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for part in self.blocks:
            x = x + 0.3 * part(x)
        return 5 * self.fc(x)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_exits(where: str) -> None:
    model, x = Chain().eval().to(GPU), torch.randn(1500, 8)
    early = sc.adapt.exits(model, x.to(where), guarantee=0.9)
    assert str(early)
    fresh = torch.randn(500, 8, device=GPU)
    with torch.no_grad():
        out, left = early.leave(fresh)
        same = float((out.argmax(1) == model(fresh).argmax(1)).float().mean())
    assert at_home(early.model, early.heads, out, left)
    assert same > 0.85


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_activations(where: str) -> None:
    model, x = net("recurrent"), data("recurrent", 64)
    lazy = sc.adapt.activations(model, x.to(where), sparsity=0.3, only_faster=False)
    assert str(lazy)
    assert at_home(lazy)
    with torch.no_grad():
        one, many = lazy(x[:1].to(GPU)), lazy(x.to(GPU))
    assert apart(many[:1], one) < 1e-3
    assert apart(run(model, x), many) < 0.7


def test_tokens() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, depth=3, num_classes=5
    )
    model = model.eval().to(GPU)
    x = torch.randn(4, 3, 32, 32, device=GPU)
    merged = sc.adapt.tokens(model, r=4)
    with torch.no_grad():
        none = sc.adapt.tokens(model, r=0)(x)
        assert apart(model(x), none) < 1e-3
        assert merged(x).shape == (4, 5)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.Tanh()) for _ in range(3)
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 30)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(self.norm(x))


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_exits_of_a_decoder(where: str) -> None:
    model, ids = Decoder().eval().to(GPU), torch.randint(30, (600, 12))
    early = sc.adapt.exits(model, [ids[k : k + 50].to(where) for k in range(0, 600, 50)])
    with torch.no_grad():
        assert early(ids[:4].to(GPU)).device.type == "cuda"


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_monitor(where: str) -> None:
    dense, x = net("convolutions"), torch.randn(400, 3, 8, 8)
    small = sc.prune(dense, data=x[:64], budget=sc.MACs("60%"), latency=False).model
    monitor = sc.adapt.Monitor(small, x.to(where), dense=dense)
    with torch.no_grad():
        for batch in torch.randn(8, 25, 3, 8, 8):
            monitor(batch.to(GPU))
        assert not monitor.drifted
        for batch in 4 + torch.randn(8, 25, 3, 8, 8):
            monitor(batch.to(GPU))
    assert monitor.drifted
    assert monitor.recalibrate((4 + torch.randn(64, 3, 8, 8)).to(where))
    assert at_home(small)
    monitor.restore()
    monitor.close()
