"""The sensitivity scan: each place of a model cut alone, to a few levels, and what that does.

The usual first step of a hand-made allocation (Li et al. 2017, "Pruning Filters for Efficient
ConvNets"); here with the repair that the network would get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from secateur.core.batches import Call, tensors_in, untouched
from secateur.core.errors import InputError, RecipeError
from secateur.core.scan import Sensed, Sensitivity
from secateur.core.site import Site, Tie
from secateur.measure.paired import Judge
from secateur.measure.quality import Evaluate
from secateur.measure.watch import scores_of
from secateur.search.trial import Trial

Keep = Callable[[Mapping[str, int]], Trial]
"""Cuts the sites named to that many indices and nothing else, on a copy, and repairs it."""

LEVELS = (0.75, 0.5, 0.25)
Distance = Literal["relative", "kl"]


def sensitivity(
    keep: Keep,
    original: nn.Module,
    sites: Sequence[Site],
    ties: Sequence[Tie] = (),
    *,
    evaluate: Evaluate | None = None,
    calls: Sequence[Call] = (),
    levels: Sequence[float] = LEVELS,
    distance: Distance = "relative",
    lower_is_better: bool | None = None,
    seed: int = 0,
    on_sensed: Callable[[Sensed], None] | None = None,
) -> Sensitivity:
    """Cut each site, or tie of sites, alone to each level, and measure what that does.

    Args:
        keep: Cuts and repairs.
        original: What is compared with; left as it was.
        sites: The places; blocks, which have no levels, are passed over.
        ties: Sites that move together; a tie with a member that is not among the sites is passed
            over, with a note.
        evaluate: The error is then how much worse it gets, on all its data.
        calls: Calibration inputs, on which outputs are compared where there is no `evaluate`.
        levels: Shares of the indices that stay; of a site's own multiples the nearest below.
        distance: Of outputs: "relative" (norm of the difference over the norm), or "kl" (the
            divergence between the two softmax distributions over the last dimension, in nats per
            prediction; for scores).
        lower_is_better: Of `evaluate`; by default what it says of itself, else no.
        seed: Of what `evaluate` draws.
        on_sensed: Called with each record.

    Raises:
        RecipeError: There is nothing to measure with, or a level makes no sense.
    """
    if evaluate is None and not calls:
        raise RecipeError(
            "a scan needs evaluate= or data", hint="give data=a few batches of inputs"
        )
    if not levels or any(not 0 < level < 1 for level in levels):
        raise RecipeError(f"levels={levels!r}: expected shares between 0 and 1")
    if distance not in ("relative", "kl"):
        raise RecipeError(f"distance={distance!r}: expected 'relative' or 'kl'")
    judge = None if evaluate is None else Judge(evaluate, original, split=False, seed=seed)
    lower = bool(judge.lower_is_better) if judge and lower_is_better is None else lower_is_better
    places, notes = _places(sites, ties)
    sensed: list[Sensed] = []
    for place in places:
        for kept in _levels(place, levels):
            trial = keep(kept)
            error, standard = _error(judge, bool(lower), original, trial.model, calls, distance)
            n = {site.name: site.n for site, _ in place.members if site.name in kept}
            found = Sensed(kept, n, error, standard, trial.left("params"), trial.left("macs"))
            sensed.append(found)
            if on_sensed is not None:
                on_sensed(found)
    samples = judge.before.samples if judge is not None else None
    return Sensitivity(
        type(original).__name__,
        distance if judge is None else "quality",
        tuple(sensed),
        None if samples is None else len(samples),
        tuple(notes),
    )


class _Place:
    """Sites that move together: each keeps its ratio times the level. levels: ascending."""

    def __init__(self, members: Sequence[tuple[Site, int]], levels: Sequence[int]) -> None:
        self.members, self.levels = members, levels


def _places(sites: Sequence[Site], ties: Sequence[Tie]) -> tuple[list[_Place], list[str]]:
    known = {site.name: site for site in sites if site.module is None}
    notes: list[str] = []
    places: list[_Place] = []
    tied: set[str] = set()
    for tie in ties:
        names = [name for name in tie.ratios if name in known]
        tied |= set(names)
        missing = [name for name in tie.ratios if name not in known]
        if names and missing:
            notes.append(f"{', '.join(names)} not scanned: tied to {', '.join(missing)}")
        elif names:
            places.append(_Place([(known[k], tie.ratios[k]) for k in names], tie.levels))
    alone = [site for site in known.values() if site.name not in tied]
    places += [_Place([(site, 1)], range(1, site.n + 1)) for site in alone]
    order = {name: k for k, name in enumerate(known)}
    return sorted(places, key=lambda place: order[place.members[0][0].name]), notes


def _levels(place: _Place, levels: Sequence[float]) -> list[dict[str, int]]:
    """Kept counts for each level, without repetitions and without keeping all."""
    top = place.levels[-1]
    allowed = [
        level
        for level in place.levels[:-1]
        if all(
            ratio * level >= site.floor and (ratio * level) % site.multiple == 0
            for site, ratio in place.members
        )
    ]
    found: list[int] = []
    for share in levels:
        below = [level for level in allowed if level <= share * top + 1e-9]
        if below and below[-1] not in found:
            found.append(below[-1])
    return [{site.name: ratio * level for site, ratio in place.members} for level in found]


def _error(
    judge: Judge | None,
    lower: bool,
    original: nn.Module,
    model: nn.Module,
    calls: Sequence[Call],
    distance: Distance,
) -> tuple[float, float | None]:
    if judge is None:
        return output_distance(original, model, calls, distance), None
    quality = judge.selection(judge.read(model))
    return quality.worse(lower), quality.error


def output_distance(
    original: nn.Module, model: nn.Module, calls: Sequence[Call], distance: Distance = "relative"
) -> float:
    """How far the outputs of two models are apart, over some calls, in eval mode.

    "relative": `||y' - y|| / ||y||` over all floating-point outputs together. "kl": the mean of
    `KL(softmax y || softmax y')` over the last dimension of the first output.

    Example:
        >>> call = Call((torch.ones(2, 3),), {})
        >>> output_distance(nn.Identity(), nn.Hardtanh(0, 0.5), [call])
        0.5

    Raises:
        InputError: The outputs have other shapes, or there is nothing to compare.
    """
    above = below = 0.0
    with untouched(original), untouched(model), torch.no_grad():
        for call in calls:
            first, second = call.run(original), call.run(model)
            up, down = (_kl if distance == "kl" else _squares)(first, second)
            above, below = above + up, below + down
    if not below:
        raise InputError("the outputs have nothing that can be compared")
    return above / below if distance == "kl" else (above / below) ** 0.5


def _squares(first: Any, second: Any) -> tuple[float, float]:
    pairs = list(zip(_floats(first), _floats(second), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        raise InputError("the outputs have other shapes after the cut")
    above = sum(float(((b.double() - a.double()) ** 2).sum()) for a, b in pairs)
    return above, sum(float((a.double() ** 2).sum()) for a, _ in pairs)


def _floats(output: Any) -> list[Tensor]:
    return [t for t in tensors_in(output) if t.is_floating_point()]


def _kl(first: Any, second: Any) -> tuple[float, float]:
    a, b = scores_of(first), scores_of(second)
    if a is None or b is None or a.shape != b.shape or a.dim() < 2:
        raise InputError("distance='kl' needs scores as the model's first output")
    p, q = log_softmax(a.double(), -1), log_softmax(b.double(), -1)
    return float(kl_div(q, p, reduction="sum", log_target=True)), a.numel() / a.shape[-1]
