"""The commands. Data goes to stdout, messages and progress to stderr."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from secateur import api
from secateur.api.bench import bench as timed
from secateur.cli.data import numbers
from secateur.cli.inputs import example
from secateur.cli.journal import Journal, stamp
from secateur.cli.recipe_file import REPAIRS
from secateur.cli.shared import (
    Data,
    Dtype,
    High,
    Inputs,
    Json,
    Spec,
    Weights,
    app,
    built,
    data_options,
    doing,
    printed,
    reported,
    say,
)
from secateur.cli.spec import FORMS, build
from secateur.cli.units import NAMES, units
from secateur.core.attempt import Attempt
from secateur.core.budget import parse_budget
from secateur.core.errors import RecipeError
from secateur.core.registry import did_you_mean
from secateur.core.result import Result
from secateur.core.schedule import Steps
from secateur.core.threads import using
from secateur.engine.fast import Fast
from secateur.recover import Recover
from secateur.report.artifact import HTML, redraw, save, save_report
from secateur.report.tables import show
from secateur.ship.export import export as write
from secateur.ship.files import PLAN, WEIGHTS
from secateur.ship.files import load as read
from secateur.ship.peers import PEERS

PACKED = "model.sct"


@app.command()
@reported
def inspect(
    spec: Spec,
    input: Inputs,
    dtype: Dtype = "float32",
    high: High = 2,
    weights: Weights = None,
    latency: Annotated[bool, typer.Option(help="Time the model on the input.")] = True,
    as_json: Json = False,
) -> None:
    """Say what can be removed from a model, and what stays and why."""
    call = example(input, dtype, high)
    with doing("building"):
        model = built(spec, weights)
    with doing("tracing"):
        found = api.inspect(model, call, latency=latency)
    printed(found, as_json)


@app.command()
@reported
def prune(
    spec: Spec,
    input: Inputs,
    out: Annotated[Path, typer.Option("--out", "-o", help=f"The folder for {WEIGHTS} and {PLAN}.")],
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            "-b",
            help="'macs 50%', 'drop 1 & latency 60%', 'sparsity 0.9', ... [half of all units]",
        ),
    ] = None,
    data: Data = None,
    unit: Annotated[str, typer.Option(help=f"What goes: {NAMES}.")] = "channel,head",
    criterion: Annotated[
        str | None, typer.Option(help="How it is scored; depends on whether there is data.")
    ] = None,
    allocate: Annotated[
        str | None, typer.Option(help="How much goes where; depends on whether there is data.")
    ] = None,
    recover: Annotated[
        str | None,
        typer.Option(
            help="In order: reconstruct, recalibrate, fold, compensate, finetune, distill, none."
        ),
    ] = None,
    cycles: Annotated[
        int, typer.Option(help="Prune in so many cycles of rising intensity, each repaired.")
    ] = 1,
    metric: Annotated[
        str, typer.Option(help="Quality on labelled data: accuracy, loss, or auto.")
    ] = "auto",
    samples: Annotated[int, typer.Option(help="Samples that are learned from, at most.")] = 512,
    batch: Annotated[int, typer.Option(help="Samples in a batch of data.")] = 64,
    mean: Annotated[str, typer.Option(help="Subtracted from pixels: .485,.456,.406")] = "",
    std: Annotated[str, typer.Option(help="Divides pixels: .229,.224,.225")] = "",
    multiple: Annotated[int, typer.Option(help="Channels stay in multiples of this.")] = 1,
    become: Annotated[
        str | None,
        typer.Option(help=f"packed: run on sparse kernels, saved as {PACKED}. [cut or masked]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="For what is drawn.")] = 0,
    dtype: Dtype = "float32",
    high: High = 2,
    weights: Weights = None,
    latency: Annotated[bool, typer.Option(help="Time the model before and after.")] = True,
    as_json: Json = False,
) -> None:
    """Prune a model to a budget, repair it, verify it, measure it, and save it.

    Channels, heads and layers are cut off; single weights become zero, and are stored as such.

    Interrupted, a second call with the same arguments goes on where the first one stopped.
    """
    arguments = {**locals(), "weights": stamp(weights)}
    limit = None if budget is None else parse_budget(budget)
    removed, steps = units(unit, multiple), _repairs(recover)
    if multiple != 1 and "channel" not in unit.lower():
        raise RecipeError("--multiple is for channels", hint="add --unit channel")
    schedule = Steps(cycles) if cycles != 1 else None
    call = example(input, dtype, high)
    with doing("building"):
        model = built(spec, weights)
    options: dict[str, Any] = {}
    if data is not None:
        with doing("reading data"):
            options = data_options(data, call, samples, batch, metric, mean, std)
    journal = Journal(out, {k: v for k, v in arguments.items() if k not in ("as_json", "out")})
    if journal.note:
        say(journal.note)
    with doing("pruning") as tell:

        def tried(attempt: Attempt) -> None:
            if schedule is None:  # a cycle starts from a network, which no record holds
                journal.add(attempt)
            tell(f"pruning: {len(journal.attempts)} tried, last {attempt.share:.0%}: {attempt.why}")

        result = api.prune(
            model, call, unit=removed, criterion=criterion, budget=limit, allocate=allocate,
            recover=steps, samples=samples, seed=seed, schedule=schedule, latency=latency,
            become=cast(Any, become), on_trial=tried, resume=tuple(journal.attempts), **options,
        )  # fmt: skip
    with doing("saving"):
        written = _write(result, out)
    journal.close()
    printed(result, as_json)
    say(f"saved: {', '.join(str(path) for path in written[:-1])} and {written[-1]}")


def _write(result: Result, out: Path) -> list[Path]:
    """Save a result: a packed network as one file, any other with its plan; what was written."""
    runs = result.model
    if isinstance(runs, Fast):
        if runs.original is None:
            write(result, out / PACKED)
            return [out / PACKED, save_report(result, out / HTML)]
        result = replace(result, model=runs.original)  # nothing was gained by packing
    save(result, out, command=_typed())
    return [out / WEIGHTS, out / PLAN, out / HTML]


@app.command()
@reported
def bench(
    spec: Spec,
    input: Inputs,
    sparsity: Annotated[
        str, typer.Option(help="Percentages of zeros, 0,50,80,90,95.")
    ] = "0,50,80,90,95",
    engines: Annotated[
        str, typer.Option(help=f"What to compare with: {', '.join(PEERS)}.")
    ] = ",".join(PEERS),
    seconds: Annotated[float, typer.Option(help="That each is timed, at least.")] = 1.0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: as many as PyTorch uses.")] = 0,
    dtype: Dtype = "float32",
    high: High = 2,
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Time a model with ever more zeros on sparse kernels, beside other engines."""
    call = example(input, dtype, high)
    shares = [part / 100 for part in numbers(sparsity)]
    names = [name.strip() for name in engines.split(",") if name.strip()]
    with doing("building"):
        model = built(spec, weights).eval()
    with using(threads or None), doing("compiling and timing"):
        found = timed(model, call, shares, engines=names, min_time=seconds)
    printed(found, as_json)


@app.command()
@reported
def report(
    folder: Annotated[Path, typer.Argument(help="What prune has saved.", show_default=False)],
) -> None:
    """Draw the report of a saved model again, as one HTML file."""
    typer.echo(redraw(folder))


@app.command()
@reported
def export(
    folder: Annotated[Path, typer.Argument(help=f"With {WEIGHTS} and {PLAN}.", show_default=False)],
    path: Annotated[
        Path, typer.Argument(help="Where to: .pt2, .onnx, .xml or .pte.", show_default=False)
    ],
    into: Annotated[str, typer.Option(help=f"The model before it was pruned: {FORMS}.")],
    input: Inputs,
    dtype: Dtype = "float32",
    high: High = 2,
) -> None:
    """Write a saved model for another runtime, run it there, and compare."""
    call = example(input, dtype, high)
    with doing("building"):
        model = read(folder, build(into))
    with doing("exporting"):
        done = write(model, path, call)
    show(done)


def _repairs(text: str | None) -> list[Recover] | None:
    kinds = {name: kind for name, kind in REPAIRS.items() if name != "lowrank"}
    if text is None:
        return None
    names = [name.strip().lower() for name in text.split(",") if name.strip().lower() != "none"]
    for name in names:
        if name not in kinds:
            raise RecipeError(f"there is no repair {name!r}", hint=did_you_mean(name, kinds))
    return [kinds[name]() for name in names]


def _typed() -> str:
    """The command line, where this was called by one."""
    program = Path(sys.argv[0]).name
    return shlex.join(["secateur", *sys.argv[1:]]) if program == "secateur" else ""
