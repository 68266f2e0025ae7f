"""Plans made permanent: identities, gradients, optimizers, ties, and life after the cut."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from apply_nets import (
    Attention,
    Block,
    Recurrent,
    Snapshot,
    Tied,
    blocks,
    convnet,
    half,
    images,
    mlp,
    outputs,
    points,
)  # fmt: skip
from torch import Tensor, nn

import secateur as sc
from secateur.apply.cut import replay
from secateur.core.errors import StalePlan

Params = Iterator[nn.Parameter]


class Momentum(torch.optim.Optimizer):
    """An optimizer of the user's own, with names and shapes of its own."""

    def __init__(self, params: Params) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("slow weights", p.detach().clone())
                state.setdefault("calls", 0)
                state.setdefault("history", torch.zeros(3))
                state["calls"] += 1
                p.data.add_(p.grad - 0.1 * state["slow weights"], alpha=-0.01)


OPTIMIZERS: dict[str, Callable[[Params], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
    "SGD without momentum": lambda p: torch.optim.SGD(p, 0.01),
    "Adam": lambda p: torch.optim.Adam(p, amsgrad=True),
    "AdamW": torch.optim.AdamW,
    "AdamW one by one": lambda p: torch.optim.AdamW(p, foreach=False),
    "Adagrad": torch.optim.Adagrad,
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "Adafactor": torch.optim.Adafactor,
    "Rprop": torch.optim.Rprop,
    "of the user": Momentum,
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
    """One training step; the loss is returned, which keeps its graph alive."""
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    return loss


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_with_the_same_optimizer(name: str) -> None:
    model, x = mlp(), points()
    optimizer = OPTIMIZERS[name](model.parameters())
    loss = [step(model, optimizer, x) for _ in range(3)][-1]
    identities = [id(p) for p in model.parameters()]
    result = sc.prune_(model, x, optimizer=optimizer, latency=False)
    assert [id(p) for p in model.parameters()] == identities
    assert result.after.params < result.before.params
    for _ in range(3):
        assert step(model, optimizer, x).isfinite()
    for parameter in model.parameters():
        for value in optimizer.state[parameter].values():
            if isinstance(value, Tensor) and value.dim() == parameter.dim() > 0:
                same = all(a in (1, b) for a, b in zip(value.shape, parameter.shape, strict=True))
                assert same or value.shape == (3,)
    assert loss.grad_fn is not None


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_the_state_of_what_stays_is_kept(name: str) -> None:
    model, x = mlp(), points()
    optimizer = OPTIMIZERS[name](model.parameters())
    step(model, optimizer, x)
    old = {k: v for k, v in optimizer.state[model[2].weight].items() if isinstance(v, Tensor)}
    plan = half(model, x)
    sc.cut(model, plan, x, optimizer=optimizer)
    rows, columns = plan.sites["2"].keep, plan.sites["0"].keep
    for key, value in optimizer.state[model[2].weight].items():
        if value.dim() == 2:
            assert torch.equal(value, old[key][rows][:, columns]), key
        else:
            assert torch.equal(value, old[key]), key


def test_optimizer_state_survives_a_checkpoint() -> None:
    model, x = mlp(), points()
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer, x)
    sc.prune_(model, x, optimizer=optimizer, latency=False)
    other = torch.optim.Adam(model.parameters())
    other.load_state_dict(optimizer.state_dict())
    assert step(model, other, x).isfinite()


def test_gradients_are_cut_with_their_parameters() -> None:
    model, x = mlp(), points()
    model(x).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    plan = half(model, x)
    sc.cut(model, plan)
    rows, columns = plan.sites["2"].keep, plan.sites["0"].keep
    assert torch.equal(model[2].weight.grad, grads["2.weight"][rows][:, columns])
    assert torch.equal(model[4].bias.grad, grads["4.bias"])
    model(x).sum().backward()  # accumulates


def test_what_is_frozen_for_training_stays_so() -> None:
    model = mlp()
    model[2].requires_grad_(False)
    sc.prune_(model, points(), latency=False)
    wanted = {name: not name.startswith("2") for name, _ in model.named_parameters()}
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wanted


def test_tied_weights_stay_tied() -> None:
    model, ids = Tied(), torch.randint(0, 11, (2, 5))
    result = sc.prune(model, ids, latency=False)
    small = result.model
    assert small.out.weight is small.embed.weight and small.out.weight.shape == (11, 4)
    assert (small.embed.embedding_dim, small.out.in_features, small.hidden.in_features) == (4, 4, 4)
    assert model.out.weight is model.embed.weight and model.out.weight.shape == (11, 8)


def test_buffers_follow() -> None:
    model = convnet()
    model.register_buffer("unrelated", torch.arange(12))
    plan = half(model, images())
    mean = model[1].running_mean[plan.sites["0"].keep].clone()
    sc.cut(model, plan, images())
    assert torch.equal(model[1].running_mean, mean) and model[1].num_features == len(mean)
    assert torch.equal(model.unrelated, torch.arange(12))


def test_tensors_in_plain_attributes_follow() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
            self.gates = {"first": [torch.rand(8)]}

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * self.gates["first"][0])

    model = Masked()
    result = sc.prune(model, points(), latency=False)
    assert result.model.gates["first"][0].shape == (4,) and model.gates["first"][0].shape == (8,)


@pytest.mark.parametrize("dims", [2, 3])
def test_memory_order_is_kept(dims: int) -> None:
    order = {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    model = nn.Sequential(conv(3, 8, 3), nn.ReLU(), conv(8, 4, 3)).to(memory_format=order)
    x = torch.randn(1, 3, *[7] * dims).contiguous(memory_format=order)
    result = sc.prune(model, x, latency=False)
    for parameter in result.model.parameters():
        if parameter.dim() == dims + 2:
            assert parameter.is_contiguous(memory_format=order)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"proj_size": 3}])
def test_flat_weights_of_recurrent_layers(options: dict[str, Any]) -> None:
    model, x = Recurrent(**options).double(), torch.randn(2, 5, 6).double()
    result = sc.prune(model, x, latency=False)
    rnn = result.model.rnn
    assert all(a is b for a, b in zip(rnn._flat_weights, rnn.parameters(), strict=True))
    assert rnn.hidden_size < 8
    result.model.train()(x).sum().backward()
    assert all(p.grad.shape == p.shape for p in rnn.parameters())


def test_attributes_follow() -> None:
    model, x = Attention(), torch.randn(2, 5, 8)
    plan = half(model, x)
    sc.cut(model, plan, x)
    assert (model.heads, model.dim) == (2, 4)
    assert (type(model.heads), model.proj.in_features, model.qkv.out_features) == (int, 8, 24)


def test_blocks_become_the_identity() -> None:
    model, x = blocks(), points()
    plan = sc.plan(model, x, unit=sc.Layer(), budget=sc.Sparsity(0.5))
    expected = copy.deepcopy(model)
    for name in plan.removed:
        expected.set_submodule(name, nn.Identity())
    sc.cut(model, plan, x)
    assert len(plan.removed) == 2
    assert sum(isinstance(module, Block) for module in model) == 1
    assert torch.equal(outputs(model, x), outputs(expected, x))


def test_blocks_and_channels_together() -> None:
    model, x = blocks(), points()
    result = sc.prune(model, x, unit=[sc.Layer(), sc.Channel()], latency=False)
    assert result.plan.removed and result.plan.sites and result.verification.ok


def test_the_cut_model_is_an_ordinary_model() -> None:
    model, x = convnet().train(), images()
    small = sc.prune(model, x, latency=False).model
    expected = outputs(small, x)
    assert torch.equal(outputs(copy.deepcopy(small), x), expected)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    twin = copy.deepcopy(small)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(outputs(twin, x), expected)
    assert small.training
    small(x).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


def test_the_cut_model_compiles_and_exports() -> None:
    model, x = Attention().eval(), torch.randn(2, 5, 8)
    small = sc.prune(model, x, latency=False).model
    expected = small(x)
    assert torch.allclose(torch.compile(small, backend="eager", fullgraph=True)(x), expected)
    assert torch.allclose(torch.export.export(small, (x,)).module()(x), expected)


def test_a_model_compiled_in_place_is_cut() -> None:
    model, x = convnet().eval(), images()
    model.compile(backend="eager")
    model(x)
    small = sc.prune(model, x, latency=False).model
    assert small(x).shape == (2, 3) and small[0].out_channels < 12


def test_pruning_twice() -> None:
    model, x = convnet(), images()
    first = sc.prune(model, x, budget=sc.Params("60%"), latency=False)
    second = sc.prune(first.model, x, budget=sc.Params("60%"), latency=False)
    assert second.after.params <= 0.6 * first.after.params
    assert len(second.plans) == 2
    fresh = copy.deepcopy(model)
    for plan in second.plans:
        sc.cut(fresh, plan)
    assert torch.allclose(outputs(fresh, x), outputs(second.model, x))


def test_undo_is_exact() -> None:
    model, x = Attention(), torch.randn(2, 5, 8)
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer, x)
    plan, before = half(model, x), Snapshot(model)
    state = copy.deepcopy(optimizer.state_dict())
    replay(model, plan, optimizer=optimizer).undo()
    before.check()
    assert str(optimizer.state_dict()) == str(state)


@pytest.mark.parametrize("changed", ["shape", "name", "type", "already cut"])
def test_a_plan_fits_only_its_model(changed: str) -> None:
    plan = half(mlp(), points())
    other = {
        "shape": lambda: nn.Sequential(*mlp()[:4], nn.Linear(8, 4)),
        "name": lambda: nn.Sequential(nn.Identity(), *mlp()),
        "type": lambda: mlp().double(),
        "already cut": lambda: sc.prune(mlp(), points(), latency=False).model,
    }[changed]()
    before = Snapshot(other)
    with pytest.raises(StalePlan, match="hint"):
        sc.cut(other, plan)
    before.check()


def test_a_stale_attribute_is_noticed_and_all_is_undone() -> None:
    model, x = Attention(), torch.randn(2, 5, 8)
    plan = sc.Plan.from_json(half(model, x).to_json())
    del model.heads
    before = Snapshot(model)
    with pytest.raises(StalePlan, match="heads"):
        sc.cut(model, plan)
    before.check()


def test_cut_without_an_example_says_so() -> None:
    model = mlp()
    plan = half(model, points())
    verification = sc.cut(model, sc.Plan.from_json(plan.to_json()))
    assert not verification.ok and "no example" in verification.note
    assert model[0].out_features == 8
    twin = mlp()
    assert sc.cut(twin, plan).ok, "a plan that was not read from a file has its example"
