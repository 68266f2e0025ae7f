"""How fast `sc.compile` is, part by part, beside the engines that are installed.

    python benchmarks/runtime.py --list
    python benchmarks/runtime.py resnet50-1 --threads 1       # one part; adds to runtime.json
    python benchmarks/runtime.py resnet50-1 --deepsparse ds/bin/python     # beside DeepSparse alone
    python benchmarks/runtime.py --page                       # docs/runtime.md from runtime.json

Everything in a part is timed in turns in one process; figures are medians. Weights are random, and
the smallest are set to zero. Close other programs, and pin the process (`taskset -c 0`).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import beside_deepsparse
import breakeven
import numpy as np
import priced
import torch
from torch import Tensor, nn

from secateur.api.bench import bench
from secateur.measure.clock import compare
from secateur.measure.latency_cache import conditions

RESULTS = Path(__file__).with_name("runtime.json")
PAGE = Path(__file__).parents[1] / "docs" / "runtime.md"
PAGE_START = "<!-- figures: python benchmarks/runtime.py --page -->"
ENGINES = ("eager", "channels_last", "torch.compile", "onnxruntime", "openvino")


def _normed(model: nn.Module) -> nn.Module:
    """Batch norms that do something, so that none is folded into nothing."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model.eval()


def vision(name: str) -> nn.Module:
    import torchvision

    return _normed(getattr(torchvision.models, name)())


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.b = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.na, self.nb = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.side = nn.Conv2d(inside, outside, 1, stride, bias=False) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.nb(self.b(torch.relu(self.na(self.a(x)))))
        return torch.relu(y + (x if self.side is None else self.side(x)))


def resnet20() -> nn.Module:
    widths = [16] * 3 + [32] * 3 + [64] * 3
    inside = [16, *widths[:-1]]
    blocks = [Block(i, o, 1 + (o > i)) for i, o in zip(inside, widths, strict=True)]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return _normed(nn.Sequential(*stem, *blocks, *head))


class Encoder(nn.Module):
    """One block of BERT, after its embeddings."""

    def __init__(self, width: int = 768, heads: int = 12) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        q, k, v = (
            f(x).view(b, t, self.heads, w // self.heads).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        x = self.norm1(x + self.out(y.transpose(1, 2).reshape(b, t, w)))
        return self.norm2(x + self.down(nn.functional.gelu(self.up(x))))


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(512, 512, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


def bert() -> nn.Module:
    return nn.Sequential(*[Encoder() for _ in range(12)]).eval()


OTHERS = ("decoder", "breakeven", "priced")
Part = tuple[Callable[[], nn.Module], tuple[int, ...], tuple[float, ...]]
PARTS: dict[str, Part] = {
    "resnet50-1": (lambda: vision("resnet50"), (1, 3, 224, 224), (0.5, 0.8, 0.9, 0.95)),
    "resnet50-8": (lambda: vision("resnet50"), (8, 3, 224, 224), (0.5, 0.8, 0.9, 0.95)),
    "bert": (bert, (1, 128, 768), (0.8, 0.9)),
    "mobilenetv2": (lambda: vision("mobilenet_v2"), (1, 3, 224, 224), (0.9,)),
    "resnet20": (resnet20, (1, 3, 32, 32), (0.8, 0.9)),
    "lstm": (lambda: Sequence().eval(), (100, 1, 512), (0.8, 0.9)),
}


def whole(
    name: str, engines: tuple[str, ...], seconds: float, given: tuple[float, ...]
) -> dict[str, Any]:
    """One network, all sparsities, all engines."""
    make, shape, shares = PARTS[name]
    shares = given or shares
    torch.manual_seed(0)
    found = bench(make(), torch.randn(shape), shares, engines=engines, min_time=seconds)
    print(found)
    return found.to_dict()


def beside(
    name: str, python: str, seconds: float, given: tuple[float, ...], earlier: dict[str, Any]
) -> dict[str, Any]:
    """One network beside DeepSparse; sparsities that were timed earlier stay."""
    make, shape, shares = PARTS[name]
    torch.manual_seed(0)
    found = beside_deepsparse.measured(make(), torch.randn(shape), given or shares, seconds, python)
    found["levels"] = earlier.get("levels", {}) | found["levels"]
    return found


def decoder(threads: int, seconds: float) -> dict[str, Any]:
    """Matrices of 2048 x 8192 at batch 1, several of them so that no cache holds the weights."""
    from secateur.runtime.formats import banked, sliced
    from secateur.runtime.kernels.matvec import MatVec
    from secateur.runtime.machine import parallel

    many, rows, columns = 3, 8192, 2048
    generator = np.random.default_rng(0)
    x, y = torch.randn(columns), torch.zeros(rows)
    runs: dict[str, Callable[[], object]] = {}
    dense = [torch.randn(rows, columns) for _ in range(many)]
    runs["torch"] = lambda: [torch.mv(weight, x) for weight in dense]

    def kernel_run(kernels: list[MatVec]) -> Callable[[], object]:
        tables = [
            np.array(
                [(x.data_ptr(), y.data_ptr(), 0, 0, 1, *r) for r in kernel.ranges(4 * threads)],
                np.int64,
            )
            for kernel in kernels
        ]
        return lambda: [
            parallel(kernel.address, table) for kernel, table in zip(kernels, tables, strict=True)
        ]

    loose, even = [], []
    for weight in dense:
        array = weight.numpy()
        loose.append(MatVec(sliced(np.where(generator.random(array.shape) < 0.1, array, 0))))
        order = generator.random((rows, columns // 32, 32)).argsort(2)
        kept = (order < 3).reshape(rows, columns)
        even.append(MatVec(banked(np.where(kept, array, 0), 32)))
    runs["unstructured 90%"], runs["3 of 32"] = kernel_run(loose), kernel_run(even)
    times = compare(runs, min_time=seconds, threads=threads)
    for name, spent in times.items():
        print(name, spent)
    base = times["torch"].median_ms
    return {
        "times": {name: spent.median_ms for name, spent in times.items()},
        "ratios": {n: base / t.median_ms for n, t in times.items() if n != "torch"},
        "best": "torch",
    }


def page(results: dict[str, Any]) -> None:
    """Put the figures below the marker of the page."""
    lines = [PAGE_START, ""]
    for key, part in sorted(results.items()):
        lines += [f"### {key}", "", f"{part['where']}; {part['when']}", ""]
        if "layers" in part:
            lines += [*breakeven.table(part)]
        elif "allocations" in part:
            lines += priced.table(part)
        elif "beside" in part:
            lines += beside_deepsparse.table(part)
        elif "times" in part:
            lines += ["| | ms | against torch |", "|---|---|---|"]
            for name, spent in part["times"].items():
                ratio = part["ratios"].get(name)
                lines.append(
                    f"| {name} | {spent:.2f} | {'' if ratio is None else f'{ratio:.2f}'} |"
                )
        else:
            best = part["best"]
            lines += [f"| | ms | spread | against {best} |", "|---|---|---|---|"]
            base = part["peers"][best]["median_ms"]
            named = {**part["peers"]}
            named |= {f"secateur, {float(s):.0%} zero": t for s, t in part["levels"].items()}
            for name, spent in named.items():
                ms, spread = spent["median_ms"], spent["spread_ms"]
                lines.append(f"| {name} | {ms:.2f} | {spread:.2f} | {base / ms:.2f} |")
        lines += ["", *(f"- {note}" for note in part.get("notes", ())), ""]
    text = PAGE.read_text(encoding="utf-8").partition(PAGE_START)[0]
    PAGE.write_text(text + "\n".join(lines).rstrip() + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}, {', '.join(OTHERS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--sparsity", default="", help="other percentages: 80,90")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--label", default="", help="said in the title, such as AVX-512")
    parser.add_argument("--results", type=Path, default=RESULTS, help="added to, if it is there")
    parser.add_argument("--deepsparse", default="", help="the Python that it is installed in")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    if given.list:
        print("\n".join([*PARTS, *OTHERS]))
    kept = given.results
    results = json.loads(kept.read_text()) if kept.exists() else {}
    torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    shares = tuple(float(p) / 100 for p in given.sparsity.split(",") if p)
    for name in given.part:
        start = time.time()
        title = f"{name}, {given.threads} thread{'s' * (given.threads > 1)}"
        title += ", beside DeepSparse" * bool(given.deepsparse)
        title += f", {given.label}" * bool(given.label)
        if name == "breakeven":
            found = breakeven.measured()
        elif name == "priced":
            found = priced.measured()
        elif name == "decoder":
            found = decoder(given.threads, given.seconds)
        elif given.deepsparse:
            earlier = results.get(title, {})
            found = beside(name, given.deepsparse, given.seconds, shares, earlier)
        else:
            engines = tuple(given.engines.split(","))
            found = whole(name, engines, given.seconds, shares)
        torch.set_num_threads(given.threads)
        found["where"] = conditions(torch.device("cpu"), given.threads)["device"]
        found["when"] = f"torch {torch.__version__}, Python {platform.python_version()}"
        results[title] = found
        kept.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {time.time() - start:.0f} s")
    if given.page:
        page(results)


if __name__ == "__main__":
    main()
