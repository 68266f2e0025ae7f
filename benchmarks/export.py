"""Pruned models in other runtimes: size, agreement and time, side by side with the dense ones.

    python benchmarks/export.py                      # all, then the table in docs/export.md
    python benchmarks/export.py resnet18 --no-time   # one, without timings

Every model runs in a fresh process: it is pruned to half of its multiply-accumulates, and both it
and the dense one are exported to every format whose packages are installed here. An export is kept
only if its runtime gives the model's outputs, on the example and on another batch size. Times are
medians of runs in turns, a batch of one, each runtime with its own default threads.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pages import put
from torch import nn

import secateur as sc
from secateur.core.batches import as_call
from secateur.core.errors import SecateurError
from secateur.measure.clock import compare
from secateur.ship.formats import FORMATS

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "export.json", HERE.parent / "docs" / "export.md"
TITLE = "Dense and pruned, side by side"
Model = tuple[nn.Module, Any]


def resnet18() -> Model:
    import torchvision

    return torchvision.models.resnet18(), torch.randn(1, 3, 224, 224)


def mobilenetv2() -> Model:
    import torchvision

    return torchvision.models.mobilenet_v2(), torch.randn(1, 3, 224, 224)


def vit_tiny() -> Model:
    import timm

    return timm.create_model("vit_tiny_patch16_224"), torch.randn(1, 3, 224, 224)


def trained(name: str) -> Model:
    import quality_cases

    case = getattr(quality_cases, name)()
    return case.build(), tuple(tensor[:1] for tensor in case.example)


MODELS: dict[str, tuple[str, Callable[[], Model]]] = {
    "resnet18": ("ResNet-18, 224 x 224", resnet18),
    "mobilenetv2": ("MobileNetV2, 224 x 224", mobilenetv2),
    "vit_tiny": ("ViT-tiny, 224 x 224", vit_tiny),
    "fsdd_lstm": ("FSDD LSTM", partial(trained, "fsdd_lstm")),
    "char_gpt": ("character GPT", partial(trained, "char_gpt")),
}


def measure(name: str, timed: bool) -> dict[str, Any]:
    """Every format of one model."""
    torch.manual_seed(0)
    start = time.perf_counter()
    dense, example = MODELS[name][1]()
    dense.eval()
    result = sc.prune(dense, example, budget=sc.MACs("50%"), latency=False)
    both = {"dense": dense, "pruned": result.model.eval()}
    formats = {}
    for suffix, form in FORMATS.items():
        try:
            form.check()
        except SecateurError as error:
            formats[suffix] = {"runtime": form.runtime, "absent": error.message}
            continue
        formats[suffix] = exported(suffix, both, example, timed)
        print(name, suffix, formats[suffix], flush=True)
    return {
        "params": [result.before.params, result.after.params],
        "macs": [result.before.macs, result.after.macs],
        "formats": formats,
        "seconds": round(time.perf_counter() - start, 1),
    }


def exported(suffix: str, both: dict[str, nn.Module], example: Any, timed: bool) -> dict[str, Any]:
    """Both networks in one format."""
    form = FORMATS[suffix]
    found: dict[str, Any] = {"runtime": form.runtime}
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for which, model in both.items():
            path = Path(folder) / f"{which}{suffix}"
            try:
                done = sc.export(model, path, example)
            except SecateurError as error:
                found["refused"] = f"{which}: {error.message.splitlines()[0]}"
                return found
            found[which] = {
                "bytes": done.bytes, "difference": done.difference, "tolerance": done.tolerance,
                "dynamic": done.dynamic,
            }  # fmt: skip
            runs[which] = partial(form.load(path), as_call(model, example))
        if timed:
            times = compare(runs, min_time=1.0, max_time=4.0)
            for which, latency in times.items():
                found[which] |= {
                    "ms": latency.median_ms, "spread": latency.spread_ms, "runs": latency.runs
                }  # fmt: skip
    return found


def table(results: dict[str, Any]) -> str:
    """The section of the page."""
    lines = [
        "Each model pruned to half of its MACs; every file was run by its own runtime and gave the",
        "model's outputs (largest difference relative to the largest output). Milliseconds:",
        "medians of runs in turns, batch of one. Made by `python benchmarks/export.py`.",
        "",
        "| model | format | dense | pruned | difference | dense, ms | pruned, ms | times as fast |",
        "|---|---|---|---|---|---|---|---|",
    ]
    absent = {}
    for name, (title, _) in MODELS.items():
        for suffix, found in results.get(name, {}).get("formats", {}).items():
            head = f"| {title} | `{suffix}` "
            if "absent" in found:
                absent[suffix] = found["runtime"]
            elif "refused" in found:
                lines.append(f"{head}| refused: {found['refused']} | | | | | |")
            else:
                lines.append(head + cells(found["dense"], found["pruned"]))
    if absent:
        named = ", ".join(f"{runtime} (`{suffix}`)" for suffix, runtime in absent.items())
        lines += ["", f"Not installed where this was measured: {named}."]
    if "machine" in results:
        lines += ["", f"Measured on {results['machine']}."]
    return "\n".join(lines)


def cells(dense: dict[str, Any], pruned: dict[str, Any]) -> str:
    """One row's figures."""
    worst = max(dense["difference"], pruned["difference"])
    row = f"| {dense['bytes'] / 1e6:.2f} MB | {pruned['bytes'] / 1e6:.2f} MB | {worst:.0e} "
    if "ms" not in dense:
        return row + "| | | |"
    gain = dense["ms"] / pruned["ms"]
    return row + f"| {dense['ms']:.2f} | {pruned['ms']:.2f} | {gain:.2f} |"


def child(name: str, timed: bool, pipe: Any) -> None:
    pipe.send(measure(name, timed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", choices=[[], *MODELS], default=[])
    parser.add_argument("--no-time", action="store_true", help="sizes and agreement only")
    given = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    spawn = multiprocessing.get_context("spawn")
    for name in given.models or MODELS:
        ours, theirs = spawn.Pipe(duplex=False)
        process = spawn.Process(target=child, args=(name, not given.no_time, theirs))
        process.start()
        theirs.close()
        try:
            results[name] = ours.recv()
        except EOFError:
            print(f"{name}: failed", file=sys.stderr)
        process.join()
        threads = torch.get_num_threads()
        results["machine"] = f"{platform.machine()}, {threads} threads, PyTorch {torch.__version__}"
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    put(PAGE, TITLE, table(results))


if __name__ == "__main__":
    main()
