"""Pruned models on the Hugging Face Hub: the folder that `save` writes, with a model card."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from secateur.core.batches import Call
from secateur.core.errors import FileError, InputError
from secateur.core.panel import Shown
from secateur.core.result import Result
from secateur.report.artifact import HTML, JSON, save
from secateur.report.card import card
from secateur.report.facts import Facts
from secateur.ship.config import CONFIG, fitted_config, is_packed, write_config
from secateur.ship.files import PLAN, WEIGHTS, load
from secateur.train.hosts.library import library

CARD = "README.md"
_Module = TypeVar("_Module", bound=nn.Module)


def save_pretrained(
    result: Result,
    folder: str | Path,
    *,
    repository: str = "",
    sparse: bool = True,
    also: Iterable[Shown] = (),
) -> Path:
    """As `save`, with a model card (`README.md`) made from the report; returns the folder.

    Of a model of the transformers library that its config can express, such as a decoder whose
    layers were all cut alike (`allocate="uniform"`), the changed `config.json` is written too, so
    that `AutoModel.from_pretrained` loads the folder; the plan does in any case.

    repository: `user/name`, for the lines in the card that load the model.

    Raises:
        InputError: It is no result, of which there is something to tell.
        FileError: The folder cannot be written.
    """
    if not isinstance(result, Result):
        raise InputError(
            f"a model card is of a Result, not of a {type(result).__name__}",
            hint="give what sc.prune returned, or use sc.save",
        )
    folder = save(result, folder, sparse=sparse, also=also)
    try:
        auto = _configured(result, folder)
        text = card(Facts.of(result), repository, auto=auto)
        (folder / CARD).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise FileError(f"{folder / CARD} cannot be written: {error.strerror or error}") from error
    return folder


def _configured(result: Result, folder: Path) -> str:
    """Write `config.json` if that is all that transformers needs; the name of the model's class."""
    (folder / CONFIG).unlink(missing_ok=True)
    call = result.plan.example
    config = fitted_config(result.model, call if isinstance(call, Call) else None)
    if config is None or is_packed(folder / WEIGHTS):
        return ""
    write_config(result.model, config, folder)
    return type(result.model).__name__


def push_to_hub(
    result: Result, repository: str, *, private: bool | None = None, sparse: bool = True
) -> str:
    """Upload a result to the Hub, as whoever `hf auth login` says; returns where it is.

    Args:
        result: What `prune` gave back.
        repository: `user/name`; it is made if it does not exist.
        private: Whether a new one can be seen by others; None: as the account is set.
        sparse: As for `save`.

    Raises:
        InputError: huggingface_hub is not installed, or the Hub refuses.
    """
    hub = library("huggingface_hub", "huggingface_hub")
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(result, folder, repository=repository, sparse=sparse)
        service = hub.HfApi()
        try:
            place = service.create_repo(repository, private=private, exist_ok=True)
            service.upload_folder(
                repo_id=repository,
                folder_path=folder,
                allow_patterns=[WEIGHTS, PLAN, JSON, HTML, CARD, CONFIG],
                commit_message="A pruned model",
            )
        except Exception as error:  # the network, the account, the name
            raise _refused(repository, error) from error
    return str(place)


def from_pretrained(
    where: str | Path, into: _Module | Callable[[], _Module], *, revision: str | None = None
) -> _Module:
    """As `load`, from a folder or from a repository on the Hub (`user/name`).

    Only `model.safetensors` and `plan.json` are fetched: nothing that could run.

    Raises:
        InputError: huggingface_hub is not installed, or the Hub does not give the files.
        FileError: As `load`.
    """
    if isinstance(where, Path) or Path(where).is_dir():
        return load(where, into)
    hub: Any = library("huggingface_hub", "huggingface_hub")
    try:
        folder = hub.snapshot_download(where, revision=revision, allow_patterns=[WEIGHTS, PLAN])
    except Exception as error:  # the network, the account, the name
        raise _refused(where, error) from error
    return load(folder, into)


def _refused(repository: str, error: Exception) -> InputError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(
        f"{repository!r} on the Hub: {first}",
        hint="a repository is user/name; hf auth login says who you are",
    )
