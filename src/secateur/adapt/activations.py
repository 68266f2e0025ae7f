"""Activations near zero are skipped, with the weights that they would be multiplied with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.adapt.greedy import Block, chain, shares
from secateur.adapt.lazy import Input, Lazy
from secateur.adapt.quantiles import Quantiles
from secateur.adapt.skipping import Skipping, can_skip, replace, skipper
from secateur.core.batches import Call, check_model, hooked, untouched
from secateur.core.errors import RecipeError
from secateur.core.page import plural
from secateur.core.scope import Scope
from secateur.core.tensors import light_copy
from secateur.measure.calibration import calibration, first_sample, take
from secateur.measure.clock import compare
from secateur.recover.distance import distance, outputs
from secateur.runtime.kernels import skip


@torch.inference_mode(False)
def activations(
    model: nn.Module,
    data: Iterable[Any],
    *,
    sparsity: float = 0.5,
    allocate: Literal["greedy", "uniform"] = "greedy",
    scope: Any = None,
    samples: int = 256,
    only_faster: bool = True,
) -> Lazy:
    """Skip the weights of inputs near zero, without training: what is not read takes no time.

    An input of a fully connected or recurrent layer counts only if its magnitude is above a
    threshold, an exact quantile of calibration data. Where a single row comes in (a decoder that
    makes one token at a time, a recurrent network at batch 1) the weights of the others are not
    read; of several rows small inputs are set to zero, so that the results are the same, and
    nothing is gained.

    Args:
        model: It is left as it was; layers that skip get memory of their own, the rest is shared.
        data: Batches, labelled or not.
        sparsity: The share of the weights that a single row does not read, in layers that skip.
        allocate: "greedy" gives every block the sparsity, and every input in it the share that
            changes the block's outputs least; "uniform" gives all inputs the same share.
        scope: Which layers may skip; by default those in the repeated blocks, or all where there
            are none.
        samples: How many samples of the data are used at most.
        only_faster: Leave layers as they are that are no faster, timed here on a single row. They
            are all left to skip where no kernel can be made at all.

    Papers: Liu et al., Training-Free Activation Sparsity in Large Language Models (TEAL), ICLR
    2025; Lee et al., CATS, COLM 2024.

    Example:
        >>> net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
        >>> lazy = sc.adapt.activations(net, torch.randn(200, 16), only_faster=False)
        >>> lazy(torch.randn(1, 16)).shape
        torch.Size([1, 4])
        >>> round(lazy.skipped, 1)
        0.5

    Raises:
        RecipeError: The sparsity makes no sense, or no layer can skip.
        InputError: The data cannot be used.
    """
    check_model(model)
    if not 0 <= sparsity < 1 or allocate not in ("greedy", "uniform"):
        raise RecipeError(
            f"sparsity={sparsity!r}, allocate={allocate!r}",
            hint="for example sparsity=0.5, allocate='greedy' (or 'uniform')",
        )
    known = calibration(model, take(data, samples), samples=samples)
    copied = light_copy(model)
    stages = chain(copied, known.fit[:1])
    names, notes = _candidates(model, scope, stages)
    if only_faster and skip.available():
        names, slower = _faster(copied, names, first_sample(known.fit[0]), sparsity)
        notes += slower
    elif not skip.available():
        notes.append("no kernel can be made here (llvmlite is missing?): nothing is gained")
    wanted = outputs(model, known.held)
    layers = replace(copied, names)
    found = {key: Quantiles() for key in _keys(layers)}
    _stream(copied, layers, known.fit, lambda key, x: found[key].see(x))
    for key, share in _shares(copied, layers, found, stages, sparsity, allocate).items():
        found[key].aim(share)
    _stream(copied, layers, known.fit, lambda key, x: found[key].look(x))
    for (name, number), quantiles in found.items():
        layers[name].thresholds[number] = quantiles.exact
    lazy = Lazy(copied, _measured(copied, layers, known.held))
    lazy.distance = distance(wanted, outputs(copied, known.held))
    lazy.notes = tuple(notes)
    return lazy.train(model.training)


Key = tuple[str, int]
"""A layer's name, and the number of one of its inputs."""


def _keys(layers: dict[str, Skipping]) -> list[Key]:
    return [(name, k) for name, layer in layers.items() for k in range(len(layer.inputs))]


def _candidates(
    model: nn.Module, scope: Any, stages: Sequence[Block]
) -> tuple[list[str], list[str]]:
    """The layers that could skip, and sentences about those that are left out."""
    selected = Scope.of(scope).select(model)
    found, outside = list[str](), list[str]()
    for name, layer in model.named_modules():
        own = {f"{name}.{key}" if name else key for key, _ in layer.named_parameters()}
        if not name or not can_skip(layer) or not own <= selected:
            continue
        here = scope is not None or any(stage.holds(name) for stage in stages)
        (found if here else outside).append(name)
    if not found:
        found, outside = outside, []
    if not found:
        raise RecipeError(
            f"no layer of {type(model).__name__} could skip inputs",
            hint="fully connected and recurrent layers can; is the scope too narrow?",
        )
    left = [f"outside the blocks, and dense: {', '.join(outside)}"] if outside else []
    return found, left


def _faster(
    model: nn.Module, names: list[str], call: Call, sparsity: float
) -> tuple[list[str], list[str]]:
    """The layers that are faster where they skip, timed on what comes in from one sample."""
    taken = dict[str, Tensor]()
    hooks = [
        (
            model.get_submodule(name).register_forward_pre_hook,
            lambda module, args, name=name: taken.update({name: args[0]}),
        )
        for name in names
    ]
    with hooked(hooks), untouched(model), torch.no_grad():
        call.run(model)
    verdicts, fast, slow = dict[Any, bool](), list[str](), list[str]()
    for name in names:
        layer, x = model.get_submodule(name), taken.get(name)
        if not isinstance(x, Tensor):
            fast.append(name)
            continue
        form = (type(layer), str(layer), *(tuple(p.shape) for p in layer.parameters()))
        if form not in verdicts:
            verdicts[form] = _wins(layer, x, sparsity)
        (fast if verdicts[form] else slow).append(name)
    if not fast:
        raise RecipeError(
            f"none of {plural(len(names), 'layer')} is faster where it skips, timed here on one "
            "row: they are too small",
            hint="only_faster=False skips nevertheless",
        )
    return fast, [f"no faster where they skip, and dense: {', '.join(slow)}"] if slow else []


def _wins(layer: nn.Module, x: Tensor, sparsity: float) -> bool:
    lazy = skipper(light_copy(layer))
    assert lazy is not None
    if not isinstance(layer, nn.RNNBase):
        x = x.reshape(-1, x.shape[-1])[-1:]
    with torch.no_grad():
        out = layer(x)[0] if isinstance(layer, nn.RNNBase) else x
    for number in range(len(lazy.inputs)):
        seen = x if number == 0 else out
        lazy.thresholds[number] = float(seen.abs().flatten()[: 1 << 20].quantile(sparsity))
    times = compare(
        {"dense": partial(layer, x), "lazy": partial(lazy, x)}, repeats=9, min_time=0.01
    )
    return times["lazy"].median_ms < times["dense"].median_ms


def _stream(model: nn.Module, layers: dict[str, Skipping], calls: Sequence[Call], see: Any) -> None:
    """Run the calls, and show what comes into every layer."""
    for name, layer in layers.items():
        layer.watch = lambda number, x, name=name: see((name, number), x)
    try:
        with untouched(model), torch.no_grad():
            for call in calls:
                call.run(model)
    finally:
        for layer in layers.values():
            layer.watch = None


def _shares(
    model: nn.Module,
    layers: dict[str, Skipping],
    found: dict[Key, Quantiles],
    stages: Sequence[Block],
    sparsity: float,
    allocate: str,
) -> dict[Key, float]:
    """The share of every input that is skipped."""
    if allocate == "uniform":
        return dict.fromkeys(found, sparsity)
    chosen = dict[Key, float]()
    for stage in stages:
        keys = [key for key in found if stage.holds(key[0])]
        sizes = [layers[name].weight_of(number).numel() for name, number in keys]

        def error(tried: Sequence[float], keys: list[Key] = keys, stage: Block = stage) -> float:
            for (name, number), share in zip(keys, tried, strict=True):
                layers[name].thresholds[number] = found[name, number].rough(share)
            return stage.error(model)

        chosen.update(zip(keys, shares(sizes, sparsity, error), strict=True))
        for name, number in keys:
            layers[name].thresholds[number] = 0.0
    return {key: chosen.get(key, sparsity) for key in found}


def _measured(
    model: nn.Module, layers: dict[str, Skipping], calls: Sequence[Call]
) -> tuple[Input, ...]:
    """What every input skips on held-out data."""
    seen = {key: [0, 0] for key in _keys(layers)}

    def count(key: Key, x: Tensor) -> None:
        threshold = layers[key[0]].thresholds[key[1]]
        seen[key][0] += int((x.abs() <= threshold).sum())
        seen[key][1] += x.numel()

    _stream(model, layers, calls, count)
    return tuple(
        Input(
            f"{name} {layers[name].inputs[number]}".strip(),
            layers[name].weight_of(number).numel(),
            layers[name].thresholds[number],
            small / max(total, 1),
        )
        for (name, number), (small, total) in seen.items()
    )
