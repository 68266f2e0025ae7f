"""The recipes for trackers, one by one: the real library where it is, else its signatures."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from worked import ROOT, Block, blocks

PAGE = blocks((ROOT / "docs" / "tracking.md").read_text(encoding="utf-8"))
Logged = list[tuple[dict[str, float], int]]


class Writer:
    """As `torch.utils.tensorboard.SummaryWriter`."""

    logged: ClassVar[Logged] = []

    def __init__(self, log_dir: str | None = None, comment: str = "") -> None:
        assert log_dir

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def add_scalar(
        self, tag: str, scalar_value: float, global_step: int | None = None,
        walltime: float | None = None, new_style: bool = False, double_precision: bool = False,
    ) -> None:  # fmt: skip
        assert global_step is not None
        self.logged.append(({tag: float(scalar_value)}, global_step))


class Run:
    """As `wandb.Run`, and the context of `mlflow.start_run`."""

    logged: ClassVar[Logged] = []

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def log(
        self, data: dict[str, Any], step: int | None = None, commit: bool | None = None
    ) -> None:
        assert step is not None
        self.logged.append((data, step))


def log_metrics(
    metrics: Mapping[str, float], step: int | None = None, synchronous: bool | None = None
) -> None:
    assert step is not None
    assert all(isinstance(value, (int, float)) for value in metrics.values())
    Run.logged.append((dict(metrics), step))


FAKES: dict[str, tuple[str, dict[str, Any], Logged]] = {
    "tensorboard": ("torch.utils.tensorboard", {"SummaryWriter": Writer}, Writer.logged),
    "wandb": ("wandb", {"init": lambda project, mode=None: Run()}, Run.logged),
    "mlflow": ("mlflow", {"start_run": Run, "log_metrics": log_metrics}, Run.logged),
}


@pytest.mark.parametrize("library", FAKES)
def test_events_are_logged(library: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module, contents, logged = FAKES[library]
    logged.clear()
    faked = find_spec(library) is None
    if faked:
        fake = ModuleType(module)
        fake.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, module, fake)
    first: list[Block] = [b for b in PAGE if b.kind == "python" and not b.mark]
    (recipe,) = (b for b in PAGE if b.mark == f"needs {library}")
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    for block in (*first, recipe):
        exec(block.text, names)
    if faked:
        events = names["session"].events
        assert [step for _, step in logged] == [event["step"] for event in events]
        assert [data["sparsity"] for data, _ in logged] == [event["sparsity"] for event in events]
