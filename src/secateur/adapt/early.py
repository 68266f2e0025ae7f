"""Early exits: heads at some depths, and how sure they must be for a promise to hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.adapt.depths import depths
from secateur.adapt.exiting import Exits, first, stops, visiting
from secateur.adapt.heads import confidence, fit_finest, look, pool, safer, thresholds
from secateur.adapt.next_token import NextToken, is_decoder, layers_of, token_heads
from secateur.adapt.promise import check_promise, last_safe, least_samples, parted
from secateur.core.batches import Call, check_model, untouched
from secateur.core.errors import InputError, RecipeError
from secateur.core.page import plural
from secateur.core.tensors import light_copy
from secateur.measure.calibration import first_sample

_RISKS = (0.0, *(2.0**k / 1000 for k in range(-2, 9)))
"""How often heads may be wrong on the data that thresholds are chosen on, safest first."""


@torch.inference_mode(False)
def exits(
    model: nn.Module,
    data: Iterable[Any],
    *,
    guarantee: float = 0.99,
    delta: float = 0.05,
    at: Sequence[str] | None = None,
    samples: int = 2048,
) -> Exits:
    """Let easy inputs leave a classifier early, with a promise to agree with the whole network.

    At each depth a linear head on means and deviations (of maps also the means of a few parts)
    learns the network's own outputs by ridge regression, without labels. Two fifths of the data fit
    the heads, one fifth chooses thresholds of confidence, and on the other two fifths the promise
    is tested: with probability `1 - delta` over these, the class is the whole network's on at least
    a share `guarantee` of new inputs that are like the data. Where the data cannot support it,
    inputs leave later, or never.

    A language model with outputs `[n, tokens, words]` becomes a classifier of the next word, with
    outputs `[n, words]`: heads are its own last norm and head, behind a matrix that is fitted to
    make its last hidden state of an earlier one. The whole context runs for every word, as a cache
    would lack what was not computed.

    Args:
        model: A classifier with outputs `[n, classes]`, or a language model; it is left as it was,
            and its weights are shared with the result.
        data: Batches, labelled or not, best not those that the model was trained on.
        guarantee: The least agreement with the whole network.
        delta: The chance that the promise fails because of which samples were drawn.
        at: Modules behind which inputs can leave, in order; by default up to four, evenly spread
            over the blocks of the model.
        samples: How many samples of the data are used at most.

    Papers: Teerapittayanon et al., BranchyNet, ICPR 2016; Schuster et al., Confident Adaptive
    Language Modeling, NeurIPS 2022; Belrose et al., the tuned lens, 2023; Angelopoulos et al.,
    Learn then Test.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> early = sc.adapt.exits(net, torch.randn(1000, 4), guarantee=0.9, at=["1"])
        >>> early(torch.randn(1, 4)).shape
        torch.Size([1, 2])

    Raises:
        InputError: There is too little data, or the outputs are not `[n, classes]`.
        RecipeError: The promise makes no sense, or there is no depth to leave at.
    """
    check_model(model)
    check_promise(guarantee, delta)
    fit, tuning, testing = parted(model, data, samples, "exits need")
    dense, names = light_copy(model), None if at is None else tuple(at)
    if is_decoder(dense, fit[0]):
        dense = NextToken(dense)
        names = layers_of(dense, names)
        stops(dense, names)
        heads: Sequence[Any] = token_heads(dense, names, fit)
    else:
        names = names or depths(model, fit[0])
        stops(dense, names)
        features, wanted = _observe(dense, names, [look] * len(names), fit)
        coarse = _observe(dense, names, [pool] * len(names), fit[:1])[0]
        heads = [
            fit_finest(x, wanted, few.shape[1]) for x, few in zip(features, coarse, strict=True)
        ]
    risks = [risk for risk in _RISKS if risk <= 4 * (1 - guarantee)]
    table = thresholds(*_judged(dense, names, heads, tuning), risks)
    table = torch.cat([safer(table[0]), table])
    tested = _judged(dense, names, heads, testing)
    outcomes = [_outcome(*tested, row) for row in table]
    count = len(tested[0][0])
    safe = last_safe([wrong for wrong, _ in outcomes], count, 1 - guarantee, delta)
    never = torch.full((len(names),), float("inf"))
    result = Exits(dense, names, heads, table[safe] if safe >= 0 else never)
    wrong, result.leaving = outcomes[safe] if safe >= 0 else (0, result.leaving)
    result.guarantee, result.delta = guarantee, delta
    result.tested, result.agreed = count, count - wrong
    result.costs = _costs(result, first_sample(fit[0]))
    if safe < 0:
        least = least_samples(1 - guarantee, delta)
        result.notes = (
            f"no exit can promise {guarantee:g} on {plural(count, 'test sample')} ({least} without "
            "a difference would do): all inputs take the whole network",
        )
    result.check_compaction(fit[0])
    return result.train(model.training)


class _Collect:
    """A visitor that keeps what each exit reads."""

    def __init__(self, read: Sequence[Read]) -> None:
        self.read = read
        self.found: list[list[Tensor]] = [[] for _ in read]

    def arrive(self, number: int, out: Any) -> None:
        self.found[number].append(self.read[number](first(out)))


Read = Callable[[Tensor], Tensor]
"""Features `[n, k]` of what a module gives."""


def _observe(
    model: nn.Module, names: Sequence[str], read: Sequence[Read], calls: Sequence[Call]
) -> tuple[list[Tensor], Tensor]:
    """The features at every depth, and the outputs, of all samples."""
    features: list[list[Tensor]] = [[] for _ in names]
    outputs = list[Tensor]()
    with untouched(model), torch.no_grad():
        for call in calls:
            seen = _Collect(read)
            with visiting(seen):
                out = call.run(model)
            if not isinstance(out, Tensor) or out.dim() != 2:
                raise InputError(
                    "exits need a classifier with one output [n, classes]",
                    hint="wrap the model so that its forward returns logits",
                )
            outputs.append(out)
            for name, parts, here in zip(names, features, seen.found, strict=True):
                if len(here) != 1 or len(here[0]) != len(out):
                    raise RecipeError(
                        f"inputs cannot leave behind {name}: in one pass it gives "
                        f"{plural(len(here), 'result')} where one entry a sample is needed, once",
                        hint="name other modules with at=",
                    )
                parts += here
    return [torch.cat(parts) for parts in features], torch.cat(outputs)


def _judged(
    model: nn.Module, names: Sequence[str], heads: Sequence[Any], calls: Sequence[Call]
) -> tuple[list[Tensor], list[Tensor]]:
    """For every head how sure it is of each sample, and whether it agrees with the network."""
    features, wanted = _observe(model, names, [head.read for head in heads], calls)
    with torch.no_grad():
        logits = [head.of(x) for head, x in zip(heads, features, strict=True)]
    agrees = [found.argmax(1) == wanted.argmax(1) for found in logits]
    return [confidence(found).cpu() for found in logits], [a.cpu() for a in agrees]


def _outcome(
    sure: Sequence[Tensor], right: Sequence[Tensor], row: Tensor
) -> tuple[int, tuple[int, ...]]:
    """How many samples leave with another class than the network's, and how many leave where."""
    inside, wrong, leaving = torch.ones(len(sure[0]), dtype=torch.bool), 0, list[int]()
    for confidences, agrees, threshold in zip(sure, right, row, strict=True):
        now = inside & (confidences >= threshold)
        wrong += int((now & ~agrees).sum())
        leaving.append(int(now.sum()))
        inside &= ~now
    return wrong, tuple(leaving)


def _costs(exits: Exits, call: Call) -> tuple[float, ...]:
    """The share of the floating-point operations that are done up to each exit, its head's too."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton

    work = []
    for number in range(len(exits.names) + 1):
        with untouched(exits), torch.no_grad(), FlopCounterMode(display=False) as counter:
            exits.work(call, number)
        work.append(counter.get_total_flops())
    return tuple(done / max(work[-1], 1) for done in work[:-1])
