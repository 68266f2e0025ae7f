"""Low-rank corrections: of low rank, merged, and nothing of them left."""

from __future__ import annotations

import pytest
import torch
from repair_nets import Residual, shrink, unsettle
from torch import nn
from training_cases import batches, job, same, state

import secateur as sc
from secateur.core.errors import InputError, RecipeError
from secateur.recover import Distill, Finetune, LowRank, Supervision


def test_corrections_are_of_low_rank_and_merged() -> None:
    found = job()
    before = state(found.small)
    kinds = [type(module) for module in found.small.modules()]
    LowRank(1, Finetune(epochs=8, lr=0.05)).run(found)
    after = state(found.small)
    assert found.notes[0].startswith("low-rank corrections of 2 weights: held-out loss ")
    assert "->" in found.notes[0]
    for name in ("0.weight", "3.weight"):
        singular = torch.linalg.svdvals(after[name] - before[name])
        assert singular[0] > 1e-3 and singular[1] < 1e-5 * singular[0]
    assert torch.equal(before["3.bias"], after["3.bias"])
    assert torch.equal(before["1.weight"], after["1.weight"])
    assert [type(module) for module in found.small.modules()] == kinds
    assert all(p.requires_grad and type(p) is nn.Parameter for p in found.small.parameters())
    assert list(before) == list(after)


def test_masks_keep_their_zeros() -> None:
    found = job()
    mask = torch.rand(7, 4) < 0.5
    found.masks = {"0.weight": mask}
    with torch.no_grad():
        found.small[0].weight.mul_(mask)
    LowRank(2, Finetune(epochs=5, lr=0.05)).run(found)
    assert "->" in found.notes[0] and torch.equal(found.small[0].weight != 0, mask)


def test_what_does_not_help_leaves_the_very_weights() -> None:
    found = job()
    before = state(found.small)
    LowRank(2, Finetune(epochs=1, lr=50.0, clip=None, schedule="constant", warmup=0)).run(found)
    assert "undone" in found.notes[0]
    kept = {key: value for key, value in before.items() if "running" not in key}
    assert all(torch.equal(value, state(found.small)[key]) for key, value in kept.items())
    assert same(before, state(found.small))


def test_convolutions_with_a_teacher() -> None:
    model, x = unsettle(Residual(blocks=1)), torch.randn(80, 3, 8, 8)
    found = shrink(model, x[:2], {"blocks.0.conv1": [0, 1, 2, 3]}).job([x])
    found.supervision = Supervision(list(x.split(8)))
    LowRank(2, Distill(epochs=5, lr=0.01)).run(found)
    assert found.notes[0].startswith("low-rank corrections of 4 weights") and "->" in found.notes[0]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9)
        self.out.weight = self.embed.weight  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.mix(self.embed(x))).mean(1))


def test_tied_weights_stay() -> None:
    model, x = Tied(), torch.randint(9, (60, 5))
    found = shrink(model, x[:2], {}).job([x])
    found.supervision = Supervision([(a, a[:, 0]) for a in x.split(10)])
    before = state(found.small)
    LowRank(2, Finetune(epochs=4, lr=0.05)).run(found)
    assert "corrections of 1 weights" in found.notes[0] and "->" in found.notes[0]
    assert torch.equal(before["embed.weight"], state(found.small)["embed.weight"])
    assert found.small.out.weight is found.small.embed.weight


@pytest.mark.zoo
def test_language_models() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=16, n_embd=32, n_layer=2, n_head=4, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    ids = torch.randint(40, (80, 16))
    ids[:, 1::2] = ids[:, ::2]
    data = [{"input_ids": part, "labels": part} for part in ids.split(8)]
    result = sc.prune(
        model, {"input_ids": ids[:2]}, data=data, unit=sc.Weight(), budget=sc.Sparsity(0.5),
        recover=[LowRank(4, Distill(epochs=2, lr=0.01)), Finetune(epochs=1, lr=0.01)],
        latency=False,
    )  # fmt: skip
    assert result.repairs[0].startswith("low-rank corrections of 8 weights: held-out loss ")
    assert "->" in result.repairs[1] and len(result.masks) >= 8
    for name, mask in result.masks.items():
        assert not result.model.get_parameter(name)[~mask].any()


def test_an_error_leaves_a_plain_network() -> None:
    def broken(model: nn.Module, batch: object) -> torch.Tensor:
        raise KeyError("loss")

    found = job(batches())
    before = state(found.small)
    with pytest.raises(KeyError):
        LowRank(2, Finetune(loss=broken)).run(found)
    assert same(before, state(found.small))
    assert all(p.requires_grad for p in found.small.parameters())


def test_what_makes_no_sense() -> None:
    with pytest.raises(RecipeError, match="at least 1"):
        LowRank(0, Finetune())
    with pytest.raises(RecipeError, match="expected a training"):
        LowRank(2, 3)  # type: ignore[arg-type]
    model = nn.Sequential(nn.BatchNorm1d(4))
    found = shrink(model, torch.randn(3, 4), {}).job([torch.randn(30, 4)])
    with pytest.raises(InputError, match="no linear layer"):
        LowRank(2, Finetune()).run(found)
