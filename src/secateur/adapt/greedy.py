"""How much each input of a block skips, so that the block's outputs change least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.errors import UnsupportedModel
from secateur.recover.blocks import capture, find_blocks, run
from secateur.recover.distance import distance, outputs

_STEP = 0.01  # of the block's weights, that one decision adds to what is skipped
_MOST = 0.95  # of an input


@dataclass(frozen=True)
class Block:
    """A part of a model that is judged by itself: name ("" for the model), calls, outputs."""

    name: str
    calls: tuple[Call, ...]
    wanted: tuple[tuple[Tensor, ...], ...]

    def holds(self, layer: str) -> bool:
        """Whether a layer is in it."""
        return not self.name or f"{layer}.".startswith(f"{self.name}.")

    def error(self, model: nn.Module) -> float:
        """How far its outputs are from what they were."""
        part = model.get_submodule(self.name)
        return distance(self.wanted, outputs(part, self.calls))


def chain(model: nn.Module, calls: Sequence[Call]) -> tuple[Block, ...]:
    """The repeated blocks of a model with what they are called with; the model, if it has none.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> [block.name for block in chain(net, [Call((torch.zeros(3, 2),), {})])]
        ['0', '1']
    """
    try:
        blocks = find_blocks(model)
        hidden, feeds = capture(model, list(blocks.values()), calls)
    except UnsupportedModel:
        found = outputs(model, calls)
        return (Block("", tuple(calls), tuple(map(tuple, found))),)
    result = []
    for number, (name, block) in enumerate(blocks.items()):
        these = tuple(f[number].call(h) for f, h in zip(feeds, hidden, strict=True))
        hidden = run(block, these)
        result.append(Block(name, these, tuple((h,) for h in hidden)))
    return tuple(result)


def shares(
    sizes: Sequence[int], target: float, error: Callable[[Sequence[float]], float]
) -> list[float]:
    """The share of each input that is skipped, so that `target` of all weights is, greedily.

    Starting from nothing, one input after another skips more, always by the same number of
    weights: the one with which the error is then smallest. Equal shares are taken where these have
    a smaller error.

    Paper: Liu et al., TEAL, ICLR 2025 (algorithm 1).

    Example:
        >>> [round(x, 2) for x in shares([10, 10], 0.3, lambda found: found[0] + 2 * found[1])]
        [0.6, 0.0]
    """
    found, total = [0.0] * len(sizes), sum(sizes)
    while (left := target * total - sum(map(float.__mul__, found, map(float, sizes)))) > 1e-6:
        tries = []
        for k, size in enumerate(sizes):
            more = list(found)
            more[k] = min(_MOST, found[k] + min(_STEP * total, left) / size)
            if more[k] > found[k]:
                tries.append(more)
        if not tries:
            break
        found = min(tries, key=error) if len(tries) > 1 else tries[0]
    equal = [target] * len(sizes)
    return min(found, equal, key=error) if len(sizes) > 1 else found
