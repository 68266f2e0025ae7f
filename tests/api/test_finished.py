"""Finished blocks: written whole, read back exactly, and only what belongs together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.api.finished import Done, Store
from secateur.api.weights import WeightArguments
from secateur.core.errors import FileError
from secateur.measure.calibration import calibration
from secateur.units import NM


class Tied(nn.Module):
    """A weight with two names, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.register_buffer("scale", torch.rand(3))


DATA = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


def store(folder: Path, model: nn.Module, data: Tensor = DATA, **recipe: Any) -> Store:
    found = WeightArguments.of(NM(2, 4), data=[data], **recipe)
    return Store.of(folder, found, model, calibration(nn.Linear(4, 4), [data]))


def test_a_block_comes_back_as_it_was(tmp_path: Path) -> None:
    block, done = Tied(), Done({"a.weight": torch.rand(4, 4) < 0.5}, ("a note",), ("a repair",))
    kept = store(tmp_path / "new", block)
    assert kept.read(0, block) is None
    kept.write(0, block, done)
    assert [path.name for path in kept.folder.iterdir()] == ["block_0000.safetensors"]
    other = Tied()
    found = kept.read(0, other)
    assert found is not None and (found.notes, found.repairs) == (done.notes, done.repairs)
    assert torch.equal(found.masks["a.weight"], done.masks["a.weight"])
    for name, tensor in block.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    assert other.a.weight is other.b.weight


def test_the_seal_is_of_weights_data_and_arguments(tmp_path: Path) -> None:
    block = Tied()
    first = store(tmp_path, block)
    assert first.seal == store(tmp_path, block).seal
    others = (
        store(tmp_path, Tied()), store(tmp_path, block, DATA + 1),
        store(tmp_path, block, criterion="wanda"), store(tmp_path, block, seed=1),
        store(tmp_path, block, recover=[]),
    )  # fmt: skip
    assert len({first.seal, *(other.seal for other in others)}) == 6
    first.write(3, block, Done({}, (), ()))
    with pytest.raises(FileError, match="other weights, data or arguments"):
        others[1].read(3, block)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    block = Tied()
    kept = store(tmp_path, block)
    kept.write(0, block, Done({}, (), ()))
    kept.path(0).write_bytes(kept.path(0).read_bytes()[:-20])
    with pytest.raises(FileError, match="cannot be read"):
        kept.read(0, block)
