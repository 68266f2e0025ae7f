"""Errors: one parent, and the hint on a line of its own."""

from __future__ import annotations

import inspect
import pickle

import pytest

from secateur.core import errors

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.SecateurError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_a_message_and_a_hint(kind: type[errors.SecateurError]) -> None:
    error = kind("what happened", hint="what to try")
    assert str(error) == "what happened\nhint: what to try"
    assert (error.message, error.hint) == ("what happened", "what to try")
    assert str(kind("what happened")) == "what happened"


def test_wrong_values_are_value_errors() -> None:
    for kind in (errors.RecipeError, errors.InputError, errors.FileError, errors.InfeasibleBudget):
        assert issubclass(kind, ValueError)


def test_errors_cross_processes() -> None:
    error = pickle.loads(pickle.dumps(errors.FileError("broken", hint="again")))
    assert isinstance(error, errors.FileError)
    assert error.message.startswith("broken")
