"""Rewinding: the weights that are left go back to what they were, and training starts there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from repair_nets import shrink
from safetensors.torch import save_file
from training_cases import GONE, batches, cut, job, net, same, samples, state, taught

from secateur.core.errors import FileError, InputError, RecipeError
from secateur.recover import Finetune, Rewind, Supervision

KEPT = [k for k in range(16) if k not in GONE["0"]]


def test_the_weights_that_are_left_are_the_earlier_ones(tmp_path: Path) -> None:
    early = state(net())
    save_file(early, tmp_path / "early.safetensors")
    for source in (early, tmp_path / "early.safetensors"):
        found = job()
        Rewind(source).run(found)
        after = state(found.small)
        assert torch.equal(after["0.weight"], early["0.weight"][KEPT])
        assert torch.equal(after["3.weight"], early["3.weight"][:, KEPT])
        assert torch.equal(after["1.running_var"], early["1.running_var"][KEPT])
        assert torch.equal(after["3.bias"], early["3.bias"])
        assert "not checked" in found.notes[0]


def test_a_state_of_the_smaller_network_fits_too() -> None:
    found = job()
    wanted = {key: value + 1 for key, value in state(found.small).items()}
    Rewind(wanted).run(found)
    assert same(state(found.small), wanted)


def test_a_state_from_before_an_earlier_prune() -> None:
    first = cut()
    axis = shrink(first.small, samples(4)[0], {"0": [0, 2]})
    found = axis.job([samples()[0]])
    found.supervision = Supervision(batches(), teacher=first.dense, earlier=(first.plan,))
    early = state(net())
    Rewind(early).run(found)
    left = [KEPT[k] for k in range(7) if k not in (0, 2)]
    assert torch.equal(found.small[0].weight, early["0.weight"][left])


def test_masks_hold() -> None:
    found = job()
    found.masks = {"0.weight": torch.rand(7, 4) < 0.5}
    Rewind(state(net())).run(found)
    assert torch.equal(found.small[0].weight != 0, found.masks["0.weight"])


def test_rewound_and_trained_it_stays_if_it_is_better() -> None:
    found = job()
    with torch.no_grad():
        found.small[3].weight.mul_(-3)
    Rewind(state(taught()), train=Finetune(epochs=8, lr=0.02)).run(found)
    assert found.notes[0].startswith("rewinding: held-out loss ") and "->" in found.notes[0]
    found = job()
    Finetune(epochs=8, lr=0.02).run(found)
    before = state(found.small)
    Rewind(state(net()), train=Finetune(steps=1, lr=1e-6)).run(found)
    assert "no help" in found.notes[-1] and same(before, state(found.small))


def test_the_learning_rate_alone() -> None:
    events: list[dict[str, Any]] = []
    found = job()
    tune = Finetune(steps=20, every=5, lr=0.02, warmup=0, on_event=events.append)
    Rewind(train=tune, step=0.5).run(found)
    assert [event["step"] for event in events[:-1]] == [10, 15, 20]
    assert events[1]["rate"] == pytest.approx(0.02 * tune.factor(14, 20))


def test_what_does_not_fit() -> None:
    with pytest.raises(InputError, match=r"it has no 0\.weight"):
        Rewind({"a": torch.zeros(1)}).run(job())
    with pytest.raises(InputError, match=r"0.weight is \(3, 3\) in it"):
        Rewind({**state(net()), "0.weight": torch.zeros(3, 3)}).run(job())


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for name in ("none.safetensors", "bad.safetensors"):
        (tmp_path / "bad.safetensors").write_bytes(b"bad")
        with pytest.raises(FileError, match="cannot be read"):
            Rewind(tmp_path / name).run(job())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "goes back to nothing"),
        ({"state": {}, "train": 3}, "expected a training"),
        ({"state": {}, "step": 1}, "0 <= step < 1"),
    ],
)
def test_what_makes_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Rewind(**arguments)
