"""Pruning of single weights block by block, with one block's activations in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor, nn

from secateur.allocate.weights import allocated
from secateur.api.finished import Done, Store
from secateur.api.weights import NOTE, WeightArguments
from secateur.core.batches import Call
from secateur.core.budget import Sparsity, measured
from secateur.core.errors import RecipeError
from secateur.core.history import plans_of, remember
from secateur.core.measured import Measured
from secateur.core.plan import Plan, fingerprint
from secateur.core.result import Result
from secateur.core.tensors import light_copy, own_memory
from secateur.core.weight_site import WeightSite
from secateur.measure.calibration import Calibration, calibration
from secateur.measure.paired import Judge
from secateur.measure.quality import Evaluate
from secateur.measure.stats import Gather
from secateur.measure.weight_cost import weight_amounts
from secateur.recover import Compensate, Recalibrate, Reconstruct
from secateur.recover.blocks import Feed, capture, exchange, find_blocks, run
from secateur.score.criterion import Facts
from secateur.score.weight import magnitude
from secateur.score.weight_run import WeightScores
from secateur.search.weights import SENSITIVITY, WeightShop, check_pattern, needed
from secateur.units import WeightUnit, weight_sites

_FACTS = frozenset({"columns", "inputs", "grams"})
_LOCAL = (Reconstruct, Recalibrate, Compensate)


def prune_blocks(
    model: nn.Module,
    example: Any,
    unit: WeightUnit,
    *,
    in_place: bool,
    evaluate: Evaluate | None = None,
    resume: str | Path | None = None,
    **arguments: Any,
) -> Result:
    """Prune the weights inside a model's repeated blocks, one block after another.

    One pass of the dense model records what every block is called with. Then, block by block: facts
    are gathered on what the pruned blocks before give, the block is pruned, solved and repaired so
    that it gives what it gave in the dense model, and run once more for the next one. Weights
    outside the blocks stay. Allocations that compare tensors go by magnitudes (and "owl" by the
    dense model's activations).

    Memory: the model; the hidden states before and behind one block for all samples, twice where
    something is solved; and what criterion and repairs take for one block. Time: a few passes
    of every block, and its solves.

    In place, a failure leaves the blocks that are done pruned.

    resume: a folder that gets a file for every finished block; those that are there already are
    read, if they were made from the same weights, data and arguments.

    Papers: Frantar and Alistarh, SparseGPT, ICML 2023; Sun et al., Wanda, ICLR 2024.

    Raises:
        UnsupportedModel: There is no chain of blocks.
        RecipeError: The criterion or a repair looks at more than one block.
        FileError: A file in the folder was made from something else, or is damaged.
    """
    given = WeightArguments.of(unit, **arguments)
    if arguments.get("recover") is None and given.recover:
        given = replace(given, recover=(Reconstruct(),))
    call = given.call(model, example)
    _check(given)
    assert given.batches is not None
    start = perf_counter()
    judge = None if evaluate is None else Judge(evaluate, model, split=False)
    if not in_place:
        original, model = model, light_copy(model)
        own_memory(model, original)
        remember(model, plans_of(original))
    blocks = find_blocks(model)
    sites = [s for s in weight_sites(model, given.scope) if _block(s.name, blocks) is not None]
    if not sites:
        raise RecipeError("there is no weight inside the blocks that is in scope")
    params = sum(p.numel() for p in model.parameters())
    sparsity = needed(given.budget, params, sum(site.n for site in sites))
    check_pattern(unit.pattern, sparsity)
    before = weight_amounts(model, call, {})
    shares = _shares(model, call, given, sites, sparsity)
    calls = calibration(model, given.batches, samples=given.samples)
    store = None if resume is None else Store.of(Path(resume), given, model, calls)
    ready = perf_counter()
    stream = _Stream(given, sparsity, shares, calls, store)
    stream.run(model, blocks, sites)
    built = perf_counter()
    after = weight_amounts(model, call, stream.masks)
    remember(model, (*plans_of(model), Plan(fingerprint(model), {}, example=call)))
    quality = None if judge is None else judge.report(judge.read(model), model)
    values = (None, None) if quality is None else (quality.before, quality.after)
    old, new = (
        Measured(a.params, a.macs, a.bytes, None, values[k]) for k, a in enumerate((before, after))
    )
    plans = plans_of(model)
    return Result(
        model=model, plan=plans[-1], plans=plans, before=old, after=new, verification=None,
        notes=(NOTE, *dict.fromkeys(stream.notes)), repairs=tuple(stream.repairs), quality=quality,
        seconds={"analyse": ready - start, "make": built - ready}, masks=stream.masks,
    )  # fmt: skip


def _check(given: WeightArguments) -> None:
    if given.batches is None:
        raise RecipeError("stream='blocks' needs data", hint="give data=[batch, …]")
    if goals := measured(given.budget):
        raise RecipeError(
            f"{goals[0]!r} has to be measured on whole networks, which stream='blocks' never makes",
            hint="use Sparsity(…) or Params(…)",
        )
    if given.allocate == SENSITIVITY:
        raise RecipeError(
            "allocate='sensitivity' looks at the whole network, not at one block",
            hint="use 'uniform', 'erk', 'global', 'lamp' or 'owl'",
        )
    for step in given.recover:
        if not isinstance(step, _LOCAL):
            raise RecipeError(
                f"{type(step).__name__} looks at the whole network, not at one block",
                hint="use Reconstruct(), and train afterwards",
            )


def _block(name: str, blocks: Mapping[str, nn.Module]) -> str | None:
    return next((block for block in blocks if name.startswith(block + ".")), None)


def _shares(
    model: nn.Module,
    call: Call,
    given: WeightArguments,
    sites: Sequence[WeightSite],
    sparsity: float,
) -> dict[str, float] | None:
    """What stays of every weight; None where it is the same of each."""
    if given.allocate == "uniform":
        return None
    facts = Facts.of(model, seed=given.seed)
    scores = WeightScores(magnitude, sites, facts)
    gather = Gather(model, call, given.batches, given.loss, given.seed)
    pattern = given.unit.pattern
    return allocated(given.allocate, sites, pattern, sparsity, scores, facts, gather)


@dataclass
class _Stream:
    """A stream in progress: what it goes by, and what it has found."""

    given: WeightArguments
    sparsity: float
    shares: Mapping[str, float] | None
    calls: Calibration
    store: Store | None
    masks: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)

    def run(
        self, model: nn.Module, blocks: Mapping[str, nn.Module], sites: Sequence[WeightSite]
    ) -> None:
        """Prune one block after another, in place."""
        hidden, feeds = capture(model, list(blocks.values()), self.calls.calls)
        dense = hidden
        for number, (name, block) in enumerate(blocks.items()):
            mine = [
                replace(site, name=site.name[len(name) + 1 :])
                for site in sites
                if _block(site.name, blocks) == name
            ]
            given = _given(feeds, number, hidden)
            reference, behind = block, dense
            if self.solves:
                reference = light_copy(block)
                own_memory(reference, block)
                behind = run(reference, _given(feeds, number, dense))
                exchange(reference, hidden, dense)
            found = None if self.store is None else self.store.read(number, block)
            if found is None:
                found = self._prune(name, block, reference, mine, self._split(given))
                if self.store is not None:
                    self.store.write(number, block, found)
            self.masks |= {f"{name}.{key}": mask for key, mask in found.masks.items()}
            self.notes += [f"{name}.{note}" for note in found.notes]
            self.repairs += [f"{name}: {line}" for line in found.repairs]
            dense = behind
            if number + 1 < len(blocks):
                hidden = run(block, given)

    @property
    def solves(self) -> bool:
        """Whether the dense network's outputs are a target."""
        return self.given.solves or bool(self.given.recover)

    def _split(self, given: list[Call]) -> Calibration:
        """A block's calls, held out as the model's are."""
        if self.calls.held is self.calls.fit:
            calls = tuple(given)
            return Calibration(calls, calls, self.calls.samples)
        fit = len(self.calls.fit)
        return Calibration(tuple(given[:fit]), tuple(given[fit:]), self.calls.samples)

    def _prune(
        self,
        name: str,
        block: nn.Module,
        reference: nn.Module,
        sites: Sequence[WeightSite],
        data: Calibration,
    ) -> Done:
        if not sites:
            return Done({}, (), ())
        given = self.given
        how: Any = "uniform"
        if self.shares is not None:
            how = {site.name: self.shares[f"{name}.{site.name}"] for site in sites}
        batches: list[Any] = list(data.calls)
        shop = WeightShop(
            block, data.fit[0], sites, given.unit.pattern, given.criterion, how, data, batches,
            None, given.recover, given.seed, in_place=True, reference=reference,
        )  # fmt: skip
        if not shop.used.needs <= _FACTS or shop.used.rounds > 1:
            raise RecipeError(
                f"the criterion {shop.used.name!r} looks at the whole network, not at one block",
                hint="use 'magnitude', 'wanda', 'ria', 'dsnot', 'sparsegpt', 'alps' or 'obc'",
            )
        trial = shop.build(Sparsity(self.sparsity))
        return Done(dict(trial.masks), trial.notes, trial.repairs)


def _given(feeds: Sequence[Sequence[Feed]], number: int, hidden: Sequence[Tensor]) -> list[Call]:
    return [feed[number].call(x) for feed, x in zip(feeds, hidden, strict=True)]


__all__ = ["prune_blocks"]
