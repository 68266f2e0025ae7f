"""Runs that stop and go on, and that end whatever happens."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

from secateur.recover.lockstep import Run, together, twin


def test_only_one_run_works_at_a_time_and_in_the_order_given() -> None:
    seen: list[tuple[str, int]] = []

    def work(name: str) -> Any:
        def body(run: Run) -> None:
            for step in range(3):
                seen.append((name, step))
                run.stop(step)

        return body

    runs = [Run(work("a")), Run(work("b"))]
    with together(runs):
        for _ in range(4):
            for run in runs:
                run.advance()
    assert seen == [(name, step) for step in range(3) for name in "ab"]
    assert all(run.done for run in runs)


def test_an_error_inside_is_raised_outside() -> None:
    def fail(run: Run) -> None:
        run.stop(1)
        raise ValueError("inside")

    run = Run(fail)
    assert run.advance() == 1
    with pytest.raises(ValueError, match="inside"):
        run.advance()
    assert run.done


def test_runs_that_nobody_continues_end() -> None:
    before = threading.active_count()
    cleaned: list[bool] = []

    def body(run: Run) -> None:
        try:
            run.stop(1)
        except Exception:  # a model may catch its own errors
            cleaned.append(False)
        finally:
            cleaned.append(True)

    runs = [Run(body) for _ in range(3)]
    with pytest.raises(KeyboardInterrupt), together(runs):
        runs[0].advance()
        runs[1].advance()
        raise KeyboardInterrupt
    assert cleaned == [True, True]
    assert threading.active_count() == before


def test_a_twin_shares_tensors_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    other = twin(model)
    assert all(a is b for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert all(a is b for a, b in zip(model.buffers(), other.buffers(), strict=True))
    other.eval()
    other[0].note = torch.zeros(1)  # type: ignore[assignment]
    assert model.training and not hasattr(model[0], "note")
