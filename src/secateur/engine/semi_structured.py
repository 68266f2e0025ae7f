"""2:4 on GPUs: linear layers and 1x1 convolutions that run on sparse tensor cores.

Of every four weights along the inputs two are zero (`sc.NM(2, 4)`). The kernels are torch's own
(`torch.sparse`), from cuSPARSELt and CUTLASS; which of them a layer gets, if any, the clock says.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.sparse import (
    SparseSemiStructuredTensorCUSPARSELT,
    SparseSemiStructuredTensorCUTLASS,
)

from secateur.core.errors import InputError

DTYPES = (torch.float16, torch.bfloat16)
LEAST = (8, 0)
"""Compute capability from which GPUs have sparse tensor cores."""


def is_24(weight: Tensor) -> bool:
    """Whether at least two of every four weights along the inputs are zero; `[out, k]`.

    Example:
        >>> is_24(torch.tensor([[1.0, 0, 0, 2, 0, 0, 3, 0]])), is_24(torch.ones(1, 4))
        (True, False)
    """
    rows, k = weight.shape
    return not k % 4 and bool(((weight != 0).view(rows, -1, 4).sum(2) <= 2).all())


def refusal(module: nn.Module) -> str:
    """Why a layer has no 2:4 kernel on its device, in a few words; empty where it may have one.

    Example:
        >>> refusal(nn.Linear(8, 4))
        '2:4 kernels need a CUDA GPU'
    """
    weight: Any = module.weight
    if weight.device.type != "cuda":
        return "2:4 kernels need a CUDA GPU"
    capability = torch.cuda.get_device_capability(weight.device)
    if capability < LEAST:
        return f"compute capability {'.'.join(map(str, capability))}, 2:4 kernels need 8.0"
    if weight.dtype not in DTYPES:
        kind = str(weight.dtype).removeprefix("torch.")
        return f"the weights are {kind}, 2:4 kernels take float16 and bfloat16"
    if isinstance(module, nn.Conv2d) and not _pointwise(module):
        return "only 1x1 convolutions without strides, padding and groups have 2:4 kernels"
    matrix = weight.detach().flatten(1)
    if not bool(torch.isfinite(matrix).all()):
        return "a weight is not finite"
    if not is_24(matrix):
        return "no two of every four weights along the inputs are zero"
    return ""


def kernels(weight: Tensor) -> Iterator[tuple[str, Tensor | str]]:
    """Every 2:4 kernel by name, with the weight `[out, k]` in its form or why it takes none."""
    for name, make in _FORMS.items():
        try:
            with _quiet(), torch.no_grad():
                packed = make(weight)
                F.linear(weight.new_ones(8, weight.shape[1]), packed)  # some devices refuse here
            yield name, packed
        except (RuntimeError, NotImplementedError, ValueError) as error:
            yield name, str(error).strip().splitlines()[0][:120]


class SemiStructured(nn.Module):
    """A linear layer or 1x1 convolution whose weight is stored without half of its numbers.

    For inference. `weight` and what `state_dict` holds are the whole weight, made anew; others of a
    2:4 pattern can be loaded.
    """

    def __init__(
        self, shape: tuple[int, ...], bias: Tensor | None, kernel: str, packed: Tensor
    ) -> None:
        super().__init__()
        self.shape, self.kernel, self._packed = shape, kernel, packed
        self.register_buffer("bias", bias)
        self.eval()

    @classmethod
    def of(cls, layer: nn.Module, kernel: str, packed: Tensor) -> SemiStructured:
        """A linear layer or convolution whose weight was packed for a kernel."""
        given: Any = layer
        bias = None if given.bias is None else given.bias.detach()
        return cls(tuple(given.weight.shape), bias, kernel, packed)

    @property
    def weight(self) -> Tensor:
        """The whole weight, made anew."""
        with _quiet(), torch.no_grad():
            return self._packed.to_dense().reshape(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer.

        Raises:
            InputError: The input wants gradients.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            raise InputError(
                "a compiled network has no gradients, and an input requires them",
                hint="call it under torch.no_grad(), or train the original",
            )
        if len(self.shape) == 2:
            return self._rows(x)
        if x.dim() == 3:
            return self._rows(x.permute(1, 2, 0)).permute(2, 0, 1)
        return self._rows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _rows(self, x: Tensor) -> Tensor:
        """The linear map of the last dimension."""
        out = (*x.shape[:-1], self.shape[0])
        if not x.numel():
            return x.new_zeros(out)
        bias: Any = self.bias
        return F.linear(x.reshape(-1, x.shape[-1]).contiguous(), self._packed, bias).reshape(out)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SemiStructured:
        """Refuse to move: the packed weight is of this device and type."""
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        moved = fn(like)
        if (moved.device, moved.dtype) != (like.device, like.dtype):
            raise InputError(
                f"a compiled layer cannot move from {like.dtype} on {like.device} to "
                f"{moved.dtype} on {moved.device}",
                hint="move the model, and compile it there",
            )
        return self

    @property
    def device(self) -> torch.device:
        """Where the weight is."""
        return self._packed.device

    @property
    def dtype(self) -> torch.dtype:
        """Of weight, input and output."""
        return self._packed.dtype

    @property
    def bytes(self) -> int:
        """Memory of weight and bias as they are kept."""
        packed: Any = self._packed
        tensors = (packed.packed, packed.meta, self.bias)
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))

    def __deepcopy__(self, memo: dict[int, Any]) -> SemiStructured:
        """A copy that shares the packed weight, which never changes."""
        bias: Any = copy.deepcopy(self.bias, memo)
        return SemiStructured(self.shape, bias, self.kernel, self._packed)

    def __reduce__(self) -> Any:
        """Pickling is refused, as of other compiled networks."""
        raise TypeError("a compiled layer is not pickled; save the model, and compile it anew")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        state_dict = dict(state_dict)
        weight = state_dict.pop(prefix + "weight", None)
        if weight is None:
            missing_keys.append(prefix + "weight")
        elif tuple(weight.shape) != self.shape or not is_24(weight.flatten(1)):
            error_msgs.append(
                f"{prefix}weight has shape {tuple(weight.shape)}, and has to have {self.shape}, "
                "with two of every four weights along the inputs zero"
            )
        else:
            matrix = weight.detach().to(self.device, self.dtype).flatten(1).contiguous()
            with _quiet():
                self._packed = _FORMS[self.kernel](matrix)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        """Sizes and kernel."""
        return f"{self.shape[1]}, {self.shape[0]}, {self.kernel}"


def _pointwise(module: nn.Conv2d) -> bool:
    ones = {*module.kernel_size, *module.stride, module.groups} == {1}
    return ones and module.padding in ((0, 0), "valid", "same")


def _cusparselt(weight: Tensor, transpose: bool = False) -> Tensor:
    found: Any = SparseSemiStructuredTensorCUSPARSELT.from_dense(weight)
    found.fuse_transpose_cusparselt = transpose
    return found


_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "2:4 cusparselt": _cusparselt,
    "2:4 cusparselt transposed": lambda weight: _cusparselt(weight, True),
    "2:4 cutlass": SparseSemiStructuredTensorCUTLASS.from_dense,
}
"""The kernels that torch has; "transposed" gives outputs that lie row by row."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warning that this is a prototype: it is checked here, layer by layer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*SparseSemiStructuredTensor.*")
        yield


__all__ = ["SemiStructured", "is_24", "kernels", "refusal"]
