"""Which entries of a matrix go together, and within which groups they compete."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Pattern:
    """Cells of `rows x columns` entries that stay or go as one, and compete within groups.

    columns: None stands for whole rows, at all kernel taps. group: None (all cells of a tensor
    compete), "row" (those of one row), or how many neighbours along the input channels compete.
    keep: for a fixed pattern, how many cells of a group stay.

    Columns are taken channel by channel at one kernel tap, as hardware stores them (channels
    last). Ragged tails are cells and groups of fewer entries: a group of `t < group` neighbours
    keeps `ceil(t * keep / group)`.
    """

    rows: int = 1
    columns: int | None = 1
    group: int | str | None = None
    keep: int | None = None

    @property
    def free(self) -> bool:
        """Whether any set of cells is allowed, so that tensors can compete with each other."""
        return self.group is None

    def pool(self, scores: Tensor, taps: int = 1) -> Tensor:
        """Mean scores of cells, `[groups, members]`; what only fills up a group is -inf.

        scores: `[out, k]`, where column `c * taps + t` is channel `c` at tap `t`.
        """
        out, width = scores.shape
        taps = taps if self.columns else 1
        x = scores.reshape(out, width // taps, taps).transpose(1, 2)
        if self.rows > 1 or self.columns != 1:
            x = self._cells(x) / self._cells(torch.ones_like(x))
        if self.group is None:
            return x.reshape(1, -1)
        if self.group == "row":
            return x.reshape(x.shape[0], -1)
        members = int(self.group)
        x = pad(x, (0, -x.shape[2] % members), value=float("-inf"))
        return x.reshape(-1, members)

    def _cells(self, x: Tensor) -> Tensor:
        """Sums over cells of `[out, taps, channels]`."""
        columns = self.columns or x.shape[2]
        x = pad(x, (0, -x.shape[2] % columns, 0, 0, 0, -x.shape[0] % self.rows))
        split = x.reshape(
            x.shape[0] // self.rows, self.rows, x.shape[1], x.shape[2] // columns, columns
        )
        return split.sum((1, 4))

    def spread(self, keep: Tensor, shape: tuple[int, int], taps: int = 1) -> Tensor:
        """Kept cells `[groups, members]` as kept entries `[out, k]`; both boolean."""
        taps = taps if self.columns else 1
        out, channels = shape[0], shape[1] // taps
        columns = self.columns or channels
        tall, wide = -(-out // self.rows), -(-channels // columns)
        if self.group is None or self.group == "row":
            cells = keep.reshape(tall, taps, wide)
        else:
            cells = keep.reshape(tall, taps, -1)[:, :, :wide]
        if self.rows > 1 or columns > 1:
            cells = cells.repeat_interleave(self.rows, 0).repeat_interleave(columns, 2)
            cells = cells[:out, :, :channels]
        return cells.transpose(1, 2).reshape(shape)

    def choose(self, scores: Tensor, density: float, taps: int = 1) -> Tensor:
        """The best entries, as a boolean matrix, so that at most `density` of the cells stay.

        At least one cell of a tensor stays, and one of each group where groups keep equal counts.
        Of a fixed pattern, where `density` is above what the pattern keeps, the groups that lose
        least get the pattern first. Ties go to the earlier entry. Sorts: O(n log n).

        Example:
            >>> scores = torch.tensor([[4., 3, 2, 1], [8, 7, 6, 5]])
            >>> Pattern().choose(scores, 0.5).int().tolist()
            [[0, 0, 0, 0], [1, 1, 1, 1]]
            >>> Pattern(group="row").choose(scores, 0.5).int().tolist()
            [[1, 1, 0, 0], [1, 1, 0, 0]]
            >>> Pattern(group=4, keep=1).choose(scores, 0.25).int().tolist()
            [[1, 0, 0, 0], [1, 0, 0, 0]]
        """
        pooled = self.pool(scores, taps)
        real = pooled > float("-inf") if isinstance(self.group, int) else None
        sizes = torch.full((len(pooled),), pooled.shape[1], device=pooled.device)
        sizes = sizes if real is None else real.sum(1)
        if self.keep is None:
            counts = (sizes * density + 1e-9).floor().clamp(min=1)
        else:
            assert isinstance(self.group, int)
            counts = (sizes * self.keep + self.group - 1) // self.group
        keep = best(pooled, counts.long())
        if self.keep is not None:
            keep = self._partly(pooled, keep, density, sizes)
        keep = keep if real is None else keep & real
        return self.spread(keep, (scores.shape[0], scores.shape[1]), taps)

    def _partly(self, pooled: Tensor, keep: Tensor, density: float, sizes: Tensor) -> Tensor:
        """Leave groups whole, those that would lose most, as far as the density allows."""
        allowed = int(sizes.sum() * density + 1e-9)
        spare = allowed - int(keep.sum())
        if spare <= 0:
            return keep
        lost = torch.where(keep | pooled.isinf(), 0, pooled).sum(1)
        order = lost.argsort(descending=True, stable=True)
        more = (sizes - keep.sum(1))[order].cumsum(0)
        whole = torch.zeros(len(pooled), dtype=torch.bool, device=pooled.device)
        whole[order[more <= spare]] = True
        return keep | whole[:, None]


def best(scores: Tensor, counts: Tensor) -> Tensor:
    """The `counts[g]` best of each row of `[g, n]`, as a boolean; ties go to the earlier one."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(scores.shape[1], device=scores.device)[None]
    keep = torch.zeros_like(scores, dtype=torch.bool)
    return keep.scatter_(1, order, ranks < counts[:, None])
