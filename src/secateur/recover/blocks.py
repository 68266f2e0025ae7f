"""A model as a chain of blocks: what each is called with, and how to run one by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import Call, untouched
from secateur.core.errors import InputError, UnsupportedModel

_HIDDEN = "hidden_states"
_STREAM = "stream='blocks' wants a chain of blocks, as decoders of language models have"


class _Enough(Exception):
    """All blocks were called: what comes behind them need not run."""


@dataclass(frozen=True)
class Feed:
    """What one call of the model calls one block with, but for the hidden state.

    place: the hidden state's position in `args`, or its name in `kwargs`.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: int | str

    def call(self, hidden: Tensor) -> Call:
        """The call of the block for a hidden state."""
        if isinstance(self.place, str):
            return Call(self.args, {**self.kwargs, self.place: hidden})
        args = (*self.args[: self.place], hidden, *self.args[self.place + 1 :])
        return Call(args, self.kwargs)


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The repeated blocks of a model by name: the largest list of modules of one type.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
        >>> list(find_blocks(net))
        ['1.0', '1.1']

    Raises:
        UnsupportedModel: There is no list of at least two modules of one type with parameters.
    """
    best: dict[str, nn.Module] = {}
    most = 0
    for name, module in model.named_modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential)) or len(module) < 2:
            continue
        children = list(module.named_children())
        if len({type(child) for _, child in children}) > 1:
            continue
        size = sum(p.numel() for p in module.parameters())
        if size > most:
            most = size
            best = {f"{name}.{key}" if name else key: child for key, child in children}
    if not best:
        raise UnsupportedModel(
            f"{type(model).__name__} has no list of blocks of one type: {_STREAM}",
            hint="leave stream out",
        )
    return best


def capture(
    model: nn.Module, blocks: Sequence[nn.Module], calls: Sequence[Call]
) -> tuple[list[Tensor], list[list[Feed]]]:
    """The first block's hidden state of every call, and what each block is called with besides.

    One pass of the model over the calls. Masks, positions and the like are kept by reference, for
    every block by itself, as they may differ; caches are switched off. Memory: the first hidden
    state of all calls, and one call's activations.

    Raises:
        UnsupportedModel: A block is not called once by every call, or something happens between
            one block's result and the next one's input.
    """
    hidden: list[Tensor] = []
    feeds: list[list[Feed]] = []
    with untouched(model), torch.no_grad(), _without_cache(model):
        for call in calls:
            first, found = _captured(model, blocks, call)
            hidden.append(first)
            feeds.append(found)
    return hidden, feeds


def _captured(
    model: nn.Module, blocks: Sequence[nn.Module], call: Call
) -> tuple[Tensor, list[Feed]]:
    first: list[Tensor] = []
    last: list[Tensor] = []
    found: list[Feed] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        feed, value = _feed(args, kwargs)
        if len(found) >= len(blocks) or module is not blocks[len(found)]:
            raise UnsupportedModel(f"the blocks do not run one after another: {_STREAM}")
        if last and not _same(last[-1], value):
            raise UnsupportedModel(
                f"something happens between block {len(found) - 1} and the next one: {_STREAM}"
            )
        if not first:
            first.append(value.detach().clone())
        found.append(feed)

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        last[:] = [hidden_of(result)]
        if len(found) == len(blocks):
            raise _Enough

    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(block.register_forward_hook(leave).remove)
        try:
            call.run(model)
        except _Enough:
            return first[0], found
    raise UnsupportedModel(f"{len(blocks) - len(found)} of the blocks did not run: {_STREAM}")


def _feed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Feed, Tensor]:
    """A block's arguments without the hidden state, and that."""
    kwargs = {key: None if _is_cache(value) else value for key, value in kwargs.items()}
    args = tuple(None if _is_cache(value) else value for value in args)
    named = [key for key, value in kwargs.items() if isinstance(value, Tensor)]
    if args and isinstance(args[0], Tensor):
        return Feed((None, *args[1:]), kwargs, 0), args[0]
    place = _HIDDEN if _HIDDEN in named else next(iter(named), None)
    if place is None:
        raise UnsupportedModel(f"a block is called without a tensor: {_STREAM}")
    value = kwargs.pop(place)
    return Feed(args, kwargs, place), value


def _is_cache(value: Any) -> bool:
    return any(kind.__name__.endswith("Cache") for kind in type(value).__mro__)


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.data_ptr() == b.data_ptr()) or torch.equal(a, b)


def hidden_of(result: Any) -> Tensor:
    """The hidden state in what a block returns: itself, or the first of several.

    Raises:
        UnsupportedModel: It returns something else.
    """
    found = result[0] if isinstance(result, (tuple, list)) and result else result
    if not isinstance(found, Tensor):
        raise UnsupportedModel(f"a block returns a {type(result).__name__}: {_STREAM}")
    return found


def exchange(block: nn.Module, given: Sequence[Tensor], other: Sequence[Tensor]) -> None:
    """From now on the block sees `other[i]` wherever it is called with the very tensor `given[i]`.

    So the dense block can be run beside the pruned one, each on its own hidden states.
    """
    table = {id(a): (a, b) for a, b in zip(given, other, strict=True)}  # keeps the ids taken

    def swap(value: Any) -> Any:
        return table.get(id(value), (None, value))[1]

    def enter(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return tuple(map(swap, args)), {key: swap(value) for key, value in kwargs.items()}

    block.register_forward_pre_hook(enter, with_kwargs=True)


def run(block: nn.Module, calls: Sequence[Call]) -> list[Tensor]:
    """The hidden states behind a block, for every call, in evaluation mode."""
    with untouched(block), torch.no_grad():
        found = [hidden_of(call.run(block)).detach() for call in calls]
    for value in found:
        if not bool(torch.isfinite(value).all()):
            raise InputError("a hidden state is not finite on the calibration data")
    return found


@contextmanager
def _without_cache(model: nn.Module) -> Iterator[None]:
    """Key-value caches off, in every configuration that the model's modules hold."""
    configs: dict[int, Any] = {
        id(m.config): m.config for m in model.modules() if hasattr(m, "config")
    }
    flags = {key: c.use_cache for key, c in configs.items() if hasattr(c, "use_cache")}
    try:
        for key in flags:
            configs[key].use_cache = False
        yield
    finally:
        for key, flag in flags.items():
            configs[key].use_cache = flag


__all__ = ["Feed", "capture", "exchange", "find_blocks", "hidden_of", "run"]
