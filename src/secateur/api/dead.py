"""Which units zeros have left dead, and what the constant ones give to those that read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.layout import Index
from secateur.core.site import Site, Slice
from secateur.core.tensors import named_tensors
from secateur.measure.linear import Spec
from secateur.recover.follow import Follow, Pending, Shift
from secateur.recover.uses import plain

_SAME = 1e-6  # spread of a constant, relative to its size: what rounding makes of it


def dead_outputs(model: nn.Module, site: Site) -> Index:
    """The indices that nothing reads: every weight that takes them is zero there.

    Example:
        >>> from secateur.graph import analyze
        >>> from secateur.units import Channel, sites
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> with torch.no_grad():
        ...     _ = net[2].weight[:, 1].zero_()
        >>> site = sites(analyze(net, torch.ones(1, 1)), [Channel()], None, net)[0]
        >>> dead_outputs(net, site).tolist()
        [1]
    """
    if not any(part.role == "in" for part in site.slices):
        return np.zeros(0, dtype=np.int64)  # it is consumed by something else than weights
    return _zero(model, site, {"in"})


def silent(model: nn.Module, site: Site) -> Index:
    """The indices that nothing feeds: every weight that makes them is zero there, biases aside."""
    if not any(part.role == "out" for part in site.slices):
        return np.zeros(0, dtype=np.int64)
    return _zero(model, site, {"out"})


def _zero(model: nn.Module, site: Site, roles: set[str]) -> Index:
    tensors = {name: t.detach() for name, t in named_tensors(model)}
    if "out" in roles:
        tensors = {name: t for name, t in tensors.items() if t.dim() > 1}
        if not any(part.role == "out" and part.tensor in tensors for part in site.slices):
            return np.zeros(0, dtype=np.int64)
    pooled = site.pool(tensors, lambda _, t: (t != 0).double(), roles)
    found: Index = np.flatnonzero(pooled.cpu().numpy() == 0)
    return found


@dataclass
class Reader:
    """One consumer on the example: the least and largest input of every column, `[k]`.

    uses: more than one kind of use means that it must not be touched. shift: what takes its bias
    where it has none.
    """

    spec: Spec
    low: Tensor
    high: Tensor
    shift: Shift | None


def constants(model: nn.Module, call: Call) -> dict[str, Reader]:
    """What every weight of an ungrouped linear operation reads on the example.

    Padding counts, as what the weight reads there. Weights that are used in parts, or in several
    ways, are left out.
    """
    found: dict[str, Reader] = {}
    spoilt: set[str] = set()

    def take(pending: Pending) -> None:
        use, name = pending.use, pending.use.spec.weight
        rows = use.inputs()
        if use.spec.groups > 1 or use.spec.rows is not None or not rows.shape[1]:
            spoilt.add(name)
            return
        low, high = rows[0].amin(0), rows[0].amax(0)
        old = found.get(name)
        if old is None:
            found[name] = Reader(use.spec, low, high, pending.shift)
        elif old.spec != use.spec:
            spoilt.add(name)
        else:
            old.low, old.high = torch.minimum(old.low, low), torch.maximum(old.high, high)
            if old.spec.bias is None:
                spoilt.add(name)  # a norm behind it would take the bias once for each use

    with plain(model, model), torch.no_grad(), Follow(model, _Everything(), take) as follow:
        call.run(model)
        follow.finish()
    return {name: reader for name, reader in found.items() if name not in spoilt}


class _Everything(dict):  # type: ignore[type-arg]
    """Waits for the end of every chain."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: object) -> bool:
        return True


def fold(model: nn.Module, site: Site, indices: Index, readers: dict[str, Reader]) -> int:
    """Give what constant units add to their readers to the readers' biases; how many could be.

    The units must be silent. Their columns become zero in every reader, so that they are dead. A
    unit stays where a reader does not see it as a constant, or has nothing that takes a bias.
    """
    parts = [part for part in site.slices if part.role == "in"]
    names = [part.tensor for part in parts]
    if not len(indices) or not parts or any(name not in readers for name in names):
        return 0
    tensors = dict(named_tensors(model))
    done = 0
    for index in indices.tolist():
        columns = [_columns(part, site.name, index, readers[part.tensor].spec) for part in parts]
        values = [
            _constant(readers[name], column) for name, column in zip(names, columns, strict=True)
        ]
        if any(value is None for value in values):
            continue
        if not any(
            _reads(tensors[p.tensor], readers[p.tensor], c)
            for p, c in zip(parts, columns, strict=True)
        ):
            continue  # it is dead already
        for part, column, value in zip(parts, columns, values, strict=True):
            assert value is not None
            _give(tensors, readers[part.tensor], tensors[part.tensor], column, value)
        done += 1
    return done


def _columns(part: Slice, leaf: str, index: int, spec: Spec) -> Tensor:
    """The columns of a reader's matrix that belong to one index of a leaf."""
    places = torch.from_numpy(np.flatnonzero(part.layout.coordinate(leaf) == index))
    return (places[:, None] * spec.taps + torch.arange(spec.taps)).reshape(-1)


def _constant(reader: Reader, columns: Tensor) -> Tensor | None:
    """What the columns always read; None if they vary, or if nothing could take a bias."""
    low, high = (
        reader.low[columns.to(reader.low.device)],
        reader.high[columns.to(reader.low.device)],
    )
    if bool((high - low > _SAME * torch.maximum(high.abs(), low.abs())).any()):
        return None
    value = (high + low) / 2
    if bool(value.any()) and reader.spec.bias is None and reader.shift is None:
        return None
    return value


def _reads(weight: Tensor, reader: Reader, columns: Tensor) -> bool:
    return bool(reader.spec.matrix(weight.detach())[0][:, columns].any())


def _give(
    tensors: dict[str, Tensor], reader: Reader, weight: Tensor, columns: Tensor, value: Tensor
) -> None:
    """Add what constant columns give to a reader's bias, and zero them."""
    spec = reader.spec
    matrix = spec.matrix(weight.detach()).clone()
    given = matrix[0][:, columns].double() @ value.double()
    matrix[0][:, columns] = 0
    with torch.no_grad():
        spec.store(weight, matrix)
        if spec.bias is not None:
            bias = tensors[spec.bias]
            rows = slice(None) if spec.bias_rows is None else slice(*spec.bias_rows)
            bias[rows] += given.to(bias.dtype)
        elif reader.shift is not None and bool(given.any()):
            shift = reader.shift
            shift.tensor.add_(given.to(shift.tensor.dtype), alpha=shift.sign)


__all__ = ["Reader", "constants", "dead_outputs", "fold", "silent"]
