"""Which blocks an input can do without, with a promise about the outcome."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.adapt.heads import Head, fit_head
from secateur.adapt.next_token import NextToken, is_decoder
from secateur.adapt.promise import check_promise, last_safe, least_samples, parted
from secateur.adapt.skippable import Layers, Skippable, counts
from secateur.adapt.timed import singles
from secateur.core.batches import Call, check_model, untouched
from secateur.core.errors import InputError, RecipeError
from secateur.core.page import plural
from secateur.core.tensors import light_copy
from secateur.graph.analyze import analyze
from secateur.measure.calibration import first_sample
from secateur.recover.distance import distance, outputs

_SHARES = (1.0, 0.99, 0.97, 0.94, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
"""Of samples that pass no block by, safest first."""


class LastHead(Head):
    """A head on the last token."""

    def read(self, x: Tensor) -> Tensor:
        """The last token's hidden state, `[n, width]`."""
        return x[:, -1]


@torch.inference_mode(False)
def skip(
    model: nn.Module,
    data: Iterable[Any],
    *,
    guarantee: float = 0.99,
    delta: float = 0.05,
    most: int | None = None,
    samples: int = 2048,
) -> Layers:
    """Let inputs pass by residual blocks that they do not need, with a promise to agree.

    Blocks are ordered by how little the outputs change without them. A linear predictor, fitted by
    ridge regression without labels, tells from what comes into the first of them by how much the
    whole network's class would still win without the first, the first two, ...; a sample passes by
    as many as are above a threshold. Two fifths of the data fit, one fifth makes thresholds, and on
    the other two fifths the promise is tested: with probability `1 - delta` over these, the class
    is the whole network's on at least a share `guarantee` of new inputs that are like the data.
    Single samples are timed: the page says what they gain, or lose.

    Args:
        model: A classifier with outputs `[n, classes]`, or a language model, of which the next word
            is the class (see `sc.adapt.exits`). It is left as it was, and its weights are shared.
        data: Batches, labelled or not, best not those that the model was trained on.
        guarantee: The least agreement with the whole network.
        delta: The chance that the promise fails because of which samples were drawn.
        most: How many blocks can be passed by; by default half of them.
        samples: How many samples of the data are used at most.

    Papers: Men et al., ShortGPT, 2024 (blocks that change little); Angelopoulos et al., Learn then
    Test, Annals of Applied Statistics 2025.

    Example:
        >>> class Add(nn.Module):
        ...     def __init__(self, size):
        ...         super().__init__()
        ...         self.inner, self.size = nn.Linear(8, 8), size
        ...     def forward(self, x):
        ...         return x + self.size * torch.tanh(self.inner(x))
        >>> net = nn.Sequential(nn.Linear(4, 8), Add(1.0), Add(0.01), Add(0.1), nn.Linear(8, 3))
        >>> layers = sc.adapt.skip(net, torch.randn(1000, 4), guarantee=0.9)
        >>> layers.names, layers.agreement >= 0.9
        (('2',), True)

    Raises:
        InputError: There is too little data, or the outputs are not `[n, classes]`.
        RecipeError: The promise makes no sense, or there are too few residual blocks.
    """
    check_model(model)
    check_promise(guarantee, delta)
    fit, tuning, testing = parted(model, data, samples, "skipping needs")
    decoder = is_decoder(model, fit[0])
    found = analyze(model, first_sample(fit[0])).blocks[1:]  # the first one's output decides
    if not found:
        raise RecipeError(
            f"{type(model).__name__} has fewer than two residual blocks",
            hint="only blocks that compute x + f(x) can be passed by",
        )
    copied: nn.Module = light_copy(model)
    blocks = {block.module: block.as_tuple for block in found}
    wrapped = {
        name: Skippable(copied.get_submodule(name), 0, as_tuple)
        for name, as_tuple in blocks.items()
    }
    for name, block in wrapped.items():
        copied.set_submodule(name, block)
    layers = Layers(NextToken(copied) if decoder else copied, (), nn.Identity(), float("inf"))
    layers.names = _order(layers, wrapped, fit[:2], most)
    kind = LastHead if decoder else Head
    features, margins = _margins(layers, kind, fit)
    layers.head = kind(fit_head(features, margins).linear)
    tried = layers.head.of(_margins(layers, kind, tuning)[0]).amax(1).double()
    thresholds = [float(tried.quantile(share)) for share in _SHARES[1:]]
    thresholds = [float(tried.max()) + 1, *thresholds]
    features, margins = _margins(layers, kind, testing)
    taken = [counts(layers.head.of(features), threshold) for threshold in thresholds]
    right = torch.cat([torch.ones(len(margins), 1, dtype=torch.bool), margins.cpu() > 0], 1)
    wrong = [int((~right.gather(1, count.cpu()[:, None])).sum()) for count in taken]
    safe = last_safe(wrong, len(margins), 1 - guarantee, delta)
    layers.guarantee, layers.delta, layers.tested = guarantee, delta, len(margins)
    layers.agreed = len(margins) - (wrong[safe] if safe >= 0 else 0)
    if safe >= 0:
        layers.threshold, layers.passed = thresholds[safe], int(taken[safe].sum())
    if not layers.passed:
        layers.threshold = float("inf")
        layers.notes = (
            f"no block can be passed by with a promise of {guarantee:g} on "
            f"{plural(len(margins), 'test sample')} ({least_samples(1 - guarantee, delta)} without "
            "a difference would do): all inputs take the whole network",
        )
    else:
        timed = singles(NextToken(model) if decoder else model, layers.eval(), testing)
        if timed is not None:
            layers.times, layers.timed = timed
    return layers.train(model.training)


def _order(
    layers: Layers, blocks: dict[str, Skippable], calls: Sequence[Call], most: int | None
) -> tuple[str, ...]:
    """The blocks that can be given up, those first without which the outputs change least."""
    wanted = outputs(layers.model, calls)
    alone = dict[str, float]()
    for name, block in blocks.items():
        for other in blocks.values():
            other.number = 1 if other is block else len(blocks) + 1
        alone[name] = distance(wanted, _without(layers, 1, calls))
    limit = max(1, (len(blocks) + 1) // 2) if most is None else most
    names = sorted(blocks, key=alone.__getitem__)[:limit]
    for name, block in blocks.items():
        block.number = names.index(name) + 1 if name in names else len(blocks) + 1
    return tuple(names)


def _without(layers: Layers, count: int, calls: Sequence[Call]) -> list[list[Tensor]]:
    def decide(x: Tensor) -> Tensor:
        return torch.full((len(x),), count, device=x.device)

    with untouched(layers), torch.no_grad():
        return [[layers.run(decide, *call.args, **call.kwargs)] for call in calls]


def _margins(layers: Layers, kind: type[Head], calls: Sequence[Call]) -> tuple[Tensor, Tensor]:
    """What decides, `[n, k]`, and by how much the whole network's class wins without the first, the
    first two, ... of the blocks, `[n, blocks]`.
    """
    head, features = kind(nn.Linear(1, 1, device="meta")), list[Tensor]()

    def watch(x: Tensor) -> Tensor:
        features.append(head.read(x))
        return torch.zeros(len(x), dtype=torch.long, device=x.device)

    whole = list[Tensor]()
    with untouched(layers), torch.no_grad():
        for call in calls:
            out = layers.run(watch, *call.args, **call.kwargs)
            if not isinstance(out, Tensor) or out.dim() != 2:
                raise InputError(
                    "skipping needs a classifier with one output [n, classes]",
                    hint="wrap the model so that its forward returns logits",
                )
            whole.append(out)
    classes = torch.cat(whole).argmax(1, keepdim=True)
    margins = list[Tensor]()
    for count in range(1, len(layers.names) + 1):
        scores = torch.cat([out for (out,) in _without(layers, count, calls)]).float()
        mine = scores.gather(1, classes)
        others = scores.scatter(1, classes, float("-inf")).amax(1, keepdim=True)
        margins.append(mine - others)
    return torch.cat(features), torch.cat(margins, 1)
