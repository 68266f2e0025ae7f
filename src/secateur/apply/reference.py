"""The masked original: the full model, with every sum and statistic restricted to what is kept.

Runs the user's own model with its own weights, untouched. Wherever an operation sums over an axis
that the plan shrinks, the removed positions are zeroed first; wherever it normalises or takes a
mean over one, it sees only the kept positions. Everything else runs as it always did, at full size,
so that a wrong idea of what belongs together shows as a difference from the cut model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.batches import Call
from secateur.core.layout import Layout, Mask
from secateur.graph.graph import Replay
from secateur.graph.trace import decomposed, fast_convolutions

_aten = torch.ops.aten
_CONVOLUTIONS = {_aten.convolution, _aten._convolution}


class Diverged(Exception):
    """The restricted run took another path through the model's code than the traced one."""


def run_reference(model: nn.Module, call: Call, replay: Replay, keeps: Mapping[str, Mask]) -> Any:
    """The outputs of the masked original (one forward pass; no weight is changed or copied).

    Raises:
        Diverged: The model's control flow depends on the data and went another way.
    """
    with decomposed(), _Restricted(replay, keeps) as mode:
        out = call.run(model)
    if mode.position != len(replay.ops):
        raise Diverged
    return out


class _Restricted(TorchDispatchMode):
    def __init__(self, replay: Replay, keeps: Mapping[str, Mask]) -> None:
        super().__init__()
        self.ops = replay.ops
        self.restrictions = replay.restrictions
        self.keeps = keeps
        self.position = 0
        self._cache: dict[Layout, np.ndarray] = {}

    def index(self, layout: Layout, like: Tensor, kept: bool = True) -> Tensor:
        if layout not in self._cache:
            self._cache[layout] = layout.keep(self.keeps)
        mask = self._cache[layout]
        return torch.from_numpy(np.flatnonzero(mask if kept else ~mask)).to(like.device)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        index = self.position
        self.position += 1
        if index >= len(self.ops) or self.ops[index][0] != str(func):
            raise Diverged
        entries = [e for e in self.restrictions.get(index, ()) if not self._whole(e[3])]
        if entries:
            named = dict(zip((p.name for p in func._schema.arguments), args, strict=False)) | kwargs
            return self._restricted(func, named, entries)
        if func._overloadpacket in _CONVOLUTIONS:
            with fast_convolutions():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _whole(self, layout: Layout) -> bool:
        if layout not in self._cache:
            self._cache[layout] = layout.keep(self.keeps)
        return bool(self._cache[layout].all())

    def _restricted(
        self, func: Any, named: dict[str, Any], entries: list[tuple[str, str, int, Layout]]
    ) -> Any:
        norm = [entry for entry in entries if entry[0] in ("norm", "group_norm", "moments")]
        if norm:
            return _normalise(self, func, named, norm)
        original = dict(named)
        places: list[tuple[int, Tensor]] = []
        selected = False
        for how, name, dim, layout in entries:
            tensor = named[name]
            if how == "zero":
                named[name] = tensor.index_fill(dim, self.index(layout, tensor, kept=False), 0)
                continue
            kept = self.index(layout, tensor)
            if how != "place":
                named[name] = tensor.index_select(dim, kept)
                selected = True
            if how in ("softmax", "place"):  # where the results go
                places.append((dim, kept))
        if func._overloadpacket in _CONVOLUTIONS:
            with fast_convolutions():
                return _invoke(func, named)
        out = _invoke(func, named)
        return _like_full(func, original, out, places) if selected else out


def _like_full(
    func: Any, original: dict[str, Any], out: Any, places: list[tuple[int, Tensor]]
) -> Any:
    """The restricted result in the shape and memory order of the unrestricted one.

    The order decides which kernel a later operation takes, and so whether the run can be followed.
    """
    full = _invoke(func, original)
    pairs = zip(full, out, strict=True) if isinstance(full, (tuple, list)) else [(full, out)]
    done = [
        a.copy_(_expand(b, a.shape, places)) if isinstance(a, Tensor) and a.numel() else a
        for a, b in pairs
    ]
    return (
        type(full)(done)
        if type(full) in (tuple, list)
        else tuple(done)
        if len(done) > 1
        else done[0]
    )


def _invoke(func: Any, named: dict[str, Any]) -> Any:
    positional, keywords = [], {}
    for parameter in func._schema.arguments:
        if parameter.name not in named:
            continue
        if parameter.kwarg_only:
            keywords[parameter.name] = named[parameter.name]
        else:
            positional.append(named[parameter.name])
    return func(*positional, **keywords)


def _expand(small: Tensor, shape: torch.Size, places: list[tuple[int, Tensor]]) -> Tensor:
    """Put kept positions back where they were; zero elsewhere."""
    for dim, index in places:
        target = list(small.shape)
        target[dim] = shape[dim]
        small = small.new_zeros(target).index_copy_(dim, index, small)
    return small


def _normalise(
    mode: _Restricted, func: Any, named: dict[str, Any], entries: list[tuple[str, str, int, Layout]]
) -> Any:
    x = named["input"]
    places = [(dim, mode.index(layout, x)) for _, _, dim, layout in entries]
    small = x
    for dim, index in places:
        small = small.index_select(dim, index)
    if entries[0][0] == "moments":
        out = _invoke(func, {**named, "input": small})
        return (_first_like_full(func, named, out[0], places), *out[1:])
    if entries[0][0] == "group_norm":
        index = places[0][1]
        affine = {
            name: None if named.get(name) is None else named[name].index_select(0, index)
            for name in ("weight", "bias")
        }
        groups = named["group"]
        kept = entries[0][3].count({name: int(m.sum()) for name, m in mode.keeps.items()})
        inside = _group_width(entries[0][3], groups, mode)
        sizes = {"N": small.shape[0], "C": kept, "group": kept // inside}
        out = _invoke(func, {**named, **affine, **sizes, "input": small})
        return (_first_like_full(func, named, out[0], places), *out[1:])
    start = x.dim() - len(named["normalized_shape"])
    affine = {}
    for name in ("weight", "bias"):
        value = named.get(name)
        if value is not None:
            for dim, index in places:
                value = value.index_select(dim - start, index)
            affine[name] = value
    out = _invoke(
        func, {**named, **affine, "input": small, "normalized_shape": list(small.shape[start:])}
    )
    return (_first_like_full(func, named, out[0], places), *out[1:])


def _first_like_full(
    func: Any, named: dict[str, Any], out: Tensor, places: list[tuple[int, Tensor]]
) -> Tensor:
    full: Tensor = _invoke(func, named)[0]
    return full.copy_(_expand(out, full.shape, places))


def _group_width(layout: Layout, groups: int, mode: _Restricted) -> int:
    """How many channels a group keeps (the same in every group that is kept)."""
    rows = layout.keep(mode.keeps).reshape(groups, -1).sum(1)
    return int(rows.max())
