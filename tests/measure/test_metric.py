"""Metrics by sample against PyTorch's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.core.errors import InputError
from secateur.measure.metric import Accuracy, Loss, Metric, Streamed


class Tagger(nn.Module):
    """Scores `[n, time, classes]` and a state, from inputs and lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 5, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        assert not self.training
        return self.rnn(x)


def test_accuracy_by_sample() -> None:
    net, x, y = nn.Linear(4, 3).train(), torch.randn(10, 4), torch.randint(0, 3, (10,))
    found = Accuracy([(x[:7], y[:7]), [x[7:], y[7:]]])(net)
    assert torch.equal(found, (net(x).argmax(1) == y).double())
    assert net.training


def test_accuracy_of_tokens_with_ignored_labels_and_more_inputs() -> None:
    net, x = Tagger(), torch.randn(6, 7, 3)
    labels = torch.randint(0, 5, (6, 7))
    labels[:, 4:] = -100
    labels[5] = -100
    found = Accuracy([(x, torch.full((6,), 7), labels)])(net)
    right = (net.eval()(x, x)[0].argmax(-1) == labels)[:5, :4]
    assert torch.allclose(found, right.double().mean(1))


def test_pixels_have_their_classes_first() -> None:
    scores, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    found = Accuracy([(scores, labels)])(nn.Identity())
    assert torch.allclose(found, (scores.argmax(1) == labels).double().mean((1, 2)))


def test_loss_is_cross_entropy_of_integers() -> None:
    scores, labels = torch.randn(5, 3), torch.randint(0, 3, (5,))
    found = Loss([{"x": scores, "labels": labels}])(Fields())
    assert torch.allclose(found.float(), cross_entropy(scores, labels, reduction="none"))


class Fields(nn.Module):
    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=x)


def test_loss_of_tokens_ignores_what_pytorch_ignores() -> None:
    net, x = Tagger(), torch.randn(2, 7, 3)
    labels = torch.randint(0, 5, (2, 7))
    labels[0, 2:] = -100
    found = Loss([(x, x, labels)])(net)
    scores = net.eval()(x, x)[0]
    for k in range(2):
        assert found[k].item() == pytest.approx(cross_entropy(scores[k], labels[k]).item())


def test_loss_is_squared_error_of_numbers() -> None:
    x, y = torch.randn(5, 3), torch.randn(5, 3)
    assert torch.allclose(Loss([(x, y)])(nn.Identity()).float(), ((x - y) ** 2).mean(1))


def test_a_loss_of_ones_own() -> None:
    x, y = torch.randn(5, 3), torch.randn(5, 3)
    each = Loss([(x, y)], lambda output, labels: (output - labels).abs())
    assert torch.allclose(each(nn.Identity()).float(), (x - y).abs().mean(1))
    whole = Loss([(x, y), (x, y)], nn.L1Loss())
    assert torch.allclose(whole(nn.Identity()).float(), (x - y).abs().mean().expand(2))
    assert Loss.lower_is_better
    assert not Accuracy.lower_is_better


def test_batches_in_another_order() -> None:
    batches = [(torch.eye(2) * k, torch.tensor([0, 0])) for k in (1, -1)]
    metric = Accuracy(batches)
    assert isinstance(metric, Streamed)
    assert [part.tolist() for part in metric.stream(nn.Identity(), [1, 0])] == [[0, 1], [1, 0]]


@pytest.mark.parametrize("batches", [torch.zeros(2), {"x": 1}, 3, iter([1]), (k for k in "ab")])
def test_batches_must_be_readable_again(batches: Any) -> None:
    with pytest.raises(InputError, match="hint"):
        Accuracy(batches)


@pytest.mark.parametrize("kind", [Accuracy, Loss])
@pytest.mark.parametrize(
    "batch",
    [
        (torch.zeros(2, 3),),
        torch.zeros(2, 3),
        {"x": torch.zeros(2, 3)},
        (torch.zeros(2, 3), "labels"),
        (torch.zeros(2, 3), torch.zeros(3).long()),
        (torch.zeros(2), torch.zeros(2).long()),
    ],
)
def test_wrong_batches(kind: type[Metric], batch: Any) -> None:
    with pytest.raises(InputError):
        kind([batch])(nn.Identity())


def test_nothing_to_evaluate() -> None:
    with pytest.raises(InputError, match="no samples"):
        Accuracy([])(nn.Identity())
    ignored = (torch.zeros(2, 3), torch.full((2,), -100))
    with pytest.raises(InputError, match="no samples"):
        Loss([ignored])(nn.Identity())
