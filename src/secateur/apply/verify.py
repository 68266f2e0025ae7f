"""Proves a cut: the masked original and the cut model agree on the example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import Call, map_tensors, tensors_in, untouched
from secateur.core.errors import VerificationError
from secateur.core.plan import Plan
from secateur.core.tensors import light_copy

TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_FLOOR = 1e-6  # outputs below this are zero up to rounding
_DOUBLE_LIMIT = 60_000_000  # parameters up to which a doubtful case is decided in float64


@dataclass(frozen=True)
class Comparison:
    """The largest difference of two sets of outputs, relative to the largest reference value."""

    difference: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the outputs agree."""
        return not self.note and self.difference <= self.tolerance


def compare(reference: Any, candidate: Any) -> Comparison:
    """Compare outputs tensor by tensor; not-a-number must be in the same places.

    Example:
        >>> compare(torch.ones(2), torch.tensor([1.0, 1.0])).ok
        True
        >>> compare(torch.ones(2), torch.ones(3)).note
        'shapes (2,) and (3,)'
    """
    ours, theirs = list(tensors_in(reference)), list(tensors_in(candidate))
    if len(ours) != len(theirs):
        return Comparison(float("inf"), 0.0, f"{len(ours)} and {len(theirs)} output tensors")
    worst, tolerance = 0.0, min((TOLERANCE.get(t.dtype, 2e-4) for t in ours), default=2e-4)
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            return Comparison(
                float("inf"), tolerance, f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
            )
        if a.numel() == 0:
            continue
        if not (a.is_floating_point() or a.is_complex()):
            if not torch.equal(a, b):
                return Comparison(float("inf"), tolerance, f"{a.dtype} outputs differ")
            continue
        worst = max(worst, _difference(a, b) / (TOLERANCE.get(a.dtype, 2e-4) / tolerance))
    return Comparison(worst, tolerance)


def _difference(a: Tensor, b: Tensor) -> float:
    finite = torch.isfinite(a)
    kinds = [torch.isfinite, torch.isnan, *([] if a.is_complex() else [torch.isposinf])]
    if not all(torch.equal(kind(a), kind(b)) for kind in kinds):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    wide = torch.complex128 if a.is_complex() else torch.float64
    x, y = a[finite].to(wide), b[finite].to(wide)
    return float((x - y).abs().max() / x.abs().max().clamp_min(_FLOOR))


def run_detached(model: nn.Module, call: Call) -> Any:
    """The outputs of one evaluation pass, without gradients."""
    with untouched(model), torch.no_grad():
        return call.run(model)


def in_double(call: Call) -> Call:
    """The same call with floating-point inputs in float64."""
    args, kwargs = map_tensors(
        (call.args, dict(call.kwargs)), lambda t: t.double() if t.is_floating_point() else t
    )
    return Call(args, kwargs)


def double_copy(model: nn.Module) -> nn.Module | None:
    """A float64 copy for a second opinion, if the model is small enough."""
    if sum(p.numel() for p in model.parameters()) > _DOUBLE_LIMIT:
        return None
    try:
        return light_copy(model).double()
    except Exception:  # a model that cannot be copied is judged in its own precision
        return None


def mismatch(plan: Plan, comparison: Comparison) -> VerificationError:
    """The error for a failed verification."""
    what = (
        comparison.note
        or f"relative difference {comparison.difference:.2g} > {comparison.tolerance:.2g}"
    )
    return VerificationError(
        f"the cut model disagrees with the masked original: {what}",
        hint="exclude the part that fails with scope=sc.skip(...), and please report it",
    )
