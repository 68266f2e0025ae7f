"""Fine-tuning as a repair: what helps stays, in Secateur's loop and in the user's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from training_cases import batches, cut, job, same, samples, state

from secateur.core.errors import InputError, RecipeError
from secateur.recover import Finetune, Reconstruct, check_needs
from secateur.recover.distance import distance, outputs
from secateur.recover.training import labelled


def test_it_helps_and_says_so() -> None:
    found = job()
    dense = state(found.dense)
    before = found.distance
    Finetune(epochs=5, lr=0.02).run(found)
    (note,) = found.notes
    assert note.startswith("fine-tuning: held-out loss ") and "of 45 steps" in note
    said = note.split("loss ")[1].split(" after")[0]
    first, second = (float(part) for part in said.split(" -> "))
    assert second < first
    held = found.calibration.held
    now = distance(outputs(found.dense, held), outputs(found.small, held))
    assert found.distance == now != before
    assert same(dense, state(found.dense))
    assert not found.small.training and not found.small[1].training


def test_what_does_not_help_is_undone() -> None:
    found = job()
    before = state(found.small)
    Finetune(epochs=1, lr=30.0, clip=None, schedule="constant", warmup=0).run(found)
    assert "no help on held-out data" in found.notes[0] and "undone" in found.notes[0]
    assert same(before, state(found.small))


def test_the_loss_is_the_users() -> None:
    def own(model: nn.Module, batch: Any) -> torch.Tensor:
        return cross_entropy(model(batch["inputs"]), batch["classes"])

    data = [{"inputs": x, "classes": y} for x, y in batches()]
    first = job(data, loss=own)
    Finetune(epochs=2).run(first)
    second = job(data)
    Finetune(epochs=2, loss=own).run(second)
    assert first.notes == second.notes and "->" in first.notes[0]
    assert same(state(first.small), state(second.small))


def test_it_needs_labels_and_data() -> None:
    with pytest.raises(InputError, match="without targets there is no loss"):
        Finetune().run(job([samples()[0]]))
    with pytest.raises(RecipeError, match="Finetune needs data"):
        check_needs([Reconstruct(), Finetune()], None)
    check_needs([Reconstruct(), Finetune(lambda model: None)], None)
    with pytest.raises(RecipeError, match="epochs and all else are given by name"):
        check_needs([Finetune(3)], [1])  # type: ignore[arg-type]


def better(model: nn.Module) -> None:
    """A trainer that leaves everything in a mess, but for the weights."""
    model.train().requires_grad_(False)
    model[3].requires_grad_(True)
    optimizer = torch.optim.Adam(model[3].parameters(), lr=0.02)
    x, y = samples()
    for _ in range(40):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


def worse(model: nn.Module) -> None:
    with torch.no_grad():
        model[3].weight.mul_(-20)


@pytest.mark.parametrize("validation", [None, batches(60)])
def test_a_trainer_of_ones_own(validation: Any) -> None:
    found = job()
    Finetune(better, validation=validation).run(found)
    assert found.notes[-1].startswith("fine-tuning: held-out loss ")
    assert ("may have seen" in found.notes[0]) == (validation is None)
    assert not found.small.training and all(p.requires_grad for p in found.small.parameters())
    assert all(p.grad is None for p in found.small.parameters())
    before = state(found.small)
    Finetune(worse, validation=validation).run(found)
    assert "no help on held-out data" in found.notes[-1] and same(before, state(found.small))


def test_without_labels_a_trainer_is_judged_by_the_outputs() -> None:
    found = job([samples()[0]])
    before = state(found.small)
    Finetune(worse).run(found)
    assert found.notes == [found.notes[0]] and "undone" in found.notes[0]
    assert same(before, state(found.small))


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_of_a_trainer_takes_everything_back(kind: type[BaseException]) -> None:
    def broken(model: nn.Module) -> None:
        worse(model)
        raise kind

    found = job()
    before = state(found.small)
    with pytest.raises(kind):
        Finetune(broken).run(found)
    assert same(before, state(found.small))


def test_masks_hold_for_any_trainer() -> None:
    mask = torch.rand(7, 4) < 0.5
    for step in (Finetune(better), Finetune(epochs=2, lr=0.02)):
        found = job()
        found.masks = {"0.weight": mask}
        with torch.no_grad():
            found.small[0].weight.mul_(mask)
        step.run(found)
        assert torch.equal(found.small[0].weight != 0, mask) and "->" in found.notes[-1]


def test_labels() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return x

    x, y = samples(8)
    assert labelled(nn.Linear(4, 3), (x, y)) and not labelled(nn.Linear(4, 3), [x])
    assert labelled(Two(), (x, y, y)) and not labelled(Two(), (x, y))
    assert labelled(nn.Linear(4, 3), {"x": x, "labels": y}) and not labelled(nn.ReLU(), {"x": x})


def test_the_seed_decides() -> None:
    def weights(**settings: Any) -> Any:
        found = job(found=cut())
        Finetune(epochs=1, **settings).run(found)
        return state(found.small)

    assert same(weights(), weights()) and not same(weights(), weights(seed=1))
