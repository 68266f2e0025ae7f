"""Which model: `timm:NAME`, `torchvision:NAME`, `path/file.py:build` or `package.module:build`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from secateur.core.errors import InputError
from secateur.core.registry import did_you_mean

FORMS = "timm:NAME, torchvision:NAME, path/file.py:build or package.module:build"


def build(spec: str) -> nn.Module:
    """The model that a spec names, with the weights that its constructor gives it.

    Libraries' models get random weights from a fixed seed; the random state stays as it was.

    Raises:
        InputError: The spec has another form, something is missing, or the code raised.
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name:
        raise InputError(f"{spec!r} does not name a model", hint=f"write {FORMS}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if where in _LIBRARIES:
            return _LIBRARIES[where](name)
        module = from_file(Path(where)) if where.endswith(".py") else _imported(where)
        found = attribute(module, name, spec)
        model = found if isinstance(found, nn.Module) else _guarded(found, f"calling {name}")
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{spec} gives a {type(model).__name__}, not a model",
            hint="name an nn.Module, or a function or class that gives one without arguments",
        )
    return model


def library(spec: str) -> str | None:
    """The library that a spec names, or None for a user's own code."""
    where = spec.rpartition(":")[0]
    return where if where in _LIBRARIES else None


def _timm(name: str) -> nn.Module:
    timm = _imported("timm", "pip install timm")
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}", hint=did_you_mean(name, timm.list_models()))
    return timm.create_model(name, pretrained=False)


def _torchvision(name: str) -> nn.Module:
    models = _imported("torchvision.models", "pip install torchvision")
    if name not in models.list_models():
        hint = did_you_mean(name, models.list_models())
        raise InputError(f"torchvision has no model {name!r}", hint=hint)
    return models.get_model(name, weights=None)


_LIBRARIES: dict[str, Callable[[str], nn.Module]] = {"timm": _timm, "torchvision": _torchvision}


def _imported(name: str, install: str | None = None) -> Any:
    """Import by name, the working directory first, as Python does for scripts."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise InputError(f"importing {name} failed: {error}{_line(error)}") from error
        hint = install or f"the form is {FORMS}"
        raise InputError(f"there is no module {name}", hint=hint) from None
    except Exception as error:
        raise InputError(f"importing {name} failed: {said(error)}") from error


def from_file(path: Path) -> ModuleType:
    """Run a user's Python file as a module, its folder on the path."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    loader = spec.loader
    _guarded(lambda: loader.exec_module(module), f"running {path.name}")
    return module


def attribute(module: ModuleType, name: str, spec: str) -> Any:
    """What a dotted name stands for in a module; spec: as it was typed, for the message."""
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = [n for n in vars(module) if not n.startswith("_")]
            raise InputError(f"{spec}: there is no {name}", hint=did_you_mean(name, names))
        found = getattr(found, part)
    return found


def _guarded(function: Any, doing: str) -> Any:
    """Call a user's code; what it raises becomes one message with the line."""
    if not callable(function):
        raise InputError(f"{doing}: it is a {type(function).__name__}, not a function or class")
    try:
        return function()
    except Exception as error:
        raise InputError(f"{doing} failed: {said(error)}") from error


def said(error: BaseException) -> str:
    """An error of a user's code in one line, with the line that raised it."""
    return f"{type(error).__name__}: {error}{_line(error)}"


def _line(error: BaseException) -> str:
    """The last line of the user's code in a traceback."""
    own = str(Path(__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((own, "<"))
    ]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
