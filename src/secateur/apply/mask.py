"""A plan in force but reversible: removed slices are zero, shapes and keys stay."""

from __future__ import annotations

from types import TracebackType

import numpy as np
import torch
from torch import nn

from secateur.apply.cut import check_fingerprint
from secateur.apply.edit import Edit, restoring
from secateur.core.plan import Plan


class Mask:
    """A plan in force; `undo()` (or leaving a `with` block) restores the weights bit for bit."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit

    def undo(self) -> None:
        """Restore the weights."""
        self._edit.undo()

    def __enter__(self) -> Mask:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.undo()


def mask(model: nn.Module, plan: Plan) -> Mask:
    """Zero, in place, every parameter slice that the plan removes.

    Blocks that the plan removes are not touched (their masked form is the identity). Memory: a copy
    of the zeroed slices, to undo.

    Raises:
        StalePlan: The plan was made for another model.
    """
    check_fingerprint(model, plan)
    edit = Edit()
    zero(edit, model, plan)
    return Mask(edit)


def zero(edit: Edit, model: nn.Module, plan: Plan) -> None:
    """Zero what a plan removes, as part of an edit."""
    keeps = plan.keeps
    with restoring(edit), torch.no_grad():
        for name, tensor in model.named_parameters():
            for d, layout in enumerate(plan.layouts.get(name, ())):
                if not layout.names & keeps.keys() or _is_direction(name, d, model):
                    continue
                kept = layout.keep(keeps)
                if not kept.all():
                    index = torch.from_numpy(np.flatnonzero(~kept)).to(tensor.device)
                    edit.values(tensor, d, index)


def _is_direction(name: str, dim: int, model: nn.Module) -> bool:
    """The direction of a weight norm: a zero row has no direction, its length is zeroed instead."""
    for direction, length in (("original1", "original0"), ("weight_v", "weight_g")):
        if name.endswith(direction):
            parent, _, _ = name.rpartition(".")
            other = getattr(model.get_submodule(parent), length, None)
            return other is not None and other.dim() > dim and other.shape[dim] > 1
    return False
