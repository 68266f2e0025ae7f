"""90 % gone and trained again: cycles with distillation, gradual pruning, and what they are worth.

    python benchmarks/recovery.py run --data ../shared/data [--seeds 3] [case ...]
    python benchmarks/recovery.py write                          # docs/recovery.md

Every way of pruning a case gets the same number of epochs, and so does the dense network: "trained
on" is what it has after them. Models are chosen on a tenth of the training data that is held out;
the test data is looked at once, when all is done.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import quality_cases
import torch
from quality_cases import CASES, Case, macs
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc

SPARSITY, CYCLES = 0.9, 5
Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """Epochs in each of the cycles, samples in a batch, and the learning rate."""

    epochs: int
    batch: int
    lr: float


SETTINGS = {
    "lenet5": Setting(1, 128, 2e-3),
    "fsdd_lstm": Setting(4, 64, 3e-3),
    "jv_gru": Setting(20, 32, 3e-3),
}


@dataclass(frozen=True)
class Job:
    """A case in one run: the trained network, its training data, and the settings."""

    case: Case
    how: Setting
    seed: int

    @property
    def data(self) -> DataLoader[Any]:
        """All training samples with labels."""
        part = self.case.calibration
        order = torch.Generator().manual_seed(self.seed)
        return DataLoader(
            TensorDataset(*part.inputs, part.targets), self.how.batch, shuffle=True, generator=order
        )

    def distill(self, epochs: int) -> sc.Distill:
        """The teacher is the dense network."""
        return sc.Distill(epochs=epochs, lr=self.how.lr)

    def prune(self, **arguments: Any) -> nn.Module:
        """With a seed, and without timing."""
        result = sc.prune(
            self.case.build(), self.case.example, data=self.data, seed=self.seed, latency=False,
            **arguments,
        )  # fmt: skip
        for line in (*result.search, *result.repairs):
            print(f"    {line}", flush=True)
        return result.model


def trained_on(job: Job) -> nn.Module:
    """The dense network, distilled from itself for as many epochs."""
    return job.prune(
        unit=sc.Weight(), budget=sc.Sparsity(0.0), recover=[job.distill(CYCLES * job.how.epochs)]
    )


def weights_alone(job: Job) -> nn.Module:
    """Magnitudes by LAMP, and nothing else."""
    return job.prune(unit=sc.Weight(), budget=sc.Sparsity(SPARSITY), recover=[])


def weights_solved(job: Job) -> nn.Module:
    """What a prune of weights does by default: least squares, no training."""
    return job.prune(unit=sc.Weight(), budget=sc.Sparsity(SPARSITY))


def weights_once(job: Job) -> nn.Module:
    """One cut, then all the epochs."""
    return job.prune(
        unit=sc.Weight(), budget=sc.Sparsity(SPARSITY),
        recover=[sc.Reconstruct(), job.distill(CYCLES * job.how.epochs)],
    )  # fmt: skip


def weights_cycles(job: Job) -> nn.Module:
    """Five cycles of a cut and a fifth of the epochs."""
    return job.prune(
        unit=sc.Weight(), budget=sc.Sparsity(SPARSITY), schedule=sc.Steps(CYCLES),
        recover=[sc.Reconstruct(), job.distill(job.how.epochs)],
    )  # fmt: skip


def weights_gradual(job: Job) -> nn.Module:
    """The cubic schedule in a plain training loop; the last network is taken as it is."""
    torch.manual_seed(job.seed)
    model, teacher, data = job.case.build().train(), job.case.build(), job.data
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.how.lr)
    steps = CYCLES * job.how.epochs * len(data)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    end = int(0.7 * steps)
    recipe = sc.presets.gmp(SPARSITY, end=end, every=max(1, end // 50), allocate="lamp")
    session = sc.attach(model, optimizer, recipe)
    for _ in range(CYCLES * job.how.epochs):
        for *inputs, labels in data:
            with torch.no_grad():
                wanted = teacher(*inputs)
            optimizer.zero_grad()
            distilled(model(*inputs), wanted, labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
    return session.finish().eval()


def distilled(found: Tensor, wanted: Tensor, labels: Tensor, t: float = 4.0) -> Tensor:
    """The loss of `sc.Distill` with its defaults."""
    first, second = (found / t).log_softmax(1), (wanted / t).log_softmax(1)
    apart = t * t * kl_div(first, second, reduction="batchmean", log_target=True)
    return 0.9 * apart + 0.1 * cross_entropy(found, labels)


def channels_solved(job: Job) -> nn.Module:
    """What a prune of channels does by default: least squares, no training."""
    return job.prune(budget=sc.Params(f"{1 - SPARSITY:.0%}"))


def channels_once(job: Job) -> nn.Module:
    """One cut, then all the epochs."""
    return job.prune(
        budget=sc.Params(f"{1 - SPARSITY:.0%}"),
        recover=[sc.Reconstruct(), job.distill(CYCLES * job.how.epochs)],
    )


def channels_cycles(job: Job) -> nn.Module:
    """Five cycles of a cut and a fifth of the epochs."""
    return job.prune(
        budget=sc.Params(f"{1 - SPARSITY:.0%}"), schedule=sc.Steps(CYCLES),
        recover=[sc.Reconstruct(), job.distill(job.how.epochs)],
    )  # fmt: skip


WAYS: dict[str, tuple[str, Callable[[Job], nn.Module], bool]] = {
    "dense": ("dense, as given", lambda job: job.case.build(), False),
    "trained_on": ("dense, trained on", trained_on, True),
    "weights_alone": ("90 % of the weights, magnitude (LAMP)", weights_alone, False),
    "weights_solved": ("90 % of the weights, default: least squares", weights_solved, False),
    "weights_once": ("90 % of the weights at once, distilled", weights_once, True),
    "weights_cycles": ("90 % of the weights in 5 cycles, distilled", weights_cycles, True),
    "weights_gradual": ("90 % of the weights gradually, distilled", weights_gradual, True),
    "channels_solved": ("90 % of the parameters, default: least squares", channels_solved, False),
    "channels_once": ("90 % of the parameters at once, distilled", channels_once, True),
    "channels_cycles": ("90 % of the parameters in 5 cycles, distilled", channels_cycles, True),
}  # fmt: skip


def measured(case: Case, model: nn.Module) -> Row:
    """Accuracy on all test data, what is left, and what it costs."""
    scores = torch.cat([case.scores(model, part) for part in (case.selection, case.report)])
    parameters = list(model.parameters())
    return {
        "accuracy": scores.mean().item(),
        "samples": len(scores),
        "params": sum(p.numel() for p in parameters),
        "nonzero": sum(int((p != 0).sum()) for p in parameters),
        "macs": macs(model, case),
    }


def run(names: list[str], ways: list[str], seeds: int, path: Path) -> None:
    """Measure what is not in the file yet; what trains is run with every seed."""
    quality_cases.CALIBRATION = 10**9  # all training data
    for name in names or list(SETTINGS):
        case = CASES[name]()
        for way in ways or list(WAYS):
            _, make, trains = WAYS[way]
            for seed in range(seeds if trains else 1):
                rows = json.loads(path.read_text())["rows"] if path.is_file() else []
                key = {"case": name, "way": way, "seed": seed}
                if any(all(row[k] == v for k, v in key.items()) for row in rows):
                    continue
                print(f"{name} {way} {seed}", flush=True)
                start = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    model = make(Job(case, SETTINGS[name], seed))
                row = {**key, "seconds": time.perf_counter() - start, **measured(case, model)}
                print(f"  {row}", flush=True)
                rows = json.loads(path.read_text())["rows"] if path.is_file() else []
                value = {"machine": machine(), "rows": [*rows, row]}
                path.write_text(json.dumps(value, indent=1) + "\n")


def machine() -> str:
    """What the figures were measured on."""
    return f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}"


def write(path: Path, results: Row) -> None:
    """The tables as markdown."""
    lines = [
        "# Recovery by training",
        "",
        f"Written by `python benchmarks/recovery.py`; {results['machine']}.",
        "",
        "Accuracy in per cent on all test data of each case, the mean of its runs and, in",
        "brackets, their lowest and highest; ± is the standard error that so many test samples",
        "leave. Nothing was chosen on the test data. The teacher is the dense network as given.",
        "All that trains has the same number of epochs. Weights become zeros, channels with all",
        "their parameters are cut off. Parameters are those that are not zero.",
    ]
    for name, how in SETTINGS.items():
        rows = [row for row in results["rows"] if row["case"] == name]
        if not rows:
            continue
        title = {
            "lenet5": "MNIST LeNet-5",
            "fsdd_lstm": "FSDD LSTM",
            "jv_gru": "JapaneseVowels GRU",
        }
        epochs = CYCLES * how.epochs
        lines += ["", f"## {title[name]}, {epochs} epochs", ""]
        lines += ["| | accuracy | ± | runs | parameters | MACs |"]
        lines += ["|---|---|---|---|---|---|"]
        for way, (label, _, _) in WAYS.items():
            found = [row for row in rows if row["way"] == way]
            if found:
                lines.append(f"| {label} | {_cells(found)} |")
        for machine in sorted({row["machine"] for row in rows if "machine" in row}):
            which = {WAYS[row["way"]][0] for row in rows if row.get("machine") == machine}
            lines += ["", f"On another machine ({machine}): {'; '.join(sorted(which))}."]
    path.write_text("\n".join(lines) + "\n")


def _cells(rows: list[Row]) -> str:
    values = [100 * row["accuracy"] for row in rows]
    mean = sum(values) / len(values)
    error = 100 * (mean / 100 * (1 - mean / 100) / rows[0]["samples"]) ** 0.5
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    left = sum(row["nonzero"] for row in rows) / len(rows)
    cost = sum(row["macs"] for row in rows) / len(rows)
    cells = (f"{mean:.2f}{spread}", f"{error:.2f}", f"{len(rows)}", f"{left:,.0f}", f"{cost:,.0f}")
    return " | ".join(cells)


def main() -> None:
    """Run cases, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("run", "write"))
    parser.add_argument("cases", nargs="*", choices=[*SETTINGS, []], default=[])
    parser.add_argument("--way", action="append", choices=list(WAYS), default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=quality_cases.DATA)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/recovery.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/recovery.md"))
    options = parser.parse_args()
    quality_cases.DATA = options.data
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if options.part == "run":
        run(options.cases, options.way, options.seeds, options.json)
    write(options.out, json.loads(options.json.read_text()))


if __name__ == "__main__":
    main()
