"""`become="packed"`: the result's model runs on sparse kernels, and is timed as it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from secateur.core.batches import Call
from secateur.core.cache import cache_folder
from secateur.core.errors import RecipeError, UnsupportedModel
from secateur.core.page import plural
from secateur.core.result import Result
from secateur.core.weight_site import WeightSite
from secateur.engine.capture import capture
from secateur.engine.compiler import compile_model, compile_parts
from secateur.engine.fast import Fast, FastParts
from secateur.engine.graph import Graph
from secateur.engine.prices import Prices, prices
from secateur.measure.clock import compare
from secateur.measure.paired import Judge
from secateur.measure.quality import Evaluate
from secateur.units.pattern import Pattern

BECOME = ("cut", "masked", "packed")
DENSE = "parameters and MACs are those that are not zero; bytes and dense kernels"


def check_become(become: str | None, *, single: bool, in_place: bool = False) -> bool:
    """Whether the result is to be packed.

    single: single weights are removed, and no channels.

    Raises:
        RecipeError: There is no such form, or it is not one of what is removed.
    """
    if become is not None and become not in BECOME:
        raise RecipeError(
            f"become={become!r} is unknown", hint="'cut' (channels), 'masked' (weights) or 'packed'"
        )
    if become == "cut" and single:
        raise RecipeError(
            "become='cut': zeros at single places cannot be cut off",
            hint="sc.shrink cuts what they have left dead; become='packed' makes them fast",
        )
    if become == "masked" and not single:
        raise RecipeError(
            "become='masked' is for single weights: sc.prune cuts channels",
            hint="sc.mask(model, sc.plan(model, example, ...)) masks them, and can be undone",
        )
    if become == "packed" and in_place:
        raise RecipeError(
            "become='packed' makes another network, and cannot happen in place",
            hint="use sc.prune, which returns it",
        )
    return become == "packed"


class KernelPacker:
    """Packs networks of one class for one example; what was captured of the first serves all.

    always: the whole is timed elsewhere, and that decides.
    """

    def __init__(
        self, model: nn.Module, call: Call, cache: Path | None, *, always: bool = False
    ) -> None:
        self.model, self.call, self.cache, self.always = model, call, cache, always
        self._graph: Graph | None = None

    @property
    def graph(self) -> Graph:
        """The model's operations.

        Raises:
            UnsupportedModel: It cannot be captured as a whole.
        """
        if self._graph is None:
            self._graph = capture(self.model, self.call)
        return self._graph

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def pack(self, model: nn.Module) -> Fast | FastParts:
        """A network with zeros on sparse kernels, where these are faster."""
        graph = None
        if self._device.type == "cpu":
            try:
                graph = self.graph
            except UnsupportedModel as error:
                return compile_parts(model, self.call, self.cache, error.message)
        return compile_model(model, self.call, self.cache, graph, always=self.always)

    def prices(
        self, sites: Sequence[WeightSite], pattern: Pattern, densities: Sequence[float]
    ) -> Prices:
        """What the layers take at densities.

        Raises:
            RecipeError: The model is on a GPU, or cannot be captured as a whole.
        """
        hint = "allocate='uniform' goes by the weights alone, and is timed all the same"
        if self._device.type != "cpu":
            raise RecipeError(
                f"there is no table of sparse kernels' times on {self._device}", hint=hint
            )
        try:
            graph = self.graph
        except UnsupportedModel as error:
            raise RecipeError(
                f"the layers' kernels cannot be timed: {error.message}", hint=hint
            ) from error
        return prices(self.model, self.call, graph, sites, pattern, densities, self.cache)


def packed(
    result: Result,
    model: nn.Module,
    call: Call,
    *,
    runs: nn.Module | None = None,
    evaluate: Evaluate | None = None,
    latency: bool = True,
) -> Result:
    """A result whose model runs on sparse kernels: timed and evaluated as it runs.

    model: the original. runs: the result's model as it was packed already. evaluate: None where the
    quality was a goal, and measured.
    """
    if not isinstance(runs, (Fast, FastParts)):
        runs = KernelPacker(result.model, call, cache_folder()).pack(result.model)
    report = runs.report
    fast = sum(row.kernel != "torch" for row in report.rows)
    note = (
        f"packed: {fast} of {plural(len(report.rows), 'layer')} on sparse kernels, see "
        "print(result.model)"
        if report.fast
        else "packed: nothing was gained by sparse kernels, so the network runs as it was"
    )
    old, new = result.before, result.after
    if report.fast:
        new = replace(new, bytes=report.bytes)
    if latency:
        times = compare({"before": partial(call.run, model), "after": partial(call.run, runs)})
        old = replace(old, latency=times["before"])
        new = replace(new, latency=times["after"])
    quality = result.quality
    if evaluate is not None:
        judge = Judge(evaluate, model, split=False)
        quality = judge.report(judge.read(runs), runs)
        old, new = replace(old, quality=quality.before), replace(new, quality=quality.after)
    notes = (*(n for n in result.notes if not n.startswith(DENSE)), note)
    return replace(result, model=runs, before=old, after=new, quality=quality, notes=notes)


__all__ = ["BECOME", "DENSE", "KernelPacker", "check_become", "packed"]
