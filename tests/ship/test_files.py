"""Saved models: exact round trips, and nothing but a clear error from anything else."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import api
from secateur.core import plan_json
from secateur.core.budget import Params
from secateur.core.errors import FileError, InputError
from secateur.core.history import plans_of
from secateur.core.result import Result
from secateur.ship import files
from secateur.ship.files import PLAN, WEIGHTS, load, save
from secateur.units import Layer


class Net(nn.Module):
    """A residual network with a buffer, a tied weight and a size in its Python."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.heads = 3
        self.stem = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.block = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.qkv = nn.Linear(width, width)
        self.head = nn.Linear(width, 5)
        self.twin = nn.Linear(width, 5)
        self.twin.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = (x + self.block(x)).mean((2, 3))
        x = self.qkv(x).view(len(x), self.heads, -1).flatten(1)
        return self.head(x) + self.twin(x)


def build() -> Net:
    torch.manual_seed(0)
    return Net()


EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def result() -> Result:
    model = build().train()
    model(EXAMPLE * 3 + 1)
    return api.prune(model.eval(), EXAMPLE, budget=Params("60%"), latency=False)


@pytest.fixture(scope="module")
def saved(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(result, tmp_path_factory.mktemp("saved") / "deep" / "folder")


def state(model: nn.Module) -> dict[str, Any]:
    tensors = {name: t.detach().clone() for name, t in model.state_dict().items()}
    ids = {name: id(t) for name, t in model.named_parameters()}
    return {"tensors": tensors, "ids": ids, "mode": model.training, "repr": repr(model)}


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    tensors = left["tensors"].keys() == right["tensors"].keys() and all(
        torch.equal(left["tensors"][n], t) and left["tensors"][n].dtype == t.dtype
        for n, t in right["tensors"].items()
    )
    return tensors and all(left[k] == right[k] for k in ("ids", "mode", "repr"))


def test_round_trip_is_bit_for_bit(result: Result, saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {WEIGHTS, PLAN}
    again = load(saved, into=build)
    assert again.training
    assert torch.equal(again.eval()(EXAMPLE), result.model.eval()(EXAMPLE))
    assert again.twin.weight is again.head.weight
    assert again.head.weight.shape[1] < 12
    assert again.heads == result.model.heads  # type: ignore[attr-defined]
    assert plans_of(again) == tuple(result.plans)


def test_into_a_model_keeps_its_parameters(saved: Path, result: Result) -> None:
    model = build().eval()
    weight = model.head.weight
    assert load(saved, into=model) is model
    assert model.head.weight is weight
    assert torch.equal(model(EXAMPLE), result.model.eval()(EXAMPLE))


def test_random_state_stays(saved: Path) -> None:
    before = torch.random.get_rng_state()
    load(saved, into=Net)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_pruned_twice(result: Result, tmp_path: Path) -> None:
    second = api.prune(result.model, EXAMPLE, budget=Params("70%"), latency=False)
    assert len(second.plans) == 2
    save(second, tmp_path)
    assert len(json.loads((tmp_path / PLAN).read_text())["plans"]) == 2
    again = load(tmp_path, into=build).eval()
    assert torch.equal(again(EXAMPLE), second.model.eval()(EXAMPLE))
    third = api.prune(again, EXAMPLE, budget=Params("70%"), latency=False)
    assert len(third.plans) == 3


def test_removed_blocks(tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(self.up(x).relu())

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.body = nn.Sequential(Block(), Block(), Block())

        def forward(self, x: Tensor) -> Tensor:
            return self.body(self.first(x))

    example = torch.randn(2, 4)
    found = api.prune(Deep(), example, unit=Layer(), budget=Params("70%"), latency=False)
    assert found.plan.removed
    again = load(save(found, tmp_path), into=Deep)
    assert torch.equal(again(example), found.model(example))


def test_a_model_pruned_in_place(tmp_path: Path) -> None:
    model = build().eval()
    with pytest.raises(InputError, match="was not pruned"):
        save(model, tmp_path)
    api.prune_(model, EXAMPLE, budget=Params("60%"), latency=False)
    again = load(save(model, tmp_path), into=build).eval()
    assert torch.equal(again(EXAMPLE), model(EXAMPLE))


def test_channels_last_stays(saved: Path) -> None:
    model = build().to(memory_format=torch.channels_last)
    load(saved, into=model)
    assert model.block[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_saving_again_replaces(result: Result, tmp_path: Path) -> None:
    save(result, tmp_path)
    save(result, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    load(tmp_path, into=build)


@pytest.mark.parametrize("when", [WEIGHTS, PLAN])
def test_an_interrupted_save_never_loads_as_something_else(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    other = api.prune(build().eval(), EXAMPLE, budget=Params("40%"), latency=False)
    save(other, tmp_path)
    before = load(tmp_path, into=build).eval()(EXAMPLE)
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if target.name == when:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        save(result, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, PLAN}
    if when == WEIGHTS:
        assert torch.equal(load(tmp_path, into=build).eval()(EXAMPLE), before)
    else:
        with pytest.raises(FileError, match="not the file"):
            load(tmp_path, into=build)


def test_a_folder_that_cannot_be_written(result: Result, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        save(result, tmp_path / "file")


def copied(saved: Path, folder: Path) -> Path:
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    value = json.loads((folder / PLAN).read_text())
    change(value)
    (folder / PLAN).write_text(json.dumps(value))
    return folder


def rehashed(folder: Path) -> Path:
    """Let the plan agree with whatever the weights are now."""
    data = (folder / WEIGHTS).read_bytes()
    weights = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return rewritten(folder, lambda value: value.update(weights=weights))


def refused(folder: Path, match: str) -> None:
    model = build().train()
    model.norm.eval()
    before, norm = state(model), model.norm.training
    with pytest.raises(FileError, match=match):
        load(folder, into=model)
    assert same(before, state(model))
    assert model.norm.training == norm
    assert plans_of(model) == ()


def test_missing_files(tmp_path: Path, saved: Path) -> None:
    refused(tmp_path / "none", "there is no file")
    folder = copied(saved, tmp_path)
    (folder / WEIGHTS).unlink()
    refused(folder, "there is no file")


def test_truncated_and_changed_weights(tmp_path: Path, saved: Path) -> None:
    folder = copied(saved, tmp_path)
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-3])
    refused(folder, "not the file")
    (folder / WEIGHTS).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused(folder, "not the file")


def test_newer_versions_say_so(tmp_path: Path, saved: Path) -> None:
    folder = rewritten(copied(saved, tmp_path), lambda value: value.update(schema=2))
    refused(folder, "newer Secateur")
    copied(saved, tmp_path)
    rewritten(folder, lambda value: value["plans"][0].update(schema=7))
    refused(folder, "newer Secateur")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda v: v.update(kind="other"), "kind"),
        (lambda v: v.update(more=1), "not those of a saved model"),
        (lambda v: v.update(plans=[]), "not those of a saved model"),
        (lambda v: v.update(plans=v["plans"] * 2), "the plan is for a model with|does not fit"),
        (lambda v: v.update(weights={"bytes": 3}), "not those of a saved model"),
        (lambda v: v["plans"][0].update(fingerprint="0" * 64), "does not fit"),
        (lambda v: v["plans"][0].update(removed=["nobody"]), "not there"),
        (lambda v: v["plans"][0].update(removed=[""]), "not there"),
        (lambda v: v["plans"][0]["layouts"].update(nobody=[3]), "no such tensor"),
        (lambda v: v["plans"][0]["layouts"].update({"stem.bias": [2**31 - 1]}), "of shape"),
        (
            lambda v: v["plans"][0]["attributes"].append(
                {"module": "", "path": "forward", "value": 3, "layout": 3}
            ),
            "forward = 3",
        ),
        (
            lambda v: v["plans"][0]["attributes"].append(
                {"module": "", "path": "heads.real.x", "value": 3, "layout": 3}
            ),
            "heads.real.x = 3",
        ),
    ],
)
def test_changed_plans(
    tmp_path: Path, saved: Path, change: Callable[[dict[str, Any]], None], match: str
) -> None:
    refused(rewritten(copied(saved, tmp_path), change), match)


def test_other_models(saved: Path) -> None:
    for other in (lambda: Net(13), lambda: nn.Linear(2, 2), lambda: build().double()):
        with pytest.raises(FileError, match="hint"):
            load(saved, into=other)


def test_weights_of_another_dtype(saved: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(saved, tmp_path)
    tensors = load_file(folder / WEIGHTS)
    save_file({name: t.half() for name, t in tensors.items()}, folder / WEIGHTS)
    refused(rehashed(folder), "another model")


def test_untied_weights_do_not_load_into_tied_ones(saved: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(saved, tmp_path)
    tensors = load_file(folder / WEIGHTS)
    assert "twin.weight" not in tensors
    save_file({**tensors, "twin.weight": tensors["head.weight"].clone()}, folder / WEIGHTS)
    load(rehashed(folder), into=build)
    save_file({**tensors, "twin.weight": tensors["head.weight"] + 1}, folder / WEIGHTS)
    refused(rehashed(folder), "two different tensors")


def test_a_failure_half_way_is_taken_back(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    before, calls = state(model), []

    def failing(new: Tensor, tensor: Tensor) -> Tensor:
        calls.append(0)
        if len(calls) == 4:
            raise MemoryError
        return new

    monkeypatch.setattr(files, "_like", failing)
    with pytest.raises(MemoryError):
        load(saved, into=model)
    assert same(before, state(model))


@pytest.mark.parametrize("into", [3, lambda: 3, nn.Linear])
def test_wrong_constructors(saved: Path, into: Any) -> None:
    with pytest.raises(InputError):
        load(saved, into=into)


def test_a_hostile_header_allocates_nothing(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    entry = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    header = json.dumps({"stem.weight": entry}).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
    refused(rehashed(folder), "cannot be read")
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**60) + b"{}")
    refused(rehashed(folder), "cannot be read")


def mutations(data: bytes, seed: int, count: int) -> list[bytes]:
    """Bytes flipped, cut out, doubled and inserted, mostly near the start, where headers are."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        near = min(len(data), draw.choice([16, 400, 2000, len(data)]))
        at, length = draw.randrange(near), draw.randint(1, 8)
        kind = draw.randrange(6)
        if kind == 0:
            new = data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
        elif kind == 1:
            new = data[:at] + data[at + length :]
        elif kind == 2:
            new = data[:at] + data[at : at + length] * 2 + data[at + length :]
        elif kind == 3:
            new = data[:at] + draw.randbytes(length) + data[at:]
        elif kind == 4:
            new = data[:at]
        else:
            digits = [i for i, byte in enumerate(data[:20_000]) if 48 <= byte < 58]
            at = draw.choice(digits)
            new = data[:at] + b"%d" % draw.randrange(10) + data[at + 1 :]
        found.append(new)
    return found


def attempt(folder: Path, model: nn.Module, before: dict[str, Any]) -> bool:
    """Load; True if it worked. On failure the model must be untouched."""
    try:
        load(folder, into=model)
    except FileError:
        assert same(before, state(model))
        return False
    return True


@pytest.mark.parametrize("seed", range(4))
def test_mutated_weights(saved: Path, tmp_path: Path, seed: int) -> None:
    folder, model = copied(saved, tmp_path), build()
    before = state(model)
    for data in mutations((saved / WEIGHTS).read_bytes(), seed, 250):
        (folder / WEIGHTS).write_bytes(data)
        (folder / PLAN).write_bytes((saved / PLAN).read_bytes())
        if data != (saved / WEIGHTS).read_bytes():
            assert not attempt(folder, model, before)
        if attempt(rehashed(folder), model, before):  # only values were changed
            assert len(data) == len((saved / WEIGHTS).read_bytes())
            model = build()
            before = state(model)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_plans(saved: Path, tmp_path: Path, seed: int) -> None:
    folder, model = copied(saved, tmp_path), build()
    before = state(model)
    for data in mutations((saved / PLAN).read_bytes(), 100 + seed, 400):
        (folder / PLAN).write_bytes(data)
        if attempt(folder, model, before):  # only a word for people was changed
            model = build()
            before = state(model)


def test_too_large_plans(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_json, "MAX_TEXT", 10)
    refused(copied(saved, tmp_path), "too large")


def test_loaded_weights_do_not_depend_on_the_file(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    model = load(folder, into=build)
    before = model.head.weight.detach().clone()
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(b"\xff" * (folder / WEIGHTS).stat().st_size)
    assert torch.equal(model.head.weight, before)
    assert all(tensor.data_ptr() % 16 == 0 for tensor in model.state_dict().values())
