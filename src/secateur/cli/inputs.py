"""Example inputs from `--input 1,3,224,224` and `--input ids:int64=1,16`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.registry import did_you_mean

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
_FORM = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)?(?::(?P<dtype>\w+))?=)?(?P<shape>\d+(?:,\d+)*)")
_MOST = 2**32


def example(inputs: Sequence[str], dtype: str = "float32", high: int = 2) -> Any:
    """What a model is called with: a tensor, a tuple of tensors, or a dict of named ones.

    Numbers come from a normal distribution with a fixed seed; integers are drawn below `high`;
    bool tensors are all true.

    Example:
        >>> example(["1,3"]).shape
        torch.Size([1, 3])
        >>> {k: (v.dtype, tuple(v.shape)) for k, v in example(["x=2,3", "ids:int64=2,5"]).items()}
        {'x': (torch.float32, (2, 3)), 'ids': (torch.int64, (2, 5))}

    Raises:
        InputError: An input has another form.
    """
    if not inputs:
        raise InputError("there is no input", hint="for example --input 1,3,224,224")
    if high < 1:
        raise InputError(f"--high is {high}", hint="integers are drawn from 0 up to below it")
    generator = torch.Generator().manual_seed(0)
    made: dict[str | int, Tensor] = {}
    for position, text in enumerate(inputs):
        match = _FORM.fullmatch(text.replace(" ", ""))
        if match is None:
            raise InputError(
                f"{text!r} is not an input", hint="write 1,3,224,224 or name:int64=1,16"
            )
        shape = [int(size) for size in match["shape"].split(",")]
        elements = 1
        for size in shape:
            elements *= size
        if not 0 < elements <= _MOST:
            raise InputError(f"{text!r} has {elements:,} elements")
        key = match["name"] or position
        if key in made:
            raise InputError(f"the input {key} is given twice")
        made[key] = _tensor(shape, match["dtype"] or dtype, high, generator)
    named = [key for key in made if isinstance(key, str)]
    if named and len(named) < len(made):
        raise InputError("some inputs have names and some have none", hint="name all, or none")
    if named:
        return made
    return made[0] if len(made) == 1 else tuple(made.values())


def _tensor(shape: list[int], name: str, high: int, generator: torch.Generator) -> Tensor:
    if name not in DTYPES:
        raise InputError(f"there is no dtype {name!r}", hint=did_you_mean(name, DTYPES))
    dtype = DTYPES[name]
    if dtype == torch.bool:
        return torch.ones(shape, dtype=dtype)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    below = min(high, torch.iinfo(dtype).max)
    return torch.randint(below, shape, generator=generator, dtype=torch.int64).to(dtype)
