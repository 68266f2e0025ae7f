"""What the model is called with, and how samples of data are made to fit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.core.errors import InputError, RecipeError

LABELS = "labels"
Read = Callable[[np.ndarray], Any]
"""From indices of samples to a batch."""

_PIXEL = 255.0


@dataclass(frozen=True)
class Wanted:
    """The model's inputs, as `--input` gave them.

    tensors: the examples `[n, ...]` by name, or by position. named: batches are dicts. mean, std:
    numbers for each channel, subtracted from and divided into the first input.
    """

    tensors: Mapping[str, Tensor]
    named: bool
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(
        cls, example: Any, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> Wanted:
        """Of what `cli.inputs.example` gives: a tensor, a tuple of tensors, or a dict of them.

        Example:
            >>> list(Wanted.of((torch.zeros(1, 3), torch.zeros(1))).tensors)
            ['0', '1']

        Raises:
            InputError: An input has no dimension for samples.
            RecipeError: `mean` or `std` do not fit the first input, or `std` is not positive.
        """
        named = isinstance(example, Mapping)
        if isinstance(example, Mapping):
            tensors = {str(key): value for key, value in example.items()}
        else:
            parts = example if isinstance(example, tuple) else (example,)
            tensors = {str(k): value for k, value in enumerate(parts)}
        for name, tensor in tensors.items():
            if tensor.dim() == 0:
                raise InputError(f"the input {name} is a scalar, which has no samples")
        wanted = cls(tensors, named, tuple(mean or ()), tuple(std or ()))
        wanted._check_statistics()
        return wanted

    @property
    def first(self) -> Tensor:
        """The example of the first input."""
        return next(iter(self.tensors.values()))

    def _check_statistics(self) -> None:
        for option, numbers in (("--mean", self.mean), ("--std", self.std)):
            if not numbers:
                continue
            channels = self.first.shape[1] if self.first.dim() > 1 else 1
            if not self.first.is_floating_point():
                raise RecipeError(
                    f"{option} is for numbers, and the input is {_kind(self.first.dtype)}",
                    hint=f"leave {option} out",
                )
            if len(numbers) not in (1, channels):
                raise RecipeError(
                    f"{option} has {len(numbers)} numbers for {channels} channels",
                    hint=f"give one number, or {channels}, separated by commas",
                )
        if any(not number > 0 for number in self.std):
            raise RecipeError(
                f"--std is {','.join(map(str, self.std))}", hint="every number is above 0"
            )

    def check_row(self, name: str, shape: Sequence[int], source: str) -> None:
        """Raise an `InputError` unless rows of this shape can be made to fit the input `name`."""
        wanted = tuple(self.tensors[name].shape[1:])
        if _move(tuple(shape), wanted) is None:
            given = ",".join(map(str, [1, *shape]))
            raise InputError(
                f"samples of {source} have the shape {tuple(shape)}, and the input wants {wanted}",
                hint=f"if the model takes such samples, write --input {given}",
            )

    def fit(self, name: str, rows: Tensor, source: str) -> Tensor:
        """Rows `[n, ...]` as the input `name`: moved to channels first, scaled, in its dtype.

        uint8 for a floating input is read as pixels and scaled to [0, 1]; other numbers keep their
        values. Then the first input is normalised by mean and std.

        Example:
            >>> wanted = Wanted.of(torch.zeros(1, 3, 4, 4))
            >>> wanted.fit("0", torch.full((2, 4, 4, 3), 255, dtype=torch.uint8), "x").shape
            torch.Size([2, 3, 4, 4])

        Raises:
            InputError: The shape is another, a value is not finite, or numbers with fractions are
                given where the input is of integers.
        """
        target = self.tensors[name]
        self.check_row(name, rows.shape[1:], source)
        move = _move(tuple(rows.shape[1:]), tuple(target.shape[1:]))
        rows = rows if move is None else move(rows)
        check_finite(rows, source)
        if not target.is_floating_point():
            if rows.is_floating_point() or rows.is_complex():
                raise InputError(
                    f"{source} holds {_kind(rows.dtype)}, and the input {_kind(target.dtype)}",
                    hint="give integers, or name a floating dtype in --input",
                )
            return rows.to(target.dtype)
        pixels = rows.dtype == torch.uint8
        rows = rows.to(target.dtype)
        rows = rows / _PIXEL if pixels else rows
        return self._normalised(rows) if name == next(iter(self.tensors)) else rows

    def _normalised(self, rows: Tensor) -> Tensor:
        view = [-1] + [1] * (rows.dim() - 2)
        if self.mean:
            rows = rows - torch.tensor(self.mean, dtype=rows.dtype).view(view)
        if self.std:
            rows = rows / torch.tensor(self.std, dtype=rows.dtype).view(view)
        return rows

    def batch(self, inputs: Sequence[Tensor], labels: Tensor | None) -> Any:
        """A batch as loaders give them: `x`, `(x, y)`, `(a, b, y)`, or a dict with "labels".

        Example:
            >>> Wanted.of({"ids": torch.zeros(1, 3)}).batch([torch.ones(2, 3)], None)
            {'ids': tensor([[1., 1., 1.],
                    [1., 1., 1.]])}
        """
        if self.named:
            batch = dict(zip(self.tensors, inputs, strict=True))
            return batch if labels is None else {**batch, LABELS: labels}
        if labels is not None:
            return (*inputs, labels)
        return inputs[0] if len(inputs) == 1 else tuple(inputs)


def check_finite(rows: Tensor, source: str) -> None:
    """Raise an `InputError` that says how many values of a batch are NaN or infinite, if any."""
    if not rows.is_floating_point():
        return
    bad = int((~torch.isfinite(rows)).sum())
    if bad:
        raise InputError(
            f"{source} holds {bad:,} values that are not finite among {rows.numel():,}",
            hint="clean the data: NaN and infinity spread to every statistic",
        )


def _move(given: tuple[int, ...], wanted: tuple[int, ...]) -> Any:
    """The function that gives rows of a shape another one, or None where none is certain."""
    if given == wanted:
        return lambda rows: rows
    if len(wanted) == 3 and given == (*wanted[1:], wanted[0]):
        return lambda rows: rows.permute(0, 3, 1, 2).contiguous()
    if len(wanted) == 3 and wanted[0] == 1 and given == wanted[1:]:
        return lambda rows: rows.unsqueeze(1)
    return None


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


__all__ = ["LABELS", "Read", "Wanted", "check_finite"]
