"""Weights as units: which weights there are, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.units.weight import weight_sites


def names(model: nn.Module, scope: object = None) -> list[str]:
    return [site.name for site in weight_sites(model, scope)]  # type: ignore[arg-type]


def test_all_layers_that_multiply() -> None:
    model = nn.ModuleDict({
        "conv": nn.Conv2d(4, 8, 3, groups=2), "up": nn.ConvTranspose1d(4, 6, 3),
        "norm": nn.BatchNorm2d(8), "lstm": nn.LSTM(4, 5, bidirectional=True),
        "cell": nn.GRUCell(3, 4),
        "attention": nn.MultiheadAttention(8, 2),
        "other": nn.MultiheadAttention(8, 2, kdim=4, vdim=6),
        "words": nn.Embedding(5, 4), "head": nn.Linear(4, 5),
    })  # fmt: skip
    assert names(model) == [
        "conv.weight", "up.weight",
        "lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.weight_ih_l0_reverse",
        "lstm.weight_hh_l0_reverse", "cell.weight_ih", "cell.weight_hh",
        "attention.in_proj_weight", "attention.out_proj.weight",
        "other.q_proj_weight", "other.k_proj_weight", "other.v_proj_weight",
        "other.out_proj.weight", "head.weight",
    ]  # fmt: skip


def test_tied_weights_come_once_and_heads_tied_to_embeddings_not_at_all() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "words": nn.Embedding(5, 4),
                           "head": nn.Linear(4, 5)})  # fmt: skip
    model["b"].weight = model["a"].weight
    model["head"].weight = model["words"].weight
    assert names(model) == ["a.weight"]


def test_scope_and_computed_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    torch.nn.utils.parametrizations.weight_norm(model[2])
    assert names(model) == ["0.weight", "1.weight"]
    assert names(model, sc.skip("0")) == ["1.weight"]


def test_sites_are_matrices_of_outputs_by_inputs() -> None:
    for layer in (nn.Linear(6, 4), nn.Conv1d(6, 4, 3), nn.Conv2d(6, 4, 3, groups=2)):
        site = weight_sites(layer)[0]
        matrix = site.matrix(layer.weight)
        assert matrix.shape == (4, site.n // 4)
        assert torch.equal(site.tensor(matrix), layer.weight)
    transposed = nn.ConvTranspose2d(6, 4, 3, groups=2)
    site = weight_sites(transposed)[0]
    assert site.matrix(transposed.weight).shape == (4, 27) and site.taps == 9
    assert torch.equal(site.tensor(site.matrix(transposed.weight)), transposed.weight)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sc.Weight(per=0), lambda: sc.Weight(per="rows"), lambda: sc.NM(4, 4),
        lambda: sc.NM(0, 4), lambda: sc.Block(0, 1), lambda: sc.Block(1, 0), lambda: sc.Block(1.5),
    ],
)  # fmt: skip
def test_nonsense_is_refused(make: object) -> None:
    with pytest.raises(sc.SecateurError):
        make()  # type: ignore[operator]
