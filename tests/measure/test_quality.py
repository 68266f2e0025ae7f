"""Quality functions: right numbers, and nothing left behind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.measure.quality import accuracy, evaluate


class Scores(nn.Module):
    def forward(self, x: Tensor) -> SimpleNamespace:
        assert not self.training
        assert not torch.is_grad_enabled()
        torch.rand(1)
        return SimpleNamespace(logits=x)


def test_accuracy_over_batches_of_different_sizes() -> None:
    scores = torch.eye(4)
    batches = [(scores[:3], torch.tensor([0, 1, 0])), [scores[3:], torch.tensor([3])]]
    model, state = Scores().train(), torch.random.get_rng_state()
    assert accuracy(model, batches) == 0.75
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_accuracy_of_pixels() -> None:
    scores = torch.zeros(1, 2, 2, 2)
    scores[:, 1] = 1
    assert accuracy(nn.Identity(), [(scores, torch.tensor([[[1, 1], [1, 0]]]))]) == 0.75


@pytest.mark.parametrize(
    "batches",
    [
        [],
        [torch.zeros(2, 3)],
        [(torch.zeros(2, 3),)],
        [(torch.zeros(2, 3), torch.zeros(3))],
        [(torch.zeros(2), torch.zeros(2))],
    ],
)
def test_wrong_batches(batches: list[object]) -> None:
    with pytest.raises(InputError):
        accuracy(nn.Identity(), batches)


def test_evaluate_calls_in_eval_mode() -> None:
    model = nn.Dropout().train()
    assert evaluate(lambda m: torch.tensor(float(m.training)), model) == 0.0  # type: ignore[arg-type]
    assert model.training


@pytest.mark.parametrize("value", [None, "high", float("nan"), float("inf"), torch.zeros(2)])
def test_evaluate_must_give_a_number(value: object) -> None:
    with pytest.raises(InputError, match="not one finite number"):
        evaluate(lambda m: value, nn.Identity())  # type: ignore[arg-type, return-value]
