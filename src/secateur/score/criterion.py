"""What a criterion is: a pure function `(site, facts) -> score[n]`, higher meaning keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from secateur.core.errors import RecipeError
from secateur.core.registry import Registry, wears
from secateur.core.site import Site
from secateur.measure.cost import Amounts
from secateur.measure.stats_columns import ColumnFacts
from secateur.measure.stats_grams import GramFacts
from secateur.measure.stats_inputs import InputFacts

NEEDS: Mapping[str, str] = {
    "gradients": "gradients",
    "sample_gradients": "gradients of single samples",
    "mean_gradients": "the mean gradient",
    "hessian_gradient": "products of the Hessian",
    "hessian_weights": "products of the Hessian",
    "paths": "an example",
    "inputs": "statistics of layers' inputs",
    "columns": "moments of what weights read",
    "grams": "Gram matrices of layers' inputs",
    "fisher_blocks": "blocks of the Fisher information",
    "features": "feature maps",
    "costs": "what an index costs",
}
"""What a criterion may ask for, by the name of the field of `Facts`, in words."""


@dataclass(frozen=True)
class Facts:
    """What a criterion may look at; what it does not declare in `needs` is None.

    tensors: every parameter and buffer by name (no copies). buffers: which of these are buffers.
    seed: for criteria that draw. notes: sentences for the report, which a criterion may append to.

    Of one batch (the criterion is called once a batch, and its scores are averaged):
    gradients: of the loss, by parameter. hessian_weights: the batch's Hessian times all weights.
    hessian_gradient: the batch's Hessian times the gradient of all data. features: the inputs of
    linear operations by weight, `[samples, channels, *space]`.

    Of one sample (the criterion is called once a sample): sample_gradients: of its loss.

    Of all data: mean_gradients: of the loss. inputs, grams: what the weights of linear operations
    read (`InputFacts`, `GramFacts`); columns: the same of every kernel position (`ColumnFacts`).
    fisher_blocks: see `score/woodfisher.py`. Without data: paths: gradient of the sum of outputs of
    the model with absolute weights on ones (`secateur.measure.stats_paths`), float64. costs: what
    one removed index of a site saves, by site.
    """

    tensors: Mapping[str, Tensor]
    buffers: frozenset[str] = frozenset()
    gradients: Mapping[str, Tensor] | None = None
    seed: int = 0
    notes: list[str] = field(default_factory=list)
    sample_gradients: Mapping[str, Tensor] | None = None
    mean_gradients: Mapping[str, Tensor] | None = None
    hessian_gradient: Mapping[str, Tensor] | None = None
    hessian_weights: Mapping[str, Tensor] | None = None
    paths: Mapping[str, Tensor] | None = None
    inputs: Mapping[str, InputFacts] | None = None
    columns: Mapping[str, ColumnFacts] | None = None
    grams: Mapping[str, GramFacts] | None = None
    fisher_blocks: Mapping[str, Tensor] | None = None
    features: Mapping[str, Tensor] | None = None
    costs: Mapping[str, Amounts] | None = None

    def get(self, need: str) -> Any:
        """The field of that name; an error where it was not gathered.

        Raises:
            RecipeError: The criterion did not declare it, or there is no data.
        """
        found = getattr(self, need)
        if found is None:
            raise RecipeError(
                f"this criterion needs {NEEDS[need]}, which were not gathered",
                hint=f"declare needs={need!r} and give data, or use a criterion such as 'l1'",
            )
        return found

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


Combine = Callable[[Site, Facts, Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Criterion:
    """A scoring function with what is known about it.

    needs: the fields of `Facts` that `function` wants filled (see there for when it is called how
    often). comparable: scores of different sites are in one unit (a change of the loss), so that
    they must not be divided by their site's mean. cumulative: a score is the error after that index
    and all with lower scores are gone, rather than a part of it. paper: where the method comes
    from. parts, combine: for a combination: criteria that are scored each by itself, and what makes
    one score of theirs, `(site, facts, parts' scores) -> Tensor[n]`.
    """

    name: str
    function: Score
    needs: frozenset[str] = frozenset()
    comparable: bool = False
    cumulative: bool = False
    paper: str = ""
    parts: tuple[Criterion, ...] = ()
    combine: Combine | None = None

    def __post_init__(self) -> None:
        """Show the function's own documentation; needs may be given as one name."""
        object.__setattr__(self, "needs", _needs(self.needs))
        wears(self, self.function)

    def __call__(self, site: Site, facts: Facts) -> Tensor:
        """Scores of a site's indices, shape `[n]`, higher meaning keep."""
        return self.function(site, facts)


criteria: Registry[Any] = Registry("criterion")


def criterion(
    *names: str,
    needs: str | Iterable[str] | None = None,
    comparable: bool = False,
    cumulative: bool = False,
    paper: str = "",
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
    wanted = _needs(needs)  # refused before there is a function

    def register(function: Score) -> Criterion:
        made = Criterion(names[0] if names else "", function, wanted, comparable, cumulative, paper)
        criteria.add(*names)(made)
        return made

    return register


def resolve(given: str | Score) -> Criterion:
    """A criterion from its name or from a plain function `(site, facts) -> Tensor[n]`.

    A plain function may carry attributes `needs`, `comparable` and `cumulative`.
    """
    found = criteria.get(given)
    if isinstance(found, Criterion):
        return found
    name = getattr(found, "__name__", type(found).__name__)
    return Criterion(
        name,
        found,
        _needs(getattr(found, "needs", None)),
        comparable=getattr(found, "comparable", False),
        cumulative=getattr(found, "cumulative", False),
    )


def _needs(given: str | Iterable[str] | None) -> frozenset[str]:
    """Needs as a set of known names."""
    names = frozenset([given] if isinstance(given, str) else given or ())
    if names - NEEDS.keys():
        raise RecipeError(
            f"needs={given!r} is unknown", hint=f"needs holds some of: {', '.join(NEEDS)}"
        )
    return names


def accumulator(tensor: Tensor) -> Tensor:
    """The tensor in the type in which scores are summed: float64 as it is, all else float32.

    Complex numbers count by their absolute values.
    """
    tensor = tensor.abs() if tensor.is_complex() else tensor
    return tensor if tensor.dtype == torch.float64 else tensor.float()
