"""Pruned models in other runtimes: size, agreement and time, side by side with the dense ones.

    python benchmarks/export.py                       # all, then the table in docs/export.md
    python benchmarks/export.py resnet18 --no-time    # one, written and compared, not timed
    python benchmarks/export.py --only-time           # files that are there, on a quiet machine

Every model runs in a fresh process: it is pruned to half of its multiply-accumulates, and both it
and the dense one are exported to every format whose packages are installed here. An export is kept
only if its runtime gives the model's outputs, on the example and on another batch size. Then the
files alone are timed, again in fresh processes: medians of runs in turns, a batch of one, one
thread each where the command is pinned to one core (`taskset -c 1`).

Channels of convolutions stay multiples of 8: blocked kernels, such as ONNX Runtime's, gain nothing
from others.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pages import put
from torch import nn

import secateur as sc
from secateur.core.batches import Call, as_call
from secateur.core.errors import SecateurError
from secateur.measure.clock import compare
from secateur.ship.formats import FORMATS

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "export.json", HERE.parent / "docs" / "export.md"
TITLE = "Dense and pruned, side by side"
LIMIT = 900.0  # seconds that writing or timing a format may take
PACKAGES = ("torch", "onnxruntime", "openvino", "executorch")
Model = tuple[nn.Module, Any]


def convolutions(name: str) -> Model:
    """With statistics of noise in its normalizations, so that outputs are not nearly zero."""
    import torchvision

    model = getattr(torchvision.models, name)()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 224, 224))
    return model, torch.randn(1, 3, 224, 224)


def vit_tiny() -> Model:
    import timm

    return timm.create_model("vit_tiny_patch16_224"), torch.randn(1, 3, 224, 224)


def trained(name: str) -> Model:
    import quality_cases

    case = getattr(quality_cases, name)()
    return case.build(), tuple(tensor[:1].clone() for tensor in case.example)


MODELS: dict[str, tuple[str, Callable[[], Model]]] = {
    "resnet18": ("ResNet-18, 224 x 224", partial(convolutions, "resnet18")),
    "mobilenetv2": ("MobileNetV2, 224 x 224", partial(convolutions, "mobilenet_v2")),
    "vit_tiny": ("ViT-tiny, 224 x 224", vit_tiny),
    "fsdd_lstm": ("FSDD LSTM", partial(trained, "fsdd_lstm")),
    "char_gpt": ("character GPT", partial(trained, "char_gpt")),
}
BLOCKED = ("resnet18", "mobilenetv2")  # networks of convolutions


def write(name: str, suffix: str, folder: Path) -> dict[str, Any]:
    """Both networks of one model in one format: files in the folder, and what is known of them."""
    try:
        FORMATS[suffix].check()
    except SecateurError as error:
        return {"absent": error.message}
    torch.manual_seed(0)
    dense, example = MODELS[name][1]()
    call = as_call(dense.eval(), example)
    units = [sc.Channel(multiple=8 if name in BLOCKED else 1), sc.Head()]
    result = sc.prune(dense, example, unit=units, budget=sc.MACs("50%"), latency=False)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save((call.args, dict(call.kwargs)), folder / "call.pt")
    found: dict[str, Any] = {}
    for which, model in (("dense", dense), ("pruned", result.model.eval())):
        try:
            done = sc.export(model, folder / f"{which}{suffix}", example)
        except SecateurError as error:
            return {"refused": f"{which}: {error.message.splitlines()[0]}"}
        found[which] = {
            "bytes": done.bytes, "difference": done.difference, "dynamic": done.dynamic
        }  # fmt: skip
    return found


def clock(suffix: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Both files of one format, in turns."""
    args, kwargs = torch.load(folder / "call.pt", weights_only=True)
    load, call = FORMATS[suffix].load, Call(args, kwargs)
    runs = {
        which: partial(load(folder / f"{which}{suffix}"), call) for which in ("dense", "pruned")
    }
    with torch.inference_mode():
        times = compare(runs, min_time=0.8, max_time=4.0)
    return {
        which: {"ms": found.median_ms, "spread": found.spread_ms, "runs": found.runs}
        for which, found in times.items()
    }


def table(results: dict[str, Any]) -> str:
    """The section of the page."""
    lines = [
        "Each model pruned to half of its MACs; every file was run by its own runtime, on batches",
        "of two sizes, and gave the model's outputs (difference: the largest, relative to the",
        "largest output). Milliseconds: medians of runs in turns, a batch of one, one core. The",
        "LSTM and the GPT are trained; the others have random weights, which changes neither sizes",
        "nor times. Channels of convolutions are kept in multiples of 8 (`Channel(multiple=8)`):",
        "blocked kernels, such as ONNX Runtime's, gain nothing from others. Made by",
        "`taskset -c 1 python benchmarks/export.py`.",
        "",
        "| model | format | dense | pruned | difference | dense, ms | pruned, ms | times as fast |",
        "|---|---|---|---|---|---|---|---|",
    ]
    absent = set()
    for name, (title, _) in MODELS.items():
        for suffix, found in results.get(name, {}).items():
            head = f"| {title} | `{suffix}` "
            if "absent" in found:
                absent.add(f"{FORMATS[suffix].runtime} (`{suffix}`)")
            elif "refused" in found:
                lines.append(f"{head}| refused: {found['refused']} | | | | | |")
            else:
                lines.append(head + cells(found["dense"], found["pruned"]))
    if absent:
        lines += ["", f"Not installed where this was measured: {', '.join(sorted(absent))}."]
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


def machine() -> str:
    """Where it was timed, and with what."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"one core of {platform.machine()}, {', '.join(found)}"


def fresh(task: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What a function gives in a process of its own, or that it gave nothing."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=child, args=(theirs, task, *arguments))
    process.start()
    theirs.close()
    try:
        if ours.poll(LIMIT):
            return ours.recv()
        return {"refused": f"not finished after {LIMIT / 60:.0f} minutes"}
    except EOFError:
        return {"refused": "the process died"}
    finally:
        process.kill()
        process.join()


def child(pipe: Any, task: Callable[..., Any], *arguments: Any) -> None:
    pipe.send(task(*arguments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", choices=[[], *MODELS], default=[])
    parser.add_argument("--no-time", action="store_true", help="sizes and agreement only")
    parser.add_argument("--only-time", action="store_true", help="time files that were written")
    parser.add_argument("--formats", nargs="+", choices=[*FORMATS], default=[*FORMATS])
    default = Path(tempfile.gettempdir()) / "secateur-exports"
    parser.add_argument("--folder", type=Path, default=default, help="where the files are")
    parser.add_argument("--results", type=Path, default=RESULTS, help="what was found, as JSON")
    given = parser.parse_args()
    results = json.loads(given.results.read_text()) if given.results.exists() else {}
    jobs = [(name, suffix) for suffix in given.formats for name in given.models or MODELS]
    for name, suffix in [] if given.only_time else jobs:
        found = fresh(write, name, suffix, given.folder / name)
        print(name, suffix, found, flush=True)
        results.setdefault(name, {})[suffix] = found
        given.results.write_text(json.dumps(results, indent=1) + "\n")
    for name, suffix in [] if given.no_time else jobs:
        found = results.get(name, {}).get(suffix, {})
        if "pruned" not in found:
            continue
        times = fresh(clock, suffix, given.folder / name)
        print(name, suffix, times, flush=True)
        for which in ("dense", "pruned"):
            found[which] |= times.get(which, {})
        results["machine"] = machine()
        given.results.write_text(json.dumps(results, indent=1) + "\n")
    if not given.no_time and given.results == RESULTS:
        put(PAGE, TITLE, table(results))


if __name__ == "__main__":
    main()
