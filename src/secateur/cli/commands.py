"""The commands. Data goes to stdout, messages and progress to stderr."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from torch import nn

from secateur import api
from secateur.cli.inputs import example
from secateur.cli.spec import FORMS, build, library
from secateur.core.budget import parse_budget
from secateur.core.errors import RecipeError, SecateurError
from secateur.core.registry import did_you_mean
from secateur.report.tables import console, show
from secateur.ship.files import PLAN, WEIGHTS, save
from secateur.ship.weights import fit_weights, read_weights
from secateur.units import Channel, Head, Layer, Unit

app = typer.Typer(
    name="secateur",
    help="Cut PyTorch models down to size, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_P = ParamSpec("_P")
_R = TypeVar("_R")

Spec = Annotated[str, typer.Argument(help=f"The model: {FORMS}.", show_default=False)]
Inputs = Annotated[
    list[str],
    typer.Option("--input", "-i", help="A shape, 1,3,224,224 or ids:int64=1,16; may be repeated."),
]
Dtype = Annotated[str, typer.Option(help="Of inputs that do not name one.")]
High = Annotated[int, typer.Option(help="Integer inputs are drawn from 0 up to below this.")]
Weights = Annotated[
    Path | None, typer.Option(help="A state dict: .safetensors, .pt, .pth, .bin or .ckpt.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _reported(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Errors meant for people become a message on stderr and exit status 1."""

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return command(*args, **kwargs)
        except SecateurError as error:
            out = console(sys.stderr)
            out.print(f"error: {error.message}", style="red")
            if error.hint:
                out.print(f"hint: {error.hint}")
            raise typer.Exit(1) from None

    return run


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(installed_version("secateur"))
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and leave.", is_eager=True, callback=_version
        ),
    ] = False,
) -> None:
    pass


@app.command()
@_reported
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
    with _doing("building"):
        model = _model(spec, weights)
    with _doing("tracing"):
        found = api.inspect(model, call, latency=latency)
    _print(found, as_json)


@app.command()
@_reported
def prune(
    spec: Spec,
    input: Inputs,
    budget: Annotated[
        str, typer.Option("--budget", "-b", help="What may stay: 'macs 50%', 'params 1e6 & ...'.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help=f"The folder for {WEIGHTS} and {PLAN}.")],
    unit: Annotated[str, typer.Option(help="What goes: channel, head, layer.")] = "channel,head",
    criterion: Annotated[str, typer.Option(help="How it is scored.")] = "magnitude",
    allocate: Annotated[str, typer.Option(help="How much goes where.")] = "global",
    multiple: Annotated[int, typer.Option(help="Channels stay in multiples of this.")] = 1,
    dtype: Dtype = "float32",
    high: High = 2,
    weights: Weights = None,
    latency: Annotated[bool, typer.Option(help="Time the model before and after.")] = True,
    as_json: Json = False,
) -> None:
    """Cut a model to a budget, verify it, measure it, and save it."""
    limit = parse_budget(budget)
    units = _units(unit, multiple)
    call = example(input, dtype, high)
    with _doing("building"):
        model = _model(spec, weights)
    with _doing("pruning"):
        result = api.prune(
            model,
            example=call,
            unit=units,
            criterion=criterion,
            budget=limit,
            allocate=allocate,
            seed=0,
            latency=latency,
        )
    with _doing("saving"):
        save(result, out)
    _print(result, as_json)
    _say(f"saved: {out / WEIGHTS} and {out / PLAN}")


def _model(spec: str, weights: Path | None) -> nn.Module:
    """Build a model and load weights into it, if there are any."""
    model = build(spec)
    if weights is not None:
        fit_weights(model, read_weights(weights), weights)
    elif library(spec):
        _say(f"note: {spec} has random weights; give trained ones with --weights")
    return model


def _units(text: str, multiple: int) -> list[Unit]:
    kinds: dict[str, Callable[[], Unit]] = {
        "channel": lambda: Channel(multiple=multiple),
        "head": Head,
        "layer": Layer,
    }
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in kinds:
            raise RecipeError(f"there is no unit {name!r}", hint=did_you_mean(name, kinds))
    if multiple != 1 and "channel" not in names:
        raise RecipeError("--multiple is for channels", hint="add --unit channel")
    return [kinds[name]() for name in names]


def _print(item: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(item.to_dict(), indent=1))
    else:
        show(item)


def _say(message: str) -> None:
    console(sys.stderr).print(message)


@contextmanager
def _doing(what: str) -> Iterator[None]:
    """A spinner on stderr for as long as something takes; nothing where it is no terminal."""
    err = console(sys.stderr)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        progress.add_task(what, total=None)
        yield
