"""What is timed: the operations of a cut model are the predicted sizes of the whole model's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.apply.cut import replay
from secateur.core.batches import as_call
from secateur.core.plan import Choice, Plan
from secateur.core.tensors import light_copy
from secateur.graph import analyze
from secateur.measure.latency_jobs import Found, Job, find


class Images(nn.Module):
    """Plain, grouped, depthwise, strided and transposed convolutions, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.grouped = nn.Conv2d(16, 24, 1, groups=4)
        self.up = nn.ConvTranspose2d(24, 12, 2, 2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(torch.relu(self.depth(self.stem(x))))
        return self.head(self.up(x).mean((2, 3)))


class Sequences(nn.Module):
    """Recurrent layers, a cell, and packed attention projections."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(7, 12, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(24, 10, batch_first=True)
        self.cell = nn.RNNCell(10, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gru(self.lstm(x)[0])[0]
        x = torch.stack([self.cell(x[:, 0]), self.cell(x[:, 1])], 1)
        return self.out(self.attention(x, x, x, need_weights=False)[0])


class Flipped(nn.Module):
    """Weights stored as [in, out], as GPT-2's, and one on the left."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 10))
        self.bias = nn.Parameter(torch.randn(10))
        self.second = nn.Parameter(torch.randn(4, 10))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x, self.weight)
        return torch.mm(self.second, torch.tanh(y).t())


class Pair(nn.Module):
    """A projected LSTM on packed sequences, called with a keyword the second time."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 8, proj_size=4)
        self.rnn = nn.RNN(4, 6, nonlinearity="relu")
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2]))
        y, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0])
        return self.out(self.rnn(input=y)[0])


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "images": (Images, lambda: torch.randn(2, 3, 8, 8)),
    "sequences": (Sequences, lambda: torch.randn(2, 5, 7)),
    "flipped": (Flipped, lambda: torch.randn(3, 6)),
    "pair": (Pair, lambda: torch.randn(4, 2, 5)),
}


def case(name: str) -> tuple[nn.Module, Tensor]:
    make, example = CASES[name]
    torch.manual_seed(0)
    return make().eval(), example()


def listed(found: Found) -> list[tuple[Any, ...]]:
    return [(op.module, op.job.kind, op.job.inside, op.job.outside) for op in found.operations]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_the_cut_model_runs_the_sizes_that_were_foreseen(name: str, seed: int) -> None:
    model, x = case(name)
    graph = analyze(model, x)
    found = find(model, as_call(model, x), graph)
    rng = np.random.default_rng(seed)
    kept: dict[str, Any] = {}
    for tie in graph.ties:
        level = int(rng.choice(tie.levels))
        for leaf, ratio in tie.ratios.items():
            kept[leaf] = np.sort(rng.permutation(graph.axes[leaf].n)[: ratio * level])
    assert any(len(keep) < graph.axes[leaf].n for leaf, keep in kept.items())
    counts = {leaf: len(keep) for leaf, keep in kept.items()}
    choices = {leaf: Choice(graph.axes[leaf].n, keep) for leaf, keep in kept.items()}
    small = light_copy(model)
    replay(small, Plan("", choices, graph.layouts, graph.attributes), check=False)
    again = find(small, as_call(small, x), analyze(small, x))
    foreseen = [
        (
            op.module,
            op.job.kind,
            op.inside.count(counts),
            round(op.scale * op.outside.count(counts)),
        )
        for op in found.operations
    ]
    assert listed(again) == foreseen


@pytest.mark.parametrize("name", CASES)
def test_a_job_makes_as_many_outputs_as_the_model_does(name: str) -> None:
    model, x = case(name)
    found = find(model, as_call(model, x), analyze(model, x))
    assert found.operations and found.others
    for op in found.operations:
        out: Any = op.job.make(op.job.inside, op.job.outside, torch.device("cpu"))()
        first = out[0] if isinstance(out, tuple) else out
        first = first.data if isinstance(first, nn.utils.rnn.PackedSequence) else first
        if "proj_size" not in dict(op.job.options):
            assert first.numel() == op.outputs * op.job.outside
        assert first.dtype == x.dtype


def test_what_is_found() -> None:
    model, x = case("images")
    found = listed(find(model, as_call(model, x), analyze(model, x)))
    assert found == [
        ("stem", "conv", 3, 16),
        ("depth", "conv", 1, 16),
        ("grouped", "conv", 4, 24),
        ("up", "transposed", 24, 12),
        ("head", "dense", 12, 5),
    ]
    model, x = case("sequences")
    found = listed(find(model, as_call(model, x), analyze(model, x)))
    assert found[:2] == [("lstm", "LSTM", 7, 12), ("gru", "GRU", 24, 10)]
    cell = [("cell", "dense", 10, 8), ("cell", "dense", 8, 8)] * 2
    assert sorted(found[2:6]) == sorted(cell)
    assert ("attention.out_proj" in {f[0] for f in found}) or ("attention", "dense", 8, 8) in found
    model, x = case("pair")
    found = listed(find(model, as_call(model, x), analyze(model, x)))
    assert found[0] == ("lstm", "LSTM", 5, 8)
    assert ("rnn", "dense", 4, 6) in found  # called by keyword: its pieces


@pytest.mark.parametrize("name", CASES)
def test_jobs_of_any_size_run(name: str) -> None:
    model, x = case(name)
    found = find(model, as_call(model, x), analyze(model, x))
    for job in {op.job for op in found.operations}:
        keys = set()
        sizes = [
            (job.sizes(a, job.inside, of_groups=job.kind == "transposed"),
             job.sizes(b, job.outside, of_groups=job.kind == "conv"))
            for a in (1.0, 0.3, 0.01)
            for b in (1.0, 0.3, 0.01)
        ]  # fmt: skip
        for inside, outside in sizes:
            job.make(inside, outside, torch.device("cpu"))()
            keys.add(job.key(inside, outside))
        assert len(keys) == len(set(sizes))


def test_keys_tell_apart_what_takes_another_time() -> None:
    a = Job("dense", (3, 0), 4, 5, torch.float32, True)
    others = [
        Job("flipped", (3, 0), 4, 5, torch.float32, True),
        Job("dense", (4, 0), 4, 5, torch.float32, True),
        Job("dense", (3, 0), 4, 5, torch.float64, True),
        Job("dense", (3, 0), 4, 5, torch.float32, False),
        Job("dense", (0, 3), 4, 5, torch.float32, True, left=True),
        Job("LSTM", (3, 0), 4, 5, torch.float32, True, options=(("num_layers", 2),)),
    ]
    assert len({job.key(4, 5) for job in [a, *others]}) == 7
    wider = Job("dense", (3, 0), 8, 9, torch.float32, True)
    assert wider.key(4, 5) == a.key(4, 5)  # the same work, whatever it was cut from


def test_the_model_and_its_caches_stay_as_they_were() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.randn(5, 3)
    graph = analyze(net, x)
    random = torch.random.get_rng_state()
    find(net, as_call(net, x), graph)
    assert net.training and torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
