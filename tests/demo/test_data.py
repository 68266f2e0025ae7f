"""The demo's data and weights, as they come with the package."""

from __future__ import annotations

import torch

from secateur.demo import data
from secateur.measure.quality import accuracy


def test_the_split_is_fixed_and_complete() -> None:
    digits = data.digits()
    assert len(digits.labels) == 1347
    assert len(digits.held_out_labels) == 450
    images = torch.cat([digits.images, digits.held_out_images])
    assert images.min() == 0
    assert images.max() == 1
    assert set(digits.held_out_labels.tolist()) == set(range(10))


def test_the_weights_are_good() -> None:
    digits, model = data.digits(), data.trained()
    assert not model.training
    assert accuracy(model, [(digits.held_out_images, digits.held_out_labels)]) > 0.98


def test_the_files_are_small() -> None:
    assert data.DIGITS.stat().st_size + data.WEIGHTS.stat().st_size < 800_000
    assert "CC BY 4.0" in (data.HERE / "DATA.md").read_text()
