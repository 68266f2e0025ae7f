"""The demo's data and trained weights, both inside the package (see DATA.md for their licences)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from secateur.demo.net import DigitNet
from secateur.ship.weights import fit_weights, read_weights

HERE = Path(__file__).parent
DIGITS = HERE / "digits.npz"
WEIGHTS = HERE / "digitnet.safetensors"


@dataclass(frozen=True)
class Digits:
    """Images `[n, 1, 8, 8]` from 0 to 1, and labels `[n]`; a quarter is never trained on."""

    images: Tensor
    labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor


def digits() -> Digits:
    """The 1,797 optical digits, in a fixed split.

    Example:
        >>> data = digits()
        >>> data.images.shape, data.held_out_images.shape
        (torch.Size([1347, 1, 8, 8]), torch.Size([450, 1, 8, 8]))
    """
    with np.load(DIGITS, allow_pickle=False) as file:
        images = torch.from_numpy(file["images"]).float().div(16).unsqueeze(1)
        labels = torch.from_numpy(file["labels"]).long()
        held_out = torch.from_numpy(file["held_out"])
    return Digits(images[~held_out], labels[~held_out], images[held_out], labels[held_out])


def trained() -> DigitNet:
    """The network with the weights that `benchmarks/train_demo.py` made, in eval mode."""
    model = DigitNet()
    fit_weights(model, read_weights(WEIGHTS), WEIGHTS.name)
    return model.eval()
