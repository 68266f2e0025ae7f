"""Lightning: a session comes and goes with its trainer, and resumes with it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from training import batches, net, zeros

import secateur as sc
from secateur.train.hosts import lightning_callback

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")


class Net(lightning.LightningModule):
    """The small network as Lightning wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.body(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class SaveFirstEpoch(lightning.Callback):
    """Writes a checkpoint after the first epoch."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "first.ckpt")


def fit(folder: Path, recipe: sc.Recipe, resume: Path | None = None) -> tuple[Net, Any]:
    """Two epochs of five steps."""
    model, callback = Net(), lightning_callback(recipe)
    loader = DataLoader(list(batches(5)), batch_size=None)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
            callbacks=[callback, SaveFirstEpoch()],
        )  # fmt: skip
        trainer.fit(model, loader, ckpt_path=resume, weights_only=None if resume is None else True)
    return model, callback.session


@pytest.mark.parametrize(
    "recipe", [sc.presets.rigl(0.8, every=2), sc.presets.movement(0.8, end=8, every=2)]
)
def test_it_trains_with_lightnings_closures(recipe: sc.Recipe, tmp_path: Path) -> None:
    model, session = fit(tmp_path, recipe)
    assert session.finished and session.step == 10
    assert zeros(model)[0] / zeros(model)[1] >= 0.799
    assert session.sparsity == pytest.approx(0.8, abs=1e-3)


def test_it_resumes(tmp_path: Path) -> None:
    recipe = sc.presets.set(0.8, every=2)
    whole, session = fit(tmp_path, recipe)
    again, resumed = fit(tmp_path, recipe, tmp_path / "first.ckpt")
    assert resumed.events == session.events
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
