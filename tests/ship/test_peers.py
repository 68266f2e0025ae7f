from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.core.batches import as_call
from secateur.ship.peers import peers


def test_engines_that_are_there() -> None:
    net, x = nn.Conv2d(3, 2, 3).eval(), torch.randn(1, 3, 8, 8)
    found, notes = peers(net, as_call(net, x), ["eager", "channels_last", "onnxruntime"], 1)
    assert "eager" in found and "channels_last" in found
    assert ("onnxruntime" in found) != any("onnxruntime" in note for note in notes)
    for name in ("eager", "channels_last"):
        out = found[name]()
        assert isinstance(out, torch.Tensor) and torch.allclose(out, net(x), atol=1e-5)


def test_no_images_no_channels() -> None:
    net = nn.Linear(2, 2)
    found, notes = peers(net, as_call(net, torch.zeros(1, 2)), ["channels_last"], 1)
    assert (found, notes) == ({}, ())


def test_unknown_engine() -> None:
    net = nn.Linear(2, 2)
    with pytest.raises(sc.errors.InputError, match="no engine 'onnx'"):
        peers(net, as_call(net, torch.zeros(1, 2)), ["onnx"], 1)
