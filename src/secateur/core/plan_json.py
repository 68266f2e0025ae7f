"""Plans as JSON: a versioned, closed schema, read as if every file were hostile.

Kept indices are written as ranges ("0-15,20,22-31"). A layout is an int, a leaf's name,
`{"product": [...]}` or `{"concat": [...]}`; a leaf's size comes from its site, or from the table
"leaves" when no site cuts it. Anything that is not exactly a valid plan raises `FileError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from secateur.core.errors import FileError
from secateur.core.layout import Concat, Fixed, Index, Layout, Leaf, Product

if TYPE_CHECKING:
    from secateur.core.plan import Attribute, Choice, Plan, Reason

KIND = "secateur-plan"
SCHEMA = 1
MAX_TEXT = 64 * 2**20
"""Characters of a plan file that are read at most."""
MAX_INDICES = 2**24
"""Indices that all the sites of one plan have together at most."""
MAX_SIZE = 2**31 - 1
"""The longest dimension."""
MAX_DEPTH = 16
"""Levels of products and concatenations inside each other."""
_MAX_AMOUNT = 2**63 - 1
_FIELDS = frozenset({"kind", "schema", "fingerprint", "sites", "leaves", "layouts"}) | frozenset(
    {"attributes", "removed", "tuples", "predicted", "frozen"}
)
_RANGES = re.compile(r"[0-9]{1,10}(?:-[0-9]{1,10})?(?:,[0-9]{1,10}(?:-[0-9]{1,10})?)*")
_HINT = "the file was changed or damaged; save the result again"


def encode(plan: Plan) -> dict[str, Any]:
    """The plan as plain dictionaries, lists, strings and integers, ready for `json.dumps`.

    Raises:
        ValueError: the plan contradicts itself (one leaf has two sizes).
    """
    leaves: dict[str, int] = {}
    layouts = [layout for dims in plan.layouts.values() for layout in dims]
    for layout in [*layouts, *(attribute.layout for attribute in plan.attributes)]:
        for leaf in layout.leaves():
            site = plan.sites.get(leaf.name)
            known = leaves.setdefault(leaf.name, leaf.n) if site is None else site.n
            if known != leaf.n:
                raise ValueError(f"{leaf.name} has {known} indices and also {leaf.n}")
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "fingerprint": plan.fingerprint,
        "sites": {
            name: {
                "n": choice.n,
                "keep": encode_indices(choice.keep),
                "unit": choice.unit,
                "what": choice.what,
            }
            for name, choice in plan.sites.items()
        },
        "leaves": leaves,
        "layouts": {
            name: [layout.to_json() for layout in dims] for name, dims in plan.layouts.items()
        },
        "attributes": [
            {"module": a.module, "path": a.path, "value": a.value, "layout": a.layout.to_json()}
            for a in plan.attributes
        ],
        "removed": list(plan.removed),
        "tuples": list(plan.tuples),
        "predicted": {name: list(pair) for name, pair in plan.predicted.items()},
        "frozen": [{"text": r.text, "op": r.op, "where": r.where} for r in plan.frozen],
    }


def decode(text: str) -> Plan:
    """Read one plan.

    Example:
        >>> decode('{"kind": "secateur-plan", "schema": 2}')
        Traceback (most recent call last):
        secateur.core.errors.FileError: the plan was written by a newer Secateur (schema 2; ...
        hint: pip install --upgrade secateur

    Raises:
        FileError: the text is anything but a valid plan of a schema known here.
    """
    return decode_value(parse(text))


def decode_value(value: object) -> Plan:
    """A plan from what `parse` gave; raises `FileError` as `decode` does."""
    from secateur.core.plan import Plan

    fields = _header(value)
    fingerprint = _text(fields["fingerprint"], "fingerprint")
    if not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
        _fail("fingerprint is not a SHA-256 in hexadecimal")
    sites = _sites(fields["sites"])
    sizes = _leaves(fields["leaves"], sites)
    layouts = {
        _text(name, "layouts"): tuple(
            _layout(part, sizes, 0) for part in _list(dims, f"layouts of {name!a}")
        )
        for name, dims in _dict(fields["layouts"], "layouts").items()
    }
    removed, tuples = _modules(fields, "removed"), _modules(fields, "tuples")
    if set(tuples) - set(removed):
        _fail("tuples names a module that is not removed")
    predicted = {
        name: _pair(pair, name) for name, pair in _dict(fields["predicted"], "predicted").items()
    }
    return Plan(
        fingerprint,
        sites,
        layouts,
        tuple(_attribute(item, sizes) for item in _list(fields["attributes"], "attributes")),
        removed,
        tuples,
        predicted,
        tuple(_reason(item) for item in _list(fields["frozen"], "frozen")),
    )


def parse(text: str) -> object:
    """Strict JSON without duplicate keys, non-finite numbers, huge texts or deep nesting."""
    if len(text) > MAX_TEXT:
        _fail(f"the plan has {len(text):,} characters; at most {MAX_TEXT:,} are read")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
    except FileError:
        raise
    except RecursionError:
        _fail("the plan nests too deeply")
    except ValueError as error:
        _fail(f"the plan is not JSON: {error}")


def encode_indices(keep: Index) -> str:
    """Ascending indices as ranges.

    Example:
        >>> encode_indices(np.array([0, 1, 2, 7, 9, 10]))
        '0-2,7,9-10'
    """
    if not len(keep):
        return ""
    runs = np.split(keep, np.flatnonzero(np.diff(keep) != 1) + 1)
    return ",".join(f"{r[0]}" if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def decode_indices(text: str, n: int, name: str) -> Index:
    """Indices from ranges; refuses what is unsorted, repeated, or not below `n`."""
    if text and not _RANGES.fullmatch(text):
        _fail(f"keep of {name!a} is not a list of ranges such as 0-15,20")
    runs: list[Index] = []
    last = -1
    for run in text.split(",") if text else ():
        first_text, _, end_text = run.partition("-")
        first, end = int(first_text), int(end_text or first_text)
        if first <= last or end < first or (end == first and end_text):
            _fail(f"keep of {name!a} is not ascending at {run}")
        if end >= n:
            _fail(f"keep of {name!a} has index {end}, but there are {n}")
        runs.append(np.arange(first, end + 1, dtype=np.int64))
        last = end
    return np.concatenate(runs) if runs else np.zeros(0, dtype=np.int64)


def _header(value: object) -> dict[str, Any]:
    fields = _dict(value, "the plan")
    if fields.get("kind") != KIND:
        _fail('this is not a plan: "kind" is not "secateur-plan"')
    schema = fields.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise FileError(
            f"the plan was written by a newer Secateur (schema {schema}; this one reads {SCHEMA})",
            hint="pip install --upgrade secateur",
        )
    if type(schema) is not int or schema != SCHEMA:
        _fail(f'"schema" must be {SCHEMA}')
    return _closed(fields, _FIELDS, "the plan")


def _sites(value: object) -> dict[str, Choice]:
    from secateur.core.plan import Choice

    entries = {
        name: _closed(site, {"n", "keep", "unit", "what"}, f"site {name!a}")
        for name, site in _dict(value, "sites").items()
    }
    sizes = {name: _int(e["n"], f"n of {name!a}", 1, MAX_INDICES) for name, e in entries.items()}
    if sum(sizes.values()) > MAX_INDICES:
        _fail(f"the sites have {sum(sizes.values()):,} indices; at most {MAX_INDICES:,} are read")
    return {
        name: Choice(
            sizes[name],
            decode_indices(_text(entry["keep"], f"keep of {name!a}"), sizes[name], name),
            _text(entry["unit"], f"unit of {name!a}"),
            _text(entry["what"], f"what of {name!a}"),
        )
        for name, entry in entries.items()
    }


def _leaves(value: object, sites: Mapping[str, Choice]) -> dict[str, int]:
    """The size of every leaf, those of the sites included."""
    sizes = {name: choice.n for name, choice in sites.items()}
    for name, n in _dict(value, "leaves").items():
        if name in sizes:
            _fail(f"{name!a} is a site and also a leaf")
        sizes[name] = _int(n, f"leaf {name!a}", 1, MAX_SIZE)
    return sizes


def _layout(value: object, sizes: Mapping[str, int], depth: int) -> Layout:
    if depth > MAX_DEPTH:
        _fail(f"a layout nests more than {MAX_DEPTH} levels")
    if isinstance(value, str):
        if value not in sizes:
            _fail(f"a layout names {value!a}, which is neither a site nor a leaf")
        return Leaf(value, sizes[value])
    if type(value) is int:
        return Fixed(_int(value, "a layout", 0, MAX_SIZE))
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"product", "concat"}:
        _fail("a layout is neither an int, a leaf, a product nor a concat")
    ((kind, inner),) = value.items()
    parts = tuple(_layout(part, sizes, depth + 1) for part in _list(inner, kind))
    if not parts:
        _fail(f"a {kind} has no parts")
    layout: Layout = Product(parts) if kind == "product" else Concat(parts)
    if layout.size > MAX_SIZE:
        _fail(f"a {kind} has {layout.size:,} indices; at most {MAX_SIZE:,} are read")
    return layout


def _attribute(value: object, sizes: Mapping[str, int]) -> Attribute:
    from secateur.core.plan import Attribute

    fields = _closed(value, {"module", "path", "value", "layout"}, "an attribute")
    path = _text(fields["path"], "path of an attribute")
    if any(not part or part.startswith("__") for part in path.split(".")):
        _fail(f"path {path!a} is not the path of an attribute")
    layout = _layout(fields["layout"], sizes, 0)
    if not layout.size:
        _fail(f"attribute {path!a} follows an axis of no size")
    amount = _int(fields["value"], f"attribute {path!a}", 0, MAX_SIZE)
    return Attribute(_text(fields["module"], "module of an attribute"), path, amount, layout)


def _reason(value: object) -> Reason:
    from secateur.core.plan import Reason

    fields = _closed(value, {"text", "op", "where"}, "a reason in frozen")
    return Reason(*(_text(fields[key], f"{key} in frozen") for key in ("text", "op", "where")))


def _modules(fields: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = tuple(_text(name, key) for name in _list(fields[key], key))
    if len(set(names)) != len(names):
        _fail(f"{key} names a module twice")
    return names


def _pair(value: object, name: str) -> tuple[int, int]:
    items = _list(value, f"predicted {name!a}")
    if len(items) != 2:
        _fail(f"predicted {name!a} is not [before, after]")
    before, after = (_int(item, f"predicted {name!a}", 0, _MAX_AMOUNT) for item in items)
    return before, after


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        _fail("the plan gives a key twice")
    return fields


def _constant(text: str) -> NoReturn:
    _fail(f"the plan has the number {text}")


def _closed(value: object, keys: set[str] | frozenset[str], what: str) -> dict[str, Any]:
    fields = _dict(value, what)
    if fields.keys() - keys:
        _fail(f"{what} has the unknown field {min(fields.keys() - keys)!a}")
    if keys - fields.keys():
        _fail(f"{what} lacks {min(keys - fields.keys())!a}")
    return fields


def _dict(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _fail(f"{what} must be an object, not {_kind(value)}")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        _fail(f"{what} must be a list, not {_kind(value)}")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        _fail(f"{what} must be a string, not {_kind(value)}")
    return value


def _int(value: object, what: str, low: int, high: int) -> int:
    if type(value) is not int:
        _fail(f"{what} must be an integer, not {_kind(value)}")
    if not low <= value <= high:
        _fail(f"{what} is {value:.6g}; it must be from {low} to {high:,}")
    return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _fail(message: str) -> NoReturn:
    raise FileError(message, hint=_HINT) from None
