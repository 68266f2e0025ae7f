"""Methods of the literature as recipes for `sc.attach`; steps are those of the optimizer.

Each takes further fields of `Recipe` too. The sparsity is None where `allocate` has the densities.
"""

from __future__ import annotations

from typing import Any

from secateur.core.budget import Sparsity
from secateur.core.recipe import Recipe
from secateur.core.schedule import Constant, Cubic, Phases, Schedule
from secateur.train.forms import (
    Dense,
    HardConcrete,
    Movement,
    SoftMovement,
    SoftThreshold,
    SoftTopK,
    TopKAST,
)
from secateur.train.lottery import Ticket, lottery
from secateur.units import NM

Fraction = float | str


def gmp(
    sparsity: Fraction | None, *, end: int, start: int = 0, every: int = 100, **fields: Any
) -> Recipe:
    """Gradual magnitude pruning: Zhu and Gupta, To Prune or Not to Prune, 2017.

    Example:
        >>> gmp(0.9, end=1000).schedule
        Cubic(start=0, end=1000, every=100, until=None)
    """
    return _recipe(sparsity, _cubic(start, end, every), fields)


def set(
    sparsity: Fraction | None, *, every: int = 100, end: int | None = None, drop: float = 0.3,
    **fields: Any,
) -> Recipe:  # fmt: skip
    """Sparse evolutionary training, random growth: Mocanu et al., Nature Communications 2018."""
    return _recipe(sparsity, Constant(every, end), fields, grow="random", drop=drop)


def rigl(
    sparsity: Fraction | None, *, every: int = 100, end: int | None = None, drop: float = 0.3,
    **fields: Any,
) -> Recipe:  # fmt: skip
    """Growth by gradient: Evci et al., Rigging the Lottery, ICML 2020.

    The network is sparse from the first step on (for a new one; masks are drawn). end: the paper
    stops changing masks after three quarters of training.
    """
    return _recipe(sparsity, Constant(every, end), fields, grow="gradient", drop=drop)


def snfs(
    sparsity: Fraction | None, *, every: int = 100, end: int | None = None, drop: float = 0.3,
    **fields: Any,
) -> Recipe:  # fmt: skip
    """Growth by momentum: Dettmers and Zettlemoyer, Sparse Networks from Scratch, 2019.

    Weights grow within each tensor; the paper also moves density between tensors.
    """
    return _recipe(sparsity, Constant(every, end), fields, grow="momentum", drop=drop)


def granet(
    sparsity: Fraction | None, *, end: int, start: int = 0, every: int = 100, drop: float = 0.3,
    **fields: Any,
) -> Recipe:  # fmt: skip
    """Gradual pruning with regrowth: Liu et al., Sparse Training via Boosting, NeurIPS 2021."""
    fields.setdefault("allocate", "global")
    return _recipe(sparsity, _cubic(start, end, every), fields, grow="gradient", drop=drop)


def movement(
    sparsity: Fraction | None, *, end: int, start: int = 0, every: int = 100, rate: float = 1.0,
    **fields: Any,
) -> Recipe:  # fmt: skip
    """Movement pruning with a budget: Sanh et al., NeurIPS 2020 (for fine-tuning)."""
    return _recipe(sparsity, _cubic(start, end, every), fields, form=Movement(rate))


def soft_movement(
    *, penalty: float = 1e-3, threshold: float = 0.1, rate: float = 1.0, every: int = 100,
    **fields: Any,
) -> Recipe:  # fmt: skip
    """Movement pruning with a threshold and a penalty: Sanh et al., NeurIPS 2020."""
    return _recipe(None, Constant(every), fields, form=SoftMovement(rate, threshold, penalty))


def ac_dc(
    sparsity: Fraction | None,
    *,
    end: int,
    warmup: int | None = None,
    sparse: int | None = None,
    dense: int | None = None,
    **fields: Any,
) -> Recipe:
    """Sparse and dense phases in turns: Peste et al., AC/DC, NeurIPS 2021.

    The warm-up and each phase take a tenth of the steps up to `end` unless they are given.

    Example:
        >>> ac_dc(0.9, end=1000).schedule
        Phases(warmup=100, sparse=100, dense=100, end=1000)
    """
    tenth = max(1, end // 10)
    first, on, off = (tenth if steps is None else steps for steps in (warmup, sparse, dense))
    return _recipe(sparsity, Phases(first, on, off, end), fields)


def dpf(
    sparsity: Fraction | None, *, end: int, start: int = 0, every: int = 16, **fields: Any
) -> Recipe:
    """Dynamic pruning with feedback: Lin et al., ICLR 2020."""
    return _recipe(sparsity, _cubic(start, end, every), fields, form=Dense())


def dns(
    sparsity: Fraction | None, *, end: int, start: int = 0, every: int = 100, slack: float = 0.1,
    **fields: Any,
) -> Recipe:  # fmt: skip
    """Dynamic network surgery, two thresholds: Guo et al., NeurIPS 2016."""
    return _recipe(sparsity, _cubic(start, end, every), fields, form=Dense(slack=slack))


def str_(
    sparsity: Fraction | None = None, *, start: float = -6.0, decay: float = 1e-3,
    every: int = 100, **fields: Any,
) -> Recipe:  # fmt: skip
    """Learned soft thresholds: Kusupati et al., STR, ICML 2020.

    decay drives the sparsity; with a budget the thresholds rest once it is reached.
    """
    return _recipe(sparsity, Constant(every), fields, form=SoftThreshold(start, decay))


def topkast(
    sparsity: Fraction | None, *, wider: float = 0.1, decay: float = 1e-4, every: int = 100,
    end: int | None = None, **fields: Any,
) -> Recipe:  # fmt: skip
    """A small set is used, a larger one trained: Jayakumar et al., Top-KAST, NeurIPS 2020."""
    fields.setdefault("allocate", "erk")
    return _recipe(sparsity, Constant(every, end), fields, form=TopKAST(wider, decay))


def sr_ste(
    n: int = 2, m: int = 4, *, decay: float = 2e-4, every: int = 10, **fields: Any
) -> Recipe:
    """N:M from scratch: Zhou et al., ICLR 2021; masks are chosen anew `every` steps (theirs: 1)."""
    return _recipe(None, Constant(every), fields, unit=NM(n, m), form=Dense(decay=decay))


def l0(*, penalty: float = 1e-6, rate: float = 0.01, every: int = 100, **fields: Any) -> Recipe:
    """Hard-concrete gates: Louizos et al., L0 Regularization, ICLR 2018."""
    return _recipe(None, Constant(every), fields, form=HardConcrete(penalty, rate))


def pdp(
    sparsity: Fraction | None, *, end: int, start: int = 0, every: int = 16,
    temperature: float = 1e-4, **fields: Any,
) -> Recipe:  # fmt: skip
    """Soft masks without parameters: Cho et al., PDP, NeurIPS 2023."""
    return _recipe(sparsity, _cubic(start, end, every), fields, form=SoftTopK(temperature))


def wanda24(**fields: Any) -> Recipe:
    """2:4 in one shot, by weights and inputs: Sun et al., Wanda, ICLR 2024.

    For `sc.attach(model, optimizer, wanda24(), data=batches)`, where training goes on at these
    masks, and for `sc.prune(model, data=batches, **wanda24().given())`.

    Example:
        >>> wanda24().given()
        {'unit': NM(n=2, m=4), 'criterion': 'wanda'}
    """
    return Recipe(unit=NM(2, 4), criterion="wanda", **fields)


def _cubic(start: int, end: int, every: int) -> Schedule:
    return Cubic(start, end, min(every, max(1, end - start)))


def _recipe(
    sparsity: Fraction | None, schedule: Schedule, fields: dict[str, Any], **method: Any
) -> Recipe:
    """The method's recipe; what the user gives goes first."""
    budget = None if sparsity is None else Sparsity(sparsity)
    given: dict[str, Any] = {"budget": budget, "schedule": schedule, **method, **fields}
    return Recipe(**given)


__all__ = [
    "Ticket", "ac_dc", "dns", "dpf", "gmp", "granet", "l0", "lottery", "movement", "pdp", "rigl",
    "set", "snfs", "soft_movement", "sr_ste", "str_", "topkast", "wanda24",
]  # fmt: skip
