"""Recipes of sweeps: what they may say, and how a mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import secateur as sc
from secateur.cli.recipe_file import REPAIRS, arguments, read
from secateur.core.errors import FileError, RecipeError, SecateurError
from secateur.search.sweep import spaces

GOOD = """
model: secateur.demo.net:DigitNet
input: "2,1,8,8"
data: digits.npz
objectives: [latency, quality]
prune:
  budget: {macs: {low: 0.2, high: 0.8}}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_reading(tmp_path: Path) -> None:
    found = read(written(tmp_path, GOOD))
    assert found.inputs == ["2,1,8,8"] and found.objectives == ["latency", "quality"]
    assert found.prune == {"budget": {"macs": {"low": 0.2, "high": 0.8}}} and found.samples == 512


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- 1", "holds a list"),
        ("model: a:b", "has no 'input'"),
        (GOOD + "modle: x", "did you mean model"),
        (GOOD + "samples: many", "samples: 'many': expected int"),
        (GOOD + "trials: true", "expected int"),
        (GOOD.replace("budget", "budgets"), "did you mean budget"),
        (GOOD.replace("latency,", "latancy,"), "did you mean latency"),
        (GOOD.replace("data: digits.npz", ""), "no data to measure it on"),
        (GOOD + "weights: !!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SecateurError, match=message):
        read(written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no file"):
        read(tmp_path / "none.yaml")


def test_arguments() -> None:
    found = arguments(
        {
            "unit": "channel",
            "multiple": 8,
            "criterion": "l1",
            "allocate": "uniform",
            "budget": {"macs": 0.255, "params": 10000, "drop": 1},
            "samples": 128,
            "schedule": 4,
            "scope": ["layer*"],
            "seed": 3,
            "recover": [
                "reconstruct",
                {"distill": {"epochs": 2, "temperature": 2.0}},
                {"lowrank": {"rank": 4, "train": {"finetune": {"steps": 9}}}},
            ],
        }
    )
    assert found["unit"] == [sc.Channel(multiple=8)] and found["schedule"] == sc.Steps(4)
    assert found["budget"] == sc.MACs("25.5%") & sc.Params(10000) & sc.Drop(1)
    assert found["recover"] == [
        sc.Reconstruct(), sc.Distill(epochs=2, temperature=2.0),
        sc.LowRank(4, sc.Finetune(steps=9)),
    ]  # fmt: skip
    assert (found["criterion"], found["allocate"], found["samples"]) == ("l1", "uniform", 128)
    assert (found["scope"], found["seed"]) == (["layer*"], 3)


def test_short_forms() -> None:
    assert arguments({"recover": "reconstruct, recalibrate"})["recover"] == [
        sc.Reconstruct(), sc.Recalibrate(),
    ]  # fmt: skip
    assert (
        arguments({"recover": "none"})["recover"] == [] == arguments({"recover": None})["recover"]
    )
    assert arguments({"budget": "macs 50% & drop 1"})["budget"] == sc.MACs("50%") & sc.Drop(1)
    assert arguments({"budget": {"sparsity": 0.9}})["budget"] == sc.Sparsity(0.9)
    assert arguments({"unit": "2:4"})["unit"] == [sc.NM(2, 4)]
    assert arguments({}) == {}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"units": 1}, "did you mean unit"),
        ({"unit": "chanel"}, "did you mean channel"),
        ({"unit": 3}, "expected names"),
        ({"budget": 0.5}, "expected kinds and values"),
        ({"budget": {"mac": 0.5}}, "did you mean macs"),
        ({"recover": 3}, "expected a list of repairs"),
        ({"recover": ["reconstruc"]}, "did you mean reconstruct"),
        ({"recover": [{"distill": {"epoch": 1}}]}, "did you mean epochs"),
        ({"recover": [{"distill": {"epochs": 0}}]}, "at least 1"),
        ({"recover": [{"distill": {"loss": "x"}}]}, "has no setting 'loss'"),
        ({"recover": [{"a": {}, "b": {}}]}, "one name with settings"),
        ({"schedule": 0}, "at least 1"),
    ],
)
def test_arguments_that_make_no_sense(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        arguments(tree)


def test_all_repairs_that_need_no_code_are_there() -> None:
    public = {kind.__name__ for kind in REPAIRS.values()}  # type: ignore[attr-defined]
    assert public == {name for name in sc._HOMES["secateur.recover"] if name != "Rewind"}


def test_the_recipe_of_the_documentation(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "sweep.md"
    text = page.read_text(encoding="utf-8").split("```yaml")[1].split("```")[0]
    found = read(written(tmp_path, text))
    assert found.trials == 40 and found.objectives == ["macs", "quality"]
    names = [name for name, _ in spaces(found.prune)]
    assert names[:4] == ["budget.macs", "criterion", "allocate", "multiple"]
    assert names[-1] == "recover[1].1.distill.lr"
    for last in (False, True):
        made = arguments(settled(found.prune, last))
        assert isinstance(made["budget"], sc.MACs) and len(made["recover"]) == 2


def settled(tree: Any, last: bool) -> Any:
    """The first or the last value of every space."""
    if isinstance(tree, dict) and "choice" in tree:
        return settled(tree["choice"][-1 if last else 0], last)
    if isinstance(tree, dict) and "low" in tree:
        return tree["high" if last else "low"]
    if isinstance(tree, dict):
        return {key: settled(value, last) for key, value in tree.items()}
    return [settled(item, last) for item in tree] if isinstance(tree, list) else tree
