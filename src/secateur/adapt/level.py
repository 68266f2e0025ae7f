"""One level of a dial: its plan, and what its weights are besides slices of the dense ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from secateur.adapt.packed import BITS, pack, unpack
from secateur.apply.cut import replay
from secateur.core.errors import RecipeError
from secateur.core.layout import Layout, Mask
from secateur.core.plan import Plan
from secateur.core.tensors import light_copy, named_tensors
from secateur.measure.cost import Amounts


@dataclass(frozen=True)
class Entry:
    """How one tensor of a level is kept: a slice of the dense one, a change of it, or as it is.

    bits: of a number of the change.
    """

    kind: Literal["slice", "change", "exact"]
    shape: torch.Size
    bits: int = 0


class Level(nn.Module):
    """A cut network, stored as what it does not share with the dense one.

    A tensor that equals a slice of the dense network's takes no memory. A weight that a repair
    changed is `factor * slice + change`: a factor for each row, and the change in a few bits a
    number (`packed.py`). All else is stored as it is.

    bits: how many bits a number, by tensor; changed weights that are not in it are stored exactly.

    share: of the dense cost. plan: what is cut from the dense network. amounts: what it costs.
    distance: from the dense outputs on held-out data, as repaired and as stored; NaN without data.
    notes: what was decided and repaired.

    Raises:
        RecipeError: A repair gave the network other tensors than the cut alone.
    """

    def __init__(
        self,
        share: float,
        small: nn.Module,
        dense: nn.Module,
        plan: Plan,
        amounts: Amounts,
        bits: Mapping[str, int],
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.share, self.plan, self.amounts = share, plan, amounts
        self.notes = notes
        self.distance = (float("nan"), float("nan"))
        self.entries: dict[str, Entry] = {}
        for name, tensor, base in _pairs(small, dense, plan):
            self._add(name, tensor, base, bits.get(name, 0))

    def _add(self, name: str, tensor: Tensor, base: Tensor, bits: int) -> None:
        if _alike(tensor, base) and torch.equal(tensor, base):
            self.entries[name] = Entry("slice", tensor.shape)
            return
        if not bits:
            self.entries[name] = Entry("exact", tensor.shape)
            self.store(name, "exact", tensor.clone())
            return
        self.entries[name] = Entry("change", tensor.shape, bits)
        factor = _factors(tensor, base)
        codes, scales = pack(tensor.float() - times(base, factor), bits)
        for part, value in (("factor", factor), ("codes", codes), ("scales", scales)):
            self.store(name, part, value)

    def store(self, name: str, part: str, value: Tensor) -> None:
        """Keep one part of a tensor."""
        self.register_buffer(_key(name, part), value)

    def _load(self, name: str, part: str) -> Tensor:
        return self.get_buffer(_key(name, part))

    @property
    def bits(self) -> float:
        """The mean number of bits of a number in weights that are stored as changes; 0 for none."""
        packed = [entry for entry in self.entries.values() if entry.kind == "change"]
        count = sum(entry.shape.numel() for entry in packed)
        return sum(entry.shape.numel() * entry.bits for entry in packed) / max(count, 1)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is stored, the plan's indices included."""
        indices = sum(choice.keep.nbytes for choice in self.plan.sites.values())
        return indices + sum(buffer.nbytes for buffer in self.buffers())

    def tensor(self, name: str, dense: Tensor) -> Tensor:
        """One tensor of the level; a view of the dense one's memory where kernels can use it."""
        entry = self.entries[name]
        if entry.kind == "exact":
            return self._load(name, "exact").clone()
        base = sliced(dense.detach(), self.plan.layouts.get(name, ()), self.plan.keeps)
        if entry.kind == "slice":
            return base if isinstance(dense, nn.Parameter) and _usable(base) else base.clone()
        factor, change = self.change(name)
        return (times(base, factor) + change).to(dense.dtype)

    def change(self, name: str) -> tuple[Tensor, Tensor]:
        """Of a changed tensor the factor of each row, and what is added to the multiples."""
        entry, codes, scales = (
            self.entries[name],
            *(self._load(name, p) for p in ("codes", "scales")),
        )
        return self._load(name, "factor"), unpack(codes, scales, entry.shape, entry.bits)

    def network(self, dense: nn.Module) -> nn.Module:
        """The cut network, ready to run; it shares memory with the dense one where it can."""
        small = light_copy(dense)
        replay(small, self.plan, keep=False, check=False)
        sources = dict(named_tensors(dense))
        with torch.no_grad():
            for name, tensor in named_tensors(small):
                tensor.data = self.tensor(name, sources[name])
        return small


def packing_errors(small: nn.Module, dense: nn.Module, plan: Plan) -> dict[str, dict[int, float]]:
    """For every changed weight the relative error of storing it, by bits, fewest first."""
    found: dict[str, dict[int, float]] = {}
    for name, tensor, base in _pairs(small, dense, plan):
        if not _alike(tensor, base) or torch.equal(tensor, base):
            continue
        if tensor.dim() < 2 or not tensor.is_floating_point():
            continue
        change, size = tensor.float() - times(base, _factors(tensor, base)), tensor.float().norm()
        for bits in BITS:
            error = unpack(*pack(change, bits), change.shape, bits) - change
            found.setdefault(name, {})[bits] = float(error.norm() / size.clamp_min(1e-30))
    return found


def _pairs(small: nn.Module, dense: nn.Module, plan: Plan) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Every tensor of a cut network, and the slice of the dense one that it was cut from."""
    wanted, sources = dict(named_tensors(small)), dict(named_tensors(dense))
    if sources.keys() != wanted.keys():
        raise RecipeError(
            f"the repair changed which tensors there are ({min(sources.keys() ^ wanted.keys())})",
            hint="a dial needs repairs that keep the layers, such as Reconstruct()",
        )
    keeps = plan.keeps
    for name, tensor in wanted.items():
        yield (
            name,
            tensor.detach(),
            sliced(sources[name].detach(), plan.layouts.get(name, ()), keeps),
        )


def _alike(tensor: Tensor, base: Tensor) -> bool:
    return tensor.shape == base.shape and tensor.dtype == base.dtype


def sliced(tensor: Tensor, layouts: tuple[Layout, ...], keeps: Mapping[str, Mask]) -> Tensor:
    """What a plan keeps of a tensor: a view where the kept indices are the first ones.

    Example:
        >>> from secateur.core.layout import Fixed, Leaf
        >>> dense, first = torch.arange(6.0).reshape(3, 2), np.array([True, True, False])
        >>> view = sliced(dense, (Leaf("a", 3), Fixed(2)), {"a": first})
        >>> view.shape, view.data_ptr() == dense.data_ptr()
        (torch.Size([2, 2]), True)
    """
    for dim, layout in enumerate(layouts):
        if not layout.names & keeps.keys():
            continue
        kept = np.flatnonzero(layout.keep(keeps))
        if len(kept) == tensor.shape[dim]:
            continue
        if len(kept) == 0 or kept[-1] == len(kept) - 1:
            tensor = tensor.narrow(dim, 0, len(kept))
        else:
            tensor = tensor.index_select(dim, torch.from_numpy(kept).to(tensor.device))
    return tensor


def _usable(tensor: Tensor) -> bool:
    """Whether kernels take the view as it is: matrices with a stride, all else without gaps."""
    return tensor.is_contiguous() or (tensor.dim() == 2 and tensor.stride(1) == 1)


def _factors(tensor: Tensor, base: Tensor) -> Tensor:
    """For every row the multiple of the base that is nearest to it, in float16."""
    rows, others = (x.float().reshape(len(x), -1) for x in (tensor, base))
    found = (rows * others).sum(1) / others.square().sum(1).clamp_min(1e-30)
    limit = torch.finfo(torch.float16).max
    return found.clamp(-limit, limit).half()


def times(base: Tensor, factor: Tensor) -> Tensor:
    """Each row multiplied by its factor, in float32."""
    return base.float() * factor.float().reshape(-1, *[1] * (base.dim() - 1))


def _key(name: str, part: str) -> str:
    """A buffer's name: dots mean submodules to PyTorch."""
    return f"{name.replace('.', '/')}:{part}"
