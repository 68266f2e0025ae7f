"""How far outputs are apart, against the formula written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.recover.distance import distance, outputs


def test_scores_of_classes_are_compared_as_they_are() -> None:
    a, b = torch.randn(20, 5).double(), torch.randn(20, 5).double()
    wanted = ((a - b) ** 2).sum() / ((a - a.mean(0)) ** 2).sum()
    assert distance([[a]], [[b]]) == pytest.approx(float(wanted))


def test_tokens_are_samples() -> None:
    a, b = torch.randn(4, 5, 3).double(), torch.randn(4, 5, 3).double()
    assert distance([[a]], [[b]]) == pytest.approx(
        distance([[a.reshape(20, 3)]], [[b.reshape(20, 3)]])
    )


def test_images_are_compared_as_they_are() -> None:
    a, b = torch.randn(6, 2, 3, 3).double(), torch.randn(6, 2, 3, 3).double()
    wanted = ((a - b) ** 2).sum() / ((a - a.mean(0)) ** 2).sum()
    assert distance([[a]], [[b]]) == pytest.approx(float(wanted))


def test_calls_add_up() -> None:
    a, b, c, d = (torch.randn(6, 2, 3, 3).double() for _ in range(4))
    whole = distance([[a, c]], [[b, d]])
    assert distance([[a], [c]], [[b], [d]]) == pytest.approx(whole)
    assert min(distance([[a]], [[b]]), distance([[c]], [[d]])) <= whole


def test_what_is_not_a_number_is_infinitely_far() -> None:
    a = torch.randn(3, 4)
    for value in (float("nan"), float("inf")):
        b = a.clone()
        b[1, 1] = value
        assert distance([[a]], [[b]]) == float("inf")


def test_states_that_got_narrower_do_not_count() -> None:
    a, state = torch.randn(3, 4), torch.randn(1, 3, 8)
    assert distance([[a, state]], [[a, state[..., :5]]]) == 0


def test_equal_samples_and_constant_outputs_stay_finite() -> None:
    same = torch.ones(4, 2, 3, 3)
    assert distance([[same]], [[same]]) == 0
    assert 0 < distance([[same]], [[same + 1e-7]]) < 1e-6
    zero = torch.zeros(1, 2)
    assert distance([[zero]], [[zero]]) == 0


class Many(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return {"a": x * 2, "ids": x.argmax(1), "none": None, "more": (x[:0], [x + 1])}


def test_all_floating_point_outputs_are_taken() -> None:
    x = torch.randn(3, 4)
    ((first, second),) = outputs(Many(), [Call((x,), {})])
    assert torch.equal(first, x * 2) and torch.equal(second, x + 1)


def test_outputs_are_those_of_evaluation() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2)).train()
    x = torch.randn(3, 4)
    ((found,),) = outputs(model, [Call((x,), {})])
    assert torch.equal(found, model[1](x).detach()) and not found.requires_grad
    assert model.training and model[0].training
