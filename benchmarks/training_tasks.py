"""The tasks of the training benchmark: models, batches, and quality on data nobody trained on."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

DATA = Path(os.environ.get("SECATEUR_DATA", "../shared/data"))
DEVICE = "cpu"
HELD = 10_000
Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """What is trained, for how many steps, and how its quality is measured.

    loss: of the model on the next batch of a generator, with labels smoothed by `smooth`.
    report: figures of a trained model.
    """

    build: Callable[[], nn.Module]
    steps: int
    loss: Callable[[Model, torch.Generator, float], Tensor]
    report: Callable[[nn.Module], dict[str, float]]
    rate: float
    decay: float = 0.0
    adam: bool = False
    smooth: float = 0.0
    scope: Any = None

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        if self.adam:
            return torch.optim.AdamW(model.parameters(), lr=self.rate, weight_decay=self.decay)
        return torch.optim.SGD(
            model.parameters(), lr=self.rate, momentum=0.9, weight_decay=self.decay, nesterov=True
        )


@cache
def mnist(choice: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """50,000 images to train on; the 3,000 test images and the last 10,000 others to report on.

    choice: the last 10,000 of the 50,000 to report on, and the others to train on.
    """
    file = np.load(DATA / "mnist_convnetjs.npz")
    keys = {key: torch.from_numpy(file[key]) for key in file.files}
    images = [key for key in keys if keys[key].dim() > 1 or keys[key].numel() > 1_000_000]
    train = next(key for key in images if len(keys[key]) == 60_000)
    test = next(key for key in images if len(keys[key]) == 3_000)
    label = {len(keys[key]): keys[key].long() for key in keys if key not in images}
    x, t = ((keys[key].float().div(255) - 0.1307) / 0.3081 for key in (train, test))
    x, t = x.reshape(-1, 1, 28, 28), t.reshape(-1, 1, 28, 28)
    y, s = label[60_000], label[3_000]
    unseen, labels = torch.cat([t, x[-HELD:]]), torch.cat([s, y[-HELD:]])
    x, y = x[:-HELD], y[:-HELD]
    found = (x[:-HELD], y[:-HELD], x[-HELD:], y[-HELD:]) if choice else (x, y, unseen, labels)
    return tuple(tensor.to(DEVICE) for tensor in found)  # type: ignore[return-value]


def images(
    build: Callable[[], nn.Module], steps: int, rate: float, choice: bool = False, **how: Any
) -> Task:
    """A classifier of MNIST."""
    return classifier(build, steps, rate, *mnist(choice), **how)


def classifier(
    build: Callable[[], nn.Module], steps: int, rate: float,
    x: Tensor, y: Tensor, unseen: Tensor, labels: Tensor, batch: int = 128,
    changed: Callable[[Tensor, torch.Generator], Tensor] = lambda x, generator: x, **how: Any,
) -> Task:  # fmt: skip
    """changed: what is done to the images of a batch."""

    def loss(model: Model, generator: torch.Generator, smooth: float) -> Tensor:
        chosen = torch.randint(len(x), (batch,), generator=generator).to(x.device)
        outputs = model(changed(x[chosen], generator))
        return cross_entropy(outputs, y[chosen], label_smoothing=smooth)

    def report(model: nn.Module) -> dict[str, float]:
        outputs = torch.cat([model(part) for part in unseen.split(1000)])
        accuracy = (outputs.argmax(1) == labels).double().mean() * 100
        return {"accuracy": float(accuracy), "nats": float(cross_entropy(outputs, labels))}

    return Task(build, steps, loss, report, rate, **how)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(),
        nn.Linear(100, 10),
    )  # fmt: skip


def conv() -> nn.Module:
    """LeNet-5 as in Caffe: 20 and 50 channels, 500 hidden units, 430,500 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def lenet_300_100(choice: bool = False, steps: int = 31_680) -> Task:
    """With fewer steps where ways are compared."""
    return images(mlp, 8000 if choice else steps, 0.05, choice, decay=1e-4, batch=64)


def lenet5(choice: bool = False) -> Task:
    return images(conv, 3000 if choice else 10_560, 0.03, choice, decay=1e-4, batch=64)


def short_lenet() -> Task:
    return images(mlp, 800, 0.05, decay=1e-4)


def short_lenet5() -> Task:
    return images(conv, 800, 0.03, decay=1e-4)


def small(count: int, wrong: float) -> Task:
    """LeNet-300-100 on a few images, of which a part has a label drawn at random."""
    x, y, unseen, labels = mnist()
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randperm(len(x), generator=generator)[:count]
    given = y[chosen].clone()
    drawn = torch.rand(count, generator=generator) < wrong
    other = torch.randint(1, 10, (count,), generator=generator).to(y.device)
    given[drawn] = (given[drawn] + other[drawn]) % 10
    return classifier(mlp, 800, 0.05, x[chosen], given, unseen, labels)


@cache
def cifar() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """10,000 training images and the test images of CIFAR-10, as they are in the data folder."""
    loaders = _loaders()
    found: list[Tensor] = []
    for name in ("cifar10_jpeg_train10k.npz", "cifar10_jpeg_test.npz"):
        pixels, labels = loaders.jpegs(name)
        found += [loaders.cifar_x(pixels).to(DEVICE), torch.from_numpy(labels).to(DEVICE)]
    return tuple(found)  # type: ignore[return-value]


def resnet20(steps: int = 2000) -> Task:
    """Images are mirrored at random, half of them."""

    def changed(x: Tensor, generator: torch.Generator) -> Tensor:
        mirrored = torch.rand(len(x), 1, 1, 1, generator=generator).to(x.device) < 0.5
        return torch.where(mirrored, x.flip(3), x)

    build = lambda: _loaders().CifarResNet(20)  # noqa: E731
    return classifier(build, steps, 0.1, *cifar(), changed=changed, decay=5e-4)


def decayed(task: Task) -> Task:
    """The same with weight decay, the usual way to regularise."""
    return replace(task, decay=2e-3)


def noisy(task: Task, amount: float) -> Task:
    """The same with normal noise on every input of a batch, of so many standard deviations."""

    def loss(model: Model, generator: torch.Generator, smooth: float) -> Tensor:
        def disturbed(x: Tensor) -> Tensor:
            return model(x + amount * torch.randn(x.shape, generator=generator).to(x.device))

        return task.loss(disturbed, generator, smooth)

    return replace(task, loss=loss)


def gpt(steps: int = 300) -> Task:
    """Two blocks of width 64 on Shakespeare's characters, contexts of 64."""
    loaders = _loaders()
    text, unseen = (part.to(DEVICE) for part in loaders.shakespeare())

    def loss(model: Model, generator: torch.Generator, smooth: float) -> Tensor:
        starts = torch.randint(len(text) - 65, (16, 1), generator=generator)
        taken = text[(starts + torch.arange(65)).to(text.device)]
        outputs = model(taken[:, :-1]).flatten(0, 1)
        return cross_entropy(outputs, taken[:, 1:].flatten(), label_smoothing=smooth)

    def report(model: nn.Module) -> dict[str, float]:
        return {"nats": loaders.ev_gpt(model, unseen[:40_000])}

    build = lambda: loaders.CharGPT(d=64, l=2, h=4)  # noqa: E731
    return Task(build, steps, loss, report, 3e-3, adam=True)


@cache
def _loaders() -> Any:
    spec = importlib.util.spec_from_file_location("loaders", DATA / "loaders.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
