"""Plans as JSON: exact round trips, and nothing but FileError on everything else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.core import plan_json
from secateur.core.errors import FileError
from secateur.core.layout import Concat, Fixed, Layout, Leaf, Product
from secateur.core.plan import Attribute, Choice, Plan, Reason

NAMES = st.text(min_size=1, max_size=8).filter(lambda s: s.isprintable())


def small_plan() -> Plan:
    """A plan that uses every field."""
    heads, dim, free = Leaf("heads", 4), Leaf("dim", 6), Leaf("free", 5)
    return Plan(
        "a1" * 32,
        {"heads": Choice(4, np.array([0, 2, 3]), "head", "heads"), "dim": Choice(6, np.arange(2))},
        {"q.weight": (Product((heads, dim)), Fixed(3)), "k.bias": (Concat((free, dim)),)},
        (Attribute("attn", "config.num_heads", 4, heads),),
        ("block.1",),
        ("block.1",),
        {"params": (100, 50)},
        (Reason("an output", "aten.add", "net.py:3"),),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    sizes = draw(st.dictionaries(NAMES, st.integers(1, 40), max_size=5))
    sites: dict[str, Choice] = {}
    for name, n in sizes.items():
        if draw(st.booleans()):
            keep = sorted(draw(st.sets(st.integers(0, n - 1))))
            sites[name] = Choice(n, np.array(keep, dtype=np.int64), draw(NAMES), draw(NAMES))
    flat: list[Layout] = [Fixed(3), Fixed(0), *(Leaf(name, n) for name, n in sizes.items())]
    layouts = st.recursive(
        st.sampled_from(flat),
        lambda inner: st.builds(
            lambda kind, parts: kind(tuple(parts)),
            st.sampled_from([Product, Concat]),
            st.lists(inner, min_size=1, max_size=3),
        ),
        max_leaves=5,
    )
    attributes = st.builds(Attribute, NAMES, st.just("a.0"), st.integers(0, 99), layouts).filter(
        lambda a: a.layout.size
    )
    removed = draw(st.lists(NAMES, unique=True, max_size=3))
    return Plan(
        draw(st.binary(min_size=32, max_size=32)).hex(),
        sites,
        draw(st.dictionaries(NAMES, st.lists(layouts, max_size=3).map(tuple), max_size=3)),
        tuple(draw(st.lists(attributes, max_size=2))),
        tuple(removed),
        tuple(removed[:1]),
        draw(st.dictionaries(NAMES, st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=2)),
        tuple(draw(st.lists(st.builds(Reason, NAMES, NAMES, NAMES), max_size=2))),
    )


@given(plans())
@settings(max_examples=200, deadline=None)
def test_round_trip(plan: Plan) -> None:
    assert plan_json.decode(plan.to_json()) == plan


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_indices_round_trip(case: tuple[int, set[int]]) -> None:
    n, chosen = case
    keep = np.array(sorted(chosen), dtype=np.int64)
    again = plan_json.decode_indices(plan_json.encode_indices(keep), n, "site")
    assert again.dtype == np.int64
    assert np.array_equal(again, keep)


def test_the_schema_is_the_documented_one() -> None:
    value = plan_json.encode(small_plan())
    assert value["kind"] == "secateur-plan"
    assert value["schema"] == 1
    assert value["sites"]["heads"] == {"n": 4, "keep": "0,2-3", "unit": "head", "what": "heads"}
    assert value["leaves"] == {"free": 5}
    assert value["layouts"]["k.bias"] == [{"concat": ["free", "dim"]}]


@pytest.mark.parametrize(
    "keep",
    [
        "5",
        "0-9",
        "1,0",
        "0,0",
        "0-2,2",
        "3-1",
        "1-1",
        "-1",
        "a",
        "0,",
        ",0",
        "0 1",
        "٣",
        "1e1",
        "0--1",
    ],
)
def test_wrong_indices(keep: str) -> None:
    with pytest.raises(FileError, match="keep of"):
        plan_json.decode_indices(keep, 5, "site")


def _set(path: str, new: Any) -> str:
    value = plan_json.encode(small_plan())
    *parents, key = path.split("/")
    target = value
    for parent in parents:
        target = target[int(parent)] if isinstance(target, list) else target[parent]
    target[int(key) if isinstance(target, list) else key] = new
    return json.dumps(value)


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        ("extra", 1, "unknown field 'extra'"),
        ("kind", "other", "not a plan"),
        ("schema", True, '"schema" must be 1'),
        ("schema", 0, '"schema" must be 1'),
        ("fingerprint", "ab", "SHA-256"),
        ("fingerprint", 7, "must be a string, not int"),
        ("sites", [], "sites must be an object, not list"),
        ("sites/dim/n", 0, "must be from 1"),
        ("sites/dim/n", 1, "has index 1, but there are 1"),
        ("sites/dim/n", 2**40, "must be from 1"),
        ("sites/dim/n", 6.0, "must be an integer, not float"),
        ("sites/dim/n", True, "must be an integer, not bool"),
        ("sites/dim/keep", [0, 1], "must be a string, not list"),
        ("sites/dim/more", 1, "unknown field 'more'"),
        ("leaves/dim", 6, "a site and also a leaf"),
        ("leaves/free", 2**40, "must be from 1"),
        ("layouts/q.weight/1", "nobody", "neither a site nor a leaf"),
        ("layouts/q.weight/1", -1, "must be from 0"),
        ("layouts/q.weight/1", None, "a layout is neither"),
        ("layouts/q.weight/1", {"product": []}, "has no parts"),
        ("layouts/q.weight/1", {"sum": [1]}, "a layout is neither"),
        ("layouts/q.weight/1", {"product": [2**31 - 1, 2**31 - 1]}, "at most"),
        ("layouts/q.weight", 3, "must be a list, not int"),
        ("attributes/0/layout", 0, "of no size"),
        ("attributes/0/path", "__class__", "not the path of an attribute"),
        ("attributes/0/path", "a..b", "not the path of an attribute"),
        ("removed", ["a", "a"], "twice"),
        ("tuples", ["other"], "not removed"),
        ("predicted/params", [1], "not \\[before, after\\]"),
        ("predicted/params", [1, -1], "must be from 0"),
        ("frozen/0", "text", "must be an object, not str"),
    ],
)
def test_wrong_fields(path: str, new: Any, message: str) -> None:
    with pytest.raises(FileError, match=message) as caught:
        plan_json.decode(_set(path, new))
    assert caught.value.hint


def test_missing_field() -> None:
    value = plan_json.encode(small_plan())
    del value["removed"]
    with pytest.raises(FileError, match="lacks 'removed'"):
        plan_json.decode(json.dumps(value))


def test_a_newer_schema_says_so() -> None:
    with pytest.raises(FileError, match="newer Secateur") as caught:
        plan_json.decode(_set("schema", 2))
    assert "upgrade" in str(caught.value.hint)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "NaN",
        "1e999",
        "[" * 200_000,
        "9" * 10_000,
        '{"a": 1, "a": 1}',
        '{"kind": NaN}',
        '"\\ud800"',
    ],
)
def test_not_a_plan_at_all(text: str) -> None:
    with pytest.raises(FileError):
        plan_json.decode(text)


def test_deep_layouts_are_refused() -> None:
    layout: Any = 1
    for _ in range(plan_json.MAX_DEPTH + 1):
        layout = {"concat": [layout]}
    with pytest.raises(FileError, match="nests"):
        plan_json.decode(_set("layouts/q.weight/0", layout))


def test_many_large_sites_are_refused_before_they_are_allocated() -> None:
    value = plan_json.encode(small_plan())
    n = plan_json.MAX_INDICES
    one = {"n": n, "keep": f"0-{n - 1}", "unit": "channel", "what": "channels"}
    value["sites"] = {str(i): one for i in range(1000)}
    with pytest.raises(FileError, match="at most"):
        plan_json.decode(json.dumps(value))


def test_huge_texts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_json, "MAX_TEXT", 100)
    with pytest.raises(FileError, match="at most 100"):
        plan_json.decode(small_plan().to_json())


def test_a_contradictory_plan_is_not_written() -> None:
    plan = Plan("f" * 64, {}, {"w": (Leaf("a", 3), Leaf("a", 4))})
    with pytest.raises(ValueError, match="3 indices and also 4"):
        plan.to_json()


TEXT = small_plan().to_json()


@given(st.data())
@settings(max_examples=600, deadline=None)
def test_mutated_text_never_raises_anything_else(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(TEXT)))
    end = data.draw(st.integers(start, min(len(TEXT), start + 20)))
    insert = data.draw(st.text(max_size=6) | st.sampled_from(list('{}[]",:-0123456789')))
    try:
        plan = plan_json.decode(TEXT[:start] + insert + TEXT[end:])
    except FileError:
        return
    assert plan_json.decode(plan.to_json()) == plan


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["", "dim", "0-3", "product", "q.weight", "f" * 64]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["product", "concat", "n", "keep", "dim"]), inner)
    ),
    max_leaves=4,
)
PATHS = [
    "kind",
    "schema",
    "fingerprint",
    "sites",
    "sites/dim",
    "sites/dim/n",
    "sites/dim/keep",
    "leaves",
    "leaves/free",
    "layouts",
    "layouts/q.weight",
    "layouts/q.weight/0",
    "layouts/q.weight/0/product",
    "layouts/k.bias/0/concat/0",
    "attributes",
    "attributes/0/value",
    "attributes/0/layout",
    "removed",
    "tuples",
    "predicted/params",
    "predicted/params/0",
    "frozen/0/where",
]


@given(st.sampled_from(PATHS), VALUES)
@settings(max_examples=600, deadline=None)
def test_mutated_values_never_raise_anything_else(path: str, new: Any) -> None:
    try:
        plan = plan_json.decode(_set(path, new))
    except FileError:
        return
    assert plan_json.decode(plan.to_json()) == plan
