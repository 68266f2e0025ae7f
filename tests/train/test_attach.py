"""attach: it works with what training loops do, leaves no residue, and refuses what is wrong."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from training import adamw, batches, net, sgd, train, zeros

import secateur as sc
from secateur.core.errors import RecipeError

GMP = sc.presets.gmp(0.9, end=20, every=5)


def test_gradual_pruning_reaches_the_sparsity_and_learns() -> None:
    model = net()
    session = sc.attach(model, (optimizer := sgd(model, 0.05)), GMP)
    train(model, optimizer, batches(60))
    assert session.finish() is model
    gone, n = zeros(model)
    assert gone / n == pytest.approx(0.9, abs=1e-3)
    x, y = next(batches(1, seed=9))
    assert (model(x).argmax(1) == y).float().mean() > 0.6


def test_no_residue() -> None:
    model = net()
    optimizer = sgd(model)
    names = list(model.state_dict())
    modules = {name: set(module.__dict__) for name, module in model.named_modules()}
    hooks = {k: len(v) for k, v in vars(optimizer).items() if k.endswith("hooks")}
    groups = [list(group) for group in optimizer.param_groups]
    session = sc.attach(model, optimizer, sc.presets.dpf(0.5, end=4, every=2))
    train(model, optimizer, batches(6))
    assert list(model.state_dict()) == names
    session.finish()
    assert list(model.state_dict()) == names
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == modules
    assert {k: len(v) for k, v in vars(optimizer).items() if k.endswith("hooks")} == hooks
    assert [list(group) for group in optimizer.param_groups] == groups
    assert "secateur" not in optimizer.state_dict()
    assert all(not module._forward_pre_hooks for module in model.modules())
    session.finish()  # twice is once
    copy.deepcopy(model)


def test_scope() -> None:
    model = net()
    session = sc.attach(model, sgd(model), sc.Recipe(budget=sc.Sparsity(0.5)), scope=sc.skip("5"))
    assert set(session.masks) == {"0.weight", "3.weight"}
    assert (model[5].weight != 0).all()
    assert session.sparsity == pytest.approx(0.5, abs=1e-3)


def test_weights_are_zero_after_every_step_and_during_forward() -> None:
    model = net()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, sc.Recipe(budget=sc.Sparsity(0.8)))
    seen = []
    train(model, optimizer, batches(5), after=lambda: seen.append(zeros(model)[0]))
    assert seen == [round(session.sparsity * zeros(model)[1])] * 5


@pytest.mark.parametrize("make", [sgd, adamw])
def test_masking_is_what_training_by_hand_gives(make: Any) -> None:
    """A plain loop that multiplies with the masks after each step, bit for bit."""
    ours, theirs = net(), net()
    session = sc.attach(ours, (first := make(ours)), sc.Recipe(budget=sc.Sparsity(0.7)))
    masks = {name: mask.clone() for name, mask in session.masks.items()}
    second = make(theirs)

    def mask() -> None:
        with torch.no_grad():
            for name, parameter in theirs.named_parameters():
                if name in masks:
                    parameter.mul_(masks[name])

    mask()
    train(ours, first, batches(8))
    train(theirs, second, batches(8), after=mask)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_gradient_accumulation_counts_steps_not_backwards() -> None:
    model = net()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, GMP)
    for k, (x, y) in enumerate(batches(12)):
        (nn.functional.cross_entropy(model(x), y) / 3).backward()
        if k % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    assert session.step == 4


def test_several_groups_and_optimizers() -> None:
    model = net()
    first = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.1},
                             {"params": model[3].parameters(), "lr": 0.01}])  # fmt: skip
    second = torch.optim.Adam(model[5].parameters())
    session = sc.attach(model, [first, second], sc.presets.dpf(0.8, end=6, every=2))
    for x, y in batches(8):
        for optimizer in (first, second):
            optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        first.step()
        second.step()
    assert session.step == 8
    gone, n = zeros(session.finish())
    assert gone / n == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("recipe", [GMP, sc.presets.movement(0.5, end=6, every=2)])
def test_closures(recipe: sc.Recipe) -> None:
    """`step(closure)` is the same as a backward and a step, bit for bit."""
    models = [net(), net()]
    for way, model in enumerate(models):
        optimizer = sgd(model)
        session = sc.attach(model, optimizer, recipe)
        for x, y in batches(8):

            def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
                optimizer.zero_grad()  # noqa: B023
                loss = nn.functional.cross_entropy(model(x), y)  # noqa: B023
                loss.backward()
                return loss

            if way:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
        assert session.step == 8
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("recipe", [GMP, sc.presets.movement(0.5, end=6, every=2)])
def test_a_gradient_scaler_that_skips_a_step(fused: bool, recipe: sc.Recipe) -> None:
    """A step with overflown gradients does not count; the others are as without scaling."""
    models = [net(), net()]
    for scaled, model in enumerate(models):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        session = sc.attach(model, optimizer, recipe)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=bool(scaled))
        for k, (x, y) in enumerate(batches(8)):
            if k == 3 and not scaled:
                continue
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss * (float("inf") if k == 3 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
        assert session.step == 7
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_autocast() -> None:
    model = net()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, GMP)
    for x, y in batches(20):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    assert session.sparsity == pytest.approx(0.9, abs=1e-3)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 16)
        self.b = nn.Linear(16, 16)
        self.b.weight = self.a.weight
        self.head = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.b(self.a(x.flatten(1)).relu()).relu())


def test_tied_weights_have_one_mask() -> None:
    model = Tied()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, sc.presets.dpf(0.5, end=4, every=2))
    train(model, optimizer, batches(5))
    assert set(session.masks) == {"a.weight", "head.weight"}
    session.finish()
    assert model.a.weight is model.b.weight
    assert torch.equal(model.a.weight != 0, session.masks["a.weight"])


def test_recurrent_weights() -> None:
    lstm = nn.LSTM(4, 8, batch_first=True)
    optimizer = sgd(lstm)
    session = sc.attach(lstm, optimizer, sc.Recipe(budget=sc.Sparsity(0.5)))
    for _ in range(3):
        optimizer.zero_grad()
        lstm(torch.randn(2, 5, 4))[0].square().mean().backward()
        optimizer.step()
    session.finish()
    assert zeros(nn.ModuleList()) == (0, 0)
    found = sum(int((p == 0).sum()) for n, p in lstm.named_parameters() if "weight" in n)
    assert found == (32 * 4 + 32 * 8) // 2


def test_compiled_model() -> None:
    torch.compiler.reset()
    plain, model = net(), net()
    compiled = torch.compile(model, backend="eager")
    optimizers = [sgd(plain), sgd(model)]
    sessions = [sc.attach(m, o, GMP) for m, o in zip((plain, compiled), optimizers, strict=True)]
    train(plain, optimizers[0], batches(22))
    train(compiled, optimizers[1], batches(22))  # type: ignore[arg-type]
    assert set(sessions[1].masks) == set(sessions[0].masks)  # no prefixes
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_optimizer_that_mixes_weights_sees_masked_gradients() -> None:
    model = nn.Linear(16, 16, bias=False)
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.1)
    mask = torch.rand(16, 16) > 0.5
    session = sc.attach(model, optimizer, masks={"weight": mask})
    model(torch.randn(4, 16)).square().mean().backward()
    optimizer.step()
    assert model.weight.grad is not None
    assert (model.weight.grad[~mask] == 0).all() and (model.weight.grad[mask] != 0).any()
    session.finish()


def test_masks_alone_stay() -> None:
    model = net()
    optimizer = sgd(model)
    mask = torch.rand(32, 128) > 0.5
    session = sc.attach(model, optimizer, masks={"3.weight": mask})
    train(model, optimizer, batches(5))
    session.finish()
    assert torch.equal(model[3].weight != 0, mask)
    assert (model[5].weight != 0).all()


def test_masks_are_where_a_recipe_starts() -> None:
    model = net()
    optimizer = sgd(model)
    mask = torch.rand(32, 128) > 0.9
    session = sc.attach(
        model, optimizer, sc.presets.rigl(None, every=4, allocate={"3.weight": 0.1}),
        masks={"3.weight": mask}, scope="3",
    )  # fmt: skip
    train(model, optimizer, batches(3))
    assert torch.equal(session.masks["3.weight"], mask)
    train(model, optimizer, batches(1))
    assert not torch.equal(session.masks["3.weight"], mask)


def test_masks_that_are_sparser_than_the_schedule_stay() -> None:
    model = net()
    optimizer = sgd(model)
    masks = {"3.weight": torch.rand(32, 128) > 0.95}
    session = sc.attach(
        model, optimizer, sc.presets.gmp(0.9, end=20, every=2), masks=masks, scope="3"
    )
    train(model, optimizer, batches(4))
    assert torch.equal(session.masks["3.weight"], masks["3.weight"])


def test_snip_asks_before_the_first_step() -> None:
    """|g w| of the whole data: against autograd by hand, for the largest products of all layers."""
    model = net()
    (x, y), (x2, y2) = batches(2)
    both = (torch.cat([x, x2]), torch.cat([y, y2]))
    loss = nn.functional.cross_entropy(model(both[0]), both[1])
    weights = [model[k].weight for k in (0, 3, 5)]
    gradients = torch.autograd.grad(loss, weights)
    products = [(g * w).abs() for g, w in zip(gradients, weights, strict=True)]
    keep = sum(w.numel() for w in weights) // 10
    border = torch.cat([p.flatten() for p in products]).topk(keep).values[-1]
    recipe = sc.Recipe(criterion="snip", budget=sc.Sparsity(0.9))
    session = sc.attach(model, sgd(model), recipe, data=[(x, y), (x2, y2)])
    for mask, product in zip(session.masks.values(), products, strict=True):
        wrong = (mask != (product >= border)).sum()
        assert wrong <= 1
    assert next(iter(model.parameters())).grad is None


def test_wanda_looks_at_data_before_the_first_step() -> None:
    """|w| ||x|| by hand for the last layer, two of each four."""
    model = net()
    data = list(batches(3))
    inputs = torch.cat([model[:5](x) for x, _ in data]).detach()
    score = (model[5].weight * inputs.square().sum(0).sqrt()).abs().detach()
    best = score.view(8, 8, 4).topk(2).indices
    expected = torch.zeros(8, 8, 4, dtype=torch.bool).scatter_(2, best, True).view(8, 32)
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, sc.presets.wanda24(), data=data, scope="5")
    assert torch.equal(session.masks["5.weight"], expected)
    train(model, optimizer, batches(2))
    assert torch.equal(model[5].weight != 0, expected)


def test_criteria_that_look_at_data_start_from_masks_without_it() -> None:
    model = net()
    masks = {"5.weight": torch.arange(8 * 32).view(8, 32) % 4 < 2}
    session = sc.attach(model, sgd(model), sc.presets.wanda24(), masks=masks, scope="5")
    assert torch.equal(session.masks["5.weight"], masks["5.weight"])


@pytest.mark.parametrize(
    ("recipe", "what"),
    [
        (sc.presets.wanda24(schedule=sc.Cubic(0, 10, 1)), "later there is no data"),
        (sc.Recipe(criterion="synflow", budget=sc.Sparsity(0.5)), "more than once"),
    ],
)
def test_criteria_that_look_at_data_decide_once(recipe: sc.Recipe, what: str) -> None:
    model = net()
    with pytest.raises(RecipeError, match=what):
        sc.attach(model, sgd(model), recipe, data=list(batches(1)))


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({}, "neither a recipe nor masks"),
        ({"recipe": "rigl"}, "not a recipe"),
        ({"recipe": sc.Recipe()}, "there is no budget"),
        ({"recipe": sc.Recipe(budget=sc.MACs("50%"))}, "its budget is a Sparsity"),
        ({"recipe": sc.Recipe(budget=sc.Sparsity(0.5), unit=sc.Channel())}, "Block\\(1, None\\)"),
        ({"recipe": sc.Recipe(budget=sc.Sparsity(0.5), unit=sc.NM(2, 8))}, "Sparsity\\(0.75\\)"),
        ({"recipe": sc.Recipe(budget=sc.Sparsity(0.5), recover=[])}, "recover= is for sc.prune"),
        ({"recipe": sc.Recipe(budget=sc.Sparsity(0.5), form="dpf")}, "secateur.train.forms"),
        ({"recipe": sc.Recipe(budget=sc.Sparsity(0.5), allocate="ekr")}, "did you mean er or erk"),
        ({"recipe": sc.Recipe(budget=sc.Sparsity(0.5), criterion="wanda")}, "sc.prune"),
        ({"recipe": sc.Recipe(budget=sc.Sparsity(0.5), criterion="magnitud")}, "magnitude"),
        ({"recipe": sc.Recipe(budget=sc.Sparsity(0.5), unit=sc.Weight("row"),
                              allocate="global")}, "equal counts"),
        ({"recipe": sc.Recipe(grow="random", unit=sc.NM())}, "no room to grow"),
        ({"recipe": sc.presets.sr_ste(grow="gradient")}, "come back by themselves"),
        ({"recipe": sc.presets.ac_dc(0.5, warmup=1, sparse=2, dense=2, end=9, grow="random")},
         "Phases"),
        ({"recipe": sc.presets.l0(budget=sc.Sparsity(0.9))}, "follows from its penalty"),
        ({"recipe": sc.presets.l0(unit=sc.Block(4, 1))}, "single weights"),
        ({"recipe": GMP, "scope": nn.ReLU}, "no weight is in scope"),
        ({"recipe": GMP, "scope": "nothing"}, "nothing in the model"),
        ({"masks": {"9.weight": torch.ones(1)}}, "no weight in scope"),
        ({"masks": {"5.weight": torch.ones(8, 32)}}, "not boolean"),
        ({"masks": {"5.weight": torch.ones(8, 31, dtype=torch.bool)}}, "\\[8, 31\\]"),
        ({"recipe": sc.Recipe(budget=sc.Sparsity(0.5), criterion="taylor")}, "has no gradient"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(how: dict[str, Any], what: str) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    optimizer = sgd(model)
    with pytest.raises(sc.SecateurError, match=what):
        sc.attach(model, optimizer, **how)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer._optimizer_step_post_hooks
    sc.attach(model, optimizer, GMP)  # nothing was left attached


def test_wrong_optimizers() -> None:
    model, other = net(), net()
    with pytest.raises(sc.SecateurError, match="trains none of the model's parameters"):
        sc.attach(model, sgd(other), GMP)
    with pytest.raises(sc.SecateurError, match=r"no optimizer trains 0.weight, 3.weight"):
        sc.attach(model, sgd(model[5]), GMP)
    with pytest.raises(sc.SecateurError, match="not a str"):
        sc.attach(model, "sgd", GMP)  # type: ignore[arg-type]
    with pytest.raises(sc.SecateurError, match="no optimizer"):
        sc.attach(model, [], GMP)
    with pytest.raises(sc.SecateurError, match="LBFGS"):
        sc.attach(model, torch.optim.LBFGS(model.parameters()), sc.presets.dpf(0.5, end=10))


def test_attached_twice() -> None:
    model = net()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, sc.Recipe(budget=sc.Sparsity(0.5)))
    with pytest.raises(sc.SecateurError, match="in a session already"):
        sc.attach(model, optimizer, GMP)
    session.finish()
    sc.attach(model, optimizer, GMP)
