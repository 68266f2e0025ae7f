"""Finds the channels that can be chosen anew for every input, and learns to choose them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.adapt.gated import GatedModel
from secateur.adapt.gating import KINDS, Gate
from secateur.adapt.heads import blank, fit_head, pool
from secateur.apply.verify import compare as same
from secateur.core.batches import Call, check_model, hooked, untouched
from secateur.core.errors import RecipeError
from secateur.core.layout import Fixed, Leaf, Product
from secateur.core.page import plural
from secateur.core.plan import Plan
from secateur.core.scope import Scope
from secateur.core.site import Site
from secateur.core.tensors import light_copy, own_memory
from secateur.graph.analyze import analyze
from secateur.measure.calibration import calibration, first_sample, take
from secateur.measure.clock import compare
from secateur.recover.job import Job
from secateur.recover.reconstruct import Reconstruct
from secateur.units.channel import Channel

_ROUNDS = 3
_RANK = 16  # the predictor of a matrix has a rank of this part of its smaller side


@dataclass(frozen=True)
class Place:
    """Channels that one layer makes, and what they pass.

    readers: layers that take them, with how many inputs each channel has there.
    """

    name: str
    n: int
    maker: str
    between: tuple[str, ...]
    readers: Mapping[str, int]


@torch.inference_mode(False)
def gate(
    model: nn.Module,
    data: Iterable[Any],
    *,
    keep: float = 0.5,
    scope: Any = None,
    samples: int = 512,
    recover: bool = True,
    only_faster: bool = True,
) -> GatedModel:
    """Choose the channels that are computed anew for every input, without training.

    Before a layer runs, a linear predictor reads off its pooled input which of its channels will
    matter to the layers behind it; it is fitted by ridge regression to how much each did on
    calibration data. The best `keep` are computed, and the others are taken to be what they usually
    are when they are not chosen. Of a single sample only the chosen channels are computed, here and
    in the layers that read them; in larger batches samples differ in their channels, so that all
    are computed, the results are the same, and nothing is gained. `gated.fit` trains all of it.

    Args:
        model: It is left as it was.
        data: Batches, labelled or not.
        keep: The share of the channels.
        scope: Which layers may choose; by default all whose channels no other layer makes.
        samples: How many samples of the data are used at most.
        recover: Solve the layers that read chosen channels, and those behind them, anew by least
            squares, so that they give what the dense network gave.
        only_faster: Leave out layers that are no faster, timed here on a single sample; refuse
            where the network as a whole is not.

    Paper: Gao et al., Dynamic Channel Pruning: Feature Boosting and Suppression, ICLR 2019 (there
    trained from the start, and multiplied with the saliency; here predicted, and filled in).

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
        >>> gated = sc.gate(net, torch.randn(200, 8), keep=0.5, only_faster=False)
        >>> gated(torch.randn(1, 8)).shape, gated.gates["0"].keep
        (torch.Size([1, 3]), 32)

    Raises:
        RecipeError: The share makes no sense, no channels can be chosen, or nothing is gained.
        InputError: The data cannot be used.
    """
    check_model(model)
    if not 0 < keep < 1:
        raise RecipeError(f"keep={keep!r}: expected a share between 0 and 1, such as 0.5")
    known = calibration(model, take(data, samples), samples=samples)
    example = first_sample(known.fit[0])
    copied = light_copy(model)
    own_memory(copied, model)
    graph = analyze(copied, example)
    sites = Channel().sites(graph, Scope.of(scope), copied)
    places = [place for site in sites for place in [_place(site, copied)] if place is not None]
    if not places:
        raise RecipeError(
            f"no channels of {type(model).__name__} can be chosen for every input",
            hint="channels can that one convolution or fully connected layer makes",
        )
    seen = {place.name: _Seen(place) for place in places}
    _observe(copied, places, seen, known.fit)
    layers = _install(copied, places)
    gates = {place.name: _fit(place, seen.pop(place.name), layers, keep) for place in places}
    gated = GatedModel(copied, gates, {place.name: place.n for place in places})
    notes = _dropped(gated, places, example, only_faster)
    gated.measure(model, example, *known.fit[:1])
    if only_faster:
        _check_faster(gated)
    job = Job(_Holder(model), gated, Plan("", {}, example=example), {}, known)
    job.masks = {  # nothing is masked for good, but these layers have lost inputs
        f"model.{name}.weight": torch.ones_like(layers[name].weight, dtype=torch.bool)
        for place in places
        for name in place.readers
        if place.name in gated.gates
    }
    if recover:
        Reconstruct().run(job)
    gated.distance, gated.notes = job.distance, (*notes, *job.notes)
    return gated.train(model.training)


class _Holder(nn.Module):
    """The dense network, with the names that the gated one has."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = light_copy(model)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


def _place(site: Site, model: nn.Module) -> Place | None:
    """A site as what one layer makes and others read; None where others have a part in it."""
    makers, between, readers = set[str](), list[str](), dict[str, int]()
    for part in site.slices:
        owner, _, key = part.tensor.rpartition(".")
        layer: Any = model.get_submodule(owner)
        whole = part.layout == Leaf(site.name, site.n)
        norm = isinstance(layer, nn.modules.batchnorm._BatchNorm)
        if norm and whole and type(layer) in KINDS and layer.running_mean is not None:
            between.append(owner)
        elif type(layer) not in KINDS or norm or key not in _KEYS:
            return None
        elif part.role == "out" and whole and part.dim == 0:
            groups = getattr(layer, "groups", 1)
            if groups == site.n and layer.weight.shape[:2] == (site.n, 1) and site.n > 1:
                between.append(owner)
            elif groups == 1:
                makers.add(owner)
            else:
                return None
        elif part.role == "in" and part.dim == 1 and getattr(layer, "groups", 1) == 1:
            times = _times(site, part.layout)
            if not times or (times > 1 and not isinstance(layer, nn.Linear)):
                return None
            readers[owner] = times
        else:
            return None
    alike = all(getattr(model.get_submodule(name), "padding_mode", "zeros") == "zeros"
                for name in (*makers, *between, *readers))  # fmt: skip
    if len(makers) != 1 or not readers or site.statistical or not alike:
        return None
    return Place(site.name, site.n, makers.pop(), tuple(dict.fromkeys(between)), readers)


_KEYS = ("weight", "bias")


def _times(site: Site, layout: Any) -> int:
    """How many inputs a channel has, each channel's one after another; 0 for another order."""
    if layout == Leaf(site.name, site.n):
        return 1
    ordered = isinstance(layout, Product) and layout.parts[0] == Leaf(site.name, site.n)
    if ordered and all(isinstance(part, Fixed) for part in layout.parts[1:]):
        return layout.size // site.n
    return 0


class _Seen:
    """Of every sample what came into the maker, and moments of what came into the readers."""

    def __init__(self, place: Place) -> None:
        self.features: list[Tensor] = []
        self.first: dict[str, list[Tensor]] = {name: [] for name in place.readers}
        self.second: dict[str, list[Tensor]] = {name: [] for name in place.readers}

    def came(self, x: Tensor) -> None:
        self.features.append(pool(x.detach()))

    def left(self, reader: str, x: Tensor, conv: bool) -> None:
        flat = x.detach().flatten(2) if conv else x.detach()
        dims = 2 if conv else tuple(range(1, flat.dim() - 1))
        for moments, value in ((self.first, flat), (self.second, flat.square())):
            moments[reader].append(value.mean(dims) if dims else value)


def _observe(
    model: nn.Module, places: Sequence[Place], seen: Mapping[str, _Seen], calls: Sequence[Call]
) -> None:
    """Run the calls, and see what comes into makers and readers."""

    def before(name: str, note: Any) -> tuple[Any, Any]:
        return model.get_submodule(name).register_forward_pre_hook, note

    hooks = [
        before(place.maker, lambda layer, args, found=seen[place.name]: found.came(args[0]))
        for place in places
    ]
    hooks += [
        before(
            reader,
            lambda layer, args, found=seen[place.name], reader=reader: found.left(
                reader, args[0], not isinstance(layer, nn.Linear)
            ),
        )
        for place in places
        for reader in place.readers
    ]
    with hooked(hooks), untouched(model), torch.no_grad():
        for call in calls:
            call.run(model)


def _install(model: nn.Module, places: Sequence[Place]) -> dict[str, Any]:
    """Put their counterparts in the place of all layers that have a part in it."""
    layers = dict[str, Any]()
    for place in places:
        for name in (place.maker, *place.between, *place.readers):
            if name not in layers:
                layer = model.get_submodule(name)
                layers[name] = KINDS[type(layer)](layer)
                model.set_submodule(name, layers[name])
        layers[place.maker].makes = place.name
        for name in place.between:
            layers[name].passes = place.name
        for name, times in place.readers.items():
            layers[name].reads, layers[name].times = place.name, times
    return layers


def _fit(place: Place, seen: _Seen, layers: Mapping[str, Any], keep: float) -> Gate:
    """The gate of a place; readers learn what its channels are when they are not chosen.

    How much a channel matters is how far it is from what it usually is then, times the weights
    that read it; which changes what it usually is, so that both are found in turns.
    """
    features = torch.cat(seen.features)
    moments = {
        reader: (torch.cat(seen.first[reader]).double(), torch.cat(seen.second[reader]).double())
        for reader in place.readers
    }
    usual = {reader: torch.zeros_like(first[0]) for reader, (first, _) in moments.items()}
    count = min(max(1, round(keep * place.n)), place.n - 1)
    maker = layers[place.maker]
    narrow = isinstance(maker, nn.Linear) and features.shape[1] == maker.in_features
    down, up = None, blank(1, 1, features)
    for _ in range(_ROUNDS):
        saliency = torch.zeros(len(features), place.n, dtype=torch.float64, device=features.device)
        for reader, (first, second) in moments.items():
            weight = layers[reader].weight.detach().double()
            strength = weight.transpose(0, 1).flatten(1).square().sum(1)
            middle = usual[reader]
            power = strength * (second - 2 * middle * first + middle.square()).clamp_min(0)
            saliency += power.reshape(len(power), place.n, -1).sum(2)
        head = fit_head(features, saliency.sqrt().to(features.dtype)).linear
        down, up = _narrowed(head, features) if narrow else (None, head)
        with torch.no_grad():
            found = up(features if down is None else down(features))
            off = torch.ones_like(found).scatter_(1, found.topk(count, 1).indices, 0.0).double()
        for reader, (first, _second) in moments.items():
            weights = off.repeat_interleave(layers[reader].times, 1)
            total = weights.sum(0)
            mean = (weights * first).sum(0) / total.clamp_min(1)
            usual[reader] = torch.where(total > 0, mean, first.mean(0))
    for reader, value in usual.items():
        layer = layers[reader]
        layer.usual = value.to(features.dtype)
        if isinstance(layer, nn.Linear) and not layer.makes:  # a live input is one row of memory
            layer.weight.data = layer.weight.data.t().contiguous().t()
    return Gate(count, up, down)


def _narrowed(head: nn.Linear, features: Tensor) -> tuple[nn.Linear | None, nn.Linear]:
    """The predictor as a product of two thin matrices that is nearest on the data.

    A predictor as large as the layer would cost what it saves.
    """
    rank = max(4, min(head.weight.shape) // _RANK)
    if rank >= min(head.weight.shape):
        return None, head
    centred = (features - features.mean(0)).double() @ head.weight.double().t()
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:rank].to(head.weight.dtype)
    down = blank(head.in_features, rank, head.weight, bias=False)
    up = blank(rank, head.out_features, head.weight)
    with torch.no_grad():
        down.weight.copy_(axes @ head.weight)
        up.weight.copy_(axes.t())
        mean = features.mean(0)
        up.bias.copy_(head(mean) - up.weight @ (down.weight @ mean))
    return down.requires_grad_(False), up.requires_grad_(False)


def _dropped(
    gated: GatedModel,
    places: Sequence[Place],
    example: Call,
    only_faster: bool,
) -> list[str]:
    """Take out the gates that cannot be trusted, or gain nothing; sentences about these."""
    wrong, slow, left = list[str](), list[str](), dict[str, Gate]()
    everything = gated.gates
    for place in places:
        gated.use({**left, place.name: everything[place.name]})
        if not _holds(gated, example):
            wrong.append(place.name)
        elif only_faster and not _faster(gated, place, example):
            slow.append(place.name)
        else:
            left[place.name] = everything[place.name]
    if not left:
        why = "gain time on a single sample, timed here" if slow else "are shape-safe"
        raise RecipeError(
            f"the channels of none of {plural(len(places), 'layer')} {why}",
            hint="only_faster=False chooses nevertheless" if slow else "see sc.inspect(model)",
        )
    gated.use(left)
    notes = []
    if wrong:
        notes.append(f"all computed, the code relies on their number: {', '.join(wrong)}")
    if slow:
        notes.append(f"all computed, choosing takes longer: {', '.join(slow)}")
    return notes


def _check_faster(gated: GatedModel) -> None:
    """Raise `RecipeError` where the layers that gained alone gain nothing together."""
    dense, mine = gated.times.get(1, (None, None))
    if dense is not None and mine is not None and mine.median_ms >= dense.median_ms:
        raise RecipeError(
            f"choosing channels gains no time on a single sample, timed here: {dense} -> {mine}",
            hint="only_faster=False chooses nevertheless",
        )


def _holds(gated: GatedModel, example: Call) -> bool:
    """Whether computing live channels only gives what masks give."""
    with untouched(gated), torch.no_grad():
        wanted = gated.run(example, gathers=False)
        try:
            found = gated.run(example, gathers=True)
        except (RuntimeError, ValueError, IndexError, TypeError):  # the code knows the width
            return False
    return same([wanted], [found]).ok


def _faster(gated: GatedModel, place: Place, example: Call) -> bool:
    """Whether the maker and the readers take less time for the live channels."""
    names = [place.maker, *place.between, *place.readers]
    alone = {place.name: gated.gates[place.name]}
    gated.use(alone)
    taken: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}
    for gathers in (True, False):
        hooks = [
            (
                gated.model.get_submodule(name).register_forward_pre_hook,
                lambda layer, args, name=name, gathers=gathers: taken[gathers].update(
                    {name: args[0]}
                ),
            )
            for name in names
        ]
        with hooked(hooks), untouched(gated), torch.no_grad():
            gated.run(example, gathers)

    def part(gathers: bool) -> None:
        gated.use(alone if gathers else {})
        with gated.passing():
            for name in names:
                gated.model.get_submodule(name)(taken[gathers][name])

    with torch.no_grad(), untouched(gated):
        times = compare(
            {"gated": partial(part, True), "dense": partial(part, False)}, repeats=9, min_time=0.01
        )
    return times["gated"].median_ms < times["dense"].median_ms
