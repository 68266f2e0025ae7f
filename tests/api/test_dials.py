"""The verb `sc.dial`; what it makes is tested in `tests/adapt`."""

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.core.errors import RecipeError


def test_data_alone_is_enough_and_arguments_reach_the_prune() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    dial = sc.dial(net, data=[torch.randn(64, 4)], levels=[0.7], scope=sc.only("0"))
    small = dial.export(0.7)
    assert small[0].out_features < 32
    assert small[2].out_features == 32
    assert any("least squares" in note for note in dial.stored[0].notes)


@pytest.mark.parametrize("wrong", ["budget", "schedule"])
def test_what_levels_replace_is_refused(wrong: str) -> None:
    with pytest.raises(RecipeError, match=wrong):
        sc.dial(nn.Linear(2, 2), torch.zeros(1, 2), **{wrong: None})
