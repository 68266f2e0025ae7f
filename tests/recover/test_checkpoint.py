"""Checkpoints: read back exactly, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from secateur.core.errors import FileError
from secateur.recover.checkpoint import (
    Checkpoint,
    key_of,
    model_state,
    optimizer_state,
    set_model_state,
    set_optimizer_state,
)


def test_what_was_saved_last_is_read(tmp_path: Path) -> None:
    place = Checkpoint(tmp_path, "k" * 64)
    assert place.load() is None
    for number in (0, 1):
        place.save({"round": number, "best": 0.5}, {"a/b": torch.full((2,), float(number))})
    record, tensors = Checkpoint(tmp_path, "k" * 64).load()
    assert (record["round"], record["best"]) == (1, 0.5) and tensors["a/b"].tolist() == [1, 1]
    assert len(list(place.folder.iterdir())) == 2
    assert Checkpoint(tmp_path, "other" * 10).load() is None


@pytest.mark.parametrize("harm", ["json", "version", "tensors", "missing"])
def test_damage_is_told(tmp_path: Path, harm: str) -> None:
    place = Checkpoint(tmp_path, "k" * 64)
    place.save({"round": 3}, {"a": torch.zeros(2)})
    record = place.folder / "training.json"
    if harm == "json":
        record.write_text("{")
    elif harm == "version":
        record.write_text(json.dumps({**json.loads(record.read_text()), "version": 9}))
    elif harm == "tensors":
        (place.folder / "round-3.safetensors").write_bytes(b"no")
    else:
        (place.folder / "round-3.safetensors").unlink()
    with pytest.raises(FileError, match="cannot be read"):
        place.load()


def test_keys_tell_weights_and_settings_apart() -> None:
    net = nn.Linear(3, 2)
    key = key_of(net, lr=1, schedule=len)
    assert key == key_of(net, lr=1, schedule=len) != key_of(net, lr=2, schedule=len)
    assert key != key_of(net, lr=1, schedule=max)
    first, second = (key_of(net, loss=lambda m, b: m(b) * 2), key_of(net, loss=lambda m, b: m(b)))
    assert first != second
    assert first == key_of(net, loss=lambda m, b: m(b) * 2)
    with torch.no_grad():
        net.bias[0] += 1e-6
    assert key != key_of(net, lr=1, schedule=len)


@pytest.mark.parametrize(
    "kind", [Adam, lambda p: SGD(p, lr=0.1, momentum=0.9), lambda p: SGD(p, lr=0.1)]
)
def test_states_are_given_back_exactly(kind: Any) -> None:
    def pair() -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        return net, kind(net.parameters())

    def step(net: nn.Module, optimizer: Any, seed: int) -> None:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()

    net, optimizer = pair()
    step(net, optimizer, 1)
    states = {key: value.clone() for key, value in model_state(net).items()}
    tensors, values = optimizer_state(net, optimizer)
    tensors = {key: value.clone() for key, value in tensors.items()}
    values = json.loads(json.dumps(values))
    other, second = pair()
    set_model_state(other, states)
    set_optimizer_state(other, second, tensors, values)
    for seed in (2, 3):
        step(net, optimizer, seed)
        step(other, second, seed)
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
