"""What a repair must leave alone, and the odd models that it must get through."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from repair_nets import Attention, Recurrent, Residual, error, shrink, unsettle
from torch import Tensor, nn

from secateur.recover import Recalibrate, Reconstruct


class Hidden(nn.Module):
    """A small perceptron to put oddities into; `fc1` is what loses neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 16), nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        return self.fc3(torch.tanh(self.fc2(torch.relu(self.fc1(x)))))


GONE = {"fc1": [1, 3, 5, 7, 8, 9]}
X = torch.randn(100, 6, generator=torch.Generator().manual_seed(3))


def repaired(
    model: nn.Module, data: Any, example: Any = None, gone: Any = None, **more: Any
) -> Any:
    """Cut and repair; the job, and the distance before."""
    cut = shrink(model, X[:2] if example is None else example, GONE if gone is None else gone)
    job = cut.job(data, **more)
    before = job.distance
    Reconstruct().run(job)
    return cut, job, before


def flags() -> list[Any]:
    return [
        torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
        torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled(),
        torch.backends.mha.get_fastpath_enabled(), threading.active_count(),
        torch.get_default_dtype(), torch.get_default_device(),
    ]  # fmt: skip


class Fails(Hidden):
    """Raises on the given call, inside the model."""

    def __init__(self, error: type[BaseException], at: int) -> None:
        super().__init__()
        self.error, self.at, self.calls = error, at, [0]  # the list is shared by copies

    def __deepcopy__(self, memo: Any) -> Fails:
        made = type(self)(self.error, self.at)
        made.calls = self.calls
        made.load_state_dict(self.state_dict())
        for key, module in self._modules.items():
            setattr(made, key, module)
        return made

    def forward(self, x: Tensor) -> Any:
        self.calls[0] += 1
        hidden = torch.relu(self.fc1(x))
        if self.calls[0] >= self.at > 0:
            raise self.error("inside the model")
        return self.fc3(torch.tanh(self.fc2(hidden)))


def facts(model: nn.Module) -> list[Any]:
    return [
        [module.training for module in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [id(p) for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [list(module._forward_hooks.values()) for module in model.modules()],
        [sorted(module.__dict__) for module in model.modules()],
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize("step", [Reconstruct(), Recalibrate()])
@pytest.mark.parametrize("training", [True, False])
def test_both_models_stay_as_they_were(step: Any, training: bool) -> None:
    model = unsettle(Residual(blocks=1)).train(training)
    model.blocks[0].eval()
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    model.stem.weight.requires_grad_(False)
    cut = shrink(model, torch.randn(2, 3, 8, 8), {"blocks.0.conv1": [0, 1]})
    cut.small.train(training)
    cut.small.stem.register_forward_hook(lambda *_: None)
    cut.small.head.weight.grad = torch.ones_like(cut.small.head.weight)
    dense = {key: value.clone() for key, value in model.state_dict().items()}
    before = facts(model), facts(cut.small), flags(), torch.random.get_rng_state()
    torch.random.set_rng_state(before[3])
    job = cut.job([torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))])
    step.run(job)
    after = facts(model), facts(cut.small), flags(), torch.random.get_rng_state()
    assert same(list(before), list(after))
    assert all(torch.equal(value, dense[key]) for key, value in model.state_dict().items())
    assert cut.small.blocks[0].bn1.num_batches_tracked == 0 or isinstance(step, Recalibrate)
    assert "->" in job.notes[0]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("later", [1, 5, 9, 14, 19])
def test_after_an_error_inside_everything_is_as_before(kind: Any, later: int) -> None:
    model = Fails(kind, 0).train()
    cut = shrink(model, X[:2], GONE)
    job = cut.job([X])
    state = {key: value.clone() for key, value in cut.small.state_dict().items()}
    for each in (model, cut.small):
        each.at = model.calls[0] + later
    cut.small.calls = model.calls
    before = facts(model), facts(cut.small), flags()
    with pytest.raises(kind, match="inside the model"):
        Reconstruct().run(job)
    assert same(list(before), [facts(model), facts(cut.small), flags()])
    assert all(torch.equal(value, state[key]) for key, value in cut.small.state_dict().items())


class Branches(Hidden):
    """Which layers run depends on the data, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.extra, self.loop = nn.Linear(16, 16), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Any:
        y = torch.relu(self.fc1(x))
        if bool(x[0, 0] > 0):
            y = y + torch.relu(self.extra(y))
        y = self.fc2(y)
        for _ in range(int(x[0, 1].abs() * 3)):
            y = torch.tanh(self.loop(y))
        return self.fc3(y)


def test_the_data_decides_which_layers_run() -> None:
    """Calls that go another way are aligned again where they meet."""
    model, first = Branches(), torch.tensor([[1.0, 0.5, 0, 0, 0, 0]])
    cut, job, before = repaired(
        model, [X[k : k + 4] for k in range(0, 100, 4)], first, {"fc1": [1, 3, 5]}
    )
    assert job.distance < 0.7 * before
    assert error(model, cut.small, X[:4]) < 0.5


class Shared(Hidden):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Any:
        y = torch.relu(self.fc1(x))
        y = torch.relu(self.again(torch.relu(self.again(y))))
        return self.fc3(torch.tanh(self.fc2(y)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.fc1, self.fc2 = nn.Linear(8, 32), nn.Linear(32, 8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        y = self.table(ids)
        return self.out(y + self.fc2(torch.relu(self.fc1(y))))


class Autoencoder(nn.Module):
    """The decoder is the encoder's transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc2(torch.relu(self.fc1(x)))
        return nn.functional.linear(
            nn.functional.linear(y, self.fc2.weight.t()), self.fc1.weight.t()
        )


class Stores(Hidden):
    """Keeps results and counts on itself, in attributes, lists and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Any = None
        self.seen: list[int] = []
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        self.last = torch.relu(self.fc1(x))
        self.seen.append(len(x))
        self.count += 1
        return self.fc3(torch.tanh(self.fc2(self.last)))


class Named(Hidden):
    def forward(self, features: Tensor, mask: Tensor | None = None) -> Any:
        y = super().forward(features)
        return {"logits": y if mask is None else y * mask[:, None], "name": "x"}


def test_a_module_that_is_called_twice() -> None:
    _, job, before = repaired(Shared(), [X])
    assert job.distance < 0.3 * before


def test_tied_embeddings_stay_tied_and_as_they_are() -> None:
    torch.manual_seed(0)
    model = Tied()
    ids = torch.randint(11, (60, 5))
    cut, job, before = repaired(model, [ids], ids[:2], {"fc1": list(range(8, 32, 2))})
    assert cut.small.out.weight is cut.small.table.weight
    assert torch.equal(cut.small.table.weight, model.table.weight)
    assert job.distance < 0.5 * before


def test_a_weight_that_is_used_both_ways_stays_as_it_is() -> None:
    _, job, before = repaired(Autoencoder(), [X], gone={"fc1.bias": [1, 5, 9]})
    assert job.distance <= before and job.notes


def test_what_a_forward_stores_on_itself_is_put_back() -> None:
    cut, job, before = repaired(Stores(), [X])
    assert job.distance < 0.3 * before
    for each in (cut.dense, cut.small):
        assert each.last is None and each.seen == [] and int(each.count) == 0


def test_inputs_by_name() -> None:
    data = [{"features": X, "mask": X[:, 0] > 0, "labels": X[:, 0]}]
    example = {"features": X[:2], "mask": X[:2, 0] > 0}
    _, job, before = repaired(Named(), data, example)
    assert job.distance < 0.4 * before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = Hidden().to(dtype)
    cut, job, before = repaired(model, [X.to(dtype)], X[:2].to(dtype))
    assert job.distance < (0.3 if dtype == torch.float64 else 0.4) * before
    assert {p.dtype for p in cut.small.parameters()} == {dtype}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_sequences_of_different_lengths(kind: Any) -> None:
    torch.manual_seed(1)
    model = Recurrent(kind)
    data = [torch.randn(6, length, 5) for length in (3, 9, 4, 7, 5, 8, 12, 3)]
    _, job, before = repaired(model, data, data[1], {"rnn.weight_ih_l0": [1, 4, 5, 6]})
    assert job.distance < 0.5 * before


def test_tokens_of_different_lengths() -> None:
    torch.manual_seed(0)
    data = [torch.randn(6, length, 16) for length in (3, 9, 4, 7, 5, 8)]
    _, job, before = repaired(Attention(), data, data[0], {"up": list(range(12)), "q.head": [2]})
    assert job.distance < 0.3 * before


def test_a_default_device_reaches_the_runs() -> None:
    class Here(Hidden):
        def forward(self, x: Tensor) -> Any:
            assert torch.zeros(1).is_meta  # what the user's code makes without saying where
            return super().forward(x)

    model, gone = Here(), GONE
    with torch.device("cpu"):
        plain = Hidden()
        plain.load_state_dict(model.state_dict())
        cut = shrink(plain, X[:2], gone)
    cut.dense, cut.small.__class__ = model, Here
    with torch.device("meta"):
        from secateur.recover.lockstep import Run, together

        run = Run(lambda run: run.stop(cut.dense(X[:2])))
        with together([run]):
            assert run.advance().shape == (2, 4)


class Catches(Hidden):
    """Catches whatever is raised inside, and goes on."""

    def forward(self, x: Tensor) -> Any:
        for _ in range(3):
            try:
                y = self.fc2(torch.relu(self.fc1(x)))
            except BaseException:
                continue
        return self.fc3(y)


def test_a_model_that_catches_everything_still_ends() -> None:
    from secateur.core.batches import Call
    from secateur.recover.follow import Follow
    from secateur.recover.lockstep import Run, together

    before, model = threading.active_count(), Catches()

    def work(run: Run) -> None:
        with Follow(model, None, run.stop):
            Call((X,), {}).run(model)

    with together([Run(work) for _ in range(2)]) as _:
        pass
    run = Run(work)
    with together([run]):
        assert run.advance() is not None
    assert threading.active_count() == before
