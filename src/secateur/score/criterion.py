"""What a criterion is: a pure function `(site, facts) -> score[n]`, higher meaning keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from secateur.core.errors import RecipeError
from secateur.core.registry import Registry, wears
from secateur.core.site import Site

Needs = Literal["gradients"]


@dataclass(frozen=True)
class Facts:
    """What a criterion may look at.

    tensors: every parameter and buffer by name (no copies). buffers: which of these are buffers.
    gradients: by parameter name, those of one batch, and only for criteria that declare
    `needs="gradients"`. seed: for criteria that draw. notes: sentences for the report, which a
    criterion may append to.
    """

    tensors: Mapping[str, Tensor]
    buffers: frozenset[str] = frozenset()
    gradients: Mapping[str, Tensor] | None = None
    seed: int = 0
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, model: nn.Module, *, seed: int = 0) -> Facts:
        """The facts that need no data: the model's parameters and buffers, detached."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        buffers = dict(model.named_buffers(remove_duplicate=False))
        tensors = {name: t.detach() for name, t in {**parameters, **buffers}.items()}
        return cls(tensors, frozenset(buffers), seed=seed)

    def owned(self, site: Site) -> Iterator[str]:
        """The names of the parameters below a block, a shared tensor once; no buffers."""
        if site.module is None:
            return
        seen: set[tuple[object, ...]] = set()
        for name, tensor in self.tensors.items():
            inside = name.startswith(site.module + ".") and name not in self.buffers
            key = (tensor.data_ptr(), tuple(tensor.shape), tensor.device)
            if inside and tensor.is_floating_point() and key not in seen:
                seen.add(key)
                yield name


class Score(Protocol):
    """A criterion as a function."""

    def __call__(self, site: Site, facts: Facts) -> Tensor:
        """Scores of a site's indices, shape `[n]`, higher meaning keep."""
        ...


@dataclass(frozen=True)
class Criterion:
    """A scoring function with what is known about it.

    needs: "gradients" when `function` wants `facts.gradients`; it is then called once a batch and
    its results are averaged over the batches. comparable: scores of different sites are in one
    unit (a change of the loss), so that they must not be divided by their site's mean. paper:
    where the method comes from.
    """

    name: str
    function: Score
    needs: Needs | None = None
    comparable: bool = False
    paper: str = ""

    def __post_init__(self) -> None:
        """Show the function's own documentation."""
        wears(self, self.function)

    def __call__(self, site: Site, facts: Facts) -> Tensor:
        """Scores of a site's indices, shape `[n]`, higher meaning keep."""
        return self.function(site, facts)


criteria: Registry[Any] = Registry("criterion")


def criterion(
    *names: str, needs: Needs | None = None, comparable: bool = False, paper: str = ""
) -> Callable[[Score], Criterion]:
    """Decorator: register a scoring function under one or more names.

    Example:
        >>> @criterion("first", paper="none: keeps the first indices")
        ... def first(site, facts):
        ...     return -torch.arange(site.n, dtype=torch.float32)
        >>> resolve("first")(Site("fc", "channel", 3), Facts({}))
        tensor([-0., -1., -2.])

    Raises:
        RecipeError: a name is taken, or `needs` is unknown.
    """
    if needs not in (None, "gradients"):
        raise RecipeError(f"needs={needs!r} is unknown", hint="needs is None or 'gradients'")

    def register(function: Score) -> Criterion:
        made = Criterion(names[0] if names else "", function, needs, comparable, paper)
        criteria.add(*names)(made)
        return made

    return register


def resolve(given: str | Score) -> Criterion:
    """A criterion from its name or from a plain function `(site, facts) -> Tensor[n]`.

    A plain function may carry attributes `needs` and `comparable`.
    """
    found = criteria.get(given)
    if isinstance(found, Criterion):
        return found
    name = getattr(found, "__name__", type(found).__name__)
    needs, comparable = getattr(found, "needs", None), getattr(found, "comparable", False)
    return Criterion(name, found, needs, comparable)


def accumulator(tensor: Tensor) -> Tensor:
    """The tensor in the type in which scores are summed: float64 as it is, all else float32.

    Complex numbers count by their absolute values.
    """
    tensor = tensor.abs() if tensor.is_complex() else tensor
    return tensor if tensor.dtype == torch.float64 else tensor.float()
