"""Changes to a model that can be taken back, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core import paths


class Edit:
    """A list of done changes; `undo` restores the model exactly.

    keep: remember what is replaced (memory: the replaced tensors); else nothing can be undone.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self.keep = keep
        self._undo: list[Any] = []

    def data(self, tensor: Tensor, new: Tensor, grad: Tensor | None) -> None:
        """Give a tensor other data; its identity stays, so that optimizers and ties still hold."""
        if self.keep:
            old, old_grad = tensor.data, tensor.grad if tensor.is_leaf else None
            self._undo.append(lambda: _set(tensor, old, old_grad))
        _set(tensor, new, grad)

    def attribute(self, module: nn.Module, path: str, value: Any) -> None:
        """Set an attribute by path."""
        old = paths.read(module, path)
        if old == value and type(old) is type(value):
            return
        self._undo.append(lambda: paths.write(module, path, old))
        paths.write(module, path, value)

    def child(self, model: nn.Module, name: str, new: nn.Module) -> None:
        """Replace a submodule."""
        old = model.get_submodule(name)
        self._undo.append(lambda: model.set_submodule(name, old))
        model.set_submodule(name, new)

    def entry(self, state: dict[Any, Any], key: Any, new: Any) -> None:
        """Set an entry of a dictionary (optimizer state)."""
        old = state[key]
        if self.keep:
            self._undo.append(lambda: state.__setitem__(key, old))
        state[key] = new

    def clear(self, cache: dict[Any, Any]) -> None:
        """Empty a dictionary."""
        old = dict(cache)
        self._undo.append(lambda: cache.update(old))
        cache.clear()

    def values(self, tensor: Tensor, dim: int, index: Tensor) -> None:
        """Zero slices in place."""
        old = tensor.data.index_select(dim, index)
        self._undo.append(lambda: tensor.data.index_copy_(dim, index, old))
        tensor.data.index_fill_(dim, index, 0)

    def merge(self, later: Edit) -> None:
        """Take over the changes of another edit of the same model."""
        self._undo += later._undo

    def undo(self) -> None:
        """Take everything back, last change first."""
        while self._undo:
            self._undo.pop()()


def _set(tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
    if tensor.is_leaf:
        tensor.grad = None
    if tensor.requires_grad and tensor.shape != data.shape:
        # autograd keeps a node with the old shape while a graph is alive (the last step's loss);
        # it forgets the node only where the type changes
        other = torch.float16 if data.dtype == torch.float32 else torch.float32
        tensor.data = data.new_empty(0, dtype=other)
    tensor.data = data
    if grad is not None:
        tensor.grad = grad


@contextmanager
def restoring(edit: Edit) -> Iterator[None]:
    """Undo the edit if the block raises."""
    try:
        yield
    except BaseException:
        edit.undo()
        raise


__all__ = ["Edit", "restoring"]
