"""Removed channels are merged into the kept ones that are most like them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.layout import Layout
from secateur.core.tensors import named_tensors
from secateur.recover.follow import Follow, Norm, Pending
from secateur.recover.job import Job
from secateur.recover.uses import plain, uses


@dataclass(frozen=True)
class Fold:
    """Merge every removed index into the most similar kept one; needs no data.

    Similarity is the cosine of what makes the two: rows of the producing weights with their biases,
    and where a batch normalisation follows the layer, rows scaled to its `gamma` with its `beta`.
    What used the removed index (columns of the consumers) is added to the columns of the kept one,
    times the factor by which the rows fit, so that copies, also scaled ones before a ReLU, are
    merged without loss. Gates of recurrent layers and heads are compared as a whole.

    least: the cosine below which an index is dropped and not merged.

    Papers: Wang et al., Forget the Data and Fine-Tuning! Just Fold the Network to Compress, ICLR
    2025; the factor is that of Kim et al., Neuron Merging, NeurIPS 2020.
    """

    least: float = 0.0

    def run(self, job: Job) -> None:
        """Repair `job.small` in place; what does not help is taken back."""
        if not any(len(choice.keep) < choice.n for choice in job.plan.sites.values()):
            job.note("folding: nothing was removed")
            return
        with plain(job.dense, job.small):
            norms, biases = _facts(job.dense, job.calls[:1])
            change = _Folding(job, norms, biases, self.least)
            job.attempt("folding", change.make)


def _facts(model: nn.Module, calls: Sequence[Call]) -> tuple[dict[str, Norm], dict[str, str]]:
    """By the names of weights: the norm directly behind, and the bias that the operation adds."""
    norms: dict[str, Norm] = {}
    biases: dict[str, str] = {}

    def take(pending: Pending) -> None:
        spec = pending.use.spec
        if spec.bias is not None and spec.bias_rows is None:
            biases[spec.weight] = spec.bias
        norm = pending.norm
        if norm is not None:
            norms[spec.weight] = norm

    wanted = {slot: True for slot, used in uses(model, calls).items() if used.times == 1}
    with torch.no_grad():
        for call in calls:
            with Follow(model, wanted, take) as follow:
                call.run(model)
                follow.finish()
    return norms, biases


class _Folding:
    """Merges the removed indices of one plan."""

    def __init__(
        self, job: Job, norms: dict[str, Norm], biases: dict[str, str], least: float
    ) -> None:
        self.plan, self.roles, self.least = job.plan, job.roles, least
        self.norms, self.biases = norms, biases
        self.dense = dict(named_tensors(job.dense))
        self.small = dict(named_tensors(job.small))

    def make(self) -> None:
        """Merge, leaf by leaf."""
        with torch.no_grad():
            for leaf, choice in self.plan.sites.items():
                if choice.unit != "layer" and len(choice.keep) < choice.n:
                    self._merge(leaf, choice.mask)

    def _merge(self, leaf: str, mask: np.ndarray) -> None:
        rows = self._rows(leaf, len(mask))
        if rows is None:
            return
        kept, gone = (torch.from_numpy(np.flatnonzero(m)).to(rows.device) for m in (mask, ~mask))
        target, factor = nearest(rows, kept, gone, self.least)
        for name, dim, layout in self._parts(leaf, "in"):
            self._add(name, dim, layout.coordinate(leaf), (gone, kept[target], factor))

    def _parts(self, leaf: str, role: str) -> Iterator[tuple[str, int, Layout]]:
        for name, layouts in self.plan.layouts.items():
            for dim, layout in enumerate(layouts):
                if leaf in layout.names and self.roles.get((name, dim)) == role:
                    yield name, dim, layout

    def _rows(self, leaf: str, n: int) -> Tensor | None:
        """What makes each index, `[n, numbers]`."""
        found: list[Tensor] = []
        for name, dim, layout in self._parts(leaf, "out"):
            weight = self.dense[name]
            if weight.dim() < 2:
                continue
            rows = weight.detach().movedim(dim, 0).flatten(1).double()
            norm, bias = self.norms.get(name), self.biases.get(name)
            if norm is not None and len(norm.scale) == len(rows):
                length = rows.norm(dim=1).clamp(min=1e-30)
                rows = rows * (norm.scale.double() / length)[:, None]
                rows = torch.cat([rows, norm.shift.double()[:, None]], 1)
            elif bias is not None and len(self.dense[bias]) == len(rows):
                rows = torch.cat([rows, self.dense[bias].detach().double()[:, None]], 1)
            where = torch.from_numpy(layout.coordinate(leaf)).to(rows.device)
            order = where.argsort(stable=True)[int((where < 0).sum()) :]
            found.append(rows[order].reshape(n, -1))
        return torch.cat(found, 1) if found else None

    def _add(
        self, name: str, dim: int, where: np.ndarray, merge: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        """Add the removed columns of one consumer to those they are merged into."""
        dense, small = self.dense[name].detach(), self.small[name]
        place = torch.from_numpy(where).to(dense.device)
        order = place.argsort(stable=True)[int((place < 0).sum()) :]
        gone, target, factor = merge
        columns = order.view(int(place.max()) + 1, -1)  # of each index
        change = torch.zeros_like(dense)
        each = columns.shape[1]
        shape = [1] * dense.dim()
        shape[dim] = -1
        scale = factor.repeat_interleave(each).to(dense.dtype).view(shape)
        moved = dense.index_select(dim, columns[gone].flatten()) * scale
        change.index_add_(dim, columns[target].flatten(), moved)
        for other, layout in enumerate(self.plan.layouts[name]):
            keep = torch.from_numpy(np.flatnonzero(layout.keep(self.plan.keeps)))
            change = change.index_select(other, keep.to(change.device))
        small.add_(change)


def nearest(rows: Tensor, kept: Tensor, gone: Tensor, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """For each removed row the position of the kept one most like it, and the factor that fits.

    The factor minimises `|row - factor * kept row|`; it is 0 where the cosine is below `least`.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
        >>> nearest(rows, torch.tensor([0, 1]), torch.tensor([2]))
        (tensor([1]), tensor([0.5000]))
    """
    mine, other = rows[gone], rows[kept]
    length = other.norm(dim=1).clamp(min=1e-30)
    product = mine @ other.T
    cosine = product / (length * mine.norm(dim=1, keepdim=True).clamp(min=1e-30))
    best, target = cosine.max(1)
    factor = product.gather(1, target[:, None])[:, 0] / length[target].square()
    return target, torch.where(best >= max(least, 0.0), factor, torch.zeros_like(factor))


__all__ = ["Fold", "nearest"]
