"""Rules of the house: small files, a test for each, rooms built one way, a light import."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "secateur"
TESTS = ROOT / "tests"
FILES = sorted(path for path in SOURCE.rglob("*.py"))
MOST_LINES = 400
WITHOUT_TEST = {"__init__.py", "__main__.py"}

# Files whose tests are in a file with another name than their own.
TESTED_ELSEWHERE = {
    **{
        f"allocate/{file}.py": "allocate/test_allocate.py"
        for file in ("allocation", "allocator", "decide", "ladder")
    },
    **{
        f"score/{file}.py": "score/test_criteria.py"
        for file in ("baseline", "criterion", "group", "magnitude", "norm", "run")
    },
    **{
        f"units/{file}.py": "units/test_units.py"
        for file in ("axes", "channel", "head", "join", "layer")
    },
    **{
        f"testing/{file}.py": "test_testing.py"
        for file in ("criteria", "places", "rules", "samples")
    },
}


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_are_small(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{name(path)} has {lines} lines; split it"


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.name not in WITHOUT_TEST], ids=name
)
def test_every_file_has_a_test(path: Path) -> None:
    relative = path.relative_to(SOURCE)
    mirrored = TESTS / relative.parent / f"test_{relative.name}"
    elsewhere = TESTED_ELSEWHERE.get(relative.as_posix())
    if elsewhere is not None:
        assert not mirrored.exists(), f"{name(path)} need not be listed"
        assert (TESTS / elsewhere).exists()
    else:
        assert mirrored.exists(), f"write {mirrored.relative_to(ROOT)}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name(path)} has no docstring"


def test_rooms_are_built_one_way() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("import-linter is not installed")
    found = subprocess.run(
        [command, "--no-cache"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src"
    )
    return {module.partition(".")[0] for module in found.stdout.split()}


def test_import_is_light() -> None:
    heavy = {"rich", "typer", "click", "torchvision", "timm", "transformers", "scipy", "sklearn"}
    assert not modules_after("import secateur") & heavy


def test_verbs_need_only_torch_numpy_and_safetensors() -> None:
    statement = "import secateur as sc; [getattr(sc, name) for name in sc.__all__]"
    before = modules_after("import torch, numpy, safetensors.torch")
    added = modules_after(statement) - before - set(sys.stdlib_module_names)
    assert added == {"secateur"}


def test_the_list_of_exceptions_has_no_leftovers() -> None:
    assert not [file for file in TESTED_ELSEWHERE if not (SOURCE / file).exists()]
