"""What all commands share: the application, options that several take, and how they report."""

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

from secateur.cli.data import FORMS as DATA
from secateur.cli.data import load, numbers
from secateur.cli.spec import FORMS, build, library
from secateur.core.errors import RecipeError, SecateurError
from secateur.core.registry import did_you_mean
from secateur.measure.metric import Accuracy, Loss
from secateur.report.tables import console, show
from secateur.ship.weights import fit_weights, read_weights

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
Data = Annotated[str | None, typer.Option(help=f"What to learn from and judge by: {DATA}.")]
High = Annotated[int, typer.Option(help="Integer inputs are drawn from 0 up to below this.")]
Weights = Annotated[
    Path | None, typer.Option(help="A state dict: .safetensors, .pt, .pth, .bin or .ckpt.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def reported(command: Callable[_P, _R]) -> Callable[_P, _R]:
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


def built(spec: str, weights: Path | None) -> nn.Module:
    """Build a model and load weights into it, if there are any."""
    model = build(spec)
    if weights is not None:
        fit_weights(model, read_weights(weights), weights)
    elif library(spec):
        say(f"note: {spec} has random weights; give trained ones with --weights")
    return model


def data_options(
    where: str, call: Any, samples: int, batch: int, metric: str, mean: str, std: str
) -> dict[str, Any]:
    """What `--data` says to `prune`: one part is learned from, the other one judges."""
    first, second = (numbers(text) if text else None for text in (mean, std))
    loaded = load(where, call, batch=batch, mean=first, std=second)
    if metric not in ("auto", "accuracy", "loss"):
        raise RecipeError(
            f"there is no metric {metric!r}", hint=did_you_mean(metric, ("accuracy", "loss"))
        )
    if not loaded.labelled:
        if metric != "auto":
            raise RecipeError(f"--metric {metric} needs labels, and {where} has none")
        return {"data": loaded.batches}
    learned, judged = loaded.split(samples)
    kinds = {"accuracy": Accuracy, "loss": Loss}
    kind = metric if metric != "auto" else ("accuracy" if _classes(judged.batches) else "loss")
    return {"data": learned.batches, "evaluate": kinds[kind](judged.batches)}


def _classes(batches: Any) -> bool:
    """Whether labels are whole numbers, as those of classes are."""
    first = next(iter(batches))
    labels = first["labels"] if isinstance(first, dict) else first[-1]
    return not labels.is_floating_point()


def printed(item: Any, as_json: bool) -> None:
    """Print a result or the like on stdout."""
    if as_json:
        typer.echo(json.dumps(item.to_dict(), indent=1))
    else:
        show(item)


def say(message: str) -> None:
    """A message on stderr."""
    console(sys.stderr).print(message)


@contextmanager
def doing(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr for as long as something takes; nothing where it is no terminal.

    Gives a function that changes what it says.
    """
    err = console(sys.stderr)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda text: progress.update(task, description=text)
