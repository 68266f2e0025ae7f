"""The registry: names in, callables out, loud on everything else."""

from __future__ import annotations

import pytest

from secateur.core.errors import RecipeError
from secateur.core.registry import Registry, did_you_mean


@pytest.fixture
def shapes() -> Registry:
    made: Registry = Registry("shape")

    @made.add("square", "quadrat")
    def square(x: float) -> float:
        """Square."""
        return x * x

    return made


def test_a_name_gives_the_callable_and_a_callable_passes_through(shapes: Registry) -> None:
    assert shapes.get("square")(3) == shapes.get("quadrat")(3) == 9
    assert shapes.get(abs) is abs
    assert list(shapes) == ["quadrat", "square"]
    assert "square" in shapes and "cube" not in shapes and len(shapes) == 2


def test_a_miss_says_what_is_close(shapes: Registry) -> None:
    with pytest.raises(RecipeError, match=r"no shape called 'sqare'\nhint: did you mean square"):
        shapes.get("sqare")


def test_a_duplicate_is_refused_and_changes_nothing(shapes: Registry) -> None:
    before = shapes.get("square")
    with pytest.raises(RecipeError, match="already a shape called 'square'"):
        shapes.add("cube", "square")(abs)
    assert shapes.get("square") is before
    assert "cube" not in shapes


@pytest.mark.parametrize("names", [(), ("",), (3,)])
def test_names_are_non_empty_strings(shapes: Registry, names: tuple) -> None:
    with pytest.raises(RecipeError):
        shapes.add(*names)


def test_what_is_neither_name_nor_callable_is_refused(shapes: Registry) -> None:
    with pytest.raises(RecipeError, match="a name or a callable, not 3"):
        shapes.get(3)


def test_suggestions_prefer_the_full_path_of_a_nested_name() -> None:
    known = ["layer1.0.conv2", "layer1.1.conv2", "conv1"]
    assert did_you_mean("conv2", known) == "did you mean layer1.0.conv2 or layer1.1.conv2?"
    assert did_you_mean("x", []) is None
    assert "20 in all" in str(did_you_mean("zzz", [f"name{i}" for i in range(20)]))
