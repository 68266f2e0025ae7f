"""Calibration data: what users call data, as a few calls of the model that fit in memory."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from secateur.core.batches import Call, as_call, check_model, map_tensors, tensors_in
from secateur.core.errors import InputError

_HOLD_OUT = 5
_CHUNK_BYTES = 5_000_000  # of inputs in one call: larger ones are slower, memory is slow
_TOKEN_BYTES = 300  # what a token counts as, since it becomes a vector


@dataclass(frozen=True)
class Calibration:
    """Calls of the model, split by samples.

    fit: what is learned from. held: what decides whether it helped (a fifth; the calls of `fit`
    where the data cannot be split). samples: in all.
    """

    fit: tuple[Call, ...]
    held: tuple[Call, ...]
    samples: int

    @property
    def calls(self) -> tuple[Call, ...]:
        """All calls, each once."""
        return self.fit if self.held is self.fit else (*self.fit, *self.held)


def take(data: Iterable[Any], samples: int = 512) -> list[Any]:
    """The first batches of the data that hold `samples` samples, kept, so that an iterator will do.

    A tensor, or an `(inputs, targets)` pair of tensors of equal length, counts as one batch.

    Example:
        >>> len(take(((torch.zeros(8, 3), torch.zeros(8)) for _ in range(10)), samples=20))
        3

    Raises:
        InputError: There is no batch, or `data` is not iterable.
    """
    if samples < 1:
        raise InputError(f"samples={samples!r}: expected an integer of at least 1")
    if isinstance(data, (Tensor, Mapping)) or _is_pair(data):
        data = [data]
    if not isinstance(data, Iterable):
        raise InputError(
            f"data is batches, not a {type(data).__name__}",
            hint="give a data loader, a list of batches, or one tensor",
        )
    batches: list[Any] = []
    seen = 0
    for batch in data:
        batches.append(batch)
        seen += _length(batch)
        if seen >= samples:
            break
    if not batches:
        raise InputError("the data loader is empty", hint="give at least one batch")
    return batches


def calibration(
    model: nn.Module, batches: Iterable[Any], *, samples: int = 512, chunk: int = 128
) -> Calibration:
    """The inputs of batches as calls of at most `chunk` samples (and 5 MB) on the model's device.

    Where the tensors of a batch agree on their first dimension it is the samples' and batches are
    split, where they are larger or fewer than five; others stay whole. Batches of one sample are
    put together. About every fifth call is held out.

    Example:
        >>> net = nn.Linear(3, 2)
        >>> found = calibration(net, [(torch.zeros(10, 3), torch.zeros(10))], chunk=2)
        >>> len(found.fit), len(found.held), found.samples
        (4, 1, 10)

    Raises:
        InputError: There is no sample, or an input is not finite.
    """
    taken: list[tuple[Call, int]] = []
    seen = 0
    for number, batch in enumerate(batches):
        call = batch_call(model, batch)
        for tensor in tensors_in((call.args, dict(call.kwargs))):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise InputError(
                    f"batch {number} of the data holds values that are not finite",
                    hint="clean the data: NaN and infinity spread to every statistic",
                )
        size = _samples(call)
        if size == 0:
            continue
        size = min(size, samples - seen)
        taken.append((call, size))
        seen += size
        if seen >= samples:
            break
    if not taken:
        raise InputError("there is no sample in the data", hint="give at least one batch")
    chunk = max(1, min(chunk, _CHUNK_BYTES * seen // max(1, _bytes(taken))))
    chunk = min(chunk, -(-seen // _HOLD_OUT))
    calls = _joined(taken, chunk)
    pieces = [piece for call, size in calls for piece in _evenly(call, size, chunk)]
    apart = _held_out(len(pieces))
    held = tuple(pieces[k] for k in apart)
    fit = tuple(piece for k, piece in enumerate(pieces) if k not in apart)
    return Calibration(fit, held or fit, seen)


def _held_out(pieces: int) -> list[int]:
    """Which of the pieces are held out: the fifth of them, spread evenly; none of four or less.

    Example:
        >>> _held_out(6), _held_out(8), _held_out(10)
        ([4], [3, 7], [4, 9])
    """
    count = 0 if pieces < _HOLD_OUT else max(1, round(pieces / _HOLD_OUT))
    return [min(k * pieces // count, k * _HOLD_OUT) - 1 for k in range(1, count + 1)]


def batch_call(model: nn.Module, batch: Any) -> Call:
    """The call for a loader's batch: of `(x, lengths, labels)` a forward of two arguments gets two.

    Of `([a, b], labels)` a forward of two arguments gets `a` and `b`, another one the list.

    Example:
        >>> batch_call(nn.Linear(2, 1), (torch.zeros(3, 2), torch.zeros(3))).args[0].shape
        torch.Size([3, 2])
    """
    if isinstance(batch, Mapping):
        return as_call(model, _accepted(model, batch))
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Tensor):
        wanted = max(1, _required(model))
        return as_call(model, tuple(batch[:wanted]))
    if isinstance(batch, (tuple, list)) and len(batch) > 1 and _is_many(batch[0]):
        many = batch[0]
        return as_call(model, Call(tuple(many) if len(many) == _required(model) else (many,), {}))
    return as_call(model, list(batch) if isinstance(batch, tuple) else batch)


def example_call(model: nn.Module, example: Any, batches: Sequence[Any] | None) -> Call:
    """The example as a call; by default the inputs of the first sample of some batches.

    Raises:
        InputError: The model cannot be pruned, or there is neither an example nor a batch.
    """
    check_model(model)
    if example is not None:
        return as_call(model, example)
    if batches is None:
        raise InputError(
            "there is neither an example nor data", hint="give example=one batch of inputs"
        )
    return first_sample(batch_call(model, batches[0]))


def first_sample(call: Call) -> Call:
    """A call with its first sample only; the whole call where it cannot be split.

    Example:
        >>> first_sample(Call((torch.zeros(8, 3),), {})).args[0].shape
        torch.Size([1, 3])
    """
    return _split(call, 1, 1)[0] if _samples(call) > 1 else call


def _required(model: nn.Module) -> int:
    """How many positional arguments the forward cannot do without."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return 1
    return sum(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in parameters
    )


def _accepted(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that the forward has arguments for."""
    try:
        parameters = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return dict(batch)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(batch)
    return {key: value for key, value in batch.items() if key in parameters} or dict(batch)


def _is_many(item: Any) -> bool:
    """Whether this is several tensors that are the inputs together."""
    return (
        isinstance(item, (list, tuple))
        and len(item) > 1
        and all(isinstance(part, Tensor) for part in item)
    )


def _is_pair(data: Any) -> bool:
    """Whether data is one `(inputs, targets)` pair rather than a sequence of batches."""
    return (
        isinstance(data, tuple)
        and len(data) == 2
        and all(isinstance(item, Tensor) and item.dim() for item in data)
        and len(data[0]) == len(data[1])
        and data[0].shape != data[1].shape
    )


def _length(batch: Any) -> int:
    first = next((t for t in tensors_in(batch) if t.dim()), None)
    return 1 if first is None else max(1, len(first))


def _samples(call: Call) -> int:
    """The first dimension of the inputs where all agree; else 1 (the batch cannot be split).

    Of inputs inside lists or tuples nobody knows: a list of sequences, or recurrent states.
    """
    if not all(
        isinstance(value, Tensor) or not any(True for _ in tensors_in(value))
        for value in [*call.args, *call.kwargs.values()]
    ):
        return 1
    sizes = {t.shape[0] if t.dim() else None for t in tensors_in((call.args, dict(call.kwargs)))}
    size = sizes.pop()
    return 1 if sizes or size is None else size


def _bytes(taken: list[tuple[Call, int]]) -> int:
    """How much memory the inputs take."""
    return sum(
        (t.numel() * _TOKEN_BYTES if t.dtype in (torch.int64, torch.int32) else t.nbytes)
        * size // max(1, _samples(call))
        for call, size in taken
        for t in tensors_in((call.args, dict(call.kwargs)))
    )  # fmt: skip


def _joined(taken: list[tuple[Call, int]], chunk: int) -> list[tuple[Call, int]]:
    """Puts neighbours of one sample each together where only their first dimension can differ."""
    joined: list[tuple[Call, int]] = []
    run: list[Call] = []

    def end() -> None:
        if run:
            leaves = [tree_flatten((call.args, dict(call.kwargs))) for call in run]
            parts = [
                torch.cat(same) for same in zip(*(values for values, _ in leaves), strict=True)
            ]
            args, kwargs = tree_unflatten(parts, leaves[0][1])
            joined.append((Call(args, kwargs), len(run)))
            run.clear()

    for call, size in taken:
        if size != 1 or not _one(call):
            end()
            joined.append((call, size))
            continue
        if run and (len(run) == chunk or _form(run[0]) != _form(call)):
            end()
        run.append(call)
    end()
    return joined


def _one(call: Call) -> bool:
    """Whether a call holds one sample, and nothing but tensors."""
    values = [*call.args, *call.kwargs.values()]
    return all(isinstance(value, Tensor) and value.dim() and len(value) == 1 for value in values)


def _form(call: Call) -> Any:
    named = [*enumerate(call.args), *call.kwargs.items()]
    return [(key, value.shape, value.dtype) for key, value in named]


def _evenly(call: Call, size: int, chunk: int) -> list[Call]:
    """A call in as few parts of at most `chunk` samples as there can be, of equal size."""
    return _split(call, size, -(-size // -(-size // chunk)))


def _split(call: Call, size: int, chunk: int) -> list[Call]:
    if _samples(call) <= 1:
        return [call]
    return [
        Call(
            *map_tensors(
                (call.args, dict(call.kwargs)), lambda t, a=start: t[a : min(a + chunk, size)]
            )
        )
        for start in range(0, size, chunk)
    ]


__all__ = ["Calibration", "batch_call", "calibration", "example_call", "first_sample", "take"]
