"""Accelerate: attach to what it prepared; its checkpoints hold the session."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from training import batches, net, sgd, zeros

import secateur as sc

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")


def test_prepared_objects_and_saved_states(tmp_path: Path) -> None:
    ends = []
    for stop in (False, True):
        host = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model, optimizer = host.prepare(net(), sgd(net()))
        model, optimizer = host.prepare(plain := net(), sgd(plain))
        session = sc.attach(model, optimizer, sc.presets.set(0.8, every=2))
        for k, (x, y) in enumerate(batches(16)):
            with host.accumulate(model):
                host.backward(nn.functional.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
            if stop and k == 7:
                host.save_state(str(tmp_path))
                session.finish()
                with torch.no_grad():
                    model[3].weight.normal_()
                session = sc.attach(model, optimizer, sc.presets.set(0.8, every=2))
                host.load_state(str(tmp_path))
        assert session.step == 8  # every other batch
        ends.append(session.finish())
    assert zeros(ends[0])[0] / zeros(ends[0])[1] >= 0.8
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in ends), strict=True))
