"""Hand-written odd and recurrent models, under one registry."""

from __future__ import annotations

from . import Builder, odd_attention, odd_conv, odd_misc, odd_rnn

_PARTS = {
    "recurrent": odd_rnn.MODELS,
    "attention": odd_attention.MODELS,
    "convolutional": odd_conv.MODELS,
    "other": odd_misc.MODELS,
}
MODELS: dict[str, Builder] = {name: make for part in _PARTS.values() for name, make in part.items()}
FAMILIES: dict[str, str] = {name: kind for kind, part in _PARTS.items() for name in part}
