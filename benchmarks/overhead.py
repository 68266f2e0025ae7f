"""What an attached session costs between updates: training steps with and without, in turns.

    python benchmarks/overhead.py            # writes docs/overhead.md and prints it

Every pair of steps runs the same network on the same batch, once without and once with a session,
in changing order; the figure is the median of the ratios, with its quartiles. One thread, and the
time that the processor spent on it, so that other programs count little.
"""

from __future__ import annotations

import copy
import json
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time

import torch
from torch import Tensor, nn

import secateur as sc
from secateur.runtime.kernels import llvm

HERE = Path(__file__).parent
SECONDS = 20
"""Of steps for each row of the table; at least 30 pairs."""


class Recurrent(nn.Module):
    """An LSTM over 40 features, 128 units, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(40, 128, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0].mean(1))


def conv() -> nn.Module:
    layers: list[nn.Module] = []
    width = 3
    for out, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        layers += [nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(),
        nn.Linear(100, 10),
    )  # fmt: skip


def gpt() -> nn.Module:
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
    return nn.Sequential(
        nn.Embedding(65, 128), nn.TransformerEncoder(layer, 4, enable_nested_tensor=False),
        nn.Flatten(), nn.Linear(64 * 128, 10),
    )  # fmt: skip


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "LeNet-300-100, batch 128": (lenet, lambda: torch.randn(128, 1, 28, 28)),
    "convolutions, 32 x 32, batch 64": (conv, lambda: torch.randn(64, 3, 32, 32)),
    "LSTM-128, 80 steps, batch 32": (Recurrent, lambda: torch.randn(32, 80, 40)),
    "Transformer, 4 x 128, batch 16": (gpt, lambda: torch.randint(65, (16, 64))),
}
RECIPES = {
    "masks (gmp, rigl, set)": sc.Recipe(budget=sc.Sparsity(0.9)),
    "dense copy (dpf)": sc.presets.dpf(0.9, end=1, every=1),
}


def measure(
    make: Callable[[], nn.Module], batch: Tensor, recipe: sc.Recipe
) -> tuple[list[float], float]:
    """Ratios of the time of a step with a session to that of one without; bits for each weight."""
    torch.manual_seed(0)
    models = [make()]
    models.append(copy.deepcopy(models[0]))
    optimizers = [torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9) for m in models]
    session = sc.attach(models[1], optimizers[1], recipe)
    target = torch.randint(10, (len(batch),))

    def step(k: int) -> float:
        start = process_time()
        optimizers[k].zero_grad()
        nn.functional.cross_entropy(models[k](batch), target).backward()
        optimizers[k].step()
        return process_time() - start

    for _ in range(5):
        step(0), step(1)
    ratios: list[float] = []
    until = process_time() + SECONDS
    while process_time() < until or len(ratios) < 30:
        first = len(ratios) % 2
        took = {first: step(first)}
        took[1 - first] = step(1 - first)
        ratios.append(took[1] / took[0])
    held = session.state_dict()["weights"].values()
    tensors = [t for kept in held for t in (kept["mask"], *kept["extra"].values())]
    tensors += [kept["latent"] for kept in held if "latent" in kept]
    weights = sum(mask.numel() for mask in session.masks.values())
    session.finish()
    return ratios, 8 * sum(t.numel() * t.element_size() for t in tensors) / weights


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, (make, data) in CASES.items():
        for what, recipe in RECIPES.items():
            ratios, bits = measure(make, data(), recipe)
            low, middle, high = statistics.quantiles(ratios, n=4)
            weights = sum(p.numel() for p in make().parameters() if p.dim() > 1)
            rows.append({"case": name, "form": what, "weights": weights, "bits": bits,
                         "pairs": len(ratios), "median": middle,
                         "quartiles": [low, high]})  # fmt: skip
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    kernel = "llvmlite" if llvm.available() else "no llvmlite"
    machine = f"{platform.machine()}, one thread, torch {torch.__version__}, {kernel}"
    lines = [
        "# What a session costs", "",
        f"Written by `python benchmarks/overhead.py`; {machine}.", "",
        "Processor time of a training step with a session over one without, between updates: "
        f"the median of as many pairs in turns as take {SECONDS} seconds, and their quartiles; "
        "and what the session keeps, in bits for each weight. Networks whose steps are as short as "
        "the first's feel most of it.", "",
        "| network | weights | form | with / without | pairs | bits |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        low, high = row["quartiles"]
        lines.append(
            f"| {row['case']} | {row['weights']:,} | {row['form']} | "
            f"{row['median']:.3f} ({low:.3f} to {high:.3f}) | {row['pairs']} | {row['bits']:.1f} |"
        )
    text = "\n".join(lines) + "\n"
    (HERE.parent / "docs" / "overhead.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
