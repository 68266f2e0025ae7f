"""Gram matrices of what linear operations read, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.measure.linear import Spec, Use, sample_rows
from secateur.measure.stats_inputs import check_finite, double, same_form, watch, whole

LIMIT = 2**30  # bytes of Gram matrices that are held at a time
WIDEST = 1536  # columns above which one kernel position stands for all
NEVER = 16384  # columns above which there is no Gram matrix
_ROWS = 8192
_BLOCK = 1024  # rows of a product
_STRIPE = 512  # columns of a product


@dataclass(frozen=True)
class GramFacts:
    """Second moments of the rows of one weight's input, centred; float64.

    gram: covariance `[groups, k, k]`, divided by the number of rows. mean: `[groups, k]`. count:
    rows that were looked at (a sample of all rows). taps: columns of a channel. It is that of the
    operation, or 1 where k was too large: then the matrix is that of channels, averaged over kernel
    positions. Column `c * taps + t` belongs to channel `c`.
    """

    weight: str
    spec: Spec
    gram: Tensor
    mean: Tensor
    count: int
    taps: int

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight in these columns: `[groups, rows, k]`, float64.

        Where the matrix is one of channels, the weights of every kernel position are rows.
        """
        found = double(self.spec.matrix(weight.detach()))
        if self.taps == self.spec.taps:
            return found
        split = found.reshape(*found.shape[:2], -1, self.spec.taps)
        return split.transpose(2, 3).reshape(found.shape[0], -1, split.shape[2])


@dataclass(frozen=True)
class Shape:
    """What a Gram matrix of one weight will take, known after one small run."""

    spec: Spec
    columns: int
    taps: int
    share: float

    @property
    def bytes(self) -> int:
        """Memory of the matrix in float64."""
        return 8 * self.spec.groups * self.columns**2


class Grams(Mapping[str, GramFacts]):
    """Gram matrices by weight, gathered when they are asked for.

    A pass over the data gathers those that are asked for, and those of the weights behind the first
    of them (which will be asked for next) as far as they fit in `limit` bytes; others are dropped.

    sizes: bytes by weight, in the order of use. fill: gathers some weights in one pass.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        fill: Callable[[Sequence[str]], Mapping[str, GramFacts]],
        limit: int = LIMIT,
    ) -> None:
        self.sizes, self.fill, self.limit = dict(sizes), fill, limit
        self._held: dict[str, GramFacts] = {}

    def load(self, names: Sequence[str]) -> dict[str, GramFacts]:
        """Those of some weights, with one pass over the data at most.

        Where together they exceed the limit, evenly spread ones that fit (the first at least).
        """
        wanted = self._thinned([name for name in dict.fromkeys(names) if name in self.sizes])
        if any(name not in self._held for name in wanted):
            window = self._window(wanted)
            self._held = {name: self._held[name] for name in window if name in self._held}
            self._held |= self.fill([name for name in window if name not in self._held])
        return {name: self._held[name] for name in wanted if name in self._held}

    def _window(self, wanted: list[str]) -> list[str]:
        """What is wanted, and what comes behind the first of it, as far as it fits."""
        order = list(self.sizes)
        used = sum(self.sizes[name] for name in wanted)
        chosen = set(wanted)
        for name in order[min(order.index(each) for each in wanted) :]:
            if name not in chosen:
                used += self.sizes[name]
                if used > self.limit:
                    break
                chosen.add(name)
        return [name for name in order if name in chosen]

    def _thinned(self, names: list[str]) -> list[str]:
        total = sum(self.sizes[name] for name in names)
        while total > self.limit and len(names) > 1:
            names = names[::2] if len(names) > 2 else names[:1]
            total = sum(self.sizes[name] for name in names)
        return names

    def __getitem__(self, name: str) -> GramFacts:
        """The Gram matrix of a weight's input.

        Raises:
            KeyError: No linear operation used the weight, or its input is too wide.
        """
        if name not in self.sizes:
            raise KeyError(name)
        return self.load([name])[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is one; nothing is gathered for the answer."""
        return name in self.sizes

    def __iter__(self) -> Iterator[str]:
        """Names, in the order of use."""
        return iter(self.sizes)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.sizes)


class Accumulator:
    """A covariance in the making: rows in, blocks of products added up in float64.

    Rows are shifted by the mean of the first block, so that nothing cancels when the mean is large.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.count = 0
        self.shift = self.sum = self.product = torch.zeros(0)

    def add(self, use: Use, index: Tensor) -> None:
        """Take in some rows of an operation's input."""
        found = use.inputs(index.to(use.x.device))  # at once: a call prepares the whole input
        for part in found.split(_BLOCK, 1):
            rows = part if part.dtype == torch.float64 else part.float()
            if self.shape.taps != self.shape.spec.taps:
                taps = self.shape.spec.taps
                split = rows.reshape(*rows.shape[:2], -1, taps)
                rows = split.transpose(2, 3).reshape(rows.shape[0], -1, split.shape[2])
            self._block(rows)

    def _block(self, rows: Tensor) -> None:
        if not self.count:
            self.shift = rows.mean(1, keepdim=True)
            k = rows.shape[2]
            self.sum = double(rows.new_zeros(rows.shape[0], k))
            self.product = double(rows.new_zeros(1)).new_zeros(rows.shape[0], k, k)
        rows = rows - self.shift
        self.sum += double(rows.sum(1))
        for start in range(0, rows.shape[2], _STRIPE):  # the upper half is enough
            left = rows[:, :, start : start + _STRIPE].mT
            self.product[:, start : start + _STRIPE, start:] += double(left @ rows[:, :, start:])
        self.count += rows.shape[1]

    def facts(self) -> GramFacts:
        """The result; the accumulator is used up (its memory becomes the result's)."""
        for start in range(0, self.product.shape[2], _STRIPE):
            stop = start + _STRIPE
            self.product[:, stop:, start:stop] = self.product[:, start:stop, stop:].mT
        offset = self.sum / self.count
        gram = self.product.div_(self.count).baddbmm_(offset[:, :, None], offset[:, None], alpha=-1)
        mean = double(self.shift[:, 0]) + offset
        spec = self.shape.spec
        check_finite(gram.diagonal(dim1=1, dim2=2) + mean, spec.weight)
        return GramFacts(spec.weight, spec, gram, mean, self.count, self.shape.taps)


def shapes(model: nn.Module, call: Call, wanted: set[str], passes: float) -> dict[str, Shape]:
    """What the Gram matrices of some weights will take, by one run.

    passes: how many runs of this size the data makes, so that the share of rows to look at is
    known beforehand.
    """
    specs: dict[str, Spec] = {}
    columns: dict[str, int] = {}
    counts: dict[str, int] = {}

    def see(use: Use) -> None:
        name = use.spec.weight
        if same_form(specs.setdefault(name, whole(use.spec)), use.spec):
            x, spec = use.x, use.spec
            channels = x.shape[1] // spec.groups if spec.kernel else x.shape[0 if use.left else -1]
            columns[name] = channels * spec.taps
            counts[name] = counts.get(name, 0) + use.count

    watch(model, [call], see, wanted)
    found = {}
    for name, spec in specs.items():
        k, taps = columns[name], spec.taps
        if k > WIDEST and taps > 1:
            k, taps = k // taps, 1
        if k <= NEVER and k > 0 and counts[name] > 0:
            rows = max(_ROWS, 2 * k) / (spec.taps // taps)
            share = min(1.0, rows / max(1.0, counts[name] * passes))
            found[name] = Shape(spec, k, taps, share)
    return found


def gather(
    model: nn.Module, calls: Iterable[Call], wanted: Mapping[str, Shape], seed: int
) -> dict[str, GramFacts]:
    """The Gram matrices of some weights in one pass over calls."""
    found: dict[str, Accumulator] = {}
    generator = torch.Generator().manual_seed(seed)

    def see(use: Use) -> None:
        shape = wanted[use.spec.weight]
        if not same_form(shape.spec, use.spec) or not use.count:
            return
        rows = sample_rows(use.count, ceil(shape.share * use.count), generator)
        found.setdefault(use.spec.weight, Accumulator(shape)).add(use, rows)

    watch(model, calls, see, wanted.keys())
    facts = {}
    for name in wanted:
        if name in found:
            facts[name] = found.pop(name).facts()
    return facts


__all__ = ["LIMIT", "WIDEST", "Accumulator", "GramFacts", "Grams", "Shape", "gather", "shapes"]
