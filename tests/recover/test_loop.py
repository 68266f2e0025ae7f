"""The loop: plain training that keeps the best, goes on where it stopped and leaves no trace."""

from __future__ import annotations

import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam
from training_cases import batches, net, same, samples, state

from secateur.core.errors import InputError
from secateur.recover.course import Course
from secateur.recover.feed import Feed, feed
from secateur.recover.loop import held_loss, train


def loss(model: nn.Module, batch: Any, name: Any = None) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1])


def objective(model: nn.Module) -> Any:
    return nullcontext(loss)


def data() -> Feed:
    return feed(batches(), seed=0)


def held_out(model: nn.Module, found: Feed) -> float:
    """The same, written out."""
    model.eval()
    with torch.no_grad():
        parts = [(len(y), float(cross_entropy(model(x), y))) for x, y in found.held]
    model.train()
    return sum(n * value for n, value in parts) / sum(n for n, _ in parts)


def sgd(parameters: Any) -> SGD:
    return SGD(parameters, lr=0.1, momentum=0.9)


def test_it_is_plain_training_that_keeps_the_best() -> None:
    model, found = net(), data()
    reference = net()
    optimizer = sgd(reference.parameters())
    course = Course(epochs=4, optimizer=sgd, warmup=0.1, clip=0.5)
    best, best_state, best_step = held_out(reference, found), state(reference), 0
    before = best
    for step in range(36):
        ((_, (x, y)),) = found.batches(step, step + 1)
        optimizer.param_groups[0]["lr"] = 0.1 * course.factor(step, 36)
        cross_entropy(reference(x), y).backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        if step % 9 == 8 and (value := held_out(reference, found)) < best:
            best, best_state, best_step = value, state(reference), step + 1
    outcome = train(model, found, objective, course)
    assert (outcome.before, outcome.best) == pytest.approx((before, best), rel=1e-5)
    assert (outcome.best_step, outcome.steps) == (best_step, 36) and best < before
    for name, value in state(model).items():
        torch.testing.assert_close(value, best_state[name], msg=name)
    assert held_loss(model, found.held, objective, 0) == pytest.approx(best, rel=1e-5)


def test_accumulated_gradients_are_those_of_larger_batches() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    x, y = samples(220)
    small = feed(list(zip(x.split(11), y.split(11), strict=True)))
    merged = []
    for k in range(0, small.length - 1, 2):
        (_, a), (_, b) = small.batches(k, k + 2)
        merged.append((torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])))
    first, second = (nn.Sequential(nn.Linear(4, 3)) for _ in range(2))
    for twin in (first, second):
        twin.load_state_dict(model.state_dict())
    train(first, small, objective, Course(epochs=1, accumulate=2, optimizer=sgd, clip=None))
    course = Course(epochs=1, optimizer=sgd, clip=None)
    train(second, _Fixed(merged, small.held), objective, course)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b)


class _Fixed(Feed):
    def __init__(self, items: list[Any], held: Any) -> None:
        self.items, self.held, self.length = items, held, len(items)

    def batches(self, start: int, stop: int, rank: int = 0, world: int = 1) -> Any:
        return ((None, self.items[k % self.length]) for k in range(start, stop))


def test_what_is_no_better_leaves_everything() -> None:
    model = net()
    before = state(model)
    worse = Course(epochs=2, optimizer=lambda p: SGD(p, lr=50.0), clip=None)
    outcome = train(model, data(), objective, worse)
    assert outcome.best == outcome.before and outcome.best_step == 0
    assert same(state(model), before)


def test_a_loss_that_is_no_number_ends_it() -> None:
    def broken(model: nn.Module, batch: Any, name: Any) -> Tensor:
        value = loss(model, batch)
        return value * float("nan") if model.training else value

    model = net()
    before = state(model)
    outcome = train(model, data(), lambda m: nullcontext(broken), Course(epochs=3))
    assert "became nan before step 9" in outcome.stopped and same(state(model), before)


def test_patience() -> None:
    events: list[dict[str, Any]] = []
    course = Course(epochs=50, lr=0.05, patience=2, on_event=events.append)
    outcome = train(net(), data(), objective, course)
    rounds = [event for event in events if event["event"] == "round"]
    assert outcome.stopped == "no better in 2 evaluations" and len(rounds) < 50
    assert min(event["held"] for event in rounds) == outcome.best
    assert all(event["held"] > outcome.best for event in rounds[-2:])
    assert rounds[-3]["held"] == outcome.best


def test_events_are_plain() -> None:
    events: list[dict[str, Any]] = []
    train(net(), data(), objective, Course(steps=5, every=2, on_event=events.append))
    assert [event["event"] for event in events] == ["start", "round", "round", "round", "end"]
    assert [event["step"] for event in events[:-1]] == [0, 2, 4, 5]
    for event in events:
        assert event["steps"] == 5
        assert all(isinstance(value, (int, float, str)) for value in event.values())


class Stop(Exception):
    pass


def adam(parameters: Any) -> Adam:
    return Adam(parameters, lr=0.02)


@pytest.mark.parametrize("optimizer", [adam, sgd])
def test_an_interrupted_training_ends_bit_identical(tmp_path: Path, optimizer: Any) -> None:
    class Noisy(nn.Sequential):
        """Draws random numbers in training."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.dropout(x, 0.2, self.training))

    def fresh() -> nn.Module:
        return Noisy(*net())

    def course(**more: Any) -> Course:
        return Course(epochs=6, optimizer=optimizer, **more)

    whole = fresh()
    expected = train(whole, data(), objective, course(), seed=3)

    def stop(event: dict[str, Any]) -> None:
        if event.get("step") == 36:
            raise Stop

    with pytest.raises(Stop):
        train(fresh(), data(), objective, course(checkpoint=tmp_path, on_event=stop), seed=3)
    events: list[dict[str, Any]] = []
    resumed = fresh()
    again = course(checkpoint=tmp_path, on_event=events.append)
    outcome = train(resumed, data(), objective, again, seed=3)
    assert events[0]["step"] == 27 and outcome == expected
    assert same(state(resumed), state(whole))
    events.clear()
    finished = fresh()
    assert train(finished, data(), objective, again, seed=3) == expected
    assert [event["event"] for event in events] == ["start", "end"]
    assert same(state(finished), state(whole))
    other = fresh()
    train(other, data(), objective, again, seed=4)
    assert events[2]["step"] == 0 and not same(state(other), state(whole))


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path: Path) -> None:
    starts = []
    for rate in (0.1, 0.2, 0.1):
        events: list[dict[str, Any]] = []
        course = Course(
            epochs=1, optimizer=lambda p, r=rate: SGD(p, lr=r), checkpoint=tmp_path,
            on_event=events.append,
        )  # fmt: skip
        train(net(), data(), objective, course)
        starts.append(events[0]["step"])
    assert starts == [0, 0, 9]


def test_masks_keep_their_zeros() -> None:
    model = net()
    mask = torch.rand(16, 4) < 0.5
    with torch.no_grad():
        model[0].weight.mul_(mask)
    course = Course(epochs=3, lr=0.05)
    outcome = train(model, data(), objective, course, masks={"0.weight": mask})
    assert outcome.best < outcome.before
    assert torch.equal(model[0].weight != 0, mask)


def test_frozen_parameters_stay() -> None:
    model = net()
    model[0].requires_grad_(False)
    before = state(model)
    train(model, data(), objective, Course(epochs=2, lr=0.05))
    after = state(model)
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["3.weight"], after["3.weight"])
    model.requires_grad_(False)
    with pytest.raises(InputError, match="nothing to train"):
        train(model, data(), objective, Course())


def test_too_few_batches_for_a_step() -> None:
    with pytest.raises(InputError, match="an epoch has 9 batches, and one step takes 10"):
        train(net(), data(), objective, Course(accumulate=10))


def test_entering_late_runs_the_rest() -> None:
    events: list[dict[str, Any]] = []
    course = Course(steps=20, every=5, on_event=events.append, warmup=0)
    outcome = train(net(), data(), objective, course, enter=0.5)
    assert [event["step"] for event in events[:-1]] == [10, 15, 20]
    assert events[1]["rate"] == pytest.approx(1e-3 * course.factor(14, 20))
    assert outcome.steps == 20


def test_nothing_is_left_behind() -> None:
    model = net().eval()
    model[0].training = True
    model[3].weight.grad = torch.ones(3, 16)
    fields = {name: set(module.__dict__) for name, module in model.named_modules()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(9), random.seed(9), np.random.seed(9)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    train(model, data(), objective, Course(epochs=1))
    held_loss(model, data().held, objective, 0)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert modes == [module.training for module in model.modules()]
    assert fields == {name: set(module.__dict__) for name, module in model.named_modules()}
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(model[3].weight.grad, torch.ones(3, 16)) and model[0].weight.grad is None
    assert type(model[3].weight) is nn.Parameter and not model._forward_hooks


def test_mixed_precision() -> None:
    kinds = set()

    def seen(model: nn.Module, batch: Any, name: Any) -> Tensor:
        with torch.no_grad():
            kinds.add(torch.is_autocast_enabled("cpu"))
        return loss(model, batch)

    class Watched(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            x = self[0](x)
            kinds.add(x.dtype)
            return nn.Sequential(*list(self)[1:])(x)

    model = Watched(*net())
    outcome = train(
        model, data(), lambda m: nullcontext(seen), Course(epochs=2, lr=0.02, precision="bf16")
    )
    assert torch.bfloat16 in kinds and torch.float32 not in kinds
    assert outcome.best < outcome.before
    assert all(p.dtype == torch.float32 for p in model.parameters())
