"""Plans are remembered beside models."""

from __future__ import annotations

import copy
import gc

from torch import nn

from secateur.core import history
from secateur.core.plan import Plan


def test_a_model_has_its_own_history_and_no_residue() -> None:
    model = nn.Linear(1, 1)
    plan = Plan("f" * 64, {})
    assert history.plans_of(model) == ()
    history.remember(model, (plan,))
    assert history.plans_of(model) == (plan,)
    assert history.plans_of(copy.deepcopy(model)) == ()
    assert not any("plan" in key for key in model.__dict__)


def test_history_goes_with_the_model() -> None:
    before = len(history._history)
    model = nn.Linear(1, 1)
    history.remember(model, ())
    del model
    gc.collect()
    assert len(history._history) == before
