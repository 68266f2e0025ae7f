"""The style and script: what people who see or move differently rely on is there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from secateur.report.theme import SCRIPT, STYLE


def test_light_dark_focus_and_narrow_screens_are_styled() -> None:
    for rule in ("prefers-color-scheme: dark", ":focus-visible", "max-width: 40rem", "li:focus"):
        assert rule in STYLE
    assert STYLE.count("{") == STYLE.count("}")
    assert "<" not in STYLE


def test_the_script_is_valid(tmp_path: Path) -> None:
    assert "</" not in SCRIPT
    assert "aria-sort" in SCRIPT
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    (tmp_path / "s.js").write_text(SCRIPT)
    subprocess.run([node, "--check", tmp_path / "s.js"], check=True)
