"""Pruning in training, on real data: gradual pruning, topologies that adapt, regularisation.

    python benchmarks/training.py choice gradual topologies regularisation --data ../shared/data
    python benchmarks/training.py write                               # docs/training.md

Every run is a row in training.json, kept when it is done, so an interrupted part goes on. All runs
of a table take the same number of steps with the same batches; nothing is chosen by the report set:
`choice` compares ways on validation images, and `gradual` reports the best of them. One thread, or
`--device cuda`.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import training_tasks as tasks
from training_choice import CHOSEN, LONGER, WAYS, Way, final
from training_tasks import Task

import secateur as sc

HERE = Path(__file__).parent
FILE = HERE / "training.json"
Row = dict[str, Any]
Make = Callable[[int, int], "sc.Recipe | None"]
"""A recipe for a number of steps and a seed; None trains densely."""
LENETS = {
    "LeNet-300-100, MNIST": tasks.lenet_300_100, "LeNet-5, MNIST": tasks.lenet5,
    LONGER: partial(tasks.lenet_300_100, steps=95_040),
}  # fmt: skip
DENSE = WAYS["dense"]


def run(task: Task, recipe: sc.Recipe | None, seed: int, way: Way = DENSE) -> Row:
    """Train once; quality on the report set, after the last step. way: gives the learning rate."""
    torch.manual_seed(seed)
    model = task.build().to(tasks.DEVICE)
    optimizer = task.optimizer(model)
    schedule = way.schedule(optimizer, task.steps)
    session = None if recipe is None else sc.attach(model, optimizer, recipe, scope=task.scope)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(task.steps):
        optimizer.zero_grad()
        loss = task.loss(model, generator, task.smooth)
        loss.backward()
        optimizer.step()
        schedule.step()
    if session is not None:
        session.finish()
    model.eval()
    with torch.no_grad():
        quality = task.report(model)
    return {"sparsity": 0.0 if session is None else session.sparsity, **quality,
            "loss": float(loss.detach())}  # fmt: skip


def gradual(steps: int, seed: int, sparsity: float = 0.98, **fields: Any) -> sc.Recipe:
    start, end = steps // 20, steps // 2
    return sc.presets.gmp(sparsity, start=start, end=end, every=20, seed=seed, **fields)


def topology(kind: str, sparsity: float) -> Make:
    def make(steps: int, seed: int) -> sc.Recipe:
        how = {"every": max(10, steps // 30), "end": steps * 3 // 4, "seed": seed}
        if kind == "static":
            how = {"every": 10 * steps, "end": 10 * steps, "seed": seed}
        preset = sc.presets.rigl if kind == "RigL" else sc.presets.set
        return preset(sparsity, **how)

    return make


def random_masks(sparsity: float) -> Make:
    """Masks drawn once, before training, at ERK's densities."""
    return lambda steps, seed: sc.Recipe(
        criterion="random", budget=sc.Sparsity(sparsity), allocate="erk", seed=seed
    )


Part = dict[tuple[str, str], tuple[Callable[[], Task], Make, int]]


def parts() -> dict[str, Part]:
    """What is run: (task, method) to the task, the recipe and the number of seeds."""
    dense: Make = lambda steps, seed: None  # noqa: E731
    grown = {
        "LeNet-300-100, MNIST": tasks.short_lenet, "LeNet-5, MNIST": tasks.short_lenet5,
        "ResNet-20, CIFAR-10": tasks.resnet20, "character GPT": tasks.gpt,
        "character GPT, longer": lambda: tasks.gpt(1000),
    }  # fmt: skip
    noise = {
        "5,000 images, 40 % of labels wrong": lambda: tasks.small(5000, 0.4),
        "5,000 images, right labels": lambda: tasks.small(5000, 0.0),
    }
    found: dict[str, Part] = {"topologies": {}, "regularisation": {}}
    for name, task in grown.items():
        for sparsity in (0.9, 0.95):
            for kind in ("static", "SET", "RigL"):
                key = name, f"{kind}, {sparsity:.0%}"
                found["topologies"][key] = (task, topology(kind, sparsity), 3)
    for name, task in noise.items():
        found["regularisation"][name, "dense"] = (task, dense, 5)
        for sparsity in (0.95, 0.98):
            how: Make = lambda steps, seed, s=sparsity: gradual(steps, seed, s)  # noqa: E731
            found["regularisation"][name, f"gradual, {sparsity:.0%}"] = (task, how, 5)
        found["regularisation"][name, "random masks, 95%"] = (task, random_masks(0.95), 5)
        decayed = lambda task=task: tasks.decayed(task())  # noqa: E731
        found["regularisation"][name, "dense, weight decay 0.002"] = (decayed, dense, 5)
    return found


def chosen(rows: dict[str, Row], part: str) -> list[tuple[str, str]]:
    """The networks and ways that a part runs: all ways, or the best ones."""
    if part == "choice":
        return [(name, way) for name in LENETS if name not in CHOSEN for way in WAYS]
    return [(name, way) for name in LENETS for way in final(rows, name)]


def compare(part: str, name: str, way: str, seed: int) -> tuple[str, Row]:
    """One run of a way on a LeNet, and the key of its row."""
    task = WAYS[way].task(LENETS[name](part == "choice"))
    row = run(task, WAYS[way].recipe(task.steps, seed), seed, WAYS[way])
    return f"{part} | {name} | {way} | {seed}", {**row, "steps": task.steps}


def execute(given: argparse.Namespace) -> None:
    """Run what is asked for and is not there yet."""
    only, path, seeds_wanted = given.task, given.json, given.seeds
    rows = known([FILE, path])

    def keep(key: str, row: Row) -> None:
        mine = known([path])
        rows[key] = mine[key] = {**row, "machine": machine()}
        path.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")
        print(key, row, flush=True)

    for part in given.parts:
        if part == "write":
            continue
        if part in ("choice", "gradual"):
            for seed in seeds_wanted or range(1 if part == "choice" else 3):
                for name, way in chosen(rows, part):
                    if f"{part} | {name} | {way} | {seed}" in rows:
                        continue
                    if only in name and given.ways in way:
                        keep(*compare(part, name, way, seed))
            continue
        found = parts()[part]
        for seed in seeds_wanted or range(5):
            for (name, method), (task, make, seeds) in found.items():
                key = f"{part} | {name} | {method} | {seed}"
                if key in rows or seed >= seeds or only not in name or given.ways not in method:
                    continue
                made = task()
                keep(key, {**run(made, make(made.steps, seed), seed), "steps": made.steps})


def known(files: list[Path]) -> dict[str, Row]:
    """The rows of several files; of the same run the last one."""
    return {
        key: row
        for file in files
        if file.exists()
        for key, row in json.loads(file.read_text()).items()
    }


def machine() -> str:
    """Where the runs of this process are."""
    place = platform.machine() if tasks.DEVICE == "cpu" else f"one {torch.cuda.get_device_name()}"
    return f"{place}, one thread, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=["choice", "gradual", *parts(), "write"])
    parser.add_argument("--data", type=Path, default=tasks.DATA)
    parser.add_argument("--task", default="", help="only tasks whose names have this in them")
    parser.add_argument("--ways", default="", help="only ways whose names have this in them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=FILE, help="where new rows are kept")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="write: files to take in")
    parser.add_argument("--seeds", type=int, nargs="*", help="only these")
    given = parser.parse_args()
    tasks.DATA, tasks.DEVICE = given.data, given.device
    torch.set_num_threads(1)
    execute(given)
    if "write" in given.parts:
        from training_page import page

        rows = known([FILE, *given.also])
        FILE.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        text = page(rows, parts(), machine())
        (HERE.parent / "docs" / "training.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
