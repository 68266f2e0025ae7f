"""Models from specs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.cli.spec import build, library
from secateur.core.errors import InputError

SOURCE = """
import torch
from torch import nn
import helper_of_spec_test

class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, helper_of_spec_test.SIZE)

def broken():
    raise KeyError("oops")

ready = nn.ReLU()
number = 3
def wrong():
    return 3
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "helper_of_spec_test.py").write_text("SIZE = 5\n")
    path = tmp_path / "my_net.py"
    path.write_text(SOURCE)
    return path


def test_from_a_file_with_its_neighbours(source: Path) -> None:
    model = build(f"{source}:Net")
    assert isinstance(model, nn.Linear)
    assert model.out_features == 5
    assert isinstance(build(f"{source}:ready"), nn.ReLU)


def test_from_a_module() -> None:
    assert isinstance(build("secateur.demo.net:DigitNet"), nn.Module)


def test_the_random_state_stays_and_weights_are_always_the_same() -> None:
    before = torch.random.get_rng_state()
    first, second = (build("secateur.demo.net:DigitNet") for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.head.weight, second.head.weight)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"KeyError: 'oops' \(my_net.py:11\)"),
        ("number", "not a function or class"),
        ("wrong", "gives a int, not a model"),
        ("Nett", "did you mean Net"),
    ],
)
def test_wrong_names_in_a_file(source: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(f"{source}:{name}")


@pytest.mark.parametrize(
    "spec",
    ["", "resnet18", ":x", "x:", "no_such_module_here:x", "none.py:x", "secateur.demo.net:Digit"],
)
def test_wrong_specs(spec: str) -> None:
    with pytest.raises(InputError):
        build(spec)


def test_a_file_that_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "bad_net.py").write_text("x = 1\nimport no_such_module_here\n")
    with pytest.raises(InputError, match=r"no_such_module_here.*bad_net.py:2"):
        build(f"{tmp_path / 'bad_net.py'}:x")


def test_library_names() -> None:
    assert library("timm:resnet18") == "timm"
    assert library("net.py:build") is None


@pytest.mark.zoo
def test_torchvision() -> None:
    pytest.importorskip("torchvision")
    assert isinstance(build("torchvision:resnet18"), nn.Module)
    with pytest.raises(InputError, match="did you mean"):
        build("torchvision:resnet188")


@pytest.mark.zoo
def test_timm() -> None:
    pytest.importorskip("timm")
    assert isinstance(build("timm:resnet10t"), nn.Module)
    with pytest.raises(InputError, match="timm has no model"):
        build("timm:nothing_like_this")
