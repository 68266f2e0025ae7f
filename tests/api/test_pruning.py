"""What the verbs promise, and what they say when they are used wrongly."""

from __future__ import annotations

import random
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.core.errors import RecipeError, SecateurError
from secateur.demo.data import digits, trained

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


@pytest.fixture
def loader(x: Tensor) -> list[Any]:
    return [(x, torch.tensor([0, 1, 2, 0])) for _ in range(2)]


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
        torch.get_rng_state().numpy().tobytes(), random.getstate(), repr(np.random.get_state()),
    ]  # fmt: skip


# --- prune leaves the model alone -----------------------------------------------------------------


@pytest.mark.parametrize("verb", ["prune", "plan", "inspect"])
@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "random"])
def test_the_model_stays_as_it_is(
    net: nn.Module, x: Tensor, loader: list[Any], verb: str, criterion: str
) -> None:
    net.get_parameter("deep.weight").requires_grad_(False)
    net.get_submodule("act").eval()
    net.register_forward_hook(lambda *_: None)
    net.get_submodule("deep").register_full_backward_hook(lambda *_: None)
    net.note = {"sizes": [12, 8]}  # type: ignore[assignment]
    net(x).sum().backward()
    before = state_of(net)
    if verb == "inspect":
        sc.inspect(net, x)
    else:
        extra = FAST if verb == "prune" else {}
        getattr(sc, verb)(net, x, criterion=criterion, data=loader, **extra)
    assert state_of(net) == before
    net(x).sum().backward()


def test_the_result_shares_no_memory(net: nn.Module, x: Tensor) -> None:
    result = sc.prune(net, x, scope=sc.only("deep"), **FAST)
    theirs = {t.untyped_storage().data_ptr() for t in [*net.parameters(), *net.buffers()]}
    ours = {t.untyped_storage().data_ptr() for t in
            [*result.model.parameters(), *result.model.buffers()]}  # fmt: skip
    assert not theirs & ours
    with torch.no_grad():
        for parameter in result.model.parameters():
            parameter.zero_()
    assert all(p.ne(0).any() for name, p in net.named_parameters() if name != "norm.bias")


def test_the_result_looks_like_the_model(net: nn.Module, x: Tensor) -> None:
    net.get_parameter("deep.weight").requires_grad_(False)
    net.get_submodule("act").eval()
    seen: list[int] = []
    net.register_forward_hook(lambda *_: seen.append(1))
    small = sc.prune(net, x, **FAST).model
    assert type(small) is type(net)
    assert [n for n, _ in small.named_modules()] == [n for n, _ in net.named_modules()]
    assert [m.training for m in small.modules()] == [m.training for m in net.modules()]
    wanted = [(n, p.requires_grad) for n, p in net.named_parameters()]
    assert [(n, p.requires_grad) for n, p in small.named_parameters()] == wanted
    seen.clear()
    small(x)
    assert seen == [1]


def test_a_failure_leaves_the_model_alone(net: nn.Module, x: Tensor) -> None:
    before = state_of(net)
    for bad in ({"budget": sc.Params(1)}, {"criterion": "magnitud"}, {"scope": "nowhere"}):
        for verb in (sc.prune, sc.prune_):
            with pytest.raises(SecateurError):
                verb(net, x, **bad, **FAST)
    assert state_of(net) == before


def test_prune_in_place(net: nn.Module, x: Tensor) -> None:
    parameters, modes = [id(p) for p in net.parameters()], [m.training for m in net.modules()]
    random_state = torch.get_rng_state()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(x).sum().backward()
    torch.set_rng_state(random_state)
    optimizer.step()
    result = sc.prune_(net, x, optimizer=optimizer, **FAST)
    assert result.model is net and [id(p) for p in net.parameters()] == parameters
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert result.after.params == sum(p.numel() for p in net.parameters()) < result.before.params
    net(x).sum().backward()
    optimizer.step()


def test_the_same_seed_gives_the_same_plan(net: nn.Module, x: Tensor) -> None:
    plans = [sc.plan(net, x, criterion="random", seed=seed) for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]
    torch.manual_seed(5)
    assert sc.plan(net, x, criterion="random", seed=1) == plans[0]


def test_measured_amounts_are_true(net: nn.Module, x: Tensor) -> None:
    result = sc.prune(
        net, x, budget=sc.MACs("50%"), evaluate=lambda m: float(m is not None), **FAST
    )
    small = result.model
    assert result.before.params == sum(p.numel() for p in net.parameters())
    assert result.after.params == sum(p.numel() for p in small.parameters())
    everything = [*small.parameters(), *small.buffers()]
    assert result.after.bytes == sum(t.numel() * t.element_size() for t in everything)
    assert result.after.macs <= 0.5 * result.before.macs
    assert sc.inspect(small, x).whole.macs == result.after.macs
    assert str(result) and repr(result) and result.to_dict()["prunes"] == 1


def test_latency_is_measured_before_and_after(net: nn.Module, x: Tensor) -> None:
    for verb in (sc.prune, sc.prune_):
        result = verb(net, x)
        assert result.before.latency.median_ms > 0 and result.after.latency.median_ms > 0
        assert "latency" in str(result)


# --- examples -------------------------------------------------------------------------------------


class Two(nn.Module):
    """A forward of two arguments, the second with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        h = self.a(first)
        return self.c(h if second is None else h + self.b(second))


FIRST, SECOND = torch.ones(4, 6), torch.ones(4, 5)


@pytest.mark.parametrize(
    ("example", "both"),
    [
        (FIRST, False),
        ((FIRST, SECOND), True),
        ((FIRST,), False),
        ({"first": FIRST, "second": SECOND}, True),
        (OrderedDict(first=FIRST), False),
        ([FIRST, torch.zeros(4)], False),
        ([(FIRST, SECOND), torch.zeros(4)], True),
        ([{"first": FIRST, "second": SECOND}, torch.zeros(4)], True),
    ],
    ids=["tensor", "tuple", "tuple of one", "dict", "ordered dict", "batch", "nested", "dicts"],
)
def test_forms_of_an_example(example: Any, both: bool) -> None:
    result = sc.prune(Two(), example, **FAST)
    assert result.model.a.out_features < 8
    assert (result.model.b.out_features < 8) == both or result.model.b.out_features == 8
    assert both == (result.model.b.out_features < 8)


def test_a_pair_for_a_forward_of_one_argument(net: nn.Module, x: Tensor) -> None:
    assert sc.prune(net, (x, torch.zeros(4)), **FAST).verification.ok


def test_the_example_comes_from_the_data(net: nn.Module, loader: list[Any]) -> None:
    assert sc.prune(net, data=loader, criterion="taylor", **FAST).verification.ok
    dataset = torch.utils.data.TensorDataset(torch.randn(8, 3, 8, 8), torch.arange(8) % 3)
    batches = torch.utils.data.DataLoader(dataset, 4)
    assert sc.prune(net, data=batches, criterion="taylor", **FAST).verification.ok
    assert sc.prune(net, next(iter(batches)), **FAST).verification.ok


def test_outputs_of_every_form() -> None:
    class Outputs(nn.Module):
        def __init__(self, wrap: Any) -> None:
            super().__init__()
            self.a, self.b, self.wrap = nn.Linear(6, 8), nn.Linear(8, 3), wrap

        def forward(self, x: Tensor) -> Any:
            return self.wrap(self.b(self.a(x).relu()))

    class Plain:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    for wrap in (lambda y: y, lambda y: (y, [y]), lambda y: {"y": y}, Plain, lambda y: {Plain(y)}):
        model = Outputs(wrap)
        try:
            small = sc.prune(model, FIRST, **FAST).model
        except SecateurError:
            continue  # refused, but never cut at the output
        assert small.b.out_features == 3 and small.a.out_features < 8


# --- plans ----------------------------------------------------------------------------------------


def test_the_history_of_a_model(net: nn.Module, x: Tensor) -> None:
    first = sc.prune(net, x, budget=sc.Params("70%"), **FAST)
    second = sc.prune(first.model, x, budget=sc.Params("70%"), **FAST)
    third = sc.prune_(second.model, x, budget=sc.Params("90%"), **FAST)
    assert [len(r.plans) for r in (first, second, third)] == [1, 2, 3]
    assert third.plans[:2] == second.plans and second.plans[0] == first.plan
    assert len(sc.prune(net, x, **FAST).plans) == 1


# --- the rest of the recipe -----------------------------------------------------------------------


def test_evaluate_is_called_before_and_after(net: nn.Module, x: Tensor) -> None:
    sizes = []

    def evaluate(model: nn.Module) -> float:
        sizes.append(sum(p.numel() for p in model.parameters()))
        return len(sizes)

    result = sc.prune(net, x, evaluate=evaluate, **FAST)
    assert sizes == [result.before.params, result.after.params]
    assert (result.before.quality, result.after.quality) == (1, 2)
    assert "quality" in str(result)
    assert sc.prune(net, x, evaluate=lambda m: torch.tensor(0.5), **FAST).after.quality == 0.5


def test_what_evaluate_raises_is_shown(net: nn.Module, x: Tensor) -> None:
    before = state_of(net)
    with pytest.raises(ZeroDivisionError):
        sc.prune_(net, x, evaluate=lambda m: 1 / 0, **FAST)
    assert state_of(net) == before
    with pytest.raises(SecateurError, match="number"):
        sc.prune(net, x, evaluate=lambda m: "good", **FAST)


@pytest.mark.parametrize(
    ("scope", "smaller"),
    [
        (None, {"conv", "deep"}),
        (sc.only("deep"), {"deep"}),
        (["deep", "fc"], {"deep"}),
        (sc.skip("deep"), {"conv"}),
        (sc.only("conv") | sc.only("norm"), {"conv"}),
        (lambda name, module: name != "conv", {"deep"}),
        ("conv*", set()),  # its norm produces the same channels
        (sc.only(nn.Conv2d) & sc.skip("deep"), set()),
    ],
)
def test_scopes(net: nn.Module, x: Tensor, scope: Any, smaller: set[str]) -> None:
    try:
        small = sc.prune(net, x, scope=scope, allocate="uniform", **FAST).model
    except RecipeError as error:
        assert not smaller and "nothing to prune" in str(error)
        return
    sizes = {name: small.get_submodule(name).out_channels for name in ("conv", "deep")}
    assert {name for name, n in sizes.items() if n < {"conv": 12, "deep": 8}[name]} == smaller


@pytest.mark.parametrize("allocate", ["global", "uniform", "isomorphic"])
@pytest.mark.parametrize("budget", [sc.Params("50%"), sc.MACs("40%"), sc.Bytes("60%")])
def test_budgets_hold(net: nn.Module, x: Tensor, allocate: str, budget: Any) -> None:
    result = sc.prune(net, x, budget=budget, allocate=allocate, **FAST)
    key = budget.kind
    assert getattr(result.after, key) <= budget.ceiling(getattr(result.before, key))


def test_channels_in_multiples(net: nn.Module, x: Tensor) -> None:
    small = sc.prune(net, x, unit=sc.Channel(multiple=4), **FAST).model
    assert small.conv.out_channels % 4 == 0 and small.deep.out_channels % 4 == 0
    small = sc.prune(net, x, unit=sc.Channel(floor=7), allocate="uniform", **FAST).model
    assert small.conv.out_channels >= 7 and small.deep.out_channels >= 7


def test_criteria_of_the_user(net: nn.Module, x: Tensor) -> None:
    result = sc.prune(
        net, x, criterion=lambda site, facts: -torch.arange(site.n, dtype=torch.float32),
        budget=sc.Sparsity(0.5), allocate="uniform", **FAST,
    )  # fmt: skip
    assert all((np.diff(c.keep) == 1).all() and c.keep[0] == 0 for c in result.plan.sites.values())


def test_inference_mode_does_not_leak(net: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        result = sc.prune(net, x, **FAST)
    assert not any(p.is_inference() for p in result.model.parameters())
    result.model(torch.randn(4, 3, 8, 8)).sum().backward()
    with torch.no_grad():
        sc.prune(net, x, **FAST).model(x)
    with torch.enable_grad():
        assert sc.prune(net, x, **FAST).verification.ok


def test_global_settings_come_back(net: nn.Module, x: Tensor) -> None:
    def settings() -> list[Any]:
        return [
            torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype(),
            torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled,
            torch.backends.cudnn.enabled, len(nn.modules.module._global_forward_hooks),
            len(nn.modules.module._global_forward_pre_hooks), warnings.filters[:],
        ]  # fmt: skip

    before = settings()
    sc.prune(net, x)
    for model, example in ((net, torch.randn(4, 4)), (nn.ReLU(), x)):
        with pytest.raises(SecateurError):
            sc.prune(model, example, **FAST)
    assert settings() == before


# --- with data -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_net() -> nn.Module:
    return trained()


IMAGES = digits()


def right(model: nn.Module) -> Tensor:
    """1 or 0 for each image that was never trained on."""
    return (model(IMAGES.held_out_images).argmax(1) == IMAGES.held_out_labels).float()


def test_data_repairs_what_a_plain_cut_breaks(trained_net: nn.Module) -> None:
    before = [p.detach().clone() for p in trained_net.state_dict().values()]
    arguments: dict[str, Any] = {"budget": sc.MACs("30%"), "evaluate": right, **FAST}
    plain = sc.prune(trained_net, IMAGES.images[:1], **arguments)
    repaired = sc.prune(trained_net, data=IMAGES.images[:256], **arguments)
    assert plain.quality is not None and repaired.quality is not None
    assert repaired.quality.after > plain.quality.after + 0.1
    assert repaired.quality.after > repaired.quality.before - 0.02
    assert any("least squares" in line for line in repaired.repairs)
    assert "least squares" in str(repaired) and "±" in str(repaired)
    after = trained_net.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert repaired.after.macs is not None and repaired.before.macs is not None
    assert repaired.after.macs <= 0.3 * repaired.before.macs


def test_in_place_with_data_cuts_the_optimizer_too(trained_net: nn.Module) -> None:
    model = trained()
    copy = sc.prune(trained_net, data=IMAGES.images[:128], budget=sc.MACs("50%"), **FAST).model
    optimizer = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9)
    nn.functional.cross_entropy(model(IMAGES.images[:8]), IMAGES.labels[:8]).backward()
    optimizer.step()
    parameters = list(model.parameters())
    sc.prune_(model, data=IMAGES.images[:128], budget=sc.MACs("50%"), optimizer=optimizer, **FAST)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    for ours, theirs in zip(model.parameters(), copy.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
        assert optimizer.state[ours]["momentum_buffer"].shape == ours.shape
    model.train()
    nn.functional.cross_entropy(model(IMAGES.images[:8]), IMAGES.labels[:8]).backward()
    optimizer.step()


def test_every_form_of_data(trained_net: nn.Module) -> None:
    x, y = IMAGES.images[:64], IMAGES.labels[:64]
    pairs = [(x[:32], y[:32]), (x[32:], y[32:])]
    forms: list[Any] = [x, pairs, (pair for pair in pairs), [x[:32], x[32:]], (x, y), [{"x": x}]]
    results = [
        sc.prune(trained_net, data=data, budget=sc.MACs("50%"), **FAST).plan for data in forms
    ]
    assert all(plan.sites == results[0].sites for plan in results[1:])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "empty"),
        (torch.zeros(0, 1, 8, 8), "no sample"),
        (5, "not a int"),
        (torch.full((4, 1, 8, 8), float("nan")), "not finite"),
        ([torch.zeros(4, 3, 8, 8)], "raised"),
    ],
)
def test_bad_data_is_named(trained_net: nn.Module, data: Any, words: str) -> None:
    with pytest.raises(SecateurError, match=words):
        sc.prune(trained_net, data=data, budget=sc.MACs("50%"), **FAST)


def test_a_drop_is_kept_on_images_that_the_search_never_saw(trained_net: nn.Module) -> None:
    chosen = digits().held_out_images[::2], digits().held_out_labels[::2]
    other = digits().held_out_images[1::2], digits().held_out_labels[1::2]
    result = sc.prune(
        trained_net, data=IMAGES.images[:256], evaluate=sc.Accuracy([chosen]),
        budget=sc.Drop(points=2.0), **FAST,
    )  # fmt: skip
    assert result.after.macs is not None and result.before.macs is not None
    assert result.after.macs < 0.5 * result.before.macs
    with torch.no_grad():
        found, dense = (
            (m(other[0]).argmax(1) == other[1]).double().mean() for m in (result.model, trained_net)
        )
    assert dense - found <= 0.02 + 0.01
    assert len(result.attempts) > 1 and any("Drop" in line for line in result.search)


def test_a_search_goes_on_where_it_stopped(trained_net: nn.Module) -> None:
    arguments: dict[str, Any] = {
        "data": IMAGES.images[:128], "evaluate": right, "budget": sc.Drop(points=3.0), **FAST,
    }  # fmt: skip
    whole = sc.prune(trained_net, **arguments)
    seen: list[Any] = []

    def stop(attempt: Any) -> None:
        seen.append(attempt)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sc.prune(trained_net, on_trial=stop, **arguments)
    again = sc.prune(trained_net, resume=seen, **arguments)
    assert again.attempts == whole.attempts
    assert again.plan.sites == whole.plan.sites


def test_goals_need_something_to_measure(trained_net: nn.Module) -> None:
    with pytest.raises(RecipeError, match="evaluate"):
        sc.prune(trained_net, data=IMAGES.images[:64], budget=sc.Drop(points=1.0), **FAST)


@pytest.mark.parametrize("name", ["optimizer", "rollback"])
def test_a_copy_has_no_such_argument(trained_net: nn.Module, name: str) -> None:
    with pytest.raises(RecipeError, match="prune_"):
        sc.prune(trained_net, IMAGES.images[:1], **{name: None})


@pytest.mark.parametrize("steps", [5, ["x"], [sc.Reconstruct], "reconstruct"])
def test_repairs_are_checked_first(trained_net: nn.Module, steps: Any) -> None:
    with pytest.raises(RecipeError, match="repair"):
        sc.prune(trained_net, data=IMAGES.images[:64], recover=steps, **FAST)


def test_without_data_a_repair_makes_its_own(trained_net: nn.Module) -> None:
    arguments: dict[str, Any] = {
        "budget": sc.MACs("40%"), "evaluate": right, "allocate": "uniform", **FAST,
    }  # fmt: skip
    example = IMAGES.images[:16]
    plain = sc.prune(trained_net, example, **arguments)
    repaired = sc.prune(trained_net, example, recover=[sc.Reconstruct()], **arguments)
    assert plain.quality is not None and repaired.quality is not None
    assert repaired.quality.after > plain.quality.after + 0.05
