"""Makes the demo's data file and trained weights; needs scikit-learn for the data only.

    python benchmarks/train_demo.py           # writes both files into the package
    python benchmarks/train_demo.py --check   # trains again and compares with the committed weights

One thread, fixed seeds, deterministic algorithms: on the same kind of CPU and with the same version
of PyTorch the weights come out bit for bit. Elsewhere rounding differs, and `--check` says by how
much.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur.demo import data as demo
from secateur.demo.net import DigitNet
from secateur.measure.quality import accuracy

EPOCHS = 40
BATCH = 32
SEED = 0
PENALTY = 0.03
"""Weight of the penalty on batch-norm scales, chosen out of 0, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05
by what a prune to half the MACs leaves of the held-out accuracy."""


def make_data(path: Path) -> None:
    """Write the images, the labels and the split."""
    from sklearn.datasets import load_digits

    source = load_digits()
    held_out = np.zeros(len(source.target), dtype=np.bool_)
    held_out[np.random.default_rng(SEED).permutation(len(held_out))[:450]] = True
    np.savez_compressed(
        path,
        images=source.images.astype(np.uint8),
        labels=source.target.astype(np.uint8),
        held_out=held_out,
    )


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Every image moved by -1, 0 or 1 pixel in both directions."""
    moves = torch.randint(-1, 2, (len(images), 2), generator=generator)
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    size = images.shape[-1]
    moved = [
        image[:, 1 + dy : 1 + dy + size, 1 + dx : 1 + dx + size]
        for image, (dy, dx) in zip(padded, moves.tolist(), strict=True)
    ]
    return torch.stack(moved)


def shrink(norms: list[nn.BatchNorm2d], step: float) -> None:
    """One proximal step: every channel's (scale, shift) gets shorter by `step`, down to nothing."""
    with torch.no_grad():
        for norm in norms:
            length = torch.hypot(norm.weight, norm.bias).clamp_min(1e-12)
            factor = (1 - step / length).clamp_min(0)
            norm.weight.mul_(factor)
            norm.bias.mul_(factor)


def train(data: demo.Digits) -> DigitNet:
    """Train from scratch with a one-cycle schedule; the last epoch's weights are kept.

    As in network slimming (Liu et al., ICCV 2017), a penalty on the batch-norm scales makes the
    channels that matter less small, so that they can go without training afterwards.
    """
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(SEED)
    model = DigitNet()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    steps = EPOCHS * (len(data.images) // BATCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(data.images), generator=generator)
        for index in order[: len(order) // BATCH * BATCH].split(BATCH):
            scores = model(shifted(data.images[index], generator))
            loss = nn.functional.cross_entropy(scores, data.labels[index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            shrink(norms, optimizer.param_groups[0]["lr"] * PENALTY)
            schedule.step()
    return model.eval()


def check(model: nn.Module, path: Path) -> int:
    """Compare with the committed weights; 0 when they are the same bit for bit."""
    committed = load_file(path)
    state = model.state_dict()
    worst = max(
        (state[name].double() - value.double()).abs().max().item()
        for name, value in committed.items()
    )
    same = all(torch.equal(state[name], value) for name, value in committed.items())
    print("same bit for bit" if same else f"not the same bits; largest difference {worst:.3g}")
    return 0 if same else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    if not arguments.check:
        make_data(demo.DIGITS)
    data = demo.digits()
    model = train(data)
    held_out = accuracy(model, [(data.held_out_images, data.held_out_labels)])
    seen = accuracy(model, [(data.images, data.labels)])
    print(f"accuracy {held_out:.4f} on held-out images, {seen:.4f} on training images")
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    if arguments.check:
        return check(model, demo.WEIGHTS)
    save_file(model.state_dict(), demo.WEIGHTS)
    demo.WEIGHTS.chmod(0o644)
    return 0


if __name__ == "__main__":
    sys.exit(main())
