"""Where inputs could leave a network: behind its blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import Call, hooked, tensors_in, untouched
from secateur.core.errors import RecipeError

_MOST = 4


def depths(model: nn.Module, call: Call, most: int = _MOST) -> tuple[str, ...]:
    """Up to `most` blocks, evenly spread over the network, in the order in which they run.

    A block is a child of the model, or of a sequence or list in it, that has parameters, runs once,
    and gives a tensor with one entry a sample. What follows in a sequence and has no parameters,
    such as an activation or a pooling, belongs to it: behind that there is less to look at, which
    tells more.

    Example:
        >>> net = nn.Sequential(*[nn.Linear(2, 2) for _ in range(6)])
        >>> depths(net, Call((torch.zeros(3, 2),), {}), most=2)
        ('1', '3')

    Raises:
        RecipeError: There is no such block.
    """
    names = {module: name for name, module in _blocks(model)}
    ran: list[str] = []

    def note(module: nn.Module, args: Any, out: Any) -> None:
        value = out[0] if isinstance(out, tuple) and out else out
        fits = isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1
        ran.append(names[module] if fits and len(value) == samples else "")

    samples = len(next(tensors_in((call.args, dict(call.kwargs)))))
    hooks = [(module.register_forward_hook, note) for module in names]
    with hooked(hooks), untouched(model), torch.no_grad():
        call.run(model)
    found = [name for name in ran[:-1] if name and ran.count(name) == 1]  # the last is the end
    if not found:
        raise RecipeError(
            "no block was found behind which inputs could leave",
            hint="name modules: at=['features.3', …]",
        )
    count = min(most, len(found))
    picks = sorted({round((k + 1) * (len(found) + 1) / (count + 1)) - 1 for k in range(count)})
    return tuple(found[pick] for pick in picks)


def _blocks(
    model: nn.Module, prefix: str = "", inside: bool = False
) -> Iterator[tuple[str, nn.Module]]:
    """Children with parameters; of the outermost sequences and lists, what is in them."""
    children = [c for c in model.named_children() if _has_parameters(c[1])]
    for name, child in children:
        path = f"{prefix}{name}"
        several = isinstance(child, (nn.Sequential, nn.ModuleList)) and len(child) > 1
        if several and not inside:
            yield from _blocks(child, f"{path}.", True)
        elif len(children) == 1 and not inside and any(True for _ in child.children()):
            yield from _blocks(child, f"{path}.")
        else:
            last = _last(model, name) if isinstance(model, nn.Sequential) else name
            yield f"{prefix}{last}", model.get_submodule(last)


def _last(sequence: nn.Sequential, name: str) -> str:
    """The last of the modules behind one that have no parameters and are used once."""
    names, modules = list(sequence._modules), list(sequence._modules.values())
    place = names.index(name)
    for later in range(place + 1, len(names)):
        module = modules[later]
        if module is None or _has_parameters(module) or modules.count(module) > 1:
            break
        place = later
    return names[place]


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
