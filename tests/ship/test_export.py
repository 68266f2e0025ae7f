"""Exports: the file gives what the model gives in its own runtime, or there is no file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import api
from secateur.core.batches import Call
from secateur.core.budget import Params
from secateur.core.errors import FileError, InputError, VerificationError
from secateur.ship import formats
from secateur.ship.export import export


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


class Two(nn.Module):
    """Two inputs and two outputs, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 4)

    def forward(self, ids: Tensor, scale: Tensor) -> dict[str, Tensor]:
        hidden = self.head(self.embed(ids)).tanh()
        return {"all": hidden, "first": hidden[:, 0] * scale}


X = torch.randn(1, 6, generator=torch.Generator().manual_seed(2))


def test_a_pruned_model_runs_without_its_class(tmp_path: Path) -> None:
    result = api.prune(build().eval(), X, budget=Params("50%"), latency=False)
    result.model.train()
    done = export(result, tmp_path / "new" / "m.pt2", X)
    assert result.model.training
    assert done.dynamic
    assert done.notes == ()
    assert done.bytes == done.path.stat().st_size
    assert list(done.path.parent.iterdir()) == [done.path]
    program = torch.export.load(done.path)
    assert program.example_inputs is None
    many = torch.randn(7, 6)
    assert torch.allclose(program.module()(many), result.model.eval()(many), atol=1e-6)
    assert "verified: run by PyTorch" in str(done)
    assert "batches of any size" in str(done)


SERVE = """
import sys
sys.modules["secateur"] = None  # importing it would fail
import torch
network = torch.export.load(sys.argv[1]).module()
print(network(torch.ones(5, 6)).shape, network(torch.ones(2, 6)).sum().item())
"""


def test_a_file_is_served_without_this_library(tmp_path: Path) -> None:
    result = api.prune(build().eval(), X, budget=Params("50%"), latency=False)
    done = export(result, tmp_path / "m.pt2", X)
    command = [sys.executable, "-W", "ignore", "-c", SERVE, str(done.path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    *shape, total = ran.stdout.split()
    with torch.no_grad():
        expected = float(result.model(torch.ones(2, 6)).sum())
    assert " ".join(shape) == "torch.Size([5, 3])"
    assert float(total) == pytest.approx(expected, abs=1e-5)


def test_inputs_by_name(tmp_path: Path) -> None:
    example = {"ids": torch.tensor([[1, 2], [3, 4], [5, 6]]), "scale": torch.rand(3, 1)}
    done = export(Two(), tmp_path / "m.pt2", example)
    assert done.dynamic
    assert done.difference < 1e-6


def test_a_batch_that_the_code_fixes_is_named(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(4, 6) * 2

    done = export(Fixed(), tmp_path / "m.pt2", X.expand(4, 6))
    assert not done.dynamic
    assert done.notes[0].startswith("the batch has a fixed size: ")
    assert "of the example's size only" in str(done)


def test_zeros_are_said_to_be_stored(tmp_path: Path) -> None:
    model = build()
    with torch.no_grad():
        model[0].weight[:8] = 0  # type: ignore[index]
    done = export(model, tmp_path / "m.pt2", X)
    assert "of the weights are zero" in done.notes[0]


def test_what_cannot_be_exported_says_so(tmp_path: Path) -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if float(x.sum()) > 0 else x

    with pytest.raises(InputError, match=r"torch\.export cannot export this Branch") as raised:
        export(Branch(), tmp_path / "m.pt2", X)
    assert raised.value.hint
    with pytest.raises(InputError, match="no export is known") as raised:
        export(build(), tmp_path / "m.tflite", X)
    assert raised.value.hint == "end it in .pt2, .onnx, .xml, .pte"
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        export(build(), tmp_path / "file" / "m.pt2", X)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_gives_other_outputs_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = formats.FORMATS[".pt2"].load

    def wrong(path: Path) -> Any:
        run = load(path)
        return lambda call: [1.01 * output for output in run(call)]

    form = formats.Format("PyTorch", formats.FORMATS[".pt2"].write, wrong)
    monkeypatch.setitem(formats.FORMATS, ".pt2", form)
    (tmp_path / "m.pt2").write_text("the old one")
    with pytest.raises(VerificationError, match=r"relative difference 0\.01"):
        export(build(), tmp_path / "m.pt2", X)
    assert (tmp_path / "m.pt2").read_text() == "the old one"
    assert len(list(tmp_path.iterdir())) == 1


def test_exporting_leaves_the_model_and_the_random_state(tmp_path: Path) -> None:
    model = build().train()
    state = torch.random.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export(model, tmp_path / "m.pt2", X)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pte"])
def test_other_runtimes(tmp_path: Path, suffix: str) -> None:
    for module, _ in formats.FORMATS[suffix].packages:
        pytest.importorskip(module)
    done = export(build(), tmp_path / f"m{suffix}", X)
    assert done.dynamic, done.notes
    assert 0 <= done.difference < 1e-4
    assert done.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    run = formats.FORMATS[suffix].load(done.path)
    with torch.no_grad():
        many = torch.randn(5, 6)
        expected = build().eval()(many)
    assert torch.allclose(run(Call((many,), {}))[0], expected, atol=1e-5)


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    form = formats.Format("Other", print, print, (("no_such_module", "other-runtime"),))  # type: ignore[arg-type]
    monkeypatch.setitem(formats.FORMATS, ".other", form)
    with pytest.raises(InputError, match="other-runtime is not installed") as raised:
        export(build(), "m.other", X)
    assert raised.value.hint == "pip install other-runtime"
