"""Formats: what each needs, and what a wrong number of inputs says."""

from __future__ import annotations

import pytest
import torch

from secateur.core.batches import Call
from secateur.core.errors import InputError
from secateur.ship.formats import FORMATS, _inputs


def test_every_format_names_its_packages() -> None:
    assert list(FORMATS) == [".pt2", ".onnx", ".xml", ".pte"]
    FORMATS[".pt2"].check()
    assert all(form.packages for suffix, form in FORMATS.items() if suffix != ".pt2")


def test_inputs_that_the_file_does_not_have_are_refused() -> None:
    call = Call((torch.ones(2, requires_grad=True),), {"y": torch.zeros(1), "flag": True})
    assert [t.requires_grad for t in _inputs(call, ["a", "b"])] == [False, False]
    with pytest.raises(InputError, match="the file has 1 inputs, and the example 2 tensors"):
        _inputs(call, ["a"])
