"""Export to files that other runtimes run, each proven by running it there."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.apply.verify import Comparison, compare, run_detached
from secateur.core.batches import Call, as_call, map_tensors, tensors_in, untouched
from secateur.core.errors import FileError, InputError, SecateurError, VerificationError
from secateur.core.page import Line, Page, amount, plain
from secateur.engine.fast import Fast
from secateur.engine.semi_structured import SemiStructured
from secateur.ship.fast_file import load_fast, save_fast
from secateur.ship.files import Saveable
from secateur.ship.formats import FORMATS, MOST_ROWS, Format

_MANY_ZEROS = 0.1


@dataclass(frozen=True)
class Exported:
    """A file that was run by its own runtime, and gave what the model gives.

    bytes: of the file and those that belong to it. difference: the largest of any output, relative
    to the largest value of that output. dynamic: it runs batches of any size; else the reason is
    among the notes.
    """

    path: Path
    bytes: int
    runtime: str
    difference: float
    tolerance: float
    dynamic: bool
    notes: tuple[str, ...] = ()

    @property
    def page(self) -> Page:
        """What is printed."""
        batch = "batches of any size" if self.dynamic else "batches of the example's size only"
        proof = (
            f"verified: run by {self.runtime}, same outputs as the model, largest difference "
            f"{self.difference:.1e} (tolerance {self.tolerance:.0e})"
        )
        title = Line(f"{self.path}: {amount(self.bytes, 'B')}, {batch}", title=True)
        return (title, Line(proof, "good"), *(Line(f"note: {n}", "warn") for n in self.notes))

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)


def export(model: Saveable | nn.Module, path: str | Path, example: Any = None) -> Exported:
    """Write a model for another runtime, run the file there, and compare the outputs.

    What `sc.compile` gave is written for `sc.load_fast`: the suffix is `.sct`, and no example is
    needed.

    The first dimension that all inputs share is the batch, and may have any size later, if the
    model allows it. Weights are stored whole: these formats have no sparse ones.

    Args:
        model: A `Result`, or any model; it is left as it was.
        path: Where to; the suffix says what: `.pt2` (PyTorch), `.onnx` (ONNX Runtime), `.xml`
            (OpenVINO, with a `.bin` beside it) or `.pte` (ExecuTorch).
        example: The inputs of one call, as for `prune`.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> done = export(nn.Linear(3, 2), f"{folder}/m.pt2", torch.randn(4, 3))
        >>> done.runtime, done.dynamic, done.difference < 1e-6
        ('PyTorch', True, True)

    Raises:
        InputError: The suffix is not known, a package is missing, or the model cannot be exported.
        VerificationError: The file gives other outputs than the model; it is not kept.
        FileError: It cannot be written.
    """
    if Path(path).suffix == ".sct":
        return _compiled(model, Path(path))
    network = model if isinstance(model, nn.Module) else model.model
    call, path = as_call(network, example), Path(path)
    form = FORMATS.get(path.suffix)
    if form is None:
        raise InputError(
            f"no export is known for {path.name!r}", hint=f"end it in {', '.join(FORMATS)}"
        )
    form.check()
    _refuse_compiled(network, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as made, _quiet():
            draft = Path(made) / path.name
            found, dynamic, notes = _proven(network, form, draft, call)
            files = sorted(Path(made).iterdir())
            size = sum(file.stat().st_size for file in files)
            for file in files:
                file.replace(path.parent / file.name)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error
    notes += _zeros(network)
    return Exported(path, size, form.runtime, found.difference, found.tolerance, dynamic, notes)


def _refuse_compiled(model: nn.Module, path: Path) -> None:
    """Kernels that were made for this machine are nothing that another runtime has."""
    for name, module in model.named_modules():
        packed = isinstance(module, SemiStructured)
        if packed or (isinstance(module, Fast) and module.original is None):
            where = f"its part {name!r}" if name else "it"
            raise InputError(
                f"{path.name} cannot hold a compiled network, and {where} was made by sc.compile",
                hint="export the model that it was made from"
                + ("; or the compiled one as .sct" if isinstance(model, Fast) else ""),
            )


def _compiled(model: object, path: Path) -> Exported:
    """A compiled network as one file."""
    if not isinstance(model, nn.Module):
        model = getattr(model, "model", model)  # a result
    if not isinstance(model, Fast):
        raise InputError(
            f"{path.name} is for what sc.compile gives, not for a {type(model).__name__}",
            hint="fast = sc.compile(model, example)",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as made:
            draft = Path(made) / path.name
            size = save_fast(model, draft)
            load_fast(draft)
            draft.replace(path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error
    return Exported(path, size, "sc.load_fast", model.report.difference, 2e-4, True)


def _proven(
    model: nn.Module, form: Format, path: Path, call: Call
) -> tuple[Comparison, bool, tuple[str, ...]]:
    """Write a file that gives the model's outputs: for any batch if it can be, else for one."""
    rows = _rows(call)
    why = "" if rows else "the inputs share no first dimension"
    if rows:
        try:
            return _written(model, form, path, call, dynamic=True), True, ()
        except SecateurError as error:
            why = error.message.splitlines()[0]
    found = _written(model, form, path, call, dynamic=False)
    return found, False, (f"the batch has a fixed size: {why}",)


def _written(model: nn.Module, form: Format, path: Path, call: Call, dynamic: bool) -> Comparison:
    """Write one file and run it: on the example, and on other numbers of rows."""
    rows = _rows(call) or 0
    step = "torch.export"
    try:
        program = _program(model, call, form, dynamic)
        step = form.runtime
        form.write(program, path)
        run = form.load(path)
        calls = [call, _repeated(call, rows + 1)] if dynamic else [call]
        outputs = [run(item) for item in calls]
    except (SecateurError, OSError):
        raise
    except Exception as error:  # exporters raise whatever they meet
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{step} cannot export this {type(model).__name__}: {first[:300]}",
            hint="another suffix may work; .pt2 needs the fewest operations to be known",
        ) from error
    worst = Comparison(-1.0, 0.0)
    for item, theirs in zip(calls, outputs, strict=True):
        ours = list(tensors_in(run_detached(model, item)))
        found = compare([t.cpu() for t in ours], [t.cpu() for t in theirs])
        if not found.ok:
            what = found.note or f"relative difference {found.difference:.2g}"
            raise VerificationError(
                f"{form.runtime} gives other outputs than the model: {what}",
                hint="nothing was written; another suffix may work, and please report it",
            )
        worst = max(worst, found, key=lambda comparison: comparison.difference)
    return worst


def _program(model: nn.Module, call: Call, form: Format, dynamic: bool) -> Any:
    """The exported program; where the batch is dynamic, its first dimension is a symbol."""
    shapes = None
    if dynamic:
        rows = max(2, _rows(call) or 0)  # a batch of one would be taken for a constant
        call = _repeated(call, rows)
        most = max(MOST_ROWS, 2 * rows) if form.bounded else None
        batch = torch.export.Dim("batch", max=most)
        args, kwargs = _symbols((call.args, dict(call.kwargs)), batch)
        shapes = kwargs if kwargs and not args else (*args, *kwargs.values())
    with untouched(model), torch.no_grad():
        return torch.export.export(
            model, call.args, dict(call.kwargs), dynamic_shapes=shapes, strict=False
        )


def _symbols(value: Any, batch: Any) -> Any:
    """The same structure with the symbol for the first dimension of every tensor."""
    if isinstance(value, Tensor):
        return {0: batch}
    if isinstance(value, (list, tuple)):
        return type(value)([_symbols(item, batch) for item in value])
    if isinstance(value, dict):
        return {key: _symbols(item, batch) for key, item in value.items()}
    return None


def _rows(call: Call) -> int | None:
    """The first dimension that all tensors share, if there is one."""
    tensors = list(tensors_in((call.args, dict(call.kwargs))))
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in tensors}
    return sizes.pop() or None if len(sizes) == 1 else None


def _repeated(call: Call, rows: int) -> Call:
    """The call with so many rows: those that are there, over and over."""

    def longer(tensor: Tensor) -> Tensor:
        return tensor if len(tensor) == rows else tensor[torch.arange(rows) % len(tensor)]

    return Call(*map_tensors((call.args, dict(call.kwargs)), longer))


def _zeros(model: nn.Module) -> tuple[str, ...]:
    """What is lost: weights that are zero take the room and the time of others."""
    weights = list(model.parameters())
    total = sum(weight.numel() for weight in weights)
    zeros = total - sum(int(torch.count_nonzero(weight.detach())) for weight in weights)
    if not total or zeros < _MANY_ZEROS * total:
        return ()
    return (
        f"{zeros / total:.0%} of the weights are zero, and stored and multiplied like the others",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings: exporters warn of their own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
