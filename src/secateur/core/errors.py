"""Errors: each says what was given, what is allowed, and what to try (`hint:`)."""

from __future__ import annotations


class SecateurError(Exception):
    """The parent of every error that Secateur raises on purpose.

    Example:
        >>> print(SecateurError("budget is 0 MACs", hint="the least that is reachable is 12 %"))
        budget is 0 MACs
        hint: the least that is reachable is 12 %
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message}\nhint: {hint}")


class RecipeError(SecateurError, ValueError):
    """An argument makes no sense, alone or with another one; nothing was computed."""


class InputError(SecateurError, ValueError):
    """The example, the data or the model cannot be used as given."""


class UnsupportedModel(SecateurError):
    """The model cannot be analysed at all (for example it raises on the example)."""


class InfeasibleBudget(SecateurError, ValueError):
    """No allocation reaches the budget; the message says what is reachable."""


class StalePlan(SecateurError):
    """The plan was made for another model than the one given."""


class VerificationError(SecateurError):
    """The cut model and the masked original disagree; the model was restored."""


class FileError(SecateurError, ValueError):
    """A file is missing, truncated, tampered with, or written by a newer version."""
