"""One adapter from whatever users call an example or a batch to a model call."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.core.errors import InputError


@dataclass(frozen=True)
class Call:
    """The arguments of one forward call."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def run(self, model: nn.Module) -> Any:
        """Call the model."""
        return model(*self.args, **self.kwargs)

    def to(self, device: torch.device | None) -> Call:
        """The same with every tensor on a device."""
        if device is None:
            return self
        return Call(*map_tensors((self.args, dict(self.kwargs)), lambda t: t.to(device)))


def as_call(model: nn.Module, example: Any) -> Call:
    """Turn an example into a call: a tensor, a tuple of arguments, a dict of keyword arguments, or
    a batch of a data loader such as `[images, labels]`, of which the inputs are taken.

    Raises:
        InputError: The example is empty, or has no tensors.

    Example:
        >>> as_call(nn.Linear(2, 1), torch.zeros(3, 2)).args[0].shape
        torch.Size([3, 2])
        >>> len(as_call(nn.Linear(2, 1), [torch.zeros(3, 2), torch.zeros(3)]).args)
        1
    """
    check_model(model)
    if isinstance(example, Call):
        call = example
    elif isinstance(example, Mapping):
        call = Call((), _forward_part(model, example))
    elif isinstance(example, Tensor):
        call = Call((example,), {})
    elif isinstance(example, tuple):
        call = Call(_positional(model, example), {})
    elif isinstance(example, list):
        if not example:
            raise InputError("the example is an empty list", hint="give one batch of inputs")
        first = example[0]
        many = [t for t in example if isinstance(t, Tensor)]
        images = (
            len(many) == len(example)
            and len({t.shape for t in many}) > 1
            and all(t.dim() == 3 for t in many)
        )
        call = Call((example,), {}) if images else as_call(model, first)
    else:
        raise InputError(
            f"an example is a tensor, a tuple, a dict or a batch, not {type(example).__name__}",
            hint="for a data loader give one batch: next(iter(loader))",
        )
    if not any(True for _ in tensors_in((call.args, dict(call.kwargs)))):
        raise InputError("the example holds no tensor", hint="give the inputs of one forward call")
    device = next((t.device for t in [*model.parameters(), *model.buffers()]), None)
    return call.to(device)


def check_model(model: Any) -> None:
    """Raise `InputError` unless this is a model with all its parameters."""
    if not isinstance(model, nn.Module):
        given = model.__name__ if isinstance(model, type) else type(model).__name__
        raise InputError(
            f"a model is an nn.Module, not {given}",
            hint="build it first: the verbs want an object, with its weights loaded",
        )
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise InputError(
            f"{lazy[0]} is not initialised yet: its module is lazy",
            hint="run the model once on the example first",
        )
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise InputError(
                f"{name} was made in inference mode, and could never be trained again",
                hint="build or load the model outside torch.inference_mode()",
            )


def _forward_part(model: nn.Module, example: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in example.items()}


def _positional(model: nn.Module, example: tuple[Any, ...]) -> tuple[Any, ...]:
    """A tuple is the arguments; of (inputs, labels) a one-argument forward gets the first."""
    if not example:
        raise InputError(
            "the example is an empty tuple", hint="give the inputs of one forward call"
        )
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return example
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return example
    room = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    return example[:1] if len(example) > room and room >= 1 else example


def map_tensors(value: Any, function: Any) -> Any:
    """Apply a function to every tensor in nested tuples, lists, dicts and dataclasses."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[map_tensors(item, function) for item in value])
    if isinstance(value, (list, tuple)):
        return type(value)([map_tensors(item, function) for item in value])
    if type(value) is dict:
        return {key: map_tensors(item, function) for key, item in value.items()}
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers and objects, each object once.

    Caches (classes named so, as the key-value caches of decoders) are working memory, not results,
    and are passed over.
    """
    return _tensors_in(value, set())


def _tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if isinstance(value, _ATOMS) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        parts: Any = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    elif any(kind.__name__.endswith("Cache") for kind in type(value).__mro__):
        return
    else:
        slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
        parts = [*getattr(value, "__dict__", {}).values()]
        parts += [getattr(value, name) for name in slots if hasattr(value, name)]
    for part in parts:
        yield from _tensors_in(part, seen)


_ATOMS = (str, bytes, int, float, complex, type(None), type, nn.Module, torch.dtype, torch.device)


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


@contextmanager
def hooked(hooks: Iterable[tuple[Callable[..., Any], Callable[..., Any]]]) -> Iterator[None]:
    """Hooks that are there inside the block only.

    hooks: pairs of what registers one, such as `module.register_forward_hook`, and the hook.

    Example:
        >>> net, seen = nn.Linear(2, 1), []
        >>> with hooked([(net.register_forward_hook, lambda m, args, out: seen.append(out.shape))]):
        ...     out = net(torch.zeros(3, 2))
        >>> out = net(torch.zeros(3, 2))
        >>> seen
        [torch.Size([3, 1])]
    """
    with ExitStack() as stack:
        for register, hook in hooks:
            stack.callback(register(hook).remove)
        yield


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards everything is as before.

    Training modes, random state, buffers and whatever the model's forward stores on its modules
    (caches, counters, last outputs) are restored. Memory: a copy of the buffers.
    """
    states = [_ModuleState(module) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone(), _version(buffer)) for buffer in model.buffers()]
    rng = torch.random.get_rng_state()
    cuda = (
        torch.cuda.get_rng_state_all()
        if torch.cuda.is_available() and torch.cuda.is_initialized()
        else None
    )
    try:
        for state in states:
            state.module.training = False
        yield
    finally:
        for state in states:
            state.restore()
        with torch.no_grad():
            for buffer, old, version in buffers:
                if _version(buffer) != version or version is None:
                    buffer.copy_(old)
        torch.random.set_rng_state(rng)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


class _ModuleState:
    """The attributes of one module, and what is in those that are containers."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.fields = dict(module.__dict__)
        self.contents = [
            (value, copy.copy(value))
            for key, value in self.fields.items()
            if type(value) in (dict, list, set, OrderedDict)
            and key not in ("_parameters", "_modules")
        ]

    def restore(self) -> None:
        fields = self.module.__dict__
        if fields.keys() != self.fields.keys() or any(
            fields[k] is not v for k, v in self.fields.items()
        ):
            fields.clear()
            fields.update(self.fields)
        for container, old in self.contents:
            if isinstance(container, list):
                container[:] = old
            else:
                container.clear()
                container.update(old)


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version
