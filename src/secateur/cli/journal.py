"""What an interrupted search has measured already, kept beside its results until it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.core.attempt import Attempt
from secateur.core.errors import FileError

JOURNAL = "search.json"
_VERSION = 1


class Journal:
    """The records of a search in a folder; a second call with the same arguments goes on from them.

    arguments: all that decides what is searched for. A journal of other arguments, of another
    version or a damaged one is not used, and `note` says so.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> Journal(folder, {"budget": "drop 1"}).add(Attempt("Drop(points=1.0)", 0.5))
        >>> [attempt.share for attempt in Journal(folder, {"budget": "drop 1"}).attempts]
        [0.5]
        >>> Journal(folder, {"budget": "drop 2"}).attempts
        []
    """

    def __init__(self, folder: Path, arguments: Mapping[str, Any]) -> None:
        self.path = folder / JOURNAL
        text = json.dumps(arguments, sort_keys=True, default=str)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self.note = ""
        self.attempts = self._read()

    def _read(self) -> list[Attempt]:
        if not self.path.exists():
            return []
        try:
            value = json.loads(self.path.read_text())
            if value["version"] != _VERSION or value["key"] != self.key:
                self.note = f"{self.path} is of another search: starting anew"
                return []
            found = [Attempt.from_dict(item) for item in value["attempts"]]
        except (OSError, ValueError, KeyError, TypeError, FileError):
            self.note = f"{self.path} is damaged: starting anew"
            return []
        self.note = f"resuming after {len(found)} trials of {self.path}"
        return found

    def add(self, attempt: Attempt) -> None:
        """Write a record down at once; the file is whole at any time."""
        if attempt not in self.attempts:
            self.attempts.append(attempt)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        items = [item.to_dict() for item in self.attempts]
        value = {"version": _VERSION, "key": self.key, "attempts": items}
        beside = self.path.with_suffix(".tmp")
        beside.write_text(json.dumps(value, indent=1))
        beside.replace(self.path)

    def close(self) -> None:
        """The search is done: its results are saved."""
        self.path.unlink(missing_ok=True)


def stamp(path: Path | None) -> Any:
    """What tells whether a file is still the same: its size and time of change."""
    if path is None or not path.exists():
        return None
    state = path.stat()
    return [str(path), state.st_size, state.st_mtime_ns]
