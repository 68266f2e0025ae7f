"""Pruned models on the Hugging Face Hub: the folder that `save` writes, with a model card."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from secateur.core.batches import Call
from secateur.core.errors import FileError, InputError, SecateurError
from secateur.core.panel import Shown
from secateur.core.result import Result
from secateur.report.artifact import save
from secateur.report.card import card
from secateur.report.facts import Facts
from secateur.ship.config import CONFIG, fitted_config, is_packed, write_config
from secateur.ship.files import PLAN, WEIGHTS, load
from secateur.train.hosts.library import library

CARD = "README.md"
# A `config.json` of a repository whose model has none: the Hub counts downloads by this file, and
# its library looks for it first, without a network too.
_MARK = {"library_name": "secateur"}
_DOWNLOAD = ("revision", "token", "cache_dir", "force_download", "local_files_only")
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
    _known(result)
    folder = save(result, folder, sparse=sparse, also=also)
    try:
        auto = _configured(result, folder)
        text = card(Facts.of(result), repository, auto=auto)
        (folder / CARD).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise FileError(f"{folder / CARD} cannot be written: {error.strerror or error}") from error
    return folder


def _known(result: object) -> None:
    if not isinstance(result, Result):
        raise InputError(
            f"a model card is of a Result, not of a {type(result).__name__}",
            hint="give what sc.prune returned, or use sc.save",
        )


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
    result: Result,
    repository: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    commit_message: str = "A pruned model",
    sparse: bool = True,
    also: Iterable[Shown] = (),
) -> str:
    """Upload what `save_pretrained` writes, as `ModelHubMixin` does; returns where it is.

    Args:
        result: What `prune` gave back.
        repository: `user/name`; it is made if it does not exist.
        private: Whether a new one is hidden from others; None: as the account is set.
        token: Who uploads; None: whoever `hf auth login` says.
        branch: Where to; None: `main`.
        create_pr: Whether the commit becomes a pull request.
        commit_message: Its first line.
        sparse: As for `save`.
        also: As for `save`.

    Raises:
        InputError: huggingface_hub is not installed, or the Hub refuses.
    """
    _known(result)
    options = {"repository": repository, "sparse": sparse, "also": tuple(also)}
    folder = _hub_folder()(lambda where: save_pretrained(result, where, **options))
    with _on_the_hub(repository):
        return folder.push_to_hub(
            repository,
            config=dict(_MARK),
            private=private,
            token=token,
            branch=branch,
            create_pr=create_pr,
            commit_message=commit_message,
        )


def from_pretrained(
    where: str | Path,
    into: _Module | Callable[[], _Module],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> _Module:
    """As `load`, from a folder or, as `ModelHubMixin` does, from the Hub (`user/name`).

    Only `model.safetensors`, `plan.json` and `config.json` are fetched: nothing that could run.

    Args:
        where: A folder, or `user/name`.
        into: As for `load`.
        revision: A branch, a tag or a commit; None: `main`.
        token: Who asks; None: whoever `hf auth login` says.
        cache_dir: Where fetched files are kept; None: where the Hub's library keeps them.
        force_download: Whether what is kept there is fetched again.
        local_files_only: Whether only what is kept there is used, without any network.

    Raises:
        InputError: huggingface_hub is not installed, or the Hub does not give the files.
        FileError: As `load`.
    """
    if isinstance(where, Path) or Path(where).is_dir():
        return load(where, into)
    kind = _hub_folder()
    with _on_the_hub(where):
        fetched = kind.from_pretrained(
            where,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
    return load(fetched.content, into)


@cache
def _hub_folder() -> Any:
    """The class of ours by which the Hub's library writes and fetches a folder."""
    hub = library("huggingface_hub", "huggingface_hub")

    class HubFolder(hub.ModelHubMixin):
        """A folder: a function that fills one, or where one was fetched to."""

        def __init__(self, content: Any) -> None:
            self.content = content

        def _save_pretrained(self, save_directory: Path) -> None:
            self.content(save_directory)

        @classmethod
        def _from_pretrained(cls, *, model_id: str, **options: Any) -> HubFolder:
            chosen = {key: options[key] for key in _DOWNLOAD}
            return cls(hub.snapshot_download(model_id, allow_patterns=[WEIGHTS, PLAN], **chosen))

    return HubFolder


@contextlib.contextmanager
def _on_the_hub(repository: str) -> Iterator[None]:
    """What the Hub's library raises, of the network, the account or the name, in our words."""
    try:
        yield
    except SecateurError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{repository!r} on the Hub: {first}",
            hint="a repository is user/name; hf auth login says who you are",
        ) from error
