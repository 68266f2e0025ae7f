"""What `--data` means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.cli.data import Loaded, load, numbers
from secateur.cli.inputs import example
from secateur.core.errors import FileError, InputError, RecipeError

VECTOR = torch.zeros(1, 1)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """One hundred samples that are their own labels, sorted."""
    values = np.arange(100)
    np.savez(tmp_path / "table.npz", x=values[:, None].astype(np.float32), y=values)
    return tmp_path / "table.npz"


def labels(loaded: Loaded) -> list[int]:
    found = [batch[1] for batch in loaded.batches]
    return torch.cat(found).tolist() if found else []


def test_arrays_are_shuffled_once_with_a_seed(table: Path) -> None:
    loaded = load(str(table), VECTOR, batch=30)
    assert (loaded.labelled, loaded.samples) == (True, 100)
    first = labels(loaded)
    assert sorted(first) == list(range(100))
    assert first != list(range(100))
    assert labels(loaded) == first
    assert labels(load(str(table), VECTOR, batch=7)) == first
    assert labels(load(str(table), VECTOR, seed=1)) != first
    assert [len(batch[0]) for batch in loaded.batches] == [30, 30, 30, 10]
    for x, y in loaded.batches:
        assert torch.equal(x[:, 0], y.float())


def test_the_random_state_stays(table: Path) -> None:
    before = torch.random.get_rng_state()
    list(load(str(table), VECTOR).batches)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("asked", "first"), [(20, 20), (50, 50), (512, 50), (1, 1)])
def test_splits_are_disjoint_and_complete(table: Path, asked: int, first: int) -> None:
    calibration, evaluation = load(str(table), VECTOR, batch=16).split(asked)
    assert (calibration.samples, evaluation.samples) == (first, 100 - first)
    a, b = labels(calibration), labels(evaluation)
    assert len(a) == first
    assert sorted(a + b) == list(range(100))
    assert labels(load(str(table), VECTOR).split(asked)[0]) == a


def test_splits_that_are_impossible(table: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        load(str(table), VECTOR).split(0)
    np.save(tmp_path / "one.npy", np.zeros((1, 1)))
    with pytest.raises(InputError, match="one sample"):
        load(str(tmp_path / "one.npy"), VECTOR).split()


def test_folders(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for k in range(10):
        folder = tmp_path / "images" / f"class {k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (40, 30), (k * 20, 0, 0)).save(folder / f"{k}.png")
    loaded = load(str(tmp_path / "images"), example(["1,3,8,8"]), batch=4, mean=(0, 0, 1))
    assert (loaded.labelled, loaded.samples) == (True, 10)
    seen = []
    for x, y in loaded.batches:
        assert x.shape[1:] == (3, 8, 8)
        assert x[:, 2].max() == -1
        number = (x[:, 0, 0, 0] * 255 / 20).round().long()
        assert torch.equal(number % 2, y)
        seen += number.tolist()
    assert sorted(seen) == list(range(10))
    assert seen != sorted(seen)
    with pytest.raises(InputError) as error:
        load(str(tmp_path / "images" / "class 0" / "0.png"), example(["1,3,8,8"]))
    assert error.value.hint == "give the folder that it is in"


@pytest.mark.parametrize("data", ["none", "none.npz", "none/", "none.npy", "none.safetensors"])
def test_missing(tmp_path: Path, data: str) -> None:
    with pytest.raises(FileError, match="there is no file"):
        load(str(tmp_path / data), VECTOR)


def test_wrong_options(table: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        load(str(table), VECTOR, batch=0)
    with pytest.raises(RecipeError, match="normalise in the loader"):
        load(f"{tmp_path}/any.py:ready", VECTOR, mean=(0.5,))
    (tmp_path / "data.csv").write_text("1,2\n")
    with pytest.raises(InputError, match="is not data"):
        load(str(tmp_path / "data.csv"), VECTOR)
    with pytest.raises(InputError, match="there is no file"):
        load(f"{tmp_path}/none.py:x", VECTOR)


def test_numbers() -> None:
    assert numbers("1, 2.5,-3e-1") == (1.0, 2.5, -0.3)
    for text in ("", "a", "1,,2", "1,nan", "inf"):
        with pytest.raises(InputError, match="is not numbers"):
            numbers(text)
