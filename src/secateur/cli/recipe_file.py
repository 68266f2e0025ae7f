"""The YAML of a sweep: a closed schema of plain values; nothing in it is ever run as code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from secateur.cli.units import units
from secateur.core.budget import parse_budget
from secateur.core.errors import FileError, RecipeError
from secateur.core.registry import did_you_mean
from secateur.core.schedule import Steps
from secateur.core.sweep import check_objectives
from secateur.recover import (
    Compensate,
    Distill,
    Finetune,
    Fold,
    LowRank,
    Recalibrate,
    Reconstruct,
    Recover,
)

REPAIRS: dict[str, Callable[..., Recover]] = {
    "reconstruct": Reconstruct, "recalibrate": Recalibrate, "fold": Fold,
    "compensate": Compensate, "finetune": Finetune, "distill": Distill, "lowrank": LowRank,
}  # fmt: skip
_IN_CODE = ("loss", "optimizer", "validation", "on_event", "fit", "teacher")
"""Settings of trainings that only Python can say."""
_PRUNE = (
    "unit", "criterion", "allocate", "budget", "recover", "multiple", "samples", "schedule",
    "scope", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class SweepFile:
    """What a recipe says.

    model, weights, input, dtype, high, data, metric, mean, std, batch, samples: as the options of
    `secateur prune`. samples: of the part that is learned from; the other one judges. prune:
    arguments of the prune, of which some are spaces. objectives: what is minimised ("params",
    "macs", "bytes", "latency") and "quality". trials, study, storage, sampler, seed: see
    `search.sweep.Plan`.
    """

    model: str
    input: str | list[str]
    prune: dict[str, Any]
    weights: str | None = None
    data: str | None = None
    metric: str = "auto"
    dtype: str = "float32"
    high: int = 2
    mean: str = ""
    std: str = ""
    batch: int = 64
    samples: int = 512
    objectives: list[str] = field(default_factory=lambda: ["macs", "quality"])
    trials: int = 20
    study: str | None = None
    storage: str | None = None
    sampler: str = "tpe"
    seed: int = 0

    @property
    def inputs(self) -> list[str]:
        """The inputs as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


def read(path: Path) -> SweepFile:
    """Read a recipe.

    Raises:
        FileError: It is missing, or no YAML.
        RecipeError: PyYAML is not installed, or a key or a value is not one of the schema.
    """
    if find_spec("yaml") is None:
        raise RecipeError(
            "recipes need PyYAML, which is not installed", hint="pip install 'secateur[sweep]'"
        )
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"there is no file {path}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{path.name} holds a {type(value).__name__}, not a mapping of settings")
    known = {item.name: item for item in fields(SweepFile)}
    _closed(value, known, path.name)
    for name in ("model", "input", "prune"):
        if name not in value:
            raise RecipeError(
                f"{path.name} has no {name!r}", hint="model, input and prune are needed"
            )
    for name, given in value.items():
        if not _fits(given, str(known[name].type)):
            raise RecipeError(f"{path.name}: {name}: {given!r}: expected {known[name].type}")
    _closed(value["prune"], _PRUNE, f"{path.name}: prune")
    found = SweepFile(**value)
    check_objectives(found.objectives)
    if "quality" in found.objectives and found.data is None:
        raise RecipeError(
            f"{path.name}: there is an objective 'quality' and no data to measure it on",
            hint="add data:, or leave quality out of objectives:",
        )
    return found


def arguments(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `sc.prune` that a concrete `prune:` says.

    Example:
        >>> found = arguments({"budget": {"macs": 0.5}, "recover": ["recalibrate"], "schedule": 3})
        >>> found["budget"], found["recover"], found["schedule"].parts
        (MACs('50%'), [Recalibrate()], 3)

    Raises:
        RecipeError: Something is not known, or makes no sense.
    """
    _closed(tree, _PRUNE, "prune")
    found: dict[str, Any] = {
        key: tree[key]
        for key in ("criterion", "allocate", "samples", "scope", "seed")
        if tree.get(key) is not None
    }
    if tree.get("unit") is not None or "multiple" in tree:
        found["unit"] = units(tree.get("unit") or "channel,head", tree.get("multiple", 1))
    if tree.get("budget") is not None:
        found["budget"] = parse_budget(_budget(tree["budget"]))
    if "recover" in tree:
        found["recover"] = _repairs(tree["recover"])
    if tree.get("schedule") is not None:
        found["schedule"] = Steps(tree["schedule"])
    return found


def _closed(value: Any, known: Any, where: str) -> None:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where} is a {type(value).__name__}, not a mapping")
    for key in value:
        if key not in known:
            raise RecipeError(f"{where} has no setting {key!r}", hint=did_you_mean(str(key), known))


def _fits(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return False
    words = {"str": str, "int": int, "None": type(None), "dict[str, Any]": dict}
    for part in kind.split(" | "):
        if part == "list[str]":
            if isinstance(value, list) and all(isinstance(item, str) for item in value):
                return True
        elif isinstance(value, words[part]):
            return True
    return False


def _budget(given: Any) -> str:
    """A line as `parse_budget` takes it; numbers up to 1 are shares of a cost."""
    if isinstance(given, str):
        return given
    if not isinstance(given, Mapping) or not given:
        raise RecipeError(
            f"budget: {given!r}: expected kinds and values", hint="for example {macs: 0.5}"
        )
    parts = []
    for kind, value in given.items():
        shares = kind in ("macs", "params", "bytes", "latency", "memory")
        if shares and isinstance(value, (int, float)) and value <= 1:
            value = f"{100 * value:.6f}".rstrip("0").rstrip(".") + "%"
        parts.append(f"{kind} {value}")
    return " & ".join(parts)


def _repairs(given: Any) -> list[Recover]:
    if given is None or given == "none":
        return []
    items = given.split(",") if isinstance(given, str) else given
    if not isinstance(items, list):
        raise RecipeError(
            f"recover: {given!r}: expected a list of repairs",
            hint="for example [reconstruct, {distill: {epochs: 2}}]",
        )
    return [_repair(item) for item in items]


def _repair(item: Any) -> Recover:
    if isinstance(item, str):
        item = {item.strip().lower(): {}}
    if not isinstance(item, Mapping) or len(item) != 1:
        raise RecipeError(
            f"recover: {json.dumps(item, default=str)}: expected a name, or one name with settings",
            hint="for example {distill: {epochs: 2}}",
        )
    ((name, settings),) = item.items()
    if name not in REPAIRS:
        raise RecipeError(f"there is no repair {name!r}", hint=did_you_mean(str(name), REPAIRS))
    kind: Any = REPAIRS[name]
    known = [item.name for item in fields(kind) if item.name not in _IN_CODE]
    _closed(settings or {}, known, f"recover: {name}")
    values = dict(settings or {})
    if "train" in values:
        values["train"] = _repair(values["train"])
    return kind(**values)
