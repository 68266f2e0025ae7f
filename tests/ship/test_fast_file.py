from __future__ import annotations

import json
import random
import resource
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import secateur as sc
from secateur.engine import compiler
from secateur.engine.fast import Fast
from secateur.engine.kernels import _way
from secateur.runtime.emit.isa import AVX2, AVX512
from secateur.runtime.emit.planes import ways
from secateur.runtime.planes import from_linear
from secateur.ship.fast_file import _KERNEL, KEY, load_fast

pytest.importorskip("llvmlite", reason="kernels need llvmlite")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 2, 1)
        self.norm = nn.BatchNorm2d(16)
        self.gru = nn.GRU(16, 8, batch_first=True)
        self.head = nn.Linear(8, 256)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        return {"y": self.head(self.gru(x)[0])}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Fast]:
    net = Net().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) < 0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "_faster", lambda before, after: True)
        fast = sc.compile(net, torch.randn(2, 3, 8, 10), cache=tmp_path_factory.mktemp("cache"))
    assert isinstance(fast, Fast)
    return net, fast


@torch.no_grad()
def test_there_and_back(network: tuple[nn.Module, Fast], tmp_path: Path) -> None:
    net, fast = network
    done = sc.export(fast, tmp_path / "m.sct")
    assert done.bytes == (tmp_path / "m.sct").stat().st_size
    again = sc.load_fast(tmp_path / "m.sct")
    for shape in ((2, 3, 8, 10), (1, 3, 12, 12)):
        x = torch.randn(shape)
        assert torch.equal(again(x)["y"], fast(x)["y"])
        assert torch.allclose(again(x)["y"], net(x)["y"], atol=1e-5)
    assert str(again) == str(fast)


def test_only_compiled_networks(tmp_path: Path) -> None:
    with pytest.raises(sc.SecateurError, match=r"sc\.compile"):
        sc.export(nn.Linear(1, 1), tmp_path / "m.sct")


def test_other_runtimes_get_no_compiled_network(
    network: tuple[nn.Module, Fast], tmp_path: Path
) -> None:
    example = torch.randn(2, 3, 8, 10)
    for model in (network[1], nn.Sequential(network[1])):
        with pytest.raises(sc.errors.InputError, match=r"made by sc\.compile") as error:
            sc.export(model, tmp_path / "m.pt2", example)
        assert error.value.hint.endswith("as .sct") == isinstance(model, Fast)
    assert not list(tmp_path.iterdir())


def damaged(path: Path, change: Any) -> None:
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    content = json.loads(metadata[KEY])
    change(content, tensors)
    save_file(tensors, path, {**metadata, KEY: json.dumps(content)})


def _first(content: Any, kind: str) -> dict[str, Any]:
    return next(layer for layer in content["layers"].values() if layer["kind"] == kind)


CHANGES: dict[str, Any] = {
    "a newer schema": lambda c, t: c.update(schema=99),
    "an unknown field": lambda c, t: c.update(more=1),
    "no layers": lambda c, t: c.update(layers={}),
    "a forbidden operation": lambda c, t: c["graph"]["nodes"].append(
        ["z", "aten.from_file.default", {"tuple": ["/etc/passwd"]}, {"dict": {}}]
    ),
    "an operation that is not there": lambda c, t: c["graph"]["nodes"].append(
        ["z", "size.getitee", {"tuple": [{"ref": c["graph"]["inputs"][0]}, 0]}, {"dict": {}}]
    ),
    "a number that is too large": lambda c, t: c["graph"]["nodes"].append(
        ["z", "aten.relu.default", {"tuple": [{"float": "0x1p9999"}]}, {"dict": {}}]
    ),
    "an operation in place": lambda c, t: c["graph"]["nodes"].append(
        ["z", "aten.relu_.default", {"tuple": [{"ref": c["graph"]["inputs"][0]}]}, {"dict": {}}]
    ),
    "a value that is not there": lambda c, t: c["graph"]["nodes"].append(
        ["z", "aten.relu.default", {"tuple": [{"ref": "nothing"}]}, {"dict": {}}]
    ),
    "an output that is not there": lambda c, t: c["graph"].update(
        outputs={"tuple": [{"ref": "nothing"}]}
    ),
    "a kernel that is not known": lambda c, t: next(iter(c["decisions"].values())).update(
        kernel="rm -rf"
    ),
    "a kernel that is too large": lambda c, t: next(iter(c["decisions"].values())).update(
        kernel="llvm-csr 4000/1"
    ),
    "negative padding": lambda c, t: _first(c, "layer").update(padding=[-1, -1]),
    "no stride": lambda c, t: _first(c, "layer").update(stride=[0, 0]),
    "too many groups": lambda c, t: _first(c, "layer").update(groups=7),
    "an unknown activation": lambda c, t: _first(c, "layer").update(activation="exec"),
    "more recurrent layers": lambda c, t: _first(c, "recurrence").update(layers=3),
    "an unknown cell": lambda c, t: _first(c, "recurrence").update(cell="exec"),
    "an unknown container": lambda c, t: c["graph"].update(signature=["[1, {}]", "[1, {}]"]),
    "values that are missing": lambda c, t: t.pop(next(n for n in t if n.endswith("::values"))),
    "fewer values": lambda c, t: t.update(
        {n: v[:-1] for n, v in t.items() if n.endswith("::values")}
    ),
    "a bias of another length": lambda c, t: t.update(
        {n: torch.zeros(1) for n in t if n.endswith("/bias")}
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_wrong_is_refused(
    network: tuple[nn.Module, Fast], tmp_path: Path, what: str
) -> None:
    path = tmp_path / "m.sct"
    sc.export(network[1], path)
    damaged(path, CHANGES[what])
    with pytest.raises(sc.errors.FileError) as error:
        load_fast(path)
    assert str(path) in str(error.value)


def test_cut_short(network: tuple[nn.Module, Fast], tmp_path: Path) -> None:
    path = tmp_path / "m.sct"
    sc.export(network[1], path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(sc.errors.FileError):
        load_fast(path)


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything in nested lists and dicts."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((*path, key))
        if isinstance(inner, (dict, list)):
            found += _leaves(inner, (*path, key))
    return found


ODD: list[Any] = [
    0, 1, -1, 8, 255, 1 << 31, -(1 << 40), 1e300, float("nan"), None, True, "", "layer", "relu",
    [], {}, [0, 0], {"ref": "x"}, {"tuple": []}, {"float": "0x1p5"}, {"dtype": "float16"},
    "llvm-csr 4/1", "vec-sliced 8", "aten.relu.default",
]  # fmt: skip


def _inside(text: str, draw: random.Random) -> str:
    """The content with one to three things in it changed, left out, repeated or swapped."""
    content = json.loads(text)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        paths = _leaves(content)
        *path, last = draw.choice(paths)
        where = content
        for key in path:
            where = where[key]
        kind = draw.randrange(4)
        if kind == 0:
            del where[last]
        elif kind == 1 and isinstance(where, list):
            where.insert(last, deepcopy(draw.choice(where)))
        elif kind == 2 and type(where[last]) is int:
            where[last] += draw.choice([-2, -1, 1, 2, 16])
        else:
            where[last] = deepcopy(draw.choice(ODD))
    return json.dumps(content)


def _outside(data: bytes, draw: random.Random) -> bytes:
    """The file with a byte, or some, changed, added or left out; its header as long as it says."""
    header = 8 + int.from_bytes(data[:8], "little")
    at, n = draw.randrange(8, draw.choice([header, len(data)])), draw.randint(1, 8)
    new = [
        data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :],
        data[:at] + draw.randbytes(n) + data[at:],
        data[:at] + data[at + n :],
    ][draw.randrange(3)]
    if at < header:
        new = (header - 8 + len(new) - len(data)).to_bytes(8, "little", signed=True) + new[8:]
    return new


def mutate(path: Path, folder: Path, seed: int, count: int) -> int:
    """Read changed files; the number that were refused."""
    draw, data, refused = random.Random(seed), path.read_bytes(), 0
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    other = folder / "changed.sct"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        if draw.randrange(2):
            other.write_bytes(_outside(data, draw))
        else:
            save_file(tensors, other, {**metadata, KEY: _inside(metadata[KEY], draw)})
        try:
            assert isinstance(load_fast(other), Fast)
        except sc.errors.FileError as error:
            refused += 1
            assert error.message
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert more < 100_000, f"{more} KiB"
    return refused


def test_mutated_files(network: tuple[nn.Module, Fast], tmp_path: Path) -> None:
    sc.export(network[1], tmp_path / "m.sct")
    assert mutate(tmp_path / "m.sct", tmp_path, 0, 400) > 200


@pytest.mark.slow
def test_very_many_mutated_files(network: tuple[nn.Module, Fast], tmp_path: Path) -> None:
    sc.export(network[1], tmp_path / "m.sct")
    assert mutate(tmp_path / "m.sct", tmp_path, 1, 100_000) > 50_000


def test_a_layer_that_reads_beyond_its_inputs_is_refused(
    network: tuple[nn.Module, Fast], tmp_path: Path
) -> None:
    path, x = tmp_path / "m.sct", torch.randn(2, 3, 8, 10)
    sc.export(network[1], path)

    def residual(content: Any, _: Any) -> None:
        _first(content, "layer").update(residual=True)

    damaged(path, residual)
    with pytest.raises(sc.errors.FileError, match="operation 'layer' cannot be at"):
        load_fast(path)

    def smaller(content: Any, _: Any) -> None:  # torch would repeat it
        name = next(n for n, layer in content["layers"].items() if layer["label"] == "head")
        content["layers"][name]["residual"] = True
        nodes = content["graph"]["nodes"]
        at = next(i for i, node in enumerate(nodes) if node[0] == name)
        one = ["one", "aten.ones.default", {"tuple": [[1]]}, {"dict": {}}]
        nodes[at][2]["tuple"].append({"ref": "one"})
        nodes.insert(at, one)

    sc.export(network[1], path)
    damaged(path, smaller)
    with pytest.raises(sc.errors.InputError, match="'head' has no kernel for inputs of shapes"):
        load_fast(path)(x)


@pytest.mark.parametrize(("label", "kernel"), [("head", "emit-avx2 1x9"), ("conv", "vec-sliced 8")])
def test_kernels_that_do_not_fit_are_refused(
    network: tuple[nn.Module, Fast], tmp_path: Path, label: str, kernel: str
) -> None:
    path = tmp_path / "m.sct"
    sc.export(network[1], path)

    def change(content: Any, _: Any) -> None:
        name = next(n for n, layer in content["layers"].items() if layer["label"] == label)
        content["decisions"][name]["kernel"] = kernel

    damaged(path, change)
    again = load_fast(path)
    if kernel in {decision.kernel for decision in again.decisions.values()}:
        with pytest.raises(sc.errors.SecateurError, match="is not one of this machine"):
            again(torch.randn(2, 3, 8, 10))


def test_kernels_of_all_instruction_sets_can_be_stored() -> None:
    for rows in (1, 24, 300, 2048):
        layer = from_linear(np.eye(rows), pitch=8)
        for isa in (AVX2, AVX512):
            assert all(_KERNEL.fullmatch(_way(isa.name, way)) for way in ways(layer, isa))
    for name in (
        "llvm-csr 1/1", "llvm-csr 29/16", "llvm-bcsr 8x3", "vec-banked 256", "emit-avx512 30x1x4"
    ):  # fmt: skip
        assert _KERNEL.fullmatch(name)
    for name in ("llvm-csr 4/17", "emit-avx2 0x1", "emit-avx2 6x2x0", "vec-sliced 0"):
        assert not _KERNEL.fullmatch(name)


def test_turns_are_kept_and_checked(network: tuple[nn.Module, Fast], tmp_path: Path) -> None:
    path = tmp_path / "m.sct"
    sc.export(network[1], path)
    damaged(path, lambda content, _: content["report"].update(block=48))
    again, x = load_fast(path), torch.randn(2, 3, 8, 10)
    assert again.report.block == 48
    assert torch.allclose(again(x)["y"], network[1](x)["y"], atol=1e-5)
    damaged(path, lambda content, _: content["report"].update(block=-1))
    with pytest.raises(sc.errors.FileError, match="take turns by -1"):
        load_fast(path)
