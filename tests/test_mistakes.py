"""What the verbs say when they are used wrongly: what was given, what is allowed, what to try."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.core.errors import (
    InfeasibleBudget,
    InputError,
    RecipeError,
    SecateurError,
    UnsupportedModel,
)  # fmt: skip

FAST: dict[str, Any] = {"latency": False}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def make() -> nn.Sequential:
    return nn.Sequential(OrderedDict(
        conv=nn.Conv2d(3, 12, 3, padding=1), norm=nn.BatchNorm2d(12), act=nn.ReLU(),
        deep=nn.Conv2d(12, 8, 3, padding=1), relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(), drop=nn.Dropout(0.5), fc=nn.Linear(8, 3),
    ))  # fmt: skip


@pytest.fixture
def net() -> nn.Sequential:
    return make().train()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 3, 8, 8)


FIRST = torch.ones(4, 6)


def state_of(model: nn.Module) -> list[Any]:
    """All that a user can observe, comparable with `==`."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    skipped = {"_parameters", "_buffers", "_modules"}
    return [
        [(n, id(t), t.data_ptr(), t.requires_grad) for n, t in tensors],
        [t.detach().numpy().tobytes() for _, t in tensors],
        [None if p.grad is None else p.grad.numpy().tobytes() for p in model.parameters()],
        [(n, id(m), m.training) for n, m in model.named_modules()],
        [repr({k: v for k, v in m.__dict__.items() if k not in skipped}) for m in model.modules()],
        torch.get_rng_state().numpy().tobytes(),
    ]  # fmt: skip


def refused(kind: type[SecateurError], words: str, model: Any, *args: Any, **kwargs: Any) -> str:
    """Every verb refuses it with these words and a hint, and leaves the model alone."""
    before = state_of(model) if isinstance(model, nn.Module) else None
    with pytest.raises(kind) as caught:
        sc.prune(model, *args, **{**FAST, **kwargs})
    text = str(caught.value)
    assert words in text, text
    assert "hint: " in text, text
    if before is not None:
        assert state_of(model) == before
    return text


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ((), "empty tuple"),
        ([], "empty list"),
        ({}, "no tensor"),
        (None, "neither an example nor data"),
        ("image.png", "not str"),
        (3, "not int"),
        (np.zeros((1, 3, 8, 8), np.float32), "not ndarray"),
        ((1, 2), "no tensor"),
    ],
)
def test_examples_that_are_none(net: nn.Module, example: Any, words: str) -> None:
    refused(InputError, words, net, example)


@pytest.mark.parametrize(
    "example",
    [torch.randn(4, 4, 8, 8), torch.randn(4, 3), torch.zeros(4, 3, 8, 8, dtype=torch.int64)],
    ids=["channels", "rank", "type"],
)
def test_examples_that_do_not_fit(net: nn.Module, example: Tensor) -> None:
    text = refused(UnsupportedModel, "raised on the example", net, example)
    assert "RuntimeError" in text


def test_a_model_that_raises(x: Tensor) -> None:
    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("out of order")

    assert "out of order" in refused(UnsupportedModel, "ValueError", Broken(2, 2), x)


def test_names_of_arguments() -> None:
    refused(UnsupportedModel, "raised on the example", nn.Linear(6, 3), {"inptu": FIRST})


def test_no_batches(net: nn.Module) -> None:
    refused(InputError, "empty", net, data=[])


@pytest.mark.parametrize("criterion", ["magnitude", "l1"])
def test_weights_that_are_not_numbers(net: nn.Module, x: Tensor, criterion: str) -> None:
    with torch.no_grad():
        net.get_parameter("deep.weight")[0, 0, 0, 0] = float("nan")
    refused(InputError, "deep.weight", net, x, criterion=criterion)


def test_budgets_out_of_reach(net: nn.Module, x: Tensor) -> None:
    assert "the least is" in refused(
        InfeasibleBudget, "cannot be reached", net, x, budget=sc.Params(5)
    )
    refused(InfeasibleBudget, "MACs('1%')", net, x, budget=sc.Params("90%") & sc.MACs("1%"))


@pytest.mark.parametrize("budget", [0.5, "50%", sc.Params, {"params": 5}])
def test_budgets_of_the_wrong_kind(net: nn.Module, x: Tensor, budget: Any) -> None:
    refused(RecipeError, "is not a budget", net, x, budget=budget)


@pytest.mark.parametrize(
    ("argument", "given", "closest"),
    [
        ("criterion", "magntude", "magnitude"),
        ("criterion", "tailor", "taylor"),
        ("allocate", "globl", "global"),
        ("allocate", "unifrm", "uniform"),
        ("scope", "cnv", "conv"),
        ("scope", sc.skip("dep"), "deep"),
    ],
)
def test_misspelt_names(net: nn.Module, x: Tensor, argument: str, given: Any, closest: str) -> None:
    text = refused(RecipeError, "", net, x, **{argument: given})
    assert f"did you mean {closest}" in text


@pytest.mark.parametrize(
    ("argument", "given", "words"),
    [
        ("unit", sc.Channel, "write Channel()"),
        ("unit", [sc.Channel(), sc.Head], "write Head()"),
        ("unit", [], "there is no unit"),
        ("unit", [sc.Channel(), sc.Channel()], "claim"),
        ("unit", "channel", "is not a unit"),
        ("criterion", 3, "a name or a callable"),
        ("allocate", 5, "a name or a callable"),
        ("scope", [], "empty list"),
        ("scope", 3, "cannot be made of"),
        ("criterion", "taylor", "needs gradients"),
    ],
)
def test_arguments_of_the_wrong_kind(
    net: nn.Module, x: Tensor, argument: str, given: Any, words: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        sc.prune(net, x, **{argument: given}, **FAST)
    assert words in str(caught.value)


def test_models_of_the_wrong_kind(x: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)))
    with pytest.raises(UnsupportedModel, match=r"TorchScript(.|\n)*hint: "):
        sc.prune(scripted, FIRST, **FAST)
    lazy = nn.Sequential(nn.LazyLinear(8), nn.LazyLinear(3))
    with pytest.raises(SecateurError, match=r"lazy(.|\n)*hint: .*once"):
        sc.prune(lazy, FIRST, **FAST)
    compiled = torch.compile(make(), backend="eager")
    with pytest.raises(UnsupportedModel, match=r"torch\.compile(.|\n)*_orig_mod"):
        sc.prune(compiled, x, **FAST)


@pytest.mark.parametrize("model", [make, make().state_dict(), "model.pt", None])
def test_what_is_no_model(x: Tensor, model: Any) -> None:
    with pytest.raises(SecateurError, match="hint: "):
        sc.prune(model, x, **FAST)


def test_an_optimizer_holds_no_copy(net: nn.Module, x: Tensor) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    refused(RecipeError, "prune returns a copy", net, x, optimizer=optimizer)


def test_a_criterion_that_returns_nonsense(net: nn.Module, x: Tensor) -> None:
    with pytest.raises(InputError, match=r"must return a tensor of shape \[12\]"):
        sc.prune(net, x, criterion=lambda site, facts: torch.ones(2), **FAST)
    with pytest.raises(InputError, match="scores index 0"):
        sc.prune(net, x, criterion=lambda s, f: torch.full((s.n,), float("nan")), **FAST)
