"""Seconds and memory of pruning, against one forward pass and against Torch-Pruning.

    python benchmarks/speed.py --out docs/coverage.md

Every case runs in a fresh process. "prune" is everything up to the verified smaller copy: trace,
plan, cut, verification; "in place" does without the copy that a rollback needs. Memory is the peak
resident size above that of the process with the model loaded, plus the model, over the model.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pages import put
from torch import nn

Case = tuple[nn.Module, Any]


def resnet50(batch: int) -> Case:
    """ResNet-50 at 224 x 224."""
    import torchvision

    return torchvision.models.resnet50(), torch.randn(batch, 3, 224, 224)


def vit(name: str) -> Case:
    """A vision transformer of torchvision at 224 x 224."""
    import torchvision

    return torchvision.models.get_model(name), torch.randn(1, 3, 224, 224)


def llama() -> Case:
    """A Llama-shaped decoder of 32 layers, 0.93 billion parameters, grouped queries."""
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=1536,
        intermediate_size=4096,
        num_hidden_layers=32,
        num_attention_heads=16,
        num_key_value_heads=8,
        vocab_size=32000,
    )
    return transformers.LlamaForCausalLM(config), {"input_ids": torch.randint(0, 32000, (1, 16))}


CASES: dict[str, Callable[[], Case]] = {
    "resnet50, batch 1": lambda: resnet50(1),
    "resnet50, batch 8": lambda: resnet50(8),
    "vit_b_16": lambda: vit("vit_b_16"),
    "vit_l_16": lambda: vit("vit_l_16"),
    "llama, 32 layers": llama,
}
TITLE = "Seconds and memory, side by side"
PEERED = ("resnet50, batch 1", "vit_b_16")


class Peak:
    """The largest resident size of this process inside a `with` block, in bytes."""

    def __enter__(self) -> Peak:
        self.start = self.value = _resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.003):
            self.value = max(self.value, _resident())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def forward(model: nn.Module, example: Any) -> float:
    """Seconds of one pass, the median of five."""
    seconds = []
    with torch.no_grad():
        for _ in range(6):
            start = time.perf_counter()
            model(**example) if isinstance(example, dict) else model(example)
            seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


def measure(sender: Any, name: str, in_place: bool) -> None:
    """One case in this process."""
    import secateur as sc

    model, example = CASES[name]()
    model.eval()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    single = forward(model, example)
    options: dict[str, Any] = {
        "budget": sc.Sparsity(0.5),
        "allocate": "uniform",
        "unit": [sc.Channel(), sc.Head()],
        "latency": False,
    }
    prune = sc.prune_ if in_place else sc.prune  # imports what it needs
    if in_place:
        options["rollback"] = False
    with Peak() as peak:
        start = time.perf_counter()
        result = prune(model, example, **options)
        seconds = time.perf_counter() - start
    sender.send(
        {
            "case": name,
            "in_place": in_place,
            "forward_s": single,
            "prune_s": seconds,
            "memory_over_model": 1 + (peak.value - peak.start) / size,
            "kept": result.after.params / result.before.params,
            "stages_s": result.seconds,
        }
    )


def against_peer(sender: Any, name: str, rounds: int) -> None:
    """Both libraries in turns in this process; medians."""
    from coverage_child import prune_with_torch_pruning

    import secateur as sc

    model, example = CASES[name]()
    model.eval()
    ours, theirs = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        sc.prune(model, example, budget=sc.Sparsity(0.5), allocate="uniform", latency=False)
        middle = time.perf_counter()
        try:
            prune_with_torch_pruning(model, example)
        except Exception as error:
            sender.send({"case": name, "peer_error": f"{type(error).__name__}: {error}"[:200]})
            return
        ours.append(middle - start)
        theirs.append(time.perf_counter() - middle)
    sender.send({"case": name, "prune_s": median(ours), "peer_s": median(theirs), "rounds": rounds})


def fresh(target: Callable[..., None], *args: Any) -> dict[str, Any]:
    """Run a function in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=target, args=(sender, *args))
    worker.start()
    sender.close()
    row: dict[str, Any] = receiver.recv()
    worker.join()
    return row


def write(path: Path, rows: list[dict[str, Any]], peers: list[dict[str, Any]]) -> None:
    """The tables as a section of a page."""
    lines = [
        f"Written by `python benchmarks/speed.py`; {os.cpu_count()} cores of {processor()}, "
        f"torch {torch.__version__}. One forward pass is the median of five; importing is not "
        "timed.",
        "",
        "| model | form | one forward pass | prune | peak memory over the model's |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        form = "in place, no rollback" if row["in_place"] else "copy"
        lines.append(
            f"| {row['case']} | {form} | {row['forward_s']:.3f} s | {row['prune_s']:.2f} s | "
            f"{row['memory_over_model']:.2f} |"
        )
    lines += [
        "",
        "| model | secateur | Torch-Pruning | rounds, in turns |",
        "|---|---|---|---|",
        *(
            f"| {p['case']} | {p['prune_s']:.2f} s | {p['peer_s']:.2f} s | {p['rounds']} |"
            if "peer_s" in p
            else f"| {p['case']} | | {p['peer_error']} | |"
            for p in peers
        ),
        "",
        "Secateur's time includes the verification of the cut; Torch-Pruning has none.",
    ]
    put(path, TITLE, "\n".join(lines))


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("speed.json"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = [fresh(measure, name, in_place) for name in CASES for in_place in (False, True)]
    peers = [fresh(against_peer, name, options.rounds) for name in PEERED]
    options.json.write_text(json.dumps({"rows": rows, "peers": peers}, indent=1))
    if options.out is not None:
        write(options.out, rows, peers)


if __name__ == "__main__":
    main()
