"""A search that is interrupted, and one that is not the same."""

from __future__ import annotations

from pathlib import Path

from secateur.cli.journal import JOURNAL, Journal, stamp
from secateur.core.attempt import Attempt

TRIED = Attempt("Drop(points=1.0)", 0.5, 0.48, margins={"Drop(points=1.0)": 0.1}, accepted=True)


def test_records_come_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new", {"a": 1})
    journal.add(TRIED)
    journal.add(Attempt("Drop(points=1.0)", 0.25, why="too small"))
    again = Journal(tmp_path / "new", {"a": 1})
    assert [item.share for item in again.attempts] == [0.5, 0.25]
    assert again.attempts[0] == TRIED and "resuming after 2 trials" in again.note
    again.add(TRIED)
    assert len(Journal(tmp_path / "new", {"a": 1}).attempts) == 2


def test_another_search_or_a_damaged_file_starts_anew(tmp_path: Path) -> None:
    Journal(tmp_path, {"a": 1}).add(TRIED)
    other = Journal(tmp_path, {"a": 2})
    assert other.attempts == [] and "another search" in other.note
    for text in ("", "{}", "[1]", '{"version": 1, "key": "x", "attempts": [{}]}', "\0"):
        (tmp_path / JOURNAL).write_text(text)
        assert Journal(tmp_path, {"a": 1}).attempts == []


def test_closing_removes_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {})
    journal.close()
    journal.add(TRIED)
    journal.close()
    assert not (tmp_path / JOURNAL).exists()


def test_a_stamp_tells_changes(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    assert stamp(None) is None and stamp(path) is None
    path.write_bytes(b"1")
    first = stamp(path)
    path.write_bytes(b"22")
    assert stamp(path) != first
