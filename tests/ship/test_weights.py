"""Weights in files: what is shared stays shared, and no file can run code or exhaust memory."""

from __future__ import annotations

import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model, save_file
from torch import nn

from secateur.core.errors import FileError, InputError
from secateur.ship.weights import fit_weights, read_weights, state_of, write_tensors


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.b.weight = self.a.weight


def test_shared_tensors_are_stored_once_and_come_back_under_both_names(tmp_path: Path) -> None:
    model, path = Tied(), tmp_path / "w.safetensors"
    write_tensors(state_of(model), path)
    weights = read_weights(path)
    assert weights.keys() == model.state_dict().keys()
    assert load_file(path).keys() == weights.keys() - {"b.weight"}
    again = Tied()
    fit_weights(again, weights, path)
    assert torch.equal(again.b.weight, model.a.weight)
    load_model(Tied(), path)  # safetensors' own reader understands the aliases


def test_views_of_one_storage_are_stored_whole(tmp_path: Path) -> None:
    base, path = torch.arange(12.0).view(3, 4), tmp_path / "w.safetensors"
    state = {"rows": base[:2], "columns": base[:, 1:], "turned": base.t(), "none": torch.zeros(0)}
    write_tensors(state, path)
    for name, tensor in read_weights(path).items():
        assert torch.equal(tensor, state[name])


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_checkpoints_are_unwrapped(tmp_path: Path, suffix: str) -> None:
    state = nn.Linear(2, 2).state_dict()
    for value in (state, {"state_dict": state, "epoch": 3}, {"model": state}):
        torch.save(value, tmp_path / f"w{suffix}")
        found = read_weights(str(tmp_path / f"w{suffix}"))
        assert torch.equal(found["weight"], state["weight"])


def test_the_old_format_is_read(tmp_path: Path) -> None:
    state = nn.Linear(2, 2).state_dict()
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "w.pt").keys() == state.keys()


class Evil:
    ran = False

    def __reduce__(self) -> Any:
        return (setattr, (Evil, "ran", True))


@pytest.mark.parametrize("value", [Evil(), {"weight": Evil()}, nn.Linear(2, 2)])
def test_code_never_runs(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(FileError, match="could run code"):
        read_weights(tmp_path / "w.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(FileError):
        read_weights(tmp_path / "plain.pt")
    assert not Evil.ran


@pytest.mark.parametrize("value", [3, [], {}, {"epoch": 3}, {3: torch.zeros(1)}])
def test_no_state_dict(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(FileError, match="holds"):
        read_weights(tmp_path / "w.pt")


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**6)
    with pytest.raises(FileError, match="would expand"):
        read_weights(tmp_path / "w.pt")


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no file"):
        read_weights(tmp_path / "w.pt")
    (tmp_path / "w.txt").write_text("")
    with pytest.raises(FileError, match="not a file of weights"):
        read_weights(tmp_path / "w.txt")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "old.pt"])
def test_mutated_files_raise_file_errors_only(tmp_path: Path, name: str) -> None:
    path, draw = tmp_path / name, random.Random(7)
    state = {"a": torch.arange(6.0), "b": torch.zeros(2, 3, dtype=torch.int64)}
    if name == "w.safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name == "w.pt")
    data = path.read_bytes()
    for _ in range(500):
        at = draw.randrange(min(len(data), draw.choice([64, 512, len(data)])))
        flipped = bytes([data[at] ^ (1 << draw.randrange(8))])
        new = draw.choice(
            [data[:at], data[:at] + flipped + data[at + 1 :], data[:at] + data[at + 3 :]]
        )
        path.write_bytes(new)
        try:
            read_weights(path)
        except FileError as error:
            assert error.message


def test_weights_of_another_model_touch_nothing() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    wrong = [
        {"weight": torch.zeros(2, 2)},
        {"weight": torch.zeros(2, 2), "bias": torch.zeros(2), "more": torch.zeros(1)},
        {"weight": torch.zeros(2, 2), "bias": torch.zeros(3)},
    ]
    for weights in wrong:
        with pytest.raises(FileError, match="another model"):
            fit_weights(model, weights, "w.pt")
    assert torch.equal(model.weight, before)


def test_differences_are_listed_but_not_all() -> None:
    weights = {f"layer{i}": torch.zeros(1) for i in range(9)}
    with pytest.raises(FileError, match=r"lacks weight, bias and has also .* and 6 more"):
        fit_weights(nn.Linear(2, 2), weights, "w.pt")


def test_what_cannot_be_saved_says_so(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

        def set_extra_state(self, state: dict[str, int]) -> None: ...

    with pytest.raises(InputError, match="not a tensor"):
        state_of(Extra(1, 1))
    hooked = nn.Linear(1, 1)
    hooked.register_state_dict_post_hook(lambda m, s, p, _: s.update(sum=m.weight + 1))
    with pytest.raises(InputError, match="neither a parameter nor a buffer"):
        state_of(hooked)
    with pytest.raises(InputError, match="dense"):
        write_tensors({"a": torch.eye(2).to_sparse()}, tmp_path / "w.safetensors")
