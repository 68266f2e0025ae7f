"""From zeros to a smaller network: units that a mask has left dead are cut for real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.allocate.decide import build_plan, frozen_reasons
from secateur.allocate.problem import Allocation
from secateur.api.dead import constants, dead_outputs, fold, silent
from secateur.apply.surgery import CutFailed, culprits, cut_verified
from secateur.apply.verify import compare, run_detached
from secateur.core.batches import Call, as_call
from secateur.core.errors import VerificationError
from secateur.core.history import plans_of, remember
from secateur.core.layout import Index
from secateur.core.measured import Measured, Verification
from secateur.core.plan import Plan, fingerprint
from secateur.core.result import Result
from secateur.core.site import Site, Tie
from secateur.core.tensors import light_copy, own_memory
from secateur.graph.analyze import analyze
from secateur.graph.graph import Graph
from secateur.measure.cost import Amounts, Cost
from secateur.units import Channel, Head, sites

_ROUNDS = 20


@torch.inference_mode(False)
def shrink(model: nn.Module, example: Any) -> Result:
    """Return a physically smaller copy without the units that zeros have left dead.

    A unit (filter, neuron, hidden unit, head) is dead if nothing reads it: all weights that take it
    are zero. Or if nothing feeds it: all weights that make it are zero; then it is a constant,
    which is folded into the biases of the layers that read it, where that is exact (not where a
    convolution pads it, or a recurrent state builds up). What a cut leaves dead is cut too, until
    nothing is. Every cut is verified, and the outputs on the example stay what they were.

    Units that a normalisation runs over (layer norm) stay: without them the statistics differ.
    The model is left untouched.

    Args:
        model: With zeros, for example the model of a prune of single weights.
        example: As for `prune`.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with torch.no_grad():
        ...     _ = net[0].weight[:3].zero_(), net[2].weight[:, 3:5].zero_()
        >>> result = sc.shrink(net, torch.randn(4, 3))
        >>> result.model[0].out_features
        3

    Raises:
        VerificationError: The outputs differ; nothing is returned.
    """
    call = as_call(model, example)
    start = perf_counter()
    small = light_copy(model)
    own_memory(small, model)
    state = _Shrinking(small, call)
    rounds = 0
    while rounds < _ROUNDS and state.round():
        rounds += 1
    if not state.plans:
        state.plans.append(Plan(fingerprint(model), {}, example=call))
    plans = (*plans_of(model), *state.plans)
    remember(small, plans)
    first, last = state.before, state.after
    nonzero = sum(int((p != 0).sum()) for p in model.parameters())
    notes = (
        f"{nonzero / max(1, first.params):.1%} of the parameters were not zero; what is left "
        f"physically is {last.params / max(1, first.params):.1%}",
        *state.notes,
    )
    return Result(
        model=small, plan=plans[-1], plans=plans,
        before=Measured(first.params, first.macs, first.bytes),
        after=Measured(last.params, last.macs, last.bytes),
        verification=state.verification, frozen=frozen_reasons(state.graph), notes=notes,
        seconds={"shrink": perf_counter() - start}, cycles=len(state.plans),
    )  # fmt: skip


@dataclass
class _Kept:
    """Kept indices by site, so that every tie's count is one that the model's code allows."""

    sites: Sequence[Site]
    ties: Sequence[Tie]

    def of(self, dead: Mapping[str, Index]) -> dict[str, Index]:
        """Sites that lose something, with what they keep."""
        known = {site.name: site for site in self.sites}
        alive = {name: np.setdiff1d(np.arange(known[name].n), gone) for name, gone in dead.items()}
        kept: dict[str, Index] = {}
        for tie in self.ties:
            if not any(len(dead.get(name, ())) for name in tie.ratios):
                continue
            if any(name not in known for name in tie.ratios):
                continue  # a part of it must not be touched
            least = max(
                -(-max(len(alive.get(name, range(known[name].n))), known[name].floor) // ratio)
                for name, ratio in tie.ratios.items()
            )
            level = next((level for level in tie.levels if level >= least), None)
            if level is None or level == tie.levels[-1]:
                continue
            for name, ratio in tie.ratios.items():
                rest = alive.get(name, np.arange(known[name].n))
                filled = np.setdiff1d(np.arange(known[name].n), rest)[: ratio * level - len(rest)]
                kept[name] = np.sort(np.concatenate([rest, filled]))
        return {name: index for name, index in kept.items() if len(index) < known[name].n}


class _Shrinking:
    """A copy that gets smaller round by round."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        self.model, self.call = model, call
        self.reference = run_detached(model, call)
        self.plans: list[Plan] = []
        self.notes: list[str] = []
        self.barred: set[str] = set()
        self.folded: dict[str, int] = {}
        self._look()
        self.before = self.after = self._cost.total({})
        self.verification = Verification(True, False, 0.0, 0.0, "original", "nothing is dead")

    def _look(self) -> None:
        self.graph: Graph = analyze(self.model, self.call)
        self._cost = Cost(self.graph, self.model)
        self.sites = [
            site
            for site in sites(self.graph, [Channel(), Head()], None, self.model)
            if not site.statistical and site.name not in self.barred
        ]

    def round(self) -> bool:
        """Fold what is constant, and cut what is dead; False if nothing is."""
        found = constants(self.model, self.call)
        for site in self.sites:
            count = fold(self.model, site, silent(self.model, site), found)
            if count:
                self._same(f"constants of {site.name}")
                self.folded[site.name] = self.folded.get(site.name, 0) + count
        dead = {site.name: dead_outputs(self.model, site) for site in self.sites}
        kept = _Kept(self.sites, self.graph.ties).of(dead)
        if not kept:
            return False
        before, after = self._cost.total({}), self._cost.total({k: len(v) for k, v in kept.items()})
        self._cut(kept, before, after)
        return True

    def _cut(self, kept: Mapping[str, Index], before: Amounts, after: Amounts) -> None:
        plan = build_plan(self.model, self.graph, self.sites, Allocation(kept, (), before, after))
        try:
            edit, proof = cut_verified(self.model, self.call, self.graph, plan)
        except CutFailed as error:
            found = culprits(self.model, self.call, self.graph, plan)
            reasons = {name: str(reason) for name, reason in found.items()}
            self._bar(reasons or dict.fromkeys(kept, error.message))
            return
        result = compare(self.reference, run_detached(self.model, self.call))
        if not result.ok:
            edit.undo()
            self._bar(dict.fromkeys(kept, f"outputs would differ by {result.difference:.1e}"))
            return
        self.plans.append(plan)
        self.after = after
        self.verification = Verification(
            proof.ok, False, result.difference, result.tolerance, "original", proof.note
        )
        self._look()

    def _bar(self, why: Mapping[str, str]) -> None:
        """Leave some sites as they are."""
        self.barred |= why.keys()
        self.notes += [f"{name}: dead units stay, {text}" for name, text in why.items()]
        self._look()

    def _same(self, what: str) -> None:
        result = compare(self.reference, run_detached(self.model, self.call))
        if not result.ok:
            raise VerificationError(
                f"folding {what} changed the outputs by {result.difference:.1e}",
                hint="this is a mistake of Secateur's: please report it with the model",
            )


__all__ = ["shrink"]
