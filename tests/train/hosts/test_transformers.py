"""The Trainer of transformers: a session comes and goes with it, and resumes with it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training import batches, net, zeros

import secateur as sc
from secateur.train.hosts import trainer_callback

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="the Trainer needs accelerate")


class Net(nn.Module):
    """The small network as the Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.body(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def fit(folder: Path, resume: str | None, steps: int) -> tuple[Net, Any]:
    data = [{"x": x, "labels": y} for xs, ys in batches(4) for x, y in zip(xs, ys, strict=True)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=16, report_to=[],
        save_steps=5, learning_rate=1e-2, use_cpu=True, disable_tqdm=True, seed=0,
        lr_scheduler_type="constant", dataloader_pin_memory=False,
    )  # fmt: skip
    model = Net()
    callback = trainer_callback(sc.presets.set(0.8, every=2))
    trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train(resume_from_checkpoint=resume)
    return model, callback.session


def test_it_trains_and_resumes(tmp_path: Path) -> None:
    whole, session = fit(tmp_path / "a", None, steps=10)
    assert session.finished and session.step == 10
    assert zeros(whole)[0] / zeros(whole)[1] >= 0.8
    again, resumed = fit(tmp_path / "a", str(tmp_path / "a" / "checkpoint-5"), steps=10)
    assert resumed.step == 10 and resumed.events == session.events
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_checkpoint_without_a_session(tmp_path: Path) -> None:
    fit(tmp_path, None, steps=5)
    file = tmp_path / "checkpoint-5" / "optimizer.pt"
    state = torch.load(file, weights_only=True)
    del state["secateur"]
    torch.save(state, file)
    with pytest.raises(sc.SecateurError, match="holds no session"):
        fit(tmp_path, str(file.parent), steps=10)
