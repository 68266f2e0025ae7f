"""The demo: prune a trained network to a quarter of its work, repair, prove, save, load it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from secateur import api
from secateur.core.budget import MACs
from secateur.core.errors import SecateurError
from secateur.core.page import Line, Page, amount, change
from secateur.demo.data import WEIGHTS, digits, trained
from secateur.demo.net import DigitNet
from secateur.measure.quality import accuracy
from secateur.report.artifact import HTML, save
from secateur.report.tables import Printable, console, show
from secateur.ship import files

FOLDER = Path("secateur-demo")
BATCH = 256


class _Said:
    """Lines that are shown as a page."""

    def __init__(self, *lines: Line) -> None:
        self.page: Page = lines


def main(folder: Path = FOLDER) -> int:
    """Run the demo; returns the exit status.

    Writes `model.safetensors`, `plan.json` and the report into the folder. Takes a few seconds, no
    network.
    """
    out, start = console(), perf_counter()
    try:
        for part in _story(folder):
            show(part, out)
    except SecateurError as error:
        console(sys.stderr).print(f"error: {error}")
        return 1
    show(_Said(Line(f"all of this took {perf_counter() - start:.1f} s", "quiet")), out)
    return 0


def _story(folder: Path) -> Iterator[Printable]:
    """The demo's pages, each as soon as there is something to say."""
    data, model = digits(), trained()
    example = data.images[:BATCH]

    def held_out(candidate: nn.Module) -> float:
        return accuracy(candidate, [(data.held_out_images, data.held_out_labels)])

    yield _Said(
        Line("A small residual network for 8 x 8 digits, trained with a penalty on its"),
        Line("batch-norm scales (network slimming). What can go, on 256 images at a time:"),
        Line(""),
    )
    yield api.inspect(model, example)
    yield _Said(
        Line(""),
        Line("Now three quarters of the multiply-accumulates go, without any training: the layers"),
        Line("behind each cut are solved anew on 512 training images, without their labels."),
        Line(f"Quality is the accuracy on {len(data.held_out_labels)} images never trained on."),
        Line(""),
    )
    result = api.prune(
        model, example, data=data.images, budget=MACs("25%"), evaluate=held_out, seed=0
    )
    yield result
    save(result, folder, command="python -m secateur")
    again = files.load(folder, into=DigitNet).eval()
    images = data.held_out_images
    with torch.no_grad():
        same = torch.equal(again(images), result.model.eval()(images))
    before, after = WEIGHTS.stat().st_size, (folder / files.WEIGHTS).stat().st_size
    sizes = f"{amount(before, 'B')} -> {amount(after, 'B')} ({change(before, after)})"
    yield _Said(
        Line(""),
        Line(f"file: {sizes}"),
        Line(f"saved: {folder / files.WEIGHTS} and {folder / files.PLAN}"),
        Line(f"report: {folder / HTML}"),
        Line("loaded back: same outputs, bit for bit", "good")
        if same
        else Line("loaded back: the outputs differ; please report this", "warn"),
    )
    if not same:
        raise SecateurError("the loaded model does not give the outputs of the saved one")
