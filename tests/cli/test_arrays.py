"""Samples from files of arrays."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from secateur.cli import arrays
from secateur.cli.arrays import array_source
from secateur.cli.wanted import Wanted
from secateur.core.errors import FileError, InputError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3)).astype(np.float32)
Y = np.arange(6)
VECTOR = Wanted.of(torch.zeros(1, 3))


def pairs(path: Path, wanted: Wanted = VECTOR, indices: tuple[int, ...] = (4, 0, 5)) -> object:
    return array_source(path, wanted).opened()(np.array(indices))


def write(path: Path, **arrays: np.ndarray) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: torch.from_numpy(a.copy()) for name, a in arrays.items()}, path)
    else:
        np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("file", ["a.npz", "a.safetensors"])
@pytest.mark.parametrize(
    ("inputs", "labels"), [("x", "y"), ("images", "labels"), ("data", "target"), ("X", "Y")]
)
def test_usual_names(tmp_path: Path, file: str, inputs: str, labels: str) -> None:
    path = write(tmp_path / file, **{labels: Y, inputs: X})
    source = array_source(path, VECTOR)
    assert source.labelled
    assert source.samples == 6
    x, y = source.opened()(np.array([4, 0, 5]))
    assert torch.equal(x, torch.from_numpy(X[[4, 0, 5]]))
    assert y.dtype == torch.int64
    assert y.tolist() == [4, 0, 5]


def test_packed_archives_are_the_same(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=X, y=Y)
    x, y = pairs(tmp_path / "a.npz")  # type: ignore[misc]
    assert torch.equal(x, torch.from_numpy(X[[4, 0, 5]]))
    assert y.tolist() == [4, 0, 5]


@pytest.mark.parametrize("kind", [">f4", "<f8", "f2", ">i2", "u2", "i8", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_numbers_in_any_order(tmp_path: Path, kind: str, order: str) -> None:
    array = np.asarray(RNG.integers(0, 2, (6, 3)), dtype=kind, order=order)  # type: ignore[call-overload]
    path = tmp_path / "only.npy"
    np.save(path, array)
    found = pairs(path)
    expected = array[[4, 0, 5]].astype(np.float32) / (255 if kind == "u1" else 1)
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found, torch.from_numpy(expected))


def test_plain_archives_are_not_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", x=X, y=Y)
    source = array_source(path, VECTOR)
    assert isinstance(source.inputs[0].load(), np.memmap)
    np.save(tmp_path / "a.npy", X)
    assert isinstance(array_source(tmp_path / "a.npy", VECTOR).inputs[0].load(), np.memmap)


def test_an_only_array_of_any_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", whatever=X)
    assert not array_source(path, VECTOR).labelled
    assert torch.equal(pairs(path), torch.from_numpy(X[[4, 0, 5]]))  # type: ignore[arg-type]
    path = write(tmp_path / "b.npz", whatever=X, y=Y)
    assert array_source(path, VECTOR).labelled
    path = write(tmp_path / "c.npz", y=X)
    assert not array_source(path, VECTOR).labelled


def test_named_inputs(tmp_path: Path) -> None:
    lengths = np.array([1, 2, 3, 3, 2, 1])
    path = write(tmp_path / "a.npz", other=Y, length=lengths, x=X, y=Y)
    wanted = Wanted.of({"x": torch.zeros(1, 3), "length": torch.ones(1, dtype=torch.int64)})
    batch = pairs(path, wanted)
    assert isinstance(batch, dict)
    assert list(batch) == ["x", "length", "labels"]
    assert batch["length"].tolist() == [2, 1, 1]
    with pytest.raises(InputError, match="no array for the input lengths") as error:
        array_source(path, Wanted.of({"x": torch.zeros(1, 3), "lengths": torch.ones(1)}))
    assert error.value.hint is not None
    assert "did you mean length" in error.value.hint


def test_several_inputs_by_position(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", a=X, b=X[:, :2], y=Y)
    wanted = Wanted.of((torch.zeros(1, 3), torch.zeros(1, 2)))
    a, b, y = pairs(path, wanted)  # type: ignore[misc]
    assert (a.shape, b.shape, y.shape) == ((3, 3), (3, 2), (3,))


def test_labels(tmp_path: Path) -> None:
    column = write(tmp_path / "column.npz", x=X, y=Y[:, None].astype(np.uint8))
    assert pairs(column)[1].tolist() == [4, 0, 5]  # type: ignore[index]
    real = write(tmp_path / "real.npz", x=X, y=X[:, :1].astype(np.float64))
    assert pairs(real)[1].dtype == torch.float32  # type: ignore[index]
    bad = write(tmp_path / "bad.npz", x=X, y=np.array([0, 1, np.nan, 3, 4, 5]))
    with pytest.raises(InputError, match=r"y in .*bad.npz holds 1 values that are not finite"):
        pairs(bad, indices=(2,))


def test_bfloat16(tmp_path: Path) -> None:
    save_file({"x": torch.from_numpy(X).bfloat16()}, tmp_path / "a.safetensors")
    found = pairs(tmp_path / "a.safetensors", indices=(1,))
    assert torch.equal(found, torch.from_numpy(X[[1]]).bfloat16().float())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"x": X, "y": Y[:5]}, "unequal lengths: 6 in x, 5 in y"),
        ({"x": X, "images": X}, "holds both x and images"),
        ({"x": X, "y": Y, "labels": Y}, "holds both y and labels"),
        ({"a": X, "b": X, "y": Y}, "holds a, b, y: which"),
        ({"x_train": X, "x_test": X}, "which of these"),
        ({"x": X[:0], "y": Y[:0]}, "holds no samples"),
        ({"x": X[:, :2]}, r"samples of x in .* have the shape \(2,\)"),
        ({"x": np.array(["a", "b"])}, "x in .* does not hold real numbers"),
        ({"x": X + 1j}, "does not hold real numbers"),
        ({"x": np.float32(3)}, "x in .* is one number"),
        ({"x": X, "y": np.array(["a"] * 6)}, "y in .* does not hold real numbers"),
    ],
)
def test_arrays_that_make_no_sense(
    tmp_path: Path, held: dict[str, np.ndarray], message: str
) -> None:
    path = write(tmp_path / "a.npz", **held)
    with pytest.raises(InputError, match=message) as error:
        array_source(path, VECTOR)
    assert error.value.hint


class _Trap:
    """Unpickling this would raise."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _sprung, ("unpickled",)


def _sprung(word: str) -> None:
    raise AssertionError(word)


@pytest.mark.parametrize("file", ["a.npz", "a.npy"])
def test_objects_are_not_unpickled(tmp_path: Path, file: str) -> None:
    array = np.array([_Trap()] * 6, dtype=object)
    path = tmp_path / file
    np.savez(path, x=array) if file == "a.npz" else np.save(path, array, allow_pickle=True)
    with pytest.raises(FileError, match="holds Python objects") as error:
        array_source(path, VECTOR)
    assert error.value.hint


def test_objects_beside_the_arrays_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", x=X, y=Y, meta=np.array([_Trap()], dtype=object))
    assert pairs(path)[1].tolist() == [4, 0, 5]  # type: ignore[index]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_truncated_archives(tmp_path: Path, packed: bool, share: float) -> None:
    path = tmp_path / "a.npz"
    (np.savez_compressed if packed else np.savez)(path, x=X, y=Y)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(FileError, match=r"a.npz cannot be read") as error:
        pairs(path)
    assert error.value.hint


@pytest.mark.parametrize("file", ["a.npy", "a.safetensors"])
def test_every_truncation_of_single_files(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    np.save(path, X) if file == "a.npy" else write(path, x=X)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(FileError):
            pairs(path)


@pytest.mark.parametrize("file", ["a.npz", "a.npy"])
def test_flipped_bytes_give_data_or_a_clear_error(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    np.savez_compressed(path, x=X, y=Y) if file == "a.npz" else np.save(path, X)
    content = path.read_bytes()
    caught = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0x5A
        path.write_bytes(damaged)
        try:
            pairs(path)
        except (FileError, InputError):
            caught += 1
    assert caught > len(content) // 8


def test_damage_inside_a_packed_array(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=RNG.normal(size=(600, 3)))
    with zipfile.ZipFile(path) as archive:
        entry = archive.infolist()[0]
    content = bytearray(path.read_bytes())
    middle = entry.header_offset + entry.compress_size // 2
    content[middle : middle + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(FileError, match="cannot be read"):
        pairs(path)


def test_what_is_no_file_of_arrays(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no file"):
        array_source(tmp_path / "none.npz", VECTOR)
    path = tmp_path / "a.npz"
    path.write_text("hello")
    with pytest.raises(FileError, match="cannot be read"):
        array_source(path, VECTOR)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="holds no array"):
        array_source(path, VECTOR)


def test_large_arrays_are_not_unpacked_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_MOST_UNPACKED", X.nbytes - 1)
    np.savez(tmp_path / "plain.npz", x=X)
    assert torch.equal(pairs(tmp_path / "plain.npz"), torch.from_numpy(X[[4, 0, 5]]))  # type: ignore[arg-type]
    np.savez_compressed(tmp_path / "packed.npz", x=X)
    with pytest.raises(FileError, match="unpacks to") as error:
        pairs(tmp_path / "packed.npz")
    assert error.value.hint
