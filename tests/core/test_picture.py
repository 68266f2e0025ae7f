"""Pictures as files: written whole, or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.core.errors import FileError
from secateur.core.picture import write_svg


def test_it_is_written_as_it_is(tmp_path: Path) -> None:
    path = write_svg(str(tmp_path / "a.SVG"), "<svg>é</svg>", "front.svg")
    assert path.read_text(encoding="utf-8") == "<svg>é</svg>"


def test_other_names_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"a\.png is not the name of an SVG file") as error:
        write_svg(tmp_path / "a.png", "<svg/>", "front.svg")
    assert error.value.hint == "for example front.svg"
    with pytest.raises(FileError, match=r"a\.svg cannot be written: No such file"):
        write_svg(tmp_path / "none" / "a.svg", "<svg/>", "front.svg")
