"""The trained models of the quality benchmark, with calibration, selection and report data.

Calibration data is training data, at most 512 samples; pruning sees it without labels, but for
criteria of peers that need gradients. The selection set may be looked at while a network is chosen;
what is reported is measured on the report set, which nothing has seen. Both are halves of the test
data: every other sample, and the two halves of the text.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

CALIBRATION = 512
DATA = Path(os.environ.get("SECATEUR_DATA", "../shared/data"))


@dataclass(frozen=True)
class Part:
    """Samples: the forward's arguments, each `[n, ...]`, and the targets `[n]` or `[n, steps]`."""

    inputs: tuple[Tensor, ...]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: slice) -> Part:
        return Part(tuple(x[index] for x in self.inputs), self.targets[index])

    def batches(self, size: int) -> Iterator[Part]:
        """In order, `size` samples at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


@dataclass(frozen=True)
class Case:
    """A trained model and its data.

    build: a fresh model with its trained weights, in eval mode. metric: "accuracy" (of a sample 0
    or 1) or "nats" (of a sequence, the mean of its steps; lower is better). published: what
    the data's README measured, by `check`. outer: modules, by glob, that write the residual stream
    or the output; what is left are the inner widths. heads: attention heads of projections.
    halved: also measure with half of every block's inner channels removed.
    """

    name: str
    build: Callable[[], nn.Module]
    metric: str
    calibration: Part
    selection: Part
    report: Part
    published: float
    check: Callable[[], float]
    output: str
    outer: tuple[str, ...] = ()
    heads: dict[str, int] = field(default_factory=dict)
    chunk: int = 250
    halved: bool = False

    @property
    def example(self) -> tuple[Tensor, ...]:
        """The arguments for one sample."""
        return self.calibration[:1].inputs

    def data(self, size: int = 64) -> list[Any]:
        """Calibration batches without labels: a tensor each, or a tuple of arguments."""
        batches = self.calibration.batches(size)
        return [b.inputs[0] if len(b.inputs) == 1 else b.inputs for b in batches]

    def scores(self, model: nn.Module, part: Part) -> Tensor:
        """The metric of every sample, `[n]`."""
        model.eval()
        with torch.no_grad():
            parts = [self._scores(model, batch) for batch in part.batches(self.chunk)]
        return torch.cat(parts)

    def _scores(self, model: nn.Module, batch: Part) -> Tensor:
        output = model(*batch.inputs)
        if self.metric == "accuracy":
            return (output.argmax(1) == batch.targets).float()
        return cross_entropy(output.movedim(-1, 1), batch.targets, reduction="none").mean(1)

    def loss(self, model: nn.Module, batch: Part) -> Tensor:
        """Cross-entropy, for criteria that need gradients."""
        output = model(*batch.inputs)
        return cross_entropy(output.movedim(-1, 1) if output.dim() > 2 else output, batch.targets)

    def better(self, first: float, second: float) -> bool:
        """Whether the first score is the better one."""
        return first > second if self.metric == "accuracy" else first < second


class Scores(nn.Module):
    """A model that returns a state with its scores, without the state.

    A state that is returned is for others to use, and its width is theirs to rely on.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]


def macs(model: nn.Module, case: Case) -> int:
    """Multiplications of one sample as PyTorch counts them, with fused kernels off."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), unfused(), counter:
        model(*case.example)
    return counter.get_total_flops() // 2


@contextmanager
def unfused() -> Iterator[None]:
    """Recurrent layers and attention as the matrix products that they are made of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
        with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield


@cache
def loaders() -> Any:
    """The data folder's own module of models and readers."""
    path = DATA / "loaders.py"
    spec = importlib.util.spec_from_file_location("secateur_data_loaders", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"there is no {path}: give --data, or set SECATEUR_DATA")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _builder(make: Callable[[], nn.Module], file: str) -> Callable[[], nn.Module]:
    weights = torch.load(DATA / file, map_location="cpu", weights_only=True)

    def build() -> nn.Module:
        model = make()
        model.load_state_dict(weights)
        return model.eval()

    return build


def _classifier(
    name: str,
    build: Callable[[], nn.Module],
    train: Part,
    test: Part,
    published: float,
    **more: Any,
) -> Case:
    even, odd = test[::2], test[1::2]

    def check() -> float:
        right = [case.scores(build(), part) for part in (even, odd)]
        return 100 * torch.cat(right).mean().item()

    case = Case(name, build, "accuracy", train, even, odd, published, check, **more)
    return case


def _fair(part: Part) -> Part:
    """At most `CALIBRATION` samples, drawn with a fixed seed."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
    index = order[:CALIBRATION]
    return Part(tuple(x[index] for x in part.inputs), part.targets[index])


def resnet20() -> Case:
    """CIFAR-10, ResNet-20 with parameter-free shortcuts."""
    module = loaders()

    def part(file: str, count: int | None) -> Part:
        pixels, labels = module.jpegs(file, count)
        return Part((module.cifar_x(pixels),), torch.from_numpy(labels))

    return _classifier(
        "CIFAR-10 ResNet-20",
        _builder(lambda: module.CifarResNet(20), "cifar_resnet20_jpegft.pt"),
        part("cifar10_jpeg_train10k.npz", CALIBRATION),
        part("cifar10_jpeg_test.npz", None),
        87.08,
        output="linear",
        outer=("conv1", "layer*.conv2"),
        halved=True,
    )


def _mnist() -> tuple[Part, Part]:
    file = np.load(DATA / "mnist_convnetjs.npz", allow_pickle=False)

    def part(kind: str) -> Part:
        pixels = torch.from_numpy(file[f"x_{kind}"]).float()[:, None] / 255
        labels = torch.from_numpy(file[f"y_{kind}"]).long()
        return Part(((pixels - 0.1307) / 0.3081,), labels)

    return _fair(part("train")), part("test")


def lenet5() -> Case:
    """MNIST, LeNet-5 with ReLU."""

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        )  # fmt: skip

    build = _builder(make, "mnist_lenet5.pt")
    return _classifier("MNIST LeNet-5", build, *_mnist(), 97.90, output="11")


def digitcnn() -> Case:
    """MNIST, three convolutions and two linear layers."""
    build = _builder(loaders().DigitCNN, "mnist_digitcnn.pt")
    return _classifier("MNIST DigitCNN", build, *_mnist(), 98.63, output="fc_layers.2")


def fsdd_lstm() -> Case:
    """Spoken digits, an LSTM over log-mel frames."""
    file = np.load(DATA / "fsdd_logmel40.npz", allow_pickle=False)
    frames = torch.from_numpy(file["x"].astype(np.float32))
    lengths = torch.from_numpy(file["len"].astype(np.int64))
    digits = torch.from_numpy(file["digit"]).long()
    test = torch.from_numpy(file["is_test"])
    train, tested = (Part((frames[m], lengths[m]), digits[m]) for m in (~test, test))
    build = _builder(lambda: loaders().RNNClassifier(40, 128, 10, nn.LSTM), "fsdd_lstm128.pt")
    return _classifier("FSDD LSTM", build, _fair(train), tested, 99.00, output="fc")


def jv_gru() -> Case:
    """Japanese vowels, a GRU over cepstral frames."""
    file = np.load(DATA / "timeseries_aeon6.npz", allow_pickle=False)
    std = torch.from_numpy(file["JapaneseVowels_train_x"]).std((0, 1))

    def part(kind: str) -> Part:
        x, length, y = (file[f"JapaneseVowels_{kind}_{field}"] for field in ("x", "len", "y"))
        lengths = torch.from_numpy(length.astype(np.int64))
        return Part((torch.from_numpy(x) / std, lengths), torch.from_numpy(y).long())

    build = _builder(lambda: loaders().RNNClassifier(12, 128, 9), "jv_gru128.pt")
    return _classifier(
        "JapaneseVowels GRU", build, _fair(part("train")), part("test"), 94.59, output="fc"
    )


def _text(steps: int) -> tuple[Part, Part, Part]:
    """Calibration, selection and report sequences of `steps` characters."""
    train, test = loaders().shakespeare()

    def part(ids: Tensor) -> Part:
        count = (len(ids) - 1) // steps
        x, y = (
            ids[: count * steps].view(count, steps),
            ids[1 : count * steps + 1].view(count, steps),
        )
        return Part((x,), y)

    middle = len(test) // 2
    return _fair(part(train)), part(test[:middle]), part(test[middle:])


def char_lstm() -> Case:
    """Characters of Shakespeare, two LSTM layers; sequences of 128 from a state of zeros."""
    whole = _builder(loaders().CharLSTM, "char_lstm.pt")
    check = lambda: loaders().ev_lstm(whole(), loaders().shakespeare()[1])  # noqa: E731
    build = lambda: Scores(whole()).eval()  # noqa: E731
    return Case("char LSTM", build, "nats", *_text(128), 1.798, check, "net.fc", chunk=64)


def char_gpt() -> Case:
    """Characters of Shakespeare, four transformer blocks; sequences of 64."""
    build = _builder(loaders().CharGPT, "char_gpt.pt")
    check = lambda: loaders().ev_gpt(build(), loaders().shakespeare()[1])  # noqa: E731
    heads = {f"blocks.{k}.{name}": 4 for k in range(4) for name in "qkv"}
    return Case(
        "char GPT", build, "nats", *_text(64), 1.993, check, "head",
        outer=("tok", "pos", "*.[qkvo]", "*.down"), heads=heads, chunk=64,
    )  # fmt: skip


CASES: dict[str, Callable[[], Case]] = {
    "resnet20": resnet20,
    "lenet5": lenet5,
    "digitcnn": digitcnn,
    "fsdd_lstm": fsdd_lstm,
    "jv_gru": jv_gru,
    "char_lstm": char_lstm,
    "char_gpt": char_gpt,
}
