"""Sparse tensors in files: exact, small, and no file makes the reader do anything foolish."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur import api
from secateur.core.budget import Sparsity
from secateur.core.errors import FileError
from secateur.ship.files import PLAN, WEIGHTS, load, save
from secateur.ship.sparse import KEY, encode
from secateur.ship.weights import read_weights, write_tensors
from secateur.units import Weight

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn)


def sparse(*shape: int, keep: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    kept = torch.rand(shape, generator=draw) < keep
    return (torch.randn(shape, generator=draw) * kept).to(dtype)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def again(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    write_tensors(tensors, path, packed=True)
    return read_weights(path)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("keep", [0.0, 0.0005, 0.05, 0.3])
def test_round_trips_keep_every_bit(tmp_path: Path, dtype: torch.dtype, keep: float) -> None:
    tensor = sparse(61, 131, keep=keep, dtype=dtype)
    found = again({"w": tensor}, tmp_path / "w.safetensors")["w"]
    assert found.dtype == dtype
    assert found.shape == tensor.shape
    assert bits(found.double() + 0) == bits(tensor.double() + 0)  # without signs of zeros
    assert "w::values" in load_file(tmp_path / "w.safetensors")


def test_only_zeros_are_no_values(tmp_path: Path) -> None:
    tensor = torch.full((4000,), -0.0)
    tensor[:4] = torch.tensor([float("nan"), float("inf"), -1e-45, 1e-45])
    assert len(encode({"w": tensor})[0]["w::values"]) == 4
    found = again({"w": tensor}, tmp_path / "w.safetensors")["w"]
    assert bits(found[:4]) == bits(tensor[:4])
    assert bits(found[4:]) == bytes(4 * 3996)


@pytest.mark.parametrize("places", [[], [0], [254], [255], [256], [509, 510, 511], [9999], [9744]])
def test_runs_of_every_length(tmp_path: Path, places: list[int]) -> None:
    tensor = torch.zeros(10_000)
    tensor[places] = 1.5
    assert torch.equal(again({"w": tensor}, tmp_path / "w.safetensors")["w"], tensor)


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 7.5), (torch.bfloat16, 6.3)])
def test_a_tenth_of_the_weights_takes_less_than_a_sixth(
    tmp_path: Path, dtype: torch.dtype, least: float
) -> None:
    tensors = {f"layer{k}": sparse(256, 256, keep=0.1, seed=k, dtype=dtype) for k in range(4)}
    write_tensors(tensors, tmp_path / "dense.safetensors")
    write_tensors(tensors, tmp_path / "sparse.safetensors", packed=True)
    dense, small = ((tmp_path / f"{n}.safetensors").stat().st_size for n in ("dense", "sparse"))
    assert dense / small > least


def test_dense_files_stay_as_every_reader_knows_them(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(64, 64), "b": torch.zeros(64), "n": torch.zeros(900, dtype=int)}
    assert encode(tensors) == (tensors, None)
    write_tensors(tensors, tmp_path / "w.safetensors", packed=True)
    assert load_file(tmp_path / "w.safetensors").keys() == tensors.keys()


def test_names_that_look_like_parts_stay_apart(tmp_path: Path) -> None:
    tensors = {"w": torch.zeros(5000), "w::mask": torch.ones(3), "v": torch.zeros(5000)}
    found = again(tensors, tmp_path / "w.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 96), nn.Linear(96, 96)
        self.third = nn.Linear(96, 96)
        self.third.weight = self.second.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x).relu()).relu())


def build() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = api.prune(
        build(), torch.randn(2, 16), unit=Weight(), budget=Sparsity(0.9), latency=False
    )
    folder = save(result, tmp_path_factory.mktemp("saved"))
    dense = save(result, folder / "dense", sparse=False)
    assert torch.equal(load(dense, into=build).second.weight, result.model.second.weight)
    assert load_file(dense / WEIGHTS).keys() == {*build().state_dict()} - {"third.weight"}
    again = load(folder, into=build)
    assert all(map(torch.equal, again.state_dict().values(), result.model.state_dict().values()))
    assert again.third.weight is again.second.weight
    return folder


def test_a_sparse_model_is_stored_so(saved: Path) -> None:
    stored = load_file(saved / WEIGHTS)
    assert {"first.weight::values", "second.weight::gaps"} <= stored.keys()
    size, whole = ((folder / WEIGHTS).stat().st_size for folder in (saved, saved / "dense"))
    assert size < whole / 5  # biases, and a header, are in both


Change = Callable[[dict[str, Tensor], dict[str, Any]], None]


def changed(saved: Path, folder: Path, change: Change) -> Path:
    """A copy whose tensors and list of shapes are changed, and whose hash agrees with it."""
    tensors = dict(load_file(saved / WEIGHTS))
    entry = {"schema": 1, "shapes": {"first.weight": [96, 16], "second.weight": [96, 96]}}
    change(tensors, entry)
    metadata = {"third.weight": "second.weight", KEY: json.dumps(entry)}
    save_file(tensors, folder / WEIGHTS, metadata=metadata)
    return rehashed(saved, folder)


def rehashed(saved: Path, folder: Path) -> Path:
    from secateur.ship.files import _digest

    value = json.loads((saved / PLAN).read_text())
    (folder / PLAN).write_text(json.dumps({**value, "weights": _digest(folder / WEIGHTS)}))
    return folder


def one_more(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name] = torch.cat([tensors[name], tensors[name][:1]])


def gaps(value: int, at: int) -> Change:
    def change(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
        tensors["second.weight::gaps"][at] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t, e: e.update(schema=2), "newer Secateur"),
        (lambda t, e: e.update(schema=True), "other fields"),
        (lambda t, e: e.update(more=1), "other fields"),
        (lambda t, e: e.update(shapes=[]), "no shape"),
        (lambda t, e: e["shapes"].update({"first.weight": [1536.0]}), "no shape"),
        (lambda t, e: e["shapes"].update({"first.weight": [-96, -16]}), "no shape"),
        (lambda t, e: e["shapes"].update({"first.weight": [1] * 65}), "no shape"),
        (lambda t, e: e["shapes"].update({"first.weight": [float("nan")]}), "is no number"),
        (lambda t, e: e["shapes"].update({"first.weight": [2**31 - 1] * 20}), "cannot be stored"),
        (lambda t, e: e["shapes"].update({"first.weight": [16, 96]}), "another model"),
        (lambda t, e: e["shapes"].update({"nobody": [3]}), "should be stored"),
        (lambda t, e: e["shapes"].update({"first.bias": [96]}), "should be stored"),
        (lambda t, e: e["shapes"].pop("first.weight"), "another model"),
        (lambda t, e: t.update({"first.weight": torch.zeros(96, 16)}), "should be stored"),
        (lambda t, e: t.update({"second.weight::mask": torch.zeros(9)}), "should be stored"),
        (lambda t, e: t.pop("second.weight::values"), "should be stored"),
        (lambda t, e: t.pop("second.weight::gaps"), "should be stored"),
        (lambda t, e: one_more(t, "second.weight::values"), "is not that of|cannot be stored"),
        (lambda t, e: one_more(t, "second.weight::gaps"), "is not that of"),
        (gaps(255, 3), "is not that of"),
        (gaps(254, -1), "is not that of"),
        (
            lambda t, e: t.update({"second.weight::gaps": t["second.weight::gaps"].int()}),
            "is stored as",
        ),
        (
            lambda t, e: t.update({"second.weight::values": t["second.weight::values"][None]}),
            "is stored as",
        ),
        (
            lambda t, e: t.update({"second.weight::values": t["second.weight::values"].int()}),
            "is stored as",
        ),
        (
            lambda t, e: t.update({"second.weight::values": t["second.weight::values"].half()}),
            "another model",
        ),
    ],
)
def test_wrong_files_say_what_is_wrong(
    saved: Path, tmp_path: Path, change: Change, match: str
) -> None:
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(FileError, match=match) as raised:
        load(changed(saved, tmp_path, change), into=model)
    assert raised.value.hint
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def test_masks_must_have_as_many_bits_as_values(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_tensors({"w": sparse(60, 61, keep=0.3)}, path, packed=True)
    tensors = load_file(path)
    entry = {KEY: json.dumps({"schema": 1, "shapes": {"w": [3660]}})}
    for at, bit in ((0, 1), (-1, 0x80)):  # the last bits stand for no entry
        mask = tensors["w::mask"].clone()
        mask[at] ^= bit
        save_file({**tensors, "w::mask": mask}, path, metadata=entry)
        with pytest.raises(FileError, match="is not that of"):
            read_weights(path)


def test_lists_with_a_name_twice_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for text in ('{"schema": 1, "schema": 1, "shapes": {}}', "[" * 100_000, "{", "3"):
        save_file({"w": torch.ones(1)}, path, metadata={KEY: text})
        with pytest.raises(FileError, match="list of sparse tensors"):
            read_weights(path)


def test_small_files_do_not_become_huge(tmp_path: Path) -> None:
    path, n = tmp_path / "w.safetensors", 2**31 - 1
    parts = {"w::gaps": torch.full((n // 255,), 255, dtype=torch.uint8)[:1000]}
    entry = {KEY: json.dumps({"schema": 1, "shapes": {"w": [255 * 1000]}})}
    save_file({**parts, "w::values": torch.zeros(0)}, path, metadata=entry)
    with pytest.raises(FileError, match="cannot be stored"):
        read_weights(path)


def mutate(saved: Path, folder: Path, seed: int, count: int) -> int:
    """Read changed files, the hash set right; the number that were refused."""
    draw, data = random.Random(seed), (saved / WEIGHTS).read_bytes()
    model, refused = build(), 0
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    header = 8 + int.from_bytes(data[:8], "little")
    digits = [i for i, byte in enumerate(data[:header]) if 48 <= byte < 58]
    for _ in range(count):
        at, kind = draw.randrange(draw.choice([header, len(data)])), draw.randrange(4)
        if kind == 0:
            at = draw.choice(digits)
            new = data[:at] + b"%d" % draw.randrange(10) + data[at + 1 :]
        elif kind == 1:
            new = data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
        elif kind == 2:
            new = data[:at] + draw.randbytes(draw.randint(1, 8)) + data[at:]
        else:
            new = data[:at] + data[at + draw.randint(1, 8) :]
        (folder / WEIGHTS).write_bytes(new)
        try:
            load(rehashed(saved, folder), into=model)
            model = build()
        except FileError as error:
            refused += 1
            assert error.message
            now = model.state_dict()
            assert all(torch.equal(before[name], now[name]) for name in before)
    return refused


def test_mutated_files(saved: Path, tmp_path: Path) -> None:
    assert mutate(saved, tmp_path, 0, 400) > 200


@pytest.mark.slow
def test_very_many_mutated_files(saved: Path, tmp_path: Path) -> None:
    assert mutate(saved, tmp_path, 1, 100_000) > 50_000
