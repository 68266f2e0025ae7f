"""transformers: families built from tiny configurations, under one registry."""

from __future__ import annotations

from . import (
    Builder,
    transformers_audio,
    transformers_multi,
    transformers_text,
    transformers_vision,
)

_PARTS = (transformers_text, transformers_vision, transformers_audio, transformers_multi)
MODELS: dict[str, Builder] = {name: make for part in _PARTS for name, make in part.MODELS.items()}
FAMILIES: dict[str, str] = {name: kind for part in _PARTS for name, kind in part.FAMILIES.items()}
