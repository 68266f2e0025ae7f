"""A saved model with its report beside it: `report.json`, and `report.html` drawn from it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from secateur.core.errors import FileError, InputError
from secateur.core.panel import Shown
from secateur.core.result import Result
from secateur.report.facts import MOST, Facts
from secateur.report.html import document
from secateur.ship import files

JSON = "report.json"
HTML = "report.html"


def save(
    result: Result | nn.Module,
    folder: str | Path,
    *,
    sparse: bool = True,
    command: str = "",
    also: Iterable[Shown] = (),
) -> Path:
    """Write a pruned model and its report into a folder, made if needed; returns the folder.

    Weights that are mostly zeros are stored as their values and the places of these, where that
    makes the file at least a tenth smaller.

    Args:
        result: What `prune` gave back, or a model that was pruned in place, of which there is
            nothing to report.
        folder: Its `model.safetensors`, `plan.json`, `report.json` and `report.html` are replaced.
            A save that is interrupted leaves files that refuse to load, or the old ones.
        sparse: False: every tensor is stored whole, so that readers which know nothing of Secateur
            find all of them under their names.
        command: What was typed, for the report.
        also: What else the report shows: what `frontier`, `sensitivity`, `rank_units`, `circuit`
            and `features` gave, or the session of a training.

    Raises:
        InputError: The model was not pruned, or holds something that is not a dense tensor, or
            something in `also` has nothing to show.
        FileError: The folder cannot be written.
    """
    facts = Facts.of(result, command, also) if isinstance(result, Result) else None
    folder = files.save(result, folder, sparse=sparse)
    for name in (JSON, HTML):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    if facts is not None:
        _write(folder / JSON, facts.to_json())
        _write(folder / HTML, document(facts))
    return folder


def save_report(result: Result, path: str | Path, *, also: Iterable[Shown] = ()) -> Path:
    """Write the report of a result as one HTML file that needs no other; returns the path.

    also: as for `save`.

    Raises:
        InputError: The path does not end in `.html`, or it is no result.
        FileError: It cannot be written.
    """
    path = Path(path)
    if not isinstance(result, Result):
        raise InputError(
            f"a report is of a Result, not of a {type(result).__name__}",
            hint="give what sc.prune returned",
        )
    if path.suffix not in (".html", ".htm"):
        raise InputError(f"a report is HTML, not {path.name!r}", hint='end it in ".html"')
    return _write(path, document(Facts.of(result, also=also)))


def redraw(folder: str | Path) -> Path:
    """Draw `report.html` again from the `report.json` of a saved model; returns its path.

    Raises:
        FileError: There is no report, or it is damaged or from a newer version.
    """
    path = Path(folder) / JSON
    try:
        if path.stat().st_size > MOST:
            raise FileError(f"{path} is too large to be a report")
        facts = Facts.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(
            f"there is no file {path}", hint="sc.save writes it, if it is given a Result"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read: {error}") from None
    except FileError as error:
        raise FileError(f"{path}: {error.message}", hint=error.hint) from None
    return _write(Path(folder) / HTML, document(facts))


def _write(path: Path, text: str) -> Path:
    """All of it or nothing."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")
        draft.replace(path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return path
