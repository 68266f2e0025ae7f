"""Streams over the blocks of causal language models of many families, built from configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.zoo, pytest.mark.slow]

_SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "vocab_size": 97, "max_position_embeddings": 64,
}  # fmt: skip
_HEADS = {**_SIZES, "head_dim": 8}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97, "n_positions": 64}
_OPT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64,
    "vocab_size": 97, "max_position_embeddings": 64, "word_embed_proj_dim": 32,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _SIZES, "qwen2": _SIZES, "qwen3": _HEADS, "mistral": _SIZES, "phi": _SIZES,
    "gemma": _HEADS, "gemma2": _HEADS, "gpt2": _GPT2, "opt": _OPT,
}  # fmt: skip
IDS = torch.randint(0, 97, (16, 20), generator=torch.Generator().manual_seed(0))


def build(kind: str) -> nn.Module:
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(kind, **FAMILIES[kind], **tokens)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def apart(net: nn.Module, other: nn.Module) -> float:
    with torch.no_grad():
        a, b = net(IDS).logits, other(IDS).logits
    return float((a - b).square().mean() / a.var())


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_family(kind: str) -> None:
    net = build(kind)
    mask = torch.ones(4, 20, dtype=torch.long)
    mask[0, :3] = 0  # a padded sample
    data = [{"input_ids": part, "attention_mask": mask} for part in IDS.split(4)]
    flags = {id(m.config): m.config.use_cache for m in net.modules() if hasattr(m, "config")}
    given: dict[str, Any] = {"data": data, "unit": sc.NM(2, 4), "stream": "blocks"}
    alone = sc.prune(net, criterion="magnitude", recover=[], **given)
    result = sc.prune(net, criterion="sparsegpt", recover=sc.Reconstruct(), **given)
    assert apart(net, result.model) < 0.5 * apart(net, alone.model)
    assert {
        id(m.config): m.config.use_cache for m in net.modules() if hasattr(m, "config")
    } == flags
    assert len({name.split(".weight")[0] for name in result.masks}) >= 8
    for name, kept in result.masks.items():
        assert float(kept.float().mean()) == 0.5, name
