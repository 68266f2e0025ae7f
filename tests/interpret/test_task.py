"""Metrics by sample, one class among others, and halves of data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.core.errors import InputError
from secateur.interpret.task import Task, halves

SCORES = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
LABELS = torch.tensor([0, 1, 1, 0])


def test_accuracy_one_class_and_a_function() -> None:
    net, batch = nn.Identity(), (SCORES, LABELS)
    assert Task().measure(net, [batch]) == 0.5
    assert Task(1).measure(net, [batch]) == 0.75  # half of ones, all of the others
    assert Task(lambda out, y: out.gather(1, y[:, None])[:, 0]).measure(net, [batch]) == 1.25
    assert Task().measure(net, [(torch.ones(2), torch.zeros(2))]) == -1.0
    mean, error = Task().summary(torch.tensor([0.0, 1.0, 1.0, 0.0]), None)
    assert (mean, error) == (0.5, 0.25)


def test_objectives_fall_as_the_metric_rises() -> None:
    scores = SCORES.clone().requires_grad_()
    net, batch = nn.Identity(), (scores, LABELS)
    assert torch.equal(Task().objective()(net, batch), cross_entropy(scores, LABELS))
    one = Task(1).objective()(net, batch)
    p = SCORES.softmax(1)[:, 1]
    assert one.item() == pytest.approx(float(-p[1:3].log().mean() - (1 - p[[0, 3]]).log().mean()))
    margin = Task(lambda out, y: out[:, 0]).objective()(net, batch)
    assert margin.item() == -1.0
    assert margin.requires_grad
    steps = Task(lambda out, y: (out.argmax(1) == y).float()).objective()(net, batch)
    assert torch.equal(steps, cross_entropy(scores, LABELS))


@pytest.mark.parametrize(
    ("metric", "labels", "match"),
    [
        (lambda out, y: out.mean(), LABELS, "one value for each sample"),
        (lambda out, y: 3, LABELS, "gave int for 4 samples"),
        (2, LABELS, "not that class"),
        (0, torch.zeros(4, dtype=torch.long), "only that class"),
        (0, torch.zeros(4, 3, dtype=torch.long), "a class needs scores"),
    ],
)
def test_what_does_not_fit_is_refused(metric: object, labels: Tensor, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Task(metric).measure(nn.Identity(), [(SCORES, labels)])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no samples"):
        Task().measure(nn.Identity(), [])


def test_halves_have_every_sample_once() -> None:
    batches = [(torch.arange(5), torch.arange(5)), {"x": torch.arange(4), "y": torch.arange(4)}]
    first, second = halves(batches, 0)
    assert sorted([*first[0][0].tolist(), *second[0][0].tolist()]) == list(range(5))
    assert sorted([*first[1]["x"].tolist(), *second[1]["y"].tolist()]) == list(range(4))
    assert torch.equal(first[0][0], first[0][1])
    whole = [torch.zeros(1, 2), torch.ones(1, 2)]
    assert [len(part) for part in halves(whole, 0)] == [1, 1]
    with pytest.raises(InputError, match="cannot be halved"):
        halves([torch.zeros(1, 2)], 0)
