"""Do a unit's sites exist and survive a cut, and does an allocator lead to sound allocations?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from secateur.allocate import Allocation, allocate, resolve
from secateur.allocate.decide import build_plan
from secateur.allocate.ladder import ladders
from secateur.apply.surgery import CutFailed, cut_verified
from secateur.core.batches import Call
from secateur.core.budget import Budget, MACs, Params, Sparsity
from secateur.core.scope import Scope, skip
from secateur.core.site import Site, Slice, Tie
from secateur.graph.graph import Graph
from secateur.measure.cost import Cost
from secateur.score import Facts, scores
from secateur.testing.samples import samples
from secateur.units import Channel, Head, Layer, Unit, sites


def check_unit(unit: Unit) -> None:
    """Check a unit on small convolutional, recurrent and attention models with a residual block.

    Its sites must have unique names, at least one index and a a floor, refer to tensors
    and dimensions that exist, and stay away from what is out of scope; and every site must survive
    a verified cut by one step.

    Raises:
        AssertionError: It does not keep one of these promises.

    Example:
        >>> check_unit(Channel(multiple=2))
    """
    for model, example, graph in samples():
        places = unit.sites(graph, Scope(), model)
        names = [site.name for site in places]
        assert len(set(names)) == len(names), f"{unit!r} names several sites alike: {sorted(names)}"
        assert not unit.sites(graph, skip("*"), model), f"{unit!r} finds sites out of scope"
        for site in places:
            label = f"{unit!r}, site {site.name}"
            assert site.n >= 1 and site.floor >= 0, f"{label} has {site.n} indices"
            assert site.slices or site.module is not None, f"{label} holds nothing"
            for part in site.slices:
                _exists(label, site, part, model)
            _cuts(label, site, places, model, example, graph)


def _exists(label: str, site: Site, part: Slice, model: nn.Module) -> None:
    tensor = {**dict(model.named_parameters()), **dict(model.named_buffers())}.get(part.tensor)
    assert tensor is not None, f"{label}: the model has no {part.tensor}"
    assert part.dim < tensor.dim(), f"{label}: {part.tensor} has no dimension {part.dim}"
    size = tensor.shape[part.dim]
    claimed = part.layout.size
    assert claimed == size, f"{label}: {part.tensor} has {size} indices, not {claimed}"
    assert site.name in part.layout.names, f"{label}: {part.tensor} has nothing of it"


def _cuts(
    label: str, site: Site, places: Sequence[Site], model: nn.Module, example: Tensor, graph: Graph
) -> None:
    tie = next((tie for tie in graph.ties if site.name in tie.ratios), Tie({site.name: 1}, (1,)))
    if not tie.ratios.keys() <= {other.name for other in places}:
        return  # it only moves together with sites of other units
    rng, whole = np.random.default_rng(0), Cost(graph, model).total({})
    kept = {}
    for name, ratio in tie.ratios.items() if site.module is None and len(tie.levels) > 1 else ():
        n = graph.axes[name].n
        kept[name] = np.sort(rng.permutation(n)[: ratio * tie.levels[-2]])
    gone = () if site.module is None else (site.module,)
    plan = build_plan(model, graph, places, Allocation(kept, gone, whole, whole))
    try:
        edit, _ = cut_verified(model, Call((example,), {}), graph, plan)
    except CutFailed as error:
        raise AssertionError(f"{label} cannot be cut: {error}") from error
    edit.undo()


def check_allocator(allocator: Any) -> None:
    """Check an allocator on small models under several budgets.

    It must give one number, not NaN, for every step down every ladder, the same ones each time, and
    leave scores alone; what it leads to must meet the budgets and honour ties.

    Raises:
        AssertionError: It does not keep one of these promises.

    Example:
        >>> check_allocator("global")
    """
    used = resolve(allocator)
    for model, _, graph in samples():
        places = sites(graph, [Channel(), Head(), Layer()], None, model)
        scored = scores("l2", places, Facts.of(model))
        before = {name: score.clone() for name, score in scored.items()}
        steps = ladders(places, graph.ties, scored, shapes=Cost(graph, model).shapes)[0]
        first, again = used(steps), used(steps)
        for ladder, keys, same in zip(steps, first, again, strict=True):
            label = f"the allocator {used.name!r} on {ladder.members[0].site.name}"
            assert keys.shape == (len(ladder.levels) - 1,), f"{label}: there must be a key a step"
            assert not np.isnan(keys).any(), f"{label}: a key is not a number"
            assert np.array_equal(keys, same), f"{label}: other keys the second time"
        both: Budget = Params("80%") & MACs("80%")
        for budget in (Params("70%"), MACs("60%"), Sparsity(0.3), both):
            found = allocate(places, graph.ties, scored, Cost(graph, model), budget, used)
            label = f"the allocator {used.name!r} under {budget!r}"
            for part in budget.parts:
                kind = getattr(part, "kind", None)
                if kind is not None:
                    allowed = part.ceiling(getattr(found.before, kind))  # type: ignore[attr-defined]
                    assert getattr(found.after, kind) <= allowed, f"{label} leaves too many {kind}"
            for tie in graph.ties:
                levels = {len(found.kept[name]) / ratio for name, ratio in tie.ratios.items()}
                whole = len(levels) == 1 and levels <= set(tie.levels)
                assert whole, f"{label} breaks the tie {tie}"
        for name, score in scored.items():
            assert score.equal(before[name]), f"the allocator {used.name!r} changes scores"
