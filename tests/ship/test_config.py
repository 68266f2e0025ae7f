"""Configs that build what a cut left, or none at all."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.core.batches import as_call
from secateur.ship.config import fitted_config, is_packed, is_transformers

IDS = {"input_ids": torch.randint(0, 40, (2, 7), generator=torch.Generator().manual_seed(0))}


def transformers() -> Any:
    return pytest.importorskip("transformers", reason="transformers is not installed")


def llama() -> Any:
    torch.manual_seed(0)
    config = transformers().LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    return transformers().LlamaForCausalLM(config).eval()


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers().GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    return transformers().GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize(
    ("make", "how", "changed"),
    [
        (llama, {"unit": sc.Head()}, {"num_attention_heads": 1, "num_key_value_heads": 1}),
        (
            llama,
            {"unit": sc.Channel(), "scope": sc.only("*.mlp.*")},
            {"intermediate_size": 16},
        ),
        (gpt2, {"unit": sc.Channel(), "scope": sc.only("*.mlp.*")}, {"n_inner": 32}),
    ],
    ids=["heads", "gated", "default"],
)
def test_widths_become_the_config(make: Any, how: Any, changed: dict[str, int]) -> None:
    model = make()
    before = copy.deepcopy(model.config.to_dict())
    result = sc.prune(model, IDS, allocate="uniform", latency=False, **how)
    config = fitted_config(result.model, as_call(result.model, IDS))
    assert config is not None
    after = config.to_dict()
    different = {k: v for k, v in after.items() if before.get(k) != v and k != "head_dim"}
    assert different == changed
    assert model.config.to_dict() == before
    assert fitted_config(model, as_call(model, IDS)).to_dict()["vocab_size"] == 40


def test_what_no_config_says_has_none() -> None:
    model = llama()
    mlp = sc.only("*.layers.0.mlp.*")
    result = sc.prune(model, IDS, unit=sc.Channel(), scope=mlp, latency=False)
    assert fitted_config(result.model) is None
    fewer = sc.prune(model, IDS, unit=sc.Layer(), budget=sc.Params("80%"), latency=False)
    assert fitted_config(fewer.model) is None


def test_equal_shapes_are_not_enough() -> None:
    model = llama()
    model.model.layers[0].self_attn.scaling *= 2
    assert fitted_config(model) is not None
    assert fitted_config(model, as_call(model, IDS)) is None


def test_other_models_have_no_config(tmp_path: Path) -> None:
    assert not is_transformers(nn.Linear(2, 2))
    assert fitted_config(nn.Linear(2, 2)) is None
    net = nn.Sequential(nn.Linear(64, 64))
    zeros = sc.prune(
        net, torch.ones(1, 64), unit=sc.Weight(), budget=sc.Sparsity(0.9), latency=False
    )
    assert is_packed(sc.save(zeros, tmp_path) / "model.safetensors")
    assert not is_packed(sc.save(zeros, tmp_path, sparse=False) / "model.safetensors")
