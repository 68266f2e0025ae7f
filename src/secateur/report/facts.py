"""What a report shows, as a record that is kept beside the model (`report.json`, closed schema)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

from secateur.core.attempt import Attempt
from secateur.core.chart import Mark
from secateur.core.errors import FileError, InputError
from secateur.core.frontier import Frontier
from secateur.core.measured import Frozen
from secateur.core.page import Line, Table
from secateur.core.panel import Panel, Shown
from secateur.core.result import Result
from secateur.report import panels

KIND = "secateur-report"
SCHEMA = 1
MOST = 64 * 2**20
"""Characters of a report that are read at most."""
_HINT = "the file was changed or damaged; save the result again"


@dataclass(frozen=True)
class Part:
    """One module that has parameters of its own, and how many of them are left and not zero.

    work: its multiply-accumulates before, and those that are left; zeros where nobody counted.
    """

    name: str
    kind: str
    before: int
    after: int
    work: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Facts:
    """A result without its model.

    verdict: before and after, row by row. lines: what was measured, removed and proven. parts: in
    the order of the model. command: what was typed, if it was. versions: of what made it. panels:
    what else there is to show, such as a frontier or a circuit.
    """

    title: str
    columns: tuple[str, ...]
    verdict: tuple[tuple[str, ...], ...]
    lines: tuple[Line, ...]
    parts: tuple[Part, ...]
    frozen: tuple[Frozen, ...]
    attempts: tuple[Attempt, ...]
    repairs: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]
    command: str
    versions: Mapping[str, str]
    panels: tuple[Panel, ...] = ()

    @classmethod
    def of(cls, result: Result, command: str = "", also: Iterable[Shown] = ()) -> Facts:
        """What there is to say of a result, and of what else was made of the model.

        Raises:
            InputError: Something in `also` has nothing to show.
        """
        (table,) = (item for item in result.verdict if isinstance(item, Table))
        return cls(
            title=result.name,
            columns=table.columns,
            verdict=table.rows,
            lines=tuple(item for item in result.verdict if isinstance(item, Line)),
            parts=parts(result),
            frozen=Frozen.group(result.frozen),
            attempts=result.attempts,
            repairs=result.repairs,
            notes=result.notes,
            seconds=dict(result.seconds),
            command=command,
            versions={name: _version(name) for name in ("secateur", "torch")},
            panels=tuple(_panel(item, result) for item in also),
        )

    def to_json(self) -> str:
        """The text of `report.json`."""
        value = {item.name: getattr(self, item.name) for item in fields(self)}
        value |= {
            name: [asdict(item) for item in value[name]] for name in ("lines", "parts", "frozen")
        }
        value["attempts"] = [attempt.to_dict() for attempt in self.attempts]
        value["panels"] = [panels.encode(panel) for panel in self.panels]
        return json.dumps({"kind": KIND, "schema": SCHEMA, **value}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """Read them back.

        Raises:
            FileError: The text is anything but what `to_json` gives.
        """
        value = _header(text)
        texts = ("title", "command")
        _require(all(isinstance(value[name], str) for name in texts), *texts)
        return cls(
            title=value["title"],
            columns=_texts(value["columns"], "columns"),
            verdict=tuple(_texts(row, "verdict") for row in _list(value["verdict"], "verdict")),
            lines=tuple(_line(item) for item in _list(value["lines"], "lines")),
            parts=tuple(_part(item) for item in _list(value["parts"], "parts")),
            frozen=tuple(_frozen(item) for item in _list(value["frozen"], "frozen")),
            attempts=tuple(map(Attempt.from_dict, _list(value["attempts"], "attempts"))),
            repairs=_texts(value["repairs"], "repairs"),
            notes=_texts(value["notes"], "notes"),
            seconds=_dict(value["seconds"], float, "seconds"),
            command=value["command"],
            versions=_dict(value["versions"], str, "versions"),
            panels=tuple(map(panels.decode, _list(value["panels"], "panels"))),
        )


def parts(result: Result) -> tuple[Part, ...]:
    """Parameters before and after, by module; a tensor that is used twice counts once.

    Sizes before come from the plans: what the first one that cuts a tensor says of it. Work shrinks
    as the weights do that it is done with. Blocks that were removed come last and together: what
    they had is what the other modules had not.
    """
    before: dict[str, int] = {}
    for plan in result.plans:
        for name, layouts in plan.layouts.items():
            before.setdefault(name, math.prod(layout.size for layout in layouts))
    owners: dict[str, tuple[str, dict[str, list[int]]]] = {}
    worked: dict[str, list[int]] = {}
    for module_name, module in result.model.named_modules():
        kind = type(module).__name__
        owners.update({module_name: (kind, {})} if module._parameters else {})
    for name, parameter in result.model.named_parameters():
        mask = result.masks.get(name)
        left = parameter.numel() if mask is None else int(mask.sum())
        owner = name.rpartition(".")[0]
        if owner in owners:  # else a parametrisation made the tensor
            owners[owner][1][name] = [before.get(name, parameter.numel()), left]
            if parameter.dim() > 1:
                weights = worked.setdefault(owner, [0, 0])
                weights[0] += owners[owner][1][name][0]
                weights[1] += left
    counted = result.work if len(result.plans) == result.cycles else {}  # of the first network
    found = []
    for name, (kind, sizes) in owners.items():
        if sizes:
            old, new = (sum(pair[k] for pair in sizes.values()) for k in (0, 1))
            whole, left = worked.get(name, (old, new))
            macs = counted.get(name, 0)
            work = (macs, round(macs * left / max(1, whole)))
            found.append(Part(name, kind, old, new, work))
    removed = [name for plan in result.plans for name in plan.removed]
    if removed:
        total = result.plans[0].predicted.get("params", (0, 0))[0]
        rest = max(0, total - sum(part.before for part in found))
        inside = tuple(f"{name}." for name in removed)
        macs = sum(n for name, n in counted.items() if f"{name}.".startswith(inside))
        found.append(Part(", ".join(removed), "removed", rest, 0, (macs, 0)))
    return tuple(found)


def _panel(item: Any, result: Result) -> Panel:
    """What something shows; in the curve of a frontier the result is a point."""
    if not isinstance(item, Shown):
        raise InputError(
            f"a report cannot show a {type(item).__name__}",
            hint="give a frontier, a sensitivity, a ranking, a circuit, features or a session",
        )
    panel = item.panel
    if isinstance(item, Frontier) and panel.chart is not None:
        after, quality = result.after, result.after.quality
        timed = None if after.latency is None else after.latency.median_ms
        cost: float | None = timed if item.cost == "latency" else getattr(after, item.cost)
        if cost is not None and quality is not None:
            chosen = Mark(cost, quality, "chosen", label="this network", joined=False)
            panel = replace(panel, chart=replace(panel.chart, marks=(*panel.chart.marks, chosen)))
    return panel


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from its source
        return "unknown"


def _header(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise FileError(f"it is not JSON: {error}", hint=_HINT) from None
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise FileError(f'"kind" is not "{KIND}"', hint="give a folder that sc.save wrote")
    schema = value.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise FileError(
            f"written by a newer Secateur (schema {schema}; this one reads {SCHEMA})",
            hint="pip install --upgrade secateur",
        )
    wanted = {"kind", "schema", *(item.name for item in fields(Facts))}
    _require(type(schema) is int and schema == SCHEMA and value.keys() == wanted, "fields")
    return value


def _line(value: Any) -> Line:
    _require(
        isinstance(value, dict)
        and value.keys() == {"text", "tone", "title"}
        and isinstance(value["text"], str)
        and value["tone"] in panels.TONES
        and isinstance(value["title"], bool),
        "lines",
    )
    return Line(**value)


def _part(value: Any) -> Part:
    _require(
        isinstance(value, dict)
        and value.keys() == {"name", "kind", "before", "after", "work"}
        and all(isinstance(value[name], str) for name in ("name", "kind"))
        and isinstance(value["work"], list)
        and len(value["work"]) == 2
        and all(
            type(n) is int and n >= 0 for n in (value["before"], value["after"], *value["work"])
        ),
        "parts",
    )
    old, new = value["work"]
    return Part(value["name"], value["kind"], value["before"], value["after"], (old, new))


def _frozen(value: Any) -> Frozen:
    _require(
        isinstance(value, dict)
        and value.keys() == {"text", "count", "where"}
        and isinstance(value["text"], str)
        and type(value["count"]) is int,
        "frozen",
    )
    return Frozen(value["text"], value["count"], _texts(value["where"], "frozen"))


def _list(value: Any, name: str) -> list[Any]:
    _require(isinstance(value, list), name)
    return value


def _texts(value: Any, name: str) -> tuple[str, ...]:
    _require(isinstance(value, list) and all(isinstance(item, str) for item in value), name)
    return tuple(value)


def _dict(value: Any, kind: type, name: str) -> dict[str, Any]:
    kinds = (int, float) if kind is float else kind
    _require(
        isinstance(value, dict)
        and all(isinstance(v, kinds) and not isinstance(v, bool) for v in value.values()),
        name,
    )
    return value


def _require(fine: bool, *names: str) -> None:
    if not fine:
        raise FileError(f"a report with impossible {' or '.join(names)}", hint=_HINT)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
