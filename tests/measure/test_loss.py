"""Losses in every form that users have them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.measure.loss import default_loss, loss_of

X, Y = torch.randn(6, 3), torch.randint(0, 4, (6,))


def by_model(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def by_outputs(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, targets)


@pytest.mark.parametrize(
    "given",
    [None, nn.CrossEntropyLoss(), nn.functional.cross_entropy, by_model, by_outputs, default_loss],
)
def test_all_forms_give_the_same(given: Any) -> None:
    model = nn.Linear(3, 4)
    wanted = nn.functional.cross_entropy(model(X), Y)
    assert torch.equal(loss_of(given)(model, (X, Y)), wanted)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(InputError, match="not a function"):
        loss_of("mse")  # type: ignore[arg-type]


def test_a_loss_of_outputs_needs_targets() -> None:
    with pytest.raises(InputError, match="without targets"):
        loss_of(nn.MSELoss())(nn.Linear(3, 4), X)


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Wrapped(nn.Module):
    def forward(self, x: Tensor) -> Output:
        return Output(x[:, :2])


class Recurrent(nn.Module):
    """Gives scores and a state."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, :2], x


def test_of_several_outputs_the_default_takes_the_first() -> None:
    x, y = torch.randn(4, 3), torch.randn(4, 2)
    found = default_loss(Recurrent(), (x, y))
    assert torch.equal(found, nn.functional.mse_loss(x[:, :2], y))
    with pytest.raises(InputError, match="returns a dict"):
        default_loss(Named(), (x, y))


class Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": x}


def test_a_loss_of_outputs_gets_them_all() -> None:
    def both(outputs: Any, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs[0], targets) + outputs[1].square().mean()

    x, y = torch.randn(4, 3), torch.randn(4, 2)
    wanted = nn.functional.mse_loss(x[:, :2], y) + x.square().mean()
    assert torch.equal(loss_of(both)(Recurrent(), (x, y)), wanted)


def test_logits_are_taken_out_of_records() -> None:
    x, y = torch.randn(4, 3), torch.randn(4, 2)
    found = loss_of(nn.MSELoss())(Wrapped(), (x, y))
    assert torch.equal(found, nn.functional.mse_loss(x[:, :2], y))
