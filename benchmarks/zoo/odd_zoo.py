"""Hand-written odd and recurrent models, under one registry."""

from __future__ import annotations

from . import (
    Builder,
    odd_attention,
    odd_conv,
    odd_misc,
    odd_norm,
    odd_rnn,
    odd_science,
    odd_transformer,
)

_PARTS = {
    "recurrent": (odd_rnn,),
    "attention": (odd_attention, odd_transformer),
    "convolutional": (odd_conv, odd_norm),
    "other": (odd_misc, odd_science),
}
_ALL = [(kind, part.MODELS) for kind, parts in _PARTS.items() for part in parts]
MODELS: dict[str, Builder] = {name: make for _, part in _ALL for name, make in part.items()}
FAMILIES: dict[str, str] = {name: kind for kind, part in _ALL for name in part}
