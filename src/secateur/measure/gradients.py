"""Gradients in one streaming pass over data, leaving no trace on the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import map_tensors, tensors_in, untouched
from secateur.core.errors import InputError
from secateur.measure.loss import Loss, loss_of


def mean_over_batches(
    model: nn.Module,
    data: Iterable[Any],
    visit: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    *,
    loss: Loss | None = None,
    batches: int | None = None,
) -> dict[str, Tensor]:
    """The mean over batches of `visit(gradients)`, where gradients maps parameter names to tensors.

    data: batches, each `(inputs, targets)` or whatever `loss` takes. loss: see `loss_of`. batches:
    look at this many at most.

    The model runs in eval mode. A batch's gradients are freed before the next batch; between
    batches only the accumulated vectors stay. Mode, `requires_grad`, `.grad` and the random state
    are as before afterwards, also after an error.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> batch = (torch.ones(4, 2), torch.zeros(4, 1))
        >>> total = lambda gradients: {"norm": gradients["weight"].norm()}
        >>> mean_over_batches(net, [batch, batch], total)["norm"].dtype
        torch.float64

    Raises:
        InputError: there is no batch, or a loss is not a finite scalar that depends on the model.
    """
    run = loss_of(loss)
    sums: dict[str, Tensor] = {}
    seen = 0
    with untouched(model), differentiable(model):
        names, parameters = named_parameters(model)
        for number, batch in enumerate(islice(iter(data), batches)):
            value = checked_loss(run(model, moved(batch, parameters[0].device)), number)
            grads = torch.autograd.grad(value, parameters, allow_unused=True)
            paired = zip(names, grads, strict=True)
            found = {n: g for same, g in paired if g is not None for n in same}
            del grads, value
            with torch.no_grad():
                for key, vector in visit(found).items():
                    double = vector.double()
                    sums[key] = sums[key] + double if key in sums else double
            seen += 1
    if seen == 0:
        raise InputError("there is no batch in the data", hint="give at least one batch")
    return {key: total / seen for key, total in sums.items()}


def moved(batch: Any, device: torch.device) -> Any:
    """The same batch with its tensors on `device`."""
    plain = dict(batch) if isinstance(batch, Mapping) else batch
    return map_tensors(plain, lambda tensor: tensor.to(device))


def single_samples(data: Iterable[Any]) -> Iterator[Any]:
    """Batches split into single samples, along the first dimension of all of their tensors.

    Example:
        >>> [x.shape for x, _ in single_samples([(torch.zeros(2, 3), torch.zeros(2))])]
        [torch.Size([1, 3]), torch.Size([1, 3])]

    Raises:
        InputError: The tensors of a batch do not agree on their first dimension.
    """
    for number, batch in enumerate(data):
        plain = dict(batch) if isinstance(batch, Mapping) else batch
        if samples(plain) is None:
            raise InputError(
                f"the tensors of batch {number} differ in their first dimension, so that it cannot "
                "be split into samples",
                hint="give batches whose tensors all start with the samples' dimension",
            )
        yield from pieces(plain, 1)


def samples(value: Any) -> int | None:
    """The first dimension of the tensors in nested containers where all agree, else None."""
    sizes = {t.shape[0] if t.dim() else None for t in tensors_in(value)}
    size = sizes.pop() if sizes else None
    return None if sizes else size


def pieces(value: Any, most: int) -> Iterator[Any]:
    """Nested tensors split along their first dimension, if they agree on it; else as they are.

    Example:
        >>> [len(part[0]) for part in pieces((torch.zeros(5, 2), torch.zeros(5)), 2)]
        [2, 2, 1]
    """
    size = samples(value)
    if size is None:
        yield value
        return
    for start in range(0, size, most):
        yield map_tensors(value, lambda t, a=start: t[a : a + most])


def named_parameters(model: nn.Module) -> tuple[list[list[str]], list[nn.Parameter]]:
    """Every float parameter once, with all of its names."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            names.setdefault(parameter, []).append(name)
    if not names:
        raise InputError("the model has no floating-point parameters")
    return list(names.values()), list(names)


def checked_loss(value: object, number: int) -> Tensor:
    """The loss of a batch as a scalar tensor that can be differentiated; an error if it is not."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"the loss must be a scalar tensor, not {shape}")
    if not bool(torch.isfinite(value)):
        raise InputError(f"the loss of batch {number} is {value.item():g}")
    if not value.requires_grad:
        raise InputError(
            "the loss does not depend on the parameters",
            hint="it must not be computed under no_grad, detached or converted",
        )
    return value.reshape(())


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Gradients on for every float parameter, also for frozen ones; restored afterwards."""
    flags = {p: p.requires_grad for p in model.parameters() if p.is_floating_point()}
    # cuDNN refuses the backward pass of recurrent layers in eval mode.
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=not recurrent):
        try:
            for parameter in flags:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter, flag in flags.items():
                parameter.requires_grad_(flag)
