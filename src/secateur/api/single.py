"""Single weights: all at once, or streamed block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from secateur.api.stream import prune_blocks
from secateur.api.weights import prune_weights
from secateur.core.errors import RecipeError
from secateur.core.result import Result
from secateur.units import WeightUnit


def prune_single(
    model: nn.Module, example: Any, unit: WeightUnit, *, stream: Any = None, **arguments: Any
) -> Result:
    """Remove single weights; see `prune_weights` and `prune_blocks`.

    Raises:
        RecipeError: `stream` is unknown, or `resume` does not go with it.
    """
    resume = arguments.pop("resume", ())
    become = arguments.pop("become", False)
    if stream is None:
        if isinstance(resume, (str, Path)):
            raise RecipeError(
                f"resume={str(resume)!r}: a folder is for stream='blocks'",
                hint="give the attempts of an interrupted search, or stream='blocks'",
            )
        return prune_weights(model, example, unit, resume=resume, become=become, **arguments)
    if stream != "blocks":
        raise RecipeError(f"stream={stream!r} is unknown", hint="stream='blocks', or none")
    if become:
        raise RecipeError(
            "stream='blocks' does not pack", hint="sc.compile(result.model, example) does"
        )
    folder = resume if isinstance(resume, (str, Path)) else None
    if resume and folder is None:
        raise RecipeError("a stream resumes from a folder", hint="resume='folder'")
    for name in ("latency", "on_trial"):
        arguments.pop(name, None)
    return prune_blocks(model, example, unit, resume=folder, **arguments)
