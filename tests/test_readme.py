"""The README: its code runs, and its names exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import secateur as sc
from secateur.allocate.allocator import allocators
from secateur.cli import app
from secateur.core.registry import Registry
from secateur.demo.data import digits, trained
from secateur.demo.net import DigitNet
from secateur.score.criterion import criteria

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def _marked(block: int) -> Any:
    """Searches and training take long."""
    long = any(word in BLOCKS[block] for word in ("sc.Drop", "sc.Steps", "sc.NM"))
    return pytest.param(block, marks=pytest.mark.slow if long else ())


@pytest.mark.parametrize("block", [_marked(block) for block in range(len(BLOCKS))])
def test_code_runs(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = digits()
    names = {
        "sc": sc,
        "torch": torch,
        "model": trained(),
        "example": data.images[:2],
        "images": data.images[:64],
        "labelled": [(data.held_out_images[:150], data.held_out_labels[:150])],
        "build_model": DigitNet,
    }
    monkeypatch.setattr(criteria, "_entries", dict(criteria._entries))
    code = BLOCKS[block]
    exec(compile(code, f"README block {block}", "exec"), names)
    if "print(result)" in code:
        assert "verified: " in capsys.readouterr().out


def test_names_exist() -> None:
    for name in set(re.findall(r"`?\bsc\.(\w+)", README)):
        assert name in sc.__all__, name


@pytest.mark.parametrize(
    ("argument", "registry"), [("criterion", criteria), ("allocate", allocators)]
)
def test_the_table_lists_what_is_registered(argument: str, registry: Registry[Any]) -> None:
    (row,) = re.findall(rf"^\| .* \| `{argument}` \| (.*) \|$", README, re.MULTILINE)
    listed = set(re.findall(r'"(\w+)"', row))
    ours = {n for n in registry if registry.get(n).__module__.startswith("secateur.")}
    assert listed == ours


def test_commands_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(re.findall(r"^secateur (\w+)", README, re.MULTILINE)) == set(commands)
