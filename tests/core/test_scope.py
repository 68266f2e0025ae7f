"""Scopes: names, globs, types, callables, and their combinations."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.core.errors import RecipeError
from secateur.core.scope import Scope, only, skip


class Net(nn.Module):
    """A stem, two blocks and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        self.layer10 = nn.Sequential(nn.Linear(4, 4))
        self.fc = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.fc.weight
        self.scale = nn.Parameter(self.fc.bias.detach().clone())


NET = Net()
EVERYTHING = Scope().select(NET)
TENSORS = frozenset(n for n, _ in NET.named_parameters(remove_duplicate=False))


def tensors(scope: Any) -> set[str]:
    return set(Scope.of(scope).select(NET) & TENSORS)


def test_none_is_everything() -> None:
    assert tensors(None) == TENSORS
    assert "tied.weight" in TENSORS
    assert {"", "layer1", "layer1.1.running_mean"} <= EVERYTHING


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("layer1", {"layer1.0.weight", "layer1.0.bias", "layer1.1.weight", "layer1.1.bias"}),
        ("fc.weight", {"fc.weight"}),
        ("layer1.*", {"layer1.0.weight", "layer1.0.bias", "layer1.1.weight", "layer1.1.bias"}),
        ("layer?.0", {"layer1.0.weight", "layer1.0.bias"}),
        ("*.bias", {"stem.bias", "layer1.0.bias", "layer1.1.bias", "layer10.0.bias", "fc.bias"}),
        ("scale", {"scale"}),
        (nn.Linear, {"layer10.0.weight", "layer10.0.bias", "fc.weight", "fc.bias", "tied.weight"}),
        (nn.BatchNorm2d, {"layer1.1.weight", "layer1.1.bias"}),
        (Net, {"scale"}),
        (lambda name, module: name.startswith("layer1."), {
            "layer1.0.weight", "layer1.0.bias", "layer1.1.weight", "layer1.1.bias"}),
        (lambda name, module: isinstance(module, nn.Conv2d), {
            "stem.weight", "stem.bias", "layer1.0.weight", "layer1.0.bias"}),
        (["stem", nn.BatchNorm2d], {
            "stem.weight", "stem.bias", "layer1.1.weight", "layer1.1.bias"}),
    ],
)  # fmt: skip
def test_a_rule_selects(rule: Any, expected: set[str]) -> None:
    assert tensors(rule) == expected
    assert tensors(only(rule)) == expected
    assert tensors(skip(rule)) == TENSORS - expected


def test_a_type_of_the_model_itself_counts_when_it_is_all_there_is() -> None:
    assert only(nn.Linear).select(nn.Linear(2, 2)) == {"", "weight", "bias"}


def test_the_empty_name_is_the_model() -> None:
    assert tensors("") == TENSORS


RULES = st.sampled_from(["stem", "layer1", "*.bias", "fc", nn.Linear, nn.BatchNorm2d])
SCOPES = st.recursive(
    RULES.map(only) | st.just(Scope()),
    lambda inner: (
        st.tuples(inner, inner).map(lambda p: p[0] & p[1])
        | st.tuples(inner, inner).map(lambda p: p[0] | p[1])
        | inner.map(lambda s: ~s)
    ),
    max_leaves=5,
)


@settings(deadline=None)
@given(SCOPES, SCOPES)
def test_scopes_are_a_boolean_algebra(left: Scope, right: Scope) -> None:
    assert (left & right).select(NET) == left.select(NET) & right.select(NET)
    assert (left | right).select(NET) == left.select(NET) | right.select(NET)
    assert (~left).select(NET) == EVERYTHING - left.select(NET)
    assert (~(left & right)).select(NET) == (~left | ~right).select(NET)


@settings(deadline=None)
@given(SCOPES)
def test_repr_round_trip(scope: Scope) -> None:
    names = {"only": only, "Scope": Scope, "Linear": nn.Linear, "BatchNorm2d": nn.BatchNorm2d}
    assert eval(repr(scope), names).select(NET) == scope.select(NET)


def test_plain_rules_combine_with_scopes() -> None:
    assert tensors("fc" | only("stem")) == tensors(["fc", "stem"])
    assert tensors(skip("fc") & [nn.Linear]) == {
        "layer10.0.weight", "layer10.0.bias", "tied.weight"}  # fmt: skip
    assert tensors([skip("fc"), "fc.bias"]) == TENSORS - {"fc.weight"}


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ("layer2", "did you mean layer1 or layer10"),
        ("0.weight", "did you mean layer1.0.weight or layer10.0.weight"),
        ("layer7.*", "layer1"),
    ],
)
def test_a_name_that_matches_nothing_is_an_error_with_a_suggestion(rule: str, hint: str) -> None:
    for scope in (only(rule), skip(rule), only("fc", rule), only("fc") | rule):
        with pytest.raises(RecipeError, match=r"nothing in the model is called") as caught:
            scope.select(NET)
        assert hint in str(caught.value)


@pytest.mark.parametrize("given", [3, [], (), object(), [3], int, NET, 0.5])
def test_what_cannot_select_is_refused_at_once(given: Any) -> None:
    with pytest.raises(RecipeError):
        Scope.of(given)


def test_no_rule_is_refused() -> None:
    with pytest.raises(RecipeError, match="no rule"):
        only()
