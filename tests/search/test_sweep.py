"""Sweeps: spaces, studies that go on, and work in other processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import pytest
from sweeping import TREE, work

from secateur.core.errors import RecipeError
from secateur.core.sweep import Tried
from secateur.search.sweep import Plan, chosen, on_ray, processes, spaces, sweep


def plan(tmp_path: Path | None = None, **more: Any) -> Plan:
    storage = None if tmp_path is None else f"sqlite:///{tmp_path / 'sweep.db'}"
    given = {"tree": TREE, "objectives": ("macs", "quality"), "trials": 12, "storage": storage}
    return Plan("net", **{**given, **more})


def test_spaces_are_found_and_named_by_their_place() -> None:
    assert [name for name, _ in spaces(TREE)] == [
        "budget.macs", "multiple", "recover", "recover[1].1.b.epochs",
    ]  # fmt: skip


def test_values_take_the_places_of_spaces() -> None:
    trial = optuna.trial.FixedTrial(
        {
            "budget.macs": 0.5,
            "multiple": 8,
            "recover[1].1.b.epochs": 2,
            "recover": '["a", {"b": {"epochs": {"high": 3, "low": 1}}}]',
        }
    )
    assert chosen(TREE, trial) == {  # type: ignore[arg-type]
        "budget": {"macs": 0.5}, "multiple": 8, "recover": ["a", {"b": {"epochs": 2}}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"choice": []}, r"expected \{choice"),
        ({"choice": [1], "low": 2}, r"expected \{choice"),
        ({"low": 1, "high": 2, "lag": True}, "a range has no 'lag'"),
        ({"low": "1", "high": 2}, "are numbers"),
        ({"low": 2, "high": 1}, "expected low < high"),
        ({"low": 0, "high": 1, "log": True}, "expected low < high"),
    ],
)
def test_spaces_that_make_no_sense(space: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        sweep(plan(tree={"x": space}), work)


def test_ranges() -> None:
    seen = []
    tree = {
        "a": {"low": 1, "high": 9, "step": 4}, "b": {"low": 0.001, "high": 1, "log": True},
        "c": {"low": 0.0, "high": 1.0, "step": 0.5},
    }  # fmt: skip

    def look(found: Mapping[str, Any]) -> dict[str, Any]:
        seen.append(found)
        return {"before": {"macs": 1.0}, "after": {"macs": found["b"]}}

    sweep(plan(tree=tree, objectives=["macs"], trials=20, sampler="random"), look)
    assert {item["a"] for item in seen} == {1, 5, 9} and {item["c"] for item in seen} == {0, 0.5, 1}
    assert all(isinstance(item["a"], int) and 0.001 <= item["b"] <= 1 for item in seen)
    assert sum(item["b"] < 0.03 for item in seen) >= 5


def test_it_finds_what_is_worth_having_and_says_what_failed() -> None:
    told: list[Tried] = []
    result = sweep(plan(trials=25, seed=1), work, on_trial=told.append)
    assert len(result.trials) == 25 == len(told)
    done = [(t.values["macs"], -t.values["quality"], t.number) for t in result.trials if t.values]
    best = [a[2] for a in done if not any(b[0] < a[0] and b[1] < a[1] for b in done)]
    assert sorted(best) == sorted(trial.number for trial in result.best)
    failed = [trial for trial in result.trials if trial.failed]
    assert failed and all(trial.failed == "out of reach" for trial in failed)
    assert all(trial.settings["budget.macs"] < 0.25 for trial in failed)
    assert result.before["macs"] == 1000


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_the_seed_decides(sampler: str) -> None:
    first, second = (sweep(plan(sampler=sampler, trials=4, seed=3), work) for _ in range(2))
    assert first == second != sweep(plan(sampler=sampler, trials=4, seed=4), work)


def test_a_study_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = sweep(plan(tmp_path, trials=3), work)
    told: list[Tried] = []
    second = sweep(plan(tmp_path, trials=5), work, on_trial=told.append)
    assert [trial.number for trial in told] == [3, 4]
    known = {trial.number: trial.settings for trial in second.trials}
    assert all(known[trial.number] == trial.settings for trial in first.trials)
    assert len({str(settings) for settings in known.values()}) == 5  # nothing is drawn again
    assert sweep(plan(tmp_path, trials=5), work).trials == second.trials


def test_an_interrupted_trial_does_not_count(tmp_path: Path) -> None:
    def stop(tree: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    sweep(plan(tmp_path, trials=1), work)
    with pytest.raises(KeyboardInterrupt):
        sweep(plan(tmp_path, trials=2), stop)
    result = sweep(plan(tmp_path, trials=2), work)
    assert len(result.trials) == 2 and all(not trial.failed for trial in result.trials)


def test_a_study_of_another_recipe_is_refused(tmp_path: Path) -> None:
    sweep(plan(tmp_path, trials=1), work)
    other = {**TREE, "multiple": {"choice": [1, 4]}}
    with pytest.raises(RecipeError, match="is of another recipe"):
        sweep(plan(tmp_path, tree=other), work)
    with pytest.raises(RecipeError, match="another recipe"):
        sweep(plan(tmp_path, objectives=("macs",)), work)


def test_a_storage_that_is_none() -> None:
    with pytest.raises(RecipeError, match=r"cannot be (used|opened)"):
        sweep(plan(storage="sqlite:////no/such/folder/a.db"), work)
    with pytest.raises(RecipeError, match=r"cannot be (used|opened)"):
        sweep(plan(storage="nothing"), work)


def test_what_was_not_measured_fails() -> None:
    result = sweep(plan(trials=1, objectives=["latency"]), work)
    assert result.trials[0].failed == "there is no latency to be judged by"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampler": "tp"}, "did you mean tpe"),
        ({"trials": 0}, "at least 1"),
        ({"objectives": ["speed"]}, "there is no objective"),
        ({"tree": {"a": 1}}, "nothing to explore"),
    ],
)
def test_what_makes_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan(**fields)


@pytest.mark.slow
def test_processes_share_the_work(tmp_path: Path) -> None:
    with processes(2) as submit:
        result = sweep(plan(tmp_path, trials=8), work, submit, at_once=2)
    done = [trial for trial in result.trials if not trial.failed]
    assert len(result.trials) == 8 and os.getpid() not in {t.values["pid"] for t in done}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.filterwarnings("ignore")
def test_ray_tasks(tmp_path: Path) -> None:
    def there(tree: Mapping[str, Any]) -> dict[str, Any]:
        values = {"macs": tree["budget"]["macs"], "quality": 1.0, "pid": os.getpid()}
        return {"before": values, "after": values}

    with on_ray("local") as (submit, room):
        result = sweep(plan(tmp_path, trials=4), there, submit, at_once=room)
    done = [trial for trial in result.trials if not trial.failed]
    assert len(result.trials) == 4 and done
    assert os.getpid() not in {trial.values["pid"] for trial in done}


@pytest.mark.skipif(find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_there_is_a_hint() -> None:
    with pytest.raises(RecipeError, match="pip install ray"), on_ray("auto"):
        pass
