"""Batches from a user's code."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.cli.data import Loaded, load
from secateur.cli.inputs import example
from secateur.core.errors import InputError

VECTOR = torch.zeros(1, 1)
LOADERS = """
import random
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

rows = torch.arange(60.)[:, None]
data = TensorDataset(rows, torch.arange(60))
ready = DataLoader(data, batch_size=8, shuffle=True)
own = DataLoader(data, batch_size=8, shuffle=True, generator=torch.Generator())
listed = [(rows[:30], torch.arange(30)), (rows[30:], torch.arange(30, 60))]
used = iter(ready)
pair = (rows, torch.arange(60))
whole = rows
dataset = data
nothing = []
number = 3
text = "hello"

def made():
    return DataLoader(data, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(3))

def generated():
    for start in range(0, 60, 8):
        noise = torch.rand(1) + random.random() + np.random.rand()
        yield rows[start:start + 8] + noise, torch.arange(60)[start:start + 8]

def unlabelled():
    return (rows[k:k + 8].numpy() for k in range(0, 60, 8))

def dicts():
    return ({"x": rows[k:k + 8], "label": torch.arange(60)[k:k + 8]} for k in range(0, 60, 8))

def endless():
    while True:
        yield rows, torch.arange(60)

def broken():
    yield rows, torch.arange(60)
    raise KeyError("oops")

def nan():
    yield rows * float("nan")

def strings():
    yield "hello"

class Own:
    def __iter__(self):
        return iter(listed)
"""


def labels(loaded: Loaded) -> list[int]:
    return torch.cat([batch[1] for batch in loaded.batches]).tolist()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "loaders_of_test.py"
    path.write_text(LOADERS)
    return path


@pytest.mark.parametrize(
    ("name", "samples"),
    [("ready", 60), ("listed", 60), ("made", None), ("generated", None), ("Own", None)],
)
def test_loaders_give_the_same_batches_each_time(
    code: Path, name: str, samples: int | None
) -> None:
    loaded = load(f"{code}:{name}", VECTOR)
    assert (loaded.labelled, loaded.samples) == (True, samples)
    first = [(x, y) for x, y in loaded.batches]
    torch.manual_seed(5)
    again = []
    for x, y in loaded.batches:
        torch.rand(3)
        again.append((x, y))
    for (a, b), (c, d) in zip(first, again, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    assert sorted(labels(loaded)) == list(range(60))


@pytest.mark.parametrize("name", ["ready", "listed", "made", "generated"])
@pytest.mark.parametrize("asked", [1, 20, 512])
def test_loaders_split_by_batches(code: Path, name: str, asked: int) -> None:
    calibration, evaluation = load(f"{code}:{name}", VECTOR).split(asked)
    a, b = labels(calibration), labels(evaluation)
    assert sorted(a + b) == list(range(60))
    assert a
    assert len(a) <= 32
    assert len(a) >= min(asked, 28)


def test_outside_random_states_stay(code: Path) -> None:
    states = torch.random.get_rng_state(), random.getstate(), str(np.random.get_state())
    list(load(f"{code}:generated", VECTOR).batches)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert str(np.random.get_state()) == states[2]


def test_endless_loaders_can_calibrate(code: Path) -> None:
    loaded = load(f"{code}:endless", VECTOR)
    assert loaded.samples is None
    calibration, _ = loaded.split(100)
    assert len(labels(calibration)) == 120


def test_loaders_without_labels(code: Path) -> None:
    for name in ("unlabelled", "whole"):
        loaded = load(f"{code}:{name}", VECTOR)
        assert not loaded.labelled
        assert torch.cat(list(loaded.batches)).flatten().tolist() == list(range(60))


def test_loaders_of_dicts(code: Path) -> None:
    loaded = load(f"{code}:dicts", example(["x=1,1"]))
    assert loaded.labelled
    assert set(next(iter(loaded.batches))) == {"x", "label"}
    with pytest.raises(InputError, match="have no input z"):
        load(f"{code}:dicts", example(["z=1,1"]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "gives no batch"),
        ("number", "gives a int, not batches"),
        ("text", "gives a str, not batches"),
        ("strings", "is a str without tensors"),
        ("nan", "holds 60 values that are not finite"),
        ("dataset", r"have the shape \(1,\), and the input \(1, 1\)"),
        ("missing", "there is no missing"),
    ],
)
def test_loaders_that_make_no_sense(code: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(f"{code}:{name}", VECTOR)


def test_loaders_that_break_later(code: Path) -> None:
    loaded = load(f"{code}:broken", VECTOR)
    where = r"KeyError: 'oops' \(loaders_of_test.py:\d+\)"
    with pytest.raises(InputError, match=where):
        list(loaded.batches)
    with pytest.raises(InputError, match=r"other batches each time|read only once"):
        list(load(f"{code}:used", VECTOR).batches)
    with pytest.raises(InputError, match="other batches each time"):
        list(load(f"{code}:own", VECTOR).batches)
    with pytest.raises(InputError, match="gives 1 batch"):
        load(f"{code}:pair", VECTOR).split()
