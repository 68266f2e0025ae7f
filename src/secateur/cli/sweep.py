"""`secateur sweep recipe.yaml`: explores the settings of a prune, and shows the best of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur import api
from secateur.cli.inputs import example
from secateur.cli.journal import stamp
from secateur.cli.recipe_file import SweepFile, arguments, read
from secateur.cli.shared import Json, app, built, data_options, doing, printed, reported, say
from secateur.core.errors import RecipeError, SecateurError
from secateur.core.measured import Measured
from secateur.core.sweep import Sweep, Tried
from secateur.search.sweep import Plan, Submit, on_ray, processes
from secateur.search.sweep import sweep as explore


@app.command()
@reported
def sweep(
    recipe: Annotated[Path, typer.Argument(help="A YAML file.", show_default=False)],
    trials: Annotated[
        int | None, typer.Option(help="How many prunes the study is to have in the end.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="An Optuna storage to share, as postgresql://… [beside the recipe]"),
    ] = None,
    study: Annotated[str | None, typer.Option(help="The study's name [the recipe's].")] = None,
    workers: Annotated[int, typer.Option(help="Processes of this machine.")] = 1,
    ray: Annotated[
        str | None, typer.Option(help="Work on a Ray cluster: 'auto', an address, or 'local'.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the frontier as an SVG file.")] = None,
    as_json: Json = False,
) -> None:
    """Prune again and again with settings that Optuna chooses, and show the best.

    A second call goes on where the first one stopped; calls on many machines that share a storage
    work together.
    """
    if workers < 1 or (ray is not None and workers > 1):
        raise RecipeError(
            f"--workers {workers}: expected at least 1, and none beside --ray",
            hint="Ray has its own workers",
        )
    given = read(recipe)
    plan = Plan(
        name=study or given.study or recipe.stem,
        tree=given.prune,
        objectives=given.objectives,
        trials=trials or given.trials,
        storage=storage or given.storage or f"sqlite:///{recipe.with_suffix('.db')}",
        sampler=given.sampler,
        seed=given.seed,
        lower_is_better=_lower(given),
    )
    work = partial(prune_once, given)
    with doing("sweeping") as tell, _submitting(workers, ray) as (submit, at_once):
        count = 0

        def tried(found: Tried) -> None:
            nonlocal count
            count += 1
            said = found.failed or ", ".join(f"{k} {found.values[k]:.4g}" for k in plan.objectives)
            tell(f"sweeping: trial {found.number} of {plan.trials}: {said}")

        result: Sweep = explore(plan, work, submit, at_once=at_once, on_trial=tried)
    printed(result, as_json)
    say(f"{count} new trials; the study {plan.name!r} is in {plan.storage}")
    if plot is not None:
        curve = result.frontier()
        if curve is None:
            raise RecipeError("--plot needs a cost and quality among the objectives")
        say(f"plotted: {curve.plot(plot)}")


@contextmanager
def _submitting(workers: int, ray: str | None) -> Iterator[tuple[Submit | None, int]]:
    if ray is not None:
        with on_ray(ray) as found:
            yield found
    elif workers > 1:
        with processes(workers) as submit:
            yield submit, workers
    else:
        yield None, 1


def prune_once(given: SweepFile, tree: Mapping[str, Any]) -> dict[str, Any]:
    """One prune of a sweep, measured; plain values in and out, so that it runs in any process."""
    try:
        bench = _Bench.of(given)
        options: dict[str, Any] = {"seed": given.seed, **arguments(tree)}
        result = api.prune(
            bench.model, bench.call, latency="latency" in given.objectives, **bench.options,
            **options,
        )  # fmt: skip
    except SecateurError as error:
        return {"failed": error.message}
    return {"before": _values(result.before), "after": _values(result.after)}


def _values(found: Measured) -> dict[str, float]:
    values = {
        "params": found.params, "macs": found.macs or 0, "bytes": found.bytes,
        "latency": found.latency.median_ms if found.latency else None, "quality": found.quality,
    }  # fmt: skip
    return {key: float(value) for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class _Bench:
    """The model and the data of a sweep."""

    model: Any
    call: Any
    options: dict[str, Any]

    @staticmethod
    def of(given: SweepFile) -> _Bench:
        """Read once in each process."""
        weights = None if given.weights is None else Path(given.weights)
        return _read_bench(json.dumps(asdict(given)), repr(stamp(weights)))


@cache
def _read_bench(recipe: str, stamped: str) -> _Bench:
    given = SweepFile(**json.loads(recipe))
    call = example(given.inputs, given.dtype, given.high)
    model = built(given.model, None if given.weights is None else Path(given.weights))
    options: dict[str, Any] = {}
    if given.data is not None:
        options = data_options(
            given.data, call, given.samples, given.batch, given.metric, given.mean, given.std
        )
    return _Bench(model, call, options)


def _lower(given: SweepFile) -> bool:
    """Whether the quality is a loss: then lower is better."""
    if "quality" not in given.objectives:
        return False
    judge = _Bench.of(given).options.get("evaluate")
    if judge is None:
        raise RecipeError(
            f"{given.data} has no labels to measure quality with",
            hint="leave quality out of objectives:, or give labelled data",
        )
    return bool(judge.lower_is_better)
