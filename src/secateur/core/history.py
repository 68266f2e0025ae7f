"""Which plans a model has been through, kept beside the models, not on them."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from secateur.core.plan import Plan

_history: WeakKeyDictionary[nn.Module, tuple[Plan, ...]] = WeakKeyDictionary()


def plans_of(model: nn.Module) -> tuple[Plan, ...]:
    """The plans applied to this model object so far, first to last."""
    return _history.get(model, ())


def remember(model: nn.Module, plans: tuple[Plan, ...]) -> None:
    """Set the history of a model."""
    _history[model] = plans
