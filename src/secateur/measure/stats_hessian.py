"""Products of the loss's Hessian with vectors, batch by batch, by double backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.core.batches import untouched
from secateur.core.errors import InputError
from secateur.measure.gradients import checked_loss, differentiable, moved, named_parameters
from secateur.measure.loss import Loss, loss_of


def hessian_over_batches(
    model: nn.Module,
    data: Iterable[Any],
    visit: Callable[[Mapping[str, Any]], Mapping[str, Tensor]],
    *,
    gradient: Mapping[str, Tensor] | None = None,
    weights: bool = False,
    loss: Loss | None = None,
) -> dict[str, Tensor]:
    """The mean over batches of `visit({"gradients": …, "hessian_…": …})`; float64.

    gradients: of the batch's loss. hessian_gradient: the batch's Hessian times `gradient` (by
    parameter; usually the mean gradient of all data), if that is given. hessian_weights: the
    batch's Hessian times all weights, if `weights`. All by parameter name.

    Pearlmutter: Fast Exact Multiplication by the Hessian (1994). Memory: three times that of a
    gradient, as operations are kept for a second backward pass. Otherwise as `mean_over_batches`.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> square = lambda model, x: model(x).square().sum()  # its Hessian is 2 x^2
        >>> one = lambda found: {"h": found["hessian_weights"]["weight"] / net.weight}
        >>> x = torch.full((1, 1), 3.0)
        >>> hessian_over_batches(net, [x], one, weights=True, loss=square)["h"]
        tensor([[18.]], dtype=torch.float64)

    Raises:
        InputError: As `mean_over_batches`; or an operation has no second derivative.
    """
    run = loss_of(loss)
    sums: dict[str, Tensor] = {}
    seen = 0
    with untouched(model), differentiable(model), _twice(model):
        names, parameters = named_parameters(model)
        for number, batch in enumerate(data):
            value = checked_loss(run(model, moved(batch, parameters[0].device)), number)
            grads = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
            found: dict[str, Any] = {"gradients": _by_name(names, grads)}
            if gradient is not None:
                vectors = [gradient.get(same[0]) for same in names]
                found["hessian_gradient"] = _by_name(names, _product(grads, vectors, parameters))
            if weights:
                found["hessian_weights"] = _by_name(names, _product(grads, parameters, parameters))
            del grads, value
            with torch.no_grad():
                for key, vector in visit(found).items():
                    double = vector.double()
                    sums[key] = sums[key] + double if key in sums else double
            seen += 1
    if seen == 0:
        raise InputError("there is no batch in the data", hint="give at least one batch")
    return {key: total / seen for key, total in sums.items()}


def _product(
    grads: Iterable[Tensor | None],
    vectors: Iterable[Tensor | None],
    parameters: list[nn.Parameter],
) -> list[Tensor | None]:
    """The Hessian times a vector: the gradient of the gradient's product with it."""
    total = sum(
        (g * v.detach().to(g.dtype)).sum()
        for g, v in zip(grads, vectors, strict=True)
        if g is not None and v is not None and g.requires_grad
    )
    if not isinstance(total, Tensor):  # the loss is linear
        return [torch.zeros_like(parameter) for parameter in parameters]
    try:
        found = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        raise InputError(
            f"the model cannot be differentiated twice: {error}",
            hint="use a criterion of first order, such as 'taylor' or 'fisher'",
        ) from error
    return [torch.zeros_like(p) if h is None else h for p, h in zip(parameters, found, strict=True)]


def _by_name(names: list[list[str]], values: Iterable[Tensor | None]) -> dict[str, Tensor]:
    paired = zip(names, values, strict=True)
    return {name: v.detach() for same, v in paired if v is not None for name in same}


@contextmanager
def _twice(model: nn.Module) -> Iterator[None]:
    """Only kernels that can be differentiated twice: no fused attention, no fused RNN."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    # torch.backends.mkldnn.flags warns about a flag of its own
    fused = torch._C._get_mkldnn_enabled()
    with sdpa_kernel(SDPBackend.MATH):
        try:
            torch._C._set_mkldnn_enabled(fused and not recurrent)
            yield
        finally:
            torch._C._set_mkldnn_enabled(fused)


__all__ = ["hessian_over_batches"]
