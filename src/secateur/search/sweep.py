"""Sweeps: prunes whose settings Optuna chooses, in one process, in many, or on a Ray cluster."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from secateur.core.errors import RecipeError
from secateur.core.registry import did_you_mean
from secateur.core.sweep import Sweep, Tried, check_objectives

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

SAMPLERS = ("tpe", "random", "nsga2")
INTERRUPTED = "interrupted"
_RANGE = {"low", "high", "log", "step"}

Work = Callable[[Any], Mapping[str, Any]]
"""From a tree of settings to {"before": values, "after": values}, or {"failed": why}."""
Submit = Callable[[Work, Any], "Future[Mapping[str, Any]]"]


@dataclass(frozen=True)
class Plan:
    """What to explore. tree: settings, of which some are spaces (see `chosen`).

    objectives: see `core.sweep`. trials: how many there are to be in the study in the end. storage:
    an Optuna storage's URL; any number of sweeps may share one. lower_is_better: of the quality.
    """

    name: str
    tree: Any
    objectives: Sequence[str]
    trials: int = 20
    storage: str | None = None
    sampler: str = "tpe"
    seed: int = 0
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        object.__setattr__(self, "objectives", check_objectives(self.objectives))
        if self.sampler not in SAMPLERS:
            raise RecipeError(
                f"there is no sampler {self.sampler!r}", hint=did_you_mean(self.sampler, SAMPLERS)
            )
        if isinstance(self.trials, bool) or not isinstance(self.trials, int) or self.trials < 1:
            raise RecipeError(f"trials: {self.trials!r}: expected an integer of at least 1")
        if not list(spaces(self.tree)):
            raise RecipeError(
                "there is nothing to explore",
                hint="write {choice: [...]} or {low: ..., high: ...} in place of a value",
            )


def sweep(
    plan: Plan, work: Work, submit: Submit | None = None, *, at_once: int = 1,
    on_trial: Callable[[Tried], None] | None = None,
) -> Sweep:  # fmt: skip
    """Ask, prune, tell, until the study has all its trials; what another sweep told counts too.

    Only this process touches the storage. A study of the same name is gone on with.

    Args:
        plan: What to explore.
        work: Makes and measures one prune.
        submit: Starts the work elsewhere; by default it is done here.
        at_once: How many at the same time.
        on_trial: Called with what each came to.

    Raises:
        RecipeError: Optuna is not installed, or the study is of another recipe.
    """
    study = _study(plan)
    running: dict[Future[Mapping[str, Any]], Trial] = {}
    try:
        while True:
            while len(running) < at_once and _finished(study) + len(running) < plan.trials:
                trial = study.ask()
                tree = chosen(plan.tree, trial)
                running[(submit or _here)(work, tree)] = trial
            if not running:
                return _collected(plan, study)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                tried = _told(plan, study, running[future], future.result())
                del running[future]
                if on_trial is not None:
                    on_trial(tried)
    except BaseException:
        for trial in running.values():
            _fail(study, trial, INTERRUPTED)
        raise


def chosen(tree: Any, trial: Trial, path: str = "") -> Any:
    """The tree with a value in place of every space; spaces are named after their place.

    A space is `{choice: [...]}`, of values of any kind, or `{low: ..., high: ...}`, of integers if
    both are, with `log: true` or `step:`.

    Raises:
        RecipeError: A space makes no sense.
    """
    if _is_space(tree):
        return _value(tree, trial, path)
    if isinstance(tree, Mapping):
        return {key: chosen(value, trial, _join(path, key)) for key, value in tree.items()}
    if isinstance(tree, list):
        return [chosen(value, trial, _join(path, k)) for k, value in enumerate(tree)]
    return tree


def spaces(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All spaces with their places.

    Example:
        >>> list(spaces({"budget": {"macs": {"low": 0.2, "high": 0.8}}, "seed": 1}))
        [('budget.macs', {'low': 0.2, 'high': 0.8})]
    """
    if _is_space(tree):
        yield path, tree
        for k, value in enumerate(tree.get("choice", ())):
            yield from spaces(value, f"{path}[{k}]")
    elif isinstance(tree, (Mapping, list)):
        items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for key, value in items:
            yield from spaces(value, _join(path, key))


def _is_space(tree: Any) -> bool:
    return isinstance(tree, Mapping) and ("choice" in tree or {"low", "high"} <= tree.keys())


def _value(space: Mapping[str, Any], trial: Trial, path: str) -> Any:
    if "choice" in space:
        options = space["choice"]
        if len(space) > 1 or not isinstance(options, list) or not options:
            raise RecipeError(f"{path}: {dict(space)}: expected {{choice: [one, or, more]}}")
        plain = all(isinstance(item, (str, int, float, bool, type(None))) for item in options)
        if plain:
            return trial.suggest_categorical(path, options)
        labels = [json.dumps(item, sort_keys=True) for item in options]
        index = labels.index(trial.suggest_categorical(path, labels))
        return chosen(options[index], trial, f"{path}[{index}]")
    if not space.keys() <= _RANGE:
        other = sorted(space.keys() - _RANGE)[0]
        raise RecipeError(f"{path}: a range has no {other!r}", hint=did_you_mean(other, _RANGE))
    low, high, log, step = (space.get(key) for key in ("low", "high", "log", "step"))
    numbers = [item for item in (low, high, step) if item is not None]
    if any(isinstance(item, bool) or not isinstance(item, (int, float)) for item in numbers):
        raise RecipeError(f"{path}: {dict(space)}: low, high and step are numbers")
    assert low is not None and high is not None
    if not low < high or (log and (step is not None or low <= 0)):
        raise RecipeError(
            f"{path}: {dict(space)}: expected low < high",
            hint="with log: true, low is above 0 and there is no step",
        )
    if all(isinstance(item, int) for item in numbers):
        return trial.suggest_int(path, low, high, log=bool(log), step=step or 1)
    return trial.suggest_float(path, low, high, log=bool(log), step=step)


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _study(plan: Plan) -> Study:
    if find_spec("optuna") is None:
        raise RecipeError(
            "sweeps need Optuna, which is not installed", hint="pip install 'secateur[sweep]'"
        )
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ways: list[Any] = [
        "maximize" if _is_maximised(plan, name) else "minimize" for name in plan.objectives
    ]
    key = json.dumps([plan.tree, list(plan.objectives)], sort_keys=True, default=str)
    try:
        study = optuna.create_study(
            study_name=plan.name, storage=plan.storage, directions=ways, load_if_exists=True
        )
    except (ImportError, ValueError) as error:
        raise RecipeError(f"the study {plan.name!r} cannot be opened: {error}") from error
    except Exception as error:
        if type(error).__module__.startswith(("optuna", "sqlalchemy")):
            raise RecipeError(
                f"the storage {plan.storage!r} cannot be used: {str(error).splitlines()[0]}",
                hint="give a URL such as sqlite:///sweep.db",
            ) from error
        raise
    if study.user_attrs.setdefault("recipe", key) != key:
        raise RecipeError(
            f"the study {plan.name!r} in {plan.storage} is of another recipe",
            hint="give it another name, to keep both",
        )
    study.set_user_attr("recipe", key)
    seed = plan.seed + len(study.trials)  # a study that goes on draws anew
    study.sampler = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed),
    }[plan.sampler]()
    return study


def _is_maximised(plan: Plan, name: str) -> bool:
    return name == "quality" and not plan.lower_is_better


def _finished(study: Study) -> int:
    return sum(_counts(trial) for trial in study.get_trials(deepcopy=False))


def _counts(trial: FrozenTrial) -> bool:
    """Neither still running, perhaps elsewhere, nor interrupted."""
    return trial.state.is_finished() and trial.user_attrs.get("failed") != INTERRUPTED


def _told(plan: Plan, study: Study, trial: Trial, found: Mapping[str, Any]) -> Tried:
    settings = dict(trial.params)
    failed = found.get("failed", "")
    values = dict(found.get("after", {}))
    missing = [n for n in plan.objectives if not math.isfinite(values.get(n, math.nan))]
    if not failed and missing:
        failed = f"there is no {missing[0]} to be judged by"
    if failed:
        _fail(study, trial, failed)
        return Tried(trial.number, settings, failed=failed)
    trial.set_user_attr("values", values)
    study.set_user_attr("before", dict(found["before"]))
    study.tell(trial, [values[name] for name in plan.objectives])
    return Tried(trial.number, settings, values)


def _fail(study: Study, trial: Trial, why: str) -> None:
    from optuna.trial import TrialState

    trial.set_user_attr("failed", why)
    study.tell(trial, state=TrialState.FAIL)


def _collected(plan: Plan, study: Study) -> Sweep:
    trials = [
        Tried(
            trial.number, dict(trial.params), trial.user_attrs.get("values", {}),
            trial.user_attrs.get("failed", "" if trial.values else "it raised"),
        )
        for trial in study.get_trials(deepcopy=False)
        if _counts(trial)
    ]  # fmt: skip
    before = study.user_attrs.get("before", {})
    return Sweep(plan.name, tuple(plan.objectives), before, tuple(trials), plan.lower_is_better)


def _here(work: Work, tree: Any) -> Future[Mapping[str, Any]]:
    future: Future[Mapping[str, Any]] = Future()
    future.set_result(work(tree))
    return future


def _called(work: Work, tree: Any) -> Mapping[str, Any]:
    return work(tree)


@contextmanager
def processes(count: int) -> Iterator[Submit]:
    """Work in so many processes of this machine."""
    pool: Executor
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        yield lambda work, tree: pool.submit(work, tree)


@contextmanager
def on_ray(address: str, cpus: float = 1.0) -> Iterator[tuple[Submit, int]]:
    """Work as tasks of a Ray cluster, and how many it takes at once.

    address: "auto" joins the cluster that this machine belongs to, "local" starts one here.

    Raises:
        RecipeError: Ray is not installed, or there is no cluster.
    """
    if find_spec("ray") is None:
        raise RecipeError("--ray needs Ray, which is not installed", hint="pip install ray")
    ray = import_module("ray")

    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except ConnectionError as error:
        raise RecipeError(
            f"there is no Ray cluster at {address!r}: {error}",
            hint="ray start --head, or --ray local",
        ) from error
    try:
        room = max(1, int(ray.cluster_resources().get("CPU", 1) / cpus))
        task = ray.remote(num_cpus=cpus)(_called)
        yield lambda work, tree: task.remote(work, tree).future(), room
    finally:
        ray.shutdown()
