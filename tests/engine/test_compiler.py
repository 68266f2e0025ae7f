from __future__ import annotations

import copy
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.engine.nets import Encoder, Mixed, Signal, program, prune
from torch import Tensor, nn

import secateur as sc
from secateur.core.batches import Call
from secateur.core.errors import InputError, VerificationError
from secateur.core.threads import using
from secateur.engine import compiler, decide
from secateur.engine.fast import Fast, FastParts
from secateur.engine.steps import PlanesStep
from secateur.measure.latency_cache import TimeCache

pytest.importorskip("llvmlite", reason="kernels need llvmlite")


Pair = tuple[nn.Module, Fast]


def compiled(net: nn.Module, example: Tensor, folder: Path) -> Pair:
    """Networks are tiny: kernels are taken whatever the clock says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "_faster", lambda before, after: True)
        fast = sc.compile(net, example, cache=folder)
    assert isinstance(fast, Fast) and fast.original is None
    return net, fast


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def mixed(folder: Path) -> Pair:
    return compiled(prune(Mixed()), torch.randn(1, 3, 40, 48), folder)


@pytest.fixture(scope="module")
def signal(folder: Path) -> Pair:
    return compiled(prune(Signal()), torch.randn(2, 4, 32), folder)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 2e-6) -> None:
    scale = theirs.abs().max().clamp_min(1e-6)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * scale


@torch.no_grad()
def test_any_batch_and_size(mixed: Pair) -> None:
    net, fast = mixed
    for shape in ((1, 3, 40, 48), (3, 3, 40, 48), (2, 3, 53, 41)):
        x = torch.randn(shape)
        close(fast(x), net(x))
        close(fast(x.to(memory_format=torch.channels_last)), net(x))
        close(fast(x.transpose(2, 3).contiguous().transpose(2, 3)), net(x))
    assert fast(torch.zeros(0, 3, 40, 48)).shape == (0, 10)


@torch.no_grad()
@pytest.mark.parametrize(
    "kernel", ["vec-sliced 8", "vec-sliced 16", "vec-blocks 8", "llvm-csr 1/1"]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_row_is_written_in_every_run(kernel: str, threads: int) -> None:
    net = prune(nn.Sequential(nn.Linear(24, 21), nn.ReLU(), nn.Linear(21, 10)), 0.15)
    with using(threads):
        run = program(net, torch.randn(1, 24), kernel)
        for _ in range(3):
            run.arena.disturb()
            x = torch.randn(1, 24)
            close(run([x])[0], net(x))


def test_a_row_that_is_not_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(self: PlanesStep, image: int) -> np.ndarray:
        rows = whole(self, image)
        rows[:, 7] -= rows[:, 7] > 1  # the last row of each layer is left as it was
        return rows

    whole = PlanesStep.calls
    monkeypatch.setattr(PlanesStep, "calls", short)
    net = prune(nn.Sequential(nn.Conv2d(3, 9, 3), nn.ReLU(), nn.Conv2d(9, 10, 1)))
    monkeypatch.setattr(decide, "_seconds", lambda run: 1.0 if run.x.dim() > 1 else 0.1)
    with pytest.raises(VerificationError, match="other outputs"):
        compiler.compile_network(net, Call((torch.randn(1, 3, 20, 20),), {}), None)


@torch.no_grad()
def test_tokens(folder: Path) -> None:
    net, fast = compiled(prune(Encoder()), torch.zeros(2, 9, dtype=torch.int64), folder)
    for shape in ((2, 9), (1, 30), (5, 4)):
        ids = torch.randint(0, 50, shape)
        close(fast(ids), net(ids), 5e-6)


@torch.no_grad()
def test_sizes_that_the_network_cannot_take_are_refused(folder: Path) -> None:
    net, fast = compiled(prune(Encoder()), torch.zeros(2, 1, dtype=torch.int64), folder)
    ids = torch.zeros(3, 1, dtype=torch.int64)
    close(fast(ids), net(ids), 5e-6)
    with pytest.raises(InputError, match=r"shapes \[2, 7\]") as raised:
        fast(torch.zeros(2, 7, dtype=torch.int64))
    assert "above 1" in str(raised.value)


@torch.no_grad()
def test_signals(signal: Pair) -> None:
    net, fast = signal
    for shape in ((2, 4, 33), (3, 4, 64)):
        x = torch.randn(shape)
        close(fast(x), net(x))


@torch.no_grad()
def test_runs_of_a_program_leave_nothing_behind(mixed: Pair) -> None:
    _, fast = mixed
    x, other = torch.randn(2, 3, 40, 48), 1e6 * torch.randn(2, 3, 40, 48)
    first = fast(x)
    kept = first.clone()
    fast(other)
    assert torch.equal(first, kept)
    assert torch.equal(fast(x), kept)


@torch.no_grad()
def test_not_a_number_goes_where_it_goes(mixed: Pair) -> None:
    net, fast = mixed
    x = torch.randn(2, 3, 40, 48)
    bad = x.clone()
    bad[0, 0, 5, 5] = float("nan")
    assert fast(bad)[0].isnan().any()
    close(fast(bad)[1:], net(x)[1:])
    close(fast(x), net(x))


@torch.no_grad()
def test_threads_at_once(mixed: Pair) -> None:
    net, fast = mixed
    inputs = [torch.randn(1, 3, 40, 48) for _ in range(4)]
    wanted = [net(x) for x in inputs]
    wrong: list[float] = []

    def work(i: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                wrong.append(float((fast(inputs[i]) - wanted[i]).abs().max()))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 80 and max(wrong) < 1e-4


def test_the_model_is_left_alone(tmp_path: Path) -> None:
    net = prune(Signal()).train()
    before = copy.deepcopy(net.state_dict())
    sc.compile(net, torch.randn(2, 4, 32), cache=tmp_path)
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_gradients_are_refused(signal: Pair) -> None:
    _, fast = signal
    with pytest.raises(sc.SecateurError, match="no gradients"):
        fast(torch.randn(1, 4, 32, requires_grad=True))


def test_other_arguments_are_refused(signal: Pair) -> None:
    _, fast = signal
    with pytest.raises(sc.SecateurError, match="compiled for other ones"):
        fast(torch.randn(1, 4, 32), torch.randn(1))


@torch.no_grad()
def test_copies_and_state(signal: Pair) -> None:
    (net, fast), x = signal, torch.randn(1, 4, 32)
    twin = copy.deepcopy(fast)
    state = {name: 2 * value for name, value in fast.state_dict().items()}
    twin.load_state_dict(state)
    assert torch.equal(twin.state_dict()["a.weight"], state["a.weight"])
    close(fast(x), net(x))
    assert not torch.allclose(twin(x), net(x))
    with pytest.raises(RuntimeError, match="shape"):
        twin.load_state_dict({**state, "a.weight": torch.zeros(3)})
    with pytest.raises(TypeError, match=r"m\.sct"):
        copy.copy(fast).__reduce_ex__(2)


@torch.no_grad()
def test_torch_export_sees_one_operation(signal: Pair) -> None:
    (net, fast), x = signal, torch.randn(2, 4, 32)
    program = torch.export.export(fast, (x,), strict=False)
    assert "secateur.fast" in str(program.graph)
    close(program.module()(x), net(x))


@torch.no_grad()
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_torch_compile_goes_through_it(signal: Pair, backend: str) -> None:
    (net, fast), x = signal, torch.randn(2, 4, 32)
    compiled = torch.compile(nn.Sequential(fast, nn.Tanh()), backend=backend, fullgraph=True)
    close(compiled(x), torch.tanh(net(x)))
    close(compiled(2 * x), torch.tanh(net(2 * x)))


class Branching(nn.Module):
    """What torch.export cannot capture."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if float(x.sum()) > 0 else self.b(x)


@torch.no_grad()
def test_layer_by_layer_where_the_whole_cannot_be_captured(tmp_path: Path) -> None:
    net, x = prune(Branching()), torch.ones(16, 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "_faster", lambda before, after: True)
        fast = sc.compile(net, x, cache=tmp_path)
    assert isinstance(fast, FastParts)
    assert "layer by layer" in str(fast)
    assert [row.name for row in fast.report.rows] == ["a"]
    assert isinstance(fast.network.get_submodule("a"), Fast)
    close(fast(x), net(x))
    close(fast(-x), net(-x))


@torch.no_grad()
def test_nothing_to_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_faster", lambda before, after: False)
    net, x = prune(Signal(), density=1.0), torch.randn(1, 4, 32)
    fast = sc.compile(net, x, cache=tmp_path)
    assert fast.original is net and fast.report.gain == 1
    assert "nothing to gain" in str(fast)
    assert torch.equal(fast(x), net(x))


@torch.no_grad()
def test_times_are_not_measured_twice(
    signal: Pair, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (net, _), x = signal, torch.randn(2, 4, 32)
    new: list[str] = []
    monkeypatch.setattr(TimeCache, "__setitem__", lambda self, key, value: new.append(key))
    sc.compile(net, x, cache=folder)
    assert not new


class Sequences(nn.Module):
    """Recurrent layers, and single tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 16, 2, batch_first=True)
        self.gru = nn.GRU(16, 8, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 24)
        self.out = nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        y = self.gru(self.lstm(x)[0])[0][:, -1]
        y = torch.relu(self.head(y))
        return y + self.out(y)


@torch.no_grad()
def test_sequences_and_single_tokens(folder: Path) -> None:
    net, fast = compiled(prune(Sequences(), 0.5), torch.randn(1, 7, 6), folder)
    for shape in ((1, 7, 6), (3, 5, 6)):
        x = torch.randn(shape)
        close(fast(x), net(x), 5e-6)
    assert [row.name for row in fast.report.rows] == ["lstm", "gru", "head", "out"]
    twin = copy.deepcopy(fast)
    twin.load_state_dict({name: value / 2 for name, value in fast.state_dict().items()})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter /= 2
    close(twin(x), net(x), 5e-6)
    program = torch.export.export(twin, (x,), strict=False)
    close(program.module()(x), net(x), 5e-6)
