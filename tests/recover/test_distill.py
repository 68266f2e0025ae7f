"""Distillation: the loss is the paper's, the teacher is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from repair_nets import Recurrent, Residual, shrink, unsettle
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from training_cases import batches, job, same, samples, state

from secateur.core.errors import InputError, RecipeError
from secateur.measure.loss import default_loss
from secateur.recover import Distill, Supervision


def value(how: Distill, found: Any, batch: Any, name: Any = None) -> Tensor:
    with how.objective(found)(found.small) as loss:
        return loss(found.small, batch, name)


def softened(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    """T² KL(teacher || student), written out."""
    p, q = (teacher / t).softmax(-1), (student / t).softmax(-1)
    return t * t * (p * (p.log() - q.log())).sum(-1).mean()


def test_the_loss_is_that_of_the_paper() -> None:
    found, (x, y) = job(), samples(30)
    student, teacher = found.small(x), found.dense(x)
    apart = softened(student, teacher, 3.0)
    task = cross_entropy(student, y)
    torch.testing.assert_close(
        value(Distill(temperature=3, alpha=0.7), found, (x, y)), 0.7 * apart + 0.3 * task
    )
    torch.testing.assert_close(value(Distill(temperature=3, alpha=1), found, (x, y)), apart)
    torch.testing.assert_close(value(Distill(temperature=3), found, x), apart)
    torch.testing.assert_close(
        value(Distill(soft=False, alpha=0.5), found, (x, y)),
        0.5 * mse_loss(student, teacher) + 0.5 * task,
    )


def test_outputs_for_labels_that_are_numbers_are_compared_as_they_are() -> None:
    found, (x, _) = job(), samples(30)
    y = torch.randn(30, 3)
    student, teacher = found.small(x), found.dense(x)
    expected = 0.9 * mse_loss(student, teacher) + 0.1 * mse_loss(student, y)
    torch.testing.assert_close(value(Distill(), found, (x, y)), expected)


def test_classes_in_dimension_one() -> None:
    model = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 5, 1))
    x, y = torch.randn(6, 3, 7), torch.randint(5, (6, 7))
    found = shrink(model, x, {"0": [0, 1]}).job([x])
    student, teacher = (net(x).movedim(1, -1) for net in (found.small, found.dense))
    expected = softened(student, teacher, 4.0)
    torch.testing.assert_close(value(Distill(alpha=1), found, (x, y)), expected)


def test_gradients_reach_the_student_alone() -> None:
    found, (x, y) = job(), samples(30)
    value(Distill(), found, (x, y)).backward()
    assert all(p.grad is not None for p in found.small.parameters())
    assert all(p.grad is None for p in found.dense.parameters())


def test_it_helps_without_labels_and_leaves_the_teacher_alone() -> None:
    found = job([x for x, _ in batches()])
    dense, before = state(found.dense), found.distance
    found.dense.train()
    fields = {name: set(module.__dict__) for name, module in found.dense.named_modules()}
    Distill(epochs=10, lr=0.02).run(found)
    assert "->" in found.notes[0] and found.distance < before
    assert same(dense, state(found.dense)) and found.dense.training
    assert fields == {name: set(module.__dict__) for name, module in found.dense.named_modules()}
    assert not any(module._forward_hooks for module in found.small.modules())
    assert not any(module._forward_hooks for module in found.dense.modules())


def test_recurrent_networks_with_labels() -> None:
    model = Recurrent(nn.GRU).eval()
    x = torch.randn(60, 9, 5)
    with torch.no_grad():
        y = model(x).argmax(-1)
    found = shrink(model, x[:2], {}).job([x])
    with torch.no_grad():
        found.small.head.weight.mul_(0.5)
    found.supervision = Supervision([(a, b) for a, b in zip(x.split(10), y.split(10), strict=True)])
    Distill(epochs=8, lr=0.01).run(found)
    assert "->" in found.notes[0]


def test_the_teacher_is_the_network_before_all_pruning() -> None:
    found, (x, _) = job(), samples(30)
    first = nn.Linear(4, 3)
    found.supervision = Supervision(teacher=first)
    expected = softened(found.small(x), first(x), 4.0)
    torch.testing.assert_close(value(Distill(), found, x), expected)
    other = nn.Linear(4, 3)
    expected = softened(found.small(x), other(x), 4.0)
    torch.testing.assert_close(value(Distill(other), found, x), expected)


def test_features() -> None:
    model, x = unsettle(Residual(blocks=2)), torch.randn(8, 3, 8, 8)
    found = shrink(model, x[:2], {"blocks.0.conv1": [0, 1, 2, 3]}).job([x])
    seen: dict[str, list[Tensor]] = {"blocks.0": [], "blocks.1": []}
    for net in (found.small, found.dense):
        for name, kept in seen.items():
            net.get_submodule(name).register_forward_hook(lambda m, a, out, k=kept: k.append(out))
    student, teacher = found.small(x), found.dense(x)
    for net in (found.small, found.dense):
        for name in seen:
            net.get_submodule(name)._forward_hooks.clear()
    expected = softened(student, teacher, 4.0)
    for mine, theirs in seen.values():
        expected = expected + 2 * mse_loss(mine, theirs) / theirs.var()
    how = Distill(features=["blocks.0", "blocks.1"], beta=2.0)
    torch.testing.assert_close(value(how, found, x), expected)
    with pytest.raises(InputError, match="choose modules that keep their width"):
        value(Distill(features=["blocks.0.conv1"]), found, x)
    with pytest.raises(RecipeError, match="did you mean"):
        Distill(features=["blocks.O"]).objective(found)


def test_kept_answers_are_used_again() -> None:
    counts = []
    for cache in (False, True):
        found = job()
        calls: list[int] = []
        handle = found.dense.register_forward_hook(lambda *_, c=calls: c.append(1))
        Distill(epochs=3, cache=cache, lr=0.02).run(found)
        handle.remove()
        counts.append((len(calls), state(found.small)))
    assert counts[0][0] == 9 * 3 + 4 and counts[1][0] == 9 + 1
    assert same(counts[0][1], counts[1][1])


def test_a_loss_of_ones_own_may_call_the_model_as_it_likes() -> None:
    def own(model: nn.Module, batch: Any) -> Tensor:
        half = len(batch[0]) // 2
        return sum(cross_entropy(model(x), y) for x, y in (
            (batch[0][:half], batch[1][:half]), (batch[0][half:], batch[1][half:])
        ))  # fmt: skip

    found, (x, y) = job(), samples(30)
    student, teacher = found.small(x), found.dense(x)
    expected = 0.9 * softened(student, teacher, 4.0) + 0.1 * own(found.small, (x, y))
    torch.testing.assert_close(value(Distill(loss=own), found, (x, y)), expected)


def test_a_teacher_of_another_form_is_refused() -> None:
    found, (x, _) = job(), samples(8)
    with pytest.raises(InputError, match=r"shape \(8, 3\), the teacher's \(8, 5\)"):
        value(Distill(nn.Linear(4, 5)), found, x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher": 3}, "a teacher is an nn.Module"),
        ({"temperature": 0}, "expected above 0"),
        ({"alpha": 1.5}, "from 0 to 1"),
        ({"features": "blocks.0"}, "a list of names"),
        ({"features": ["a"], "cache": True}, "keeps no features"),
        ({"epochs": 0}, "at least 1"),
    ],
)
def test_what_makes_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Distill(**arguments)


def test_the_default_loss_is_the_library_default() -> None:
    found, (x, y) = job(), samples(30)
    torch.testing.assert_close(
        value(Distill(alpha=0), found, (x, y)), default_loss(found.small, (x, y))
    )
