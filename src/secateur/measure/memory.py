"""Peak memory of one call: the weights, and the largest set of activations that live together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.batches import as_call, tensors_in, untouched
from secateur.core.tensors import named_tensors


@dataclass(frozen=True)
class Peak:
    """Bytes. weights: of parameters and buffers. activations: the most that live at one time."""

    weights: int
    activations: int

    @property
    def bytes(self) -> int:
        """Both together."""
        return self.weights + self.activations


def peak_memory(model: nn.Module, example: Any) -> Peak:
    """Run the model once, in eval mode without gradients, and follow what lives.

    The inputs count as activations; of a view, the storage that it looks into. What an operation
    takes inside itself while it runs (a convolution's workspace) is not seen. Works on any device.

    Args:
        model: Left as it was.
        example: What `as_call` accepts.

    Example:
        >>> peak_memory(nn.Sequential(nn.Linear(8, 16), nn.ReLU()), torch.zeros(4, 8))
        Peak(weights=576, activations=640)

    Raises:
        InputError: The example cannot be used.
    """
    call = as_call(model, example)
    weights = {id(tensor): tensor for _, tensor in named_tensors(model)}
    follow = _Follow(weights.values())
    follow.see(tensors_in((call.args, dict(call.kwargs))))
    with untouched(model), torch.no_grad(), _visible_attention(), follow:
        call.run(model)
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    return Peak(size, follow.peak)


@contextmanager
def _visible_attention() -> Iterator[None]:
    """Encoder layers run operation by operation, so that what lives inside them is seen."""
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Follow(TorchDispatchMode):
    """Sums the storages that are alive after every operation, while its arguments still are."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.weights = {_key(tensor) for tensor in weights}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def see(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of these tensors from now until they are freed."""
        for tensor in tensors:
            key = _key(tensor)
            if key is not None and key not in self.weights:
                storage = tensor.untyped_storage()
                self.alive[key] = StorageWeakRef(storage), storage.nbytes()
        for key in [key for key, (ref, _) in self.alive.items() if ref.expired()]:
            del self.alive[key]
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and look."""
        out = func(*args, **(kwargs or {}))
        self.see(tensors_in((args, kwargs, out)))
        return out


def _key(tensor: Tensor) -> int | None:
    """The storage's address, or None for tensors without one (sparse ones)."""
    if tensor.layout is not torch.strided:
        return None
    return tensor.untyped_storage()._cdata
