"""Optional libraries, imported when they are asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from secateur.core.errors import InputError


def library(module: str, package: str) -> Any:
    """A module of an optional package.

    Raises:
        InputError: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"{package} is not installed", hint=f"pip install {package}") from error
