"""Quality functions: right numbers, and nothing left behind."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.measure.quality import accuracy, evaluate, observe


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


@pytest.mark.parametrize("value", [
    None, "high", float("nan"), float("inf"), torch.zeros(2, 2), (0.5, 0.9),
    [1.0, "x"], [0.0, float("nan")], torch.zeros(0), [], np.array(["a", "b"]), 1j])  # fmt: skip
def test_evaluate_must_give_a_number(value: object) -> None:
    with pytest.raises(InputError, match="not one finite number"):
        evaluate(lambda m: value, nn.Identity())  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    "value",
    [[1, 0, 1, 1], torch.tensor([True, False, True, True]), np.array([1, 0, 1, 1], np.float16)],
)
def test_one_value_for_each_sample(value: object) -> None:
    reading = observe(lambda m: value, nn.Identity())
    assert reading.samples is not None
    assert reading.samples.tolist() == [1, 0, 1, 1]
    assert (reading.value, reading.complete, reading.seen) == (0.75, True, None)


@pytest.mark.parametrize("value", [3, np.float32(3), torch.tensor([[3.0]]), np.array([3]), [3.0]])
def test_one_number(value: object) -> None:
    reading = observe(lambda m: value, nn.Identity())
    assert (reading.value, reading.samples, reading.complete) == (3.0, None, True)


def test_every_evaluation_draws_the_same_and_leaves_the_random_states() -> None:
    def drawn(model: nn.Module) -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(1))]

    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    first, second = observe(drawn, nn.Identity()).samples, observe(drawn, nn.Identity()).samples
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert first is not None
    assert np.array_equal(first, second)
    assert after == before
    other = observe(drawn, nn.Identity(), seed=1).samples
    assert not np.array_equal(first, other)


def test_shuffled_loaders_have_one_order() -> None:
    data = torch.utils.data.TensorDataset(torch.arange(20.0))
    loader = torch.utils.data.DataLoader(data, 4, shuffle=True)

    def values(model: nn.Module) -> torch.Tensor:
        return torch.cat([x for (x,) in loader])

    first = observe(values, nn.Identity()).samples
    torch.rand(7)
    second = observe(values, nn.Identity()).samples
    assert first is not None
    assert np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(20))


def test_the_models_predictions_are_seen_and_the_hook_goes() -> None:
    model = nn.Identity()
    x = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    reading = observe(lambda m: (m(x).argmax(1) == 1).float().mean(), model)
    assert reading.seen is not None
    assert [call[0].tolist() for call in reading.seen.calls] == [[1, 0, 1]]
    assert not model._forward_hooks
