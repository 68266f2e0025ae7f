"""What of a session goes into a checkpoint: tensors and plain values, masks as bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.core.errors import FileError
from secateur.train.held import Held

KEY = "secateur"
"""Where it is in an optimizer's state_dict."""
VERSION = 1


def dump(held: Sequence[Held]) -> dict[str, Any]:
    """The masks and whatever the form keeps, by weight."""
    return {
        item.name: {
            "shape": list(item.site.shape),
            "mask": item.packed.clone(),
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
        if list(saved["shape"]) != list(item.site.shape):
            raise FileError(
                f"{item.name} is {list(item.site.shape)}, and {saved['shape']} in the checkpoint",
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
        item.packed = saved["mask"].to(item.used.device, copy=True)
        if item.latent is not None:
            item.latent.copy_(saved["latent"])
        for key, tensor in saved["extra"].items():
            item.extra[key].copy_(tensor)
