"""Small networks, and a way to say that nothing about a model has changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur as sc
from secateur.core.layout import Layout, Leaf
from secateur.core.plan import Choice, Plan
from secateur.core.tensors import named_tensors


def mlp() -> nn.Sequential:
    """Two hidden layers: sites "0" (16) and "2" (8)."""
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def points() -> Tensor:
    """An input of `mlp`."""
    return torch.randn(5, 6)


def convnet() -> nn.Sequential:
    """Convolutions and a batch norm with statistics of its own."""
    norm = nn.BatchNorm2d(12)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def images() -> Tensor:
    """An input of `convnet`."""
    return torch.randn(2, 3, 8, 8)


class Attention(nn.Module):
    """Attention whose sizes are attributes, with a norm over the residual width."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.dim = 4, 4
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 48)
        self.proj = nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            self.qkv(self.norm(x))
            .view(b, n, 3, self.heads, self.dim)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        y = (q @ k.mT * self.dim**-0.5).softmax(-1) @ v
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, self.heads * self.dim))
        return self.head(x)


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.up(x)))


def blocks() -> nn.Sequential:
    """Three residual blocks between two dense layers."""
    return nn.Sequential(nn.Linear(6, 8), Block(), Block(), Block(), nn.Linear(8, 3))


class Tied(nn.Module):
    """A language model whose output shares the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.hidden = nn.Linear(8, 8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(self.embed(ids))))


class Recurrent(nn.Module):
    """An LSTM whose size is used in the model's own code too."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 8, num_layers=2, batch_first=True, **options)
        width = (self.rnn.proj_size or 8) * (2 if self.rnn.bidirectional else 1)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Snapshot:
    """All that a user can see of a model, to be compared bit for bit."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.tensors = [
            (name, id(t), t.data_ptr(), t.detach().clone(), t.requires_grad, t.stride())
            for name, t in named_tensors(model)
        ]
        self.grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        self.modules = [(name, id(m), m.training) for name, m in model.named_modules()]
        self.fields = {name: _fields(m) for name, m in model.named_modules()}
        self.rng = torch.get_rng_state()

    def check(self) -> None:
        """Raise unless the model is as it was."""
        now = Snapshot(self.model)
        for old, new in zip(self.tensors, now.tensors, strict=True):
            assert old[:3] + old[4:] == new[:3] + new[4:], old[0]
            assert torch.equal(_bits(old[3]), _bits(new[3])), old[0]
        for before, after in zip(self.grads, now.grads, strict=True):
            assert (before is None) == (after is None)
            assert before is None or torch.equal(before, after)  # type: ignore[arg-type]
        assert self.modules == now.modules
        assert self.fields == now.fields
        assert torch.equal(self.rng, now.rng)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor


def _fields(module: nn.Module) -> dict[str, str]:
    """Attributes and hooks, as text; tensors and modules are compared elsewhere."""
    skipped = {"_parameters", "_buffers", "_modules", "_flat_weights"}
    return {
        key: f"{type(value).__name__} {value!r}"
        for key, value in module.__dict__.items()
        if key not in skipped and not isinstance(value, Tensor)
    }


def half(model: nn.Module, example: Any, **arguments: Any) -> Plan:
    """A plan that removes half of every site, at random."""
    settings = {"budget": sc.Sparsity(0.5), "allocate": "uniform", "criterion": "random"}
    return sc.plan(model, example, **{**settings, **arguments})


def crossed(plan: Plan, tensor: str, dim: int, site: str) -> Plan:
    """The plan with other indices of `site` kept along one dimension: the wrong ones.

    The shapes are those of a right cut, so that only the outputs can show the mistake.
    """
    choice = plan.sites[site]
    other = np.setdiff1d(np.arange(choice.n), choice.keep)[: len(choice.keep)]
    wrong = np.sort(np.concatenate([other, choice.keep[: len(choice.keep) - len(other)]]))

    def renamed(layout: Layout) -> Layout:
        assert isinstance(layout, Leaf)
        return Leaf("wrong", layout.n)

    layouts = list(plan.layouts[tensor])
    layouts[dim] = renamed(layouts[dim])
    return replace(
        plan,
        sites={**plan.sites, "wrong": Choice(choice.n, wrong)},
        layouts={**plan.layouts, tensor: tuple(layouts)},
    )


def outputs(model: nn.Module, example: Any) -> Tensor:
    """The outputs in evaluation mode; modes are put back."""
    modes = [(m, m.training) for m in model.modules()]
    with torch.no_grad():
        found: Tensor = model.eval()(example)
    for module, mode in modes:
        module.training = mode
    return found
