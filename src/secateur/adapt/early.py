"""Early exits: heads at some depths, and how sure they must be for a promise to hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.adapt.depths import depths
from secateur.adapt.exiting import Exits, first, stops, visit
from secateur.adapt.heads import confidence, fit_finest, look, pool, safer, thresholds
from secateur.adapt.next_token import NextToken, is_decoder, layers_of, token_heads
from secateur.adapt.paying import price, worth
from secateur.adapt.promise import check_promise, last_safe, least_samples, parted
from secateur.adapt.timed import singles
from secateur.core.batches import Call, check_model, untouched
from secateur.core.errors import InputError, RecipeError
from secateur.core.page import plural
from secateur.core.tensors import light_copy
from secateur.measure.calibration import first_sample

_RISKS = (0.0, *(2.0 ** (k / 2) / 1000 for k in range(-4, 17)))
"""How often heads may be wrong on the data that thresholds are chosen on, safest first."""
_NEVER, _WHOLE = float("inf"), "all inputs take the whole network"
_TRIED, _KEPT = 8, 4  # exits by default: that are tried where time decides, and otherwise


@torch.inference_mode(False)
def exits(
    model: nn.Module,
    data: Iterable[Any],
    *,
    guarantee: float = 0.99,
    delta: float = 0.05,
    at: Sequence[str] | None = None,
    samples: int = 2048,
    only_faster: bool = True,
) -> Exits:
    """Let easy inputs leave a classifier early, with a promise to agree with the whole network.

    At each depth a linear head on the means and sizes of channels (of maps also the means of a few
    parts) learns the network's own outputs by ridge regression, without labels. Two fifths of the
    data fit the heads, one fifth chooses thresholds of confidence, and on the other two fifths the
    promise is tested: with probability `1 - delta` over these, the class is the whole network's on
    at least a share `guarantee` of new inputs that are like the data. Where the data cannot support
    it, inputs leave later, or never.

    Heads take time also of inputs that stay. What single samples take is timed here, and only those
    exits are there that together save most of it; if none saves any, inputs never leave.

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
        at: Modules behind which inputs could leave, in order; by default up to eight, evenly
            spread over the blocks of the model.
        samples: How many samples of the data are used at most.
        only_faster: Leave out exits that save no time on single samples, timed here; otherwise
            inputs leave at all that were named, by default at up to four.

    Papers: Teerapittayanon et al., BranchyNet, ICPR 2016; Schuster et al., Confident Adaptive
    Language Modeling, NeurIPS 2022; Belrose et al., the tuned lens, 2023; Angelopoulos et al.,
    Learn then Test.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> early = sc.adapt.exits(net, torch.randn(1000, 4), guarantee=0.9, only_faster=False)
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
    most = _TRIED if only_faster else _KEPT
    whole = model
    if is_decoder(dense, fit[0]):
        dense, whole = NextToken(dense), NextToken(model)
        names = layers_of(dense, names, most)
        keep = stops(dense, names)
        heads: Sequence[Any] = token_heads(dense, names, fit)
    else:
        names = names or depths(model, fit[0], most)
        keep = stops(dense, names)
        coarse, wanted = _observe(dense, names, [pool] * len(names), fit)
        fine = _observe(dense, names, [look] * len(names), fit)[0]
        heads = [fit_finest(*x, wanted) for x in zip(coarse, fine, strict=True)]
    risks = [risk for risk in _RISKS if risk <= 4 * (1 - guarantee)]
    sure, right = _judged(dense, names, heads, tuning)
    chosen: Sequence[int] = range(len(names))
    if only_faster:

        def leaving(some: Sequence[int]) -> tuple[int, ...]:
            """How many would leave where, if the promise held on the data of the thresholds."""
            parts = [sure[k] for k in some], [right[k] for k in some]
            rows = [_outcome(*parts, row) for row in _table(*parts, risks)]
            fine = [out for wrong, out in rows if wrong <= (1 - guarantee) * len(sure[0])]
            return fine[-1] if fine else (0,) * len(some)

        chosen = worth(price(dense, heads, first_sample(fit[0])), leaving, len(sure[0]))
        keep(chosen)
    some, table = [names[k] for k in chosen], torch.empty(0, 0)
    if chosen:
        table = _table([sure[k] for k in chosen], [right[k] for k in chosen], risks)
    result = Exits(dense, some, [heads[k] for k in chosen], torch.full((len(some),), _NEVER))
    result.guarantee, result.delta = guarantee, delta
    result.costs = _costs(result, first_sample(fit[0]))
    result.check_compaction(fit[0])
    if not chosen:
        result.notes = (f"heads would take more time than they save: {_WHOLE}",)
        return result.train(model.training)
    result.notes = _tested(result, table, testing)
    timed = singles(whole, result.eval(), testing)
    if timed is not None:
        result.times, result.timed = timed
    if only_faster and result.times is not None and result.times[0] <= result.times[1]:
        result.close()
        result.notes += (f"exits save no time here: {_WHOLE}",)
    return result.train(model.training)


def _table(sure: Sequence[Tensor], right: Sequence[Tensor], risks: Sequence[float]) -> Tensor:
    """Thresholds of all exits, safest first, `[settings, exits]`."""
    found = thresholds(sure, right, risks)
    return torch.cat([safer(found[0]), found])


def _tested(result: Exits, table: Tensor, calls: Sequence[Call]) -> tuple[str, ...]:
    """Give the exits the last thresholds with which the promise holds; what is to be said of it."""
    sure, right = _judged(result.model, result.names, list(result.heads), calls)
    outcomes, count = [_outcome(sure, right, row) for row in table], len(sure[0])
    rate = 1 - result.guarantee
    safe = last_safe([wrong for wrong, _ in outcomes], count, rate, result.delta)
    result.tested = result.agreed = count
    if safe < 0:
        least = least_samples(rate, result.delta)
        return (
            f"no exit can promise {result.guarantee:g} on {plural(count, 'test sample')} ({least} "
            f"without a difference would do): {_WHOLE}",
        )
    result.thresholds.copy_(table[safe])
    wrong, result.leaving = outcomes[safe]
    result.agreed = count - wrong
    return ()


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
            out = visit(model, call, seen)
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
