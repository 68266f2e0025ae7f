"""What of a session goes into a checkpoint: tensors and plain values, masks as bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import FileError
from secateur.train.held import Held

KEY = "secateur"
"""Where it is in an optimizer's state_dict."""
VERSION = 1


def pack(mask: Tensor) -> Tensor:
    """A boolean tensor as bytes of eight.

    Example:
        >>> pack(torch.tensor([True, False, True]))
        tensor([5], dtype=torch.uint8)
    """
    flat = mask.flatten()
    bits = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
    weights = 2 ** torch.arange(8, device=mask.device)
    return (bits * weights).sum(1).to(torch.uint8)


def unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The boolean tensor of a shape again.

    Example:
        >>> unpack(pack(torch.tensor([[True, False], [True, True]])), (2, 2)).tolist()
        [[True, False], [True, True]]
    """
    places = torch.arange(8, device=packed.device)
    bits = (packed[:, None].int() >> places) & 1
    return bits.flatten()[: prod(shape)].bool().reshape(tuple(shape))


def dump(held: Sequence[Held]) -> dict[str, Any]:
    """The masks and whatever the form keeps, by weight."""
    return {
        item.name: {
            "shape": list(item.mask.shape),
            "mask": pack(item.mask),
            **({} if item.latent is None else {"latent": item.latent}),
            "extra": dict(item.extra),
        }
        for item in held
    }


def restore(held: Sequence[Held], state: Mapping[str, Any]) -> None:
    """Put what `dump` gave back, after everything has been checked.

    Raises:
        FileError: It is of other weights, or of another form.
    """
    names = {item.name for item in held}
    if names != set(state):
        odd = sorted(names ^ set(state))
        raise FileError(
            f"the checkpoint's session has other weights: {', '.join(odd[:3])}",
            hint="attach with the scope that the checkpoint was made with",
        )
    for item in held:
        saved = state[item.name]
        if list(saved["shape"]) != list(item.mask.shape):
            raise FileError(
                f"{item.name} is {list(item.mask.shape)}, and {saved['shape']} in the checkpoint",
                hint="with FSDP2, resume on as many processes",
            )
        if ("latent" in saved) != (item.latent is not None) or set(saved["extra"]) != set(
            item.extra
        ):
            raise FileError(
                f"{item.name}: the checkpoint's session used another form",
                hint="attach with the recipe that the checkpoint was made with",
            )
    for item in held:
        saved = state[item.name]
        item.mask.copy_(unpack(saved["mask"], saved["shape"]))
        if item.latent is not None:
            item.latent.copy_(saved["latent"])
        for key, tensor in saved["extra"].items():
            item.extra[key].copy_(tensor)
