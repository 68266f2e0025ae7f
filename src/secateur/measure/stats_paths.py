"""How much every weight carries of all paths through a network, without data (SynFlow)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.core.batches import Call, map_tensors, tensors_in, untouched
from secateur.core.errors import InputError
from secateur.core.tensors import light_copy
from secateur.measure.gradients import differentiable, named_parameters, pieces
from secateur.measure.stats_inputs import double


def path_gradients(model: nn.Module, call: Call) -> dict[str, Tensor]:
    """Gradients of the sum of outputs with respect to absolute weights, on an input of ones.

    By parameter name, float64. All parameters are replaced by their absolute values and running
    statistics by mean 0 and variance 1, in a float64 copy of the model (of float32, products of
    many layers overflow); it sees one sample of the example's shape, ones (integers stay as they
    are, so that indices stay valid). The model itself is left alone. Memory: the copy and its
    gradients, four times the model in float32.

    Tanaka et al.: Pruning Neural Networks without Any Data by Iteratively Conserving Synaptic Flow
    (2020). In a network of linear layers and rectifiers the gradient times the weight is the sum of
    all paths through that weight; tanh, softmax and layer norms bend that.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> found = path_gradients(net, Call((torch.zeros(1, 1),), {}))
        >>> bool((found["0.weight"].flatten() == net[1].weight.detach().double().abs()[0]).all())
        True

    Raises:
        InputError: The copy does not run in float64, or its output is not finite.
    """
    twin = light_copy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.is_floating_point():
                parameter.data = double(parameter.data).abs()
        for name, buffer in twin.named_buffers():
            if buffer.is_floating_point():
                buffer.data = double(buffer.data).abs()
                if name.endswith(("running_mean", "running_var")):
                    buffer.fill_(float(name.endswith("var")))
    device = next(twin.parameters()).device
    args, kwargs = next(pieces((call.args, dict(call.kwargs)), 1))
    ones = Call(*map_tensors((args, kwargs), lambda t: _ones(t).to(device)))
    with untouched(twin), differentiable(twin):
        names, parameters = named_parameters(twin)
        try:
            outputs = [t for t in tensors_in(ones.run(twin)) if t.requires_grad]
        except (RuntimeError, TypeError) as error:
            raise InputError(
                f"the model does not run in float64: {error}",
                hint="use a criterion such as 'l1' or 'group_l2'",
            ) from error
        if not outputs:
            raise InputError("no output of the model depends on its parameters")
        total = sum((t.sum() for t in outputs[1:]), outputs[0].sum())
        if not bool(torch.isfinite(total)):
            raise InputError("the sum of all paths is not finite, even in float64")
        grads = torch.autograd.grad(total, parameters, allow_unused=True)
    paired = zip(names, grads, strict=True)
    return {name: grad for same, grad in paired if grad is not None for name in same}


def _ones(tensor: Tensor) -> Tensor:
    return torch.ones_like(double(tensor)) if tensor.is_floating_point() else tensor


__all__ = ["path_gradients"]
