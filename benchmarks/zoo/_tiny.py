"""Small configurations for any transformers family: common sizes, applied where known."""

from __future__ import annotations

import inspect
import re
from typing import Any

import transformers
from torch import nn
from transformers import PretrainedConfig

transformers.logging.set_verbosity_error()

HIDDEN, LAYERS, HEADS, KV_HEADS, INNER, VOCAB = 64, 2, 4, 2, 128, 128

SIZES: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size", "emb_dim"),
        HIDDEN,
    ),
    **dict.fromkeys(
        (
            "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers",
            "decoder_layers", "num_decoder_layers", "num_encoder_layers", "num_blocks",
        ),
        LAYERS,
    ),
    **dict.fromkeys(
        (
            "num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads",
            "decoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads",
        ),
        HEADS,
    ),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), KV_HEADS),
    **dict.fromkeys(
        (
            "intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "n_inner",
            "ffn_hidden_size", "hidden_dim", "d_inner", "feed_forward_size", "mlp_hidden_size",
        ),
        INNER,
    ),
    "head_dim": HIDDEN // HEADS,
    "d_kv": HIDDEN // HEADS,
    **dict.fromkeys(("vocab_size", "src_vocab_size", "tgt_vocab_size"), VOCAB),
    **dict.fromkeys(
        (
            "max_position_embeddings", "n_positions", "max_encoder_position_embeddings",
            "max_decoder_position_embeddings",
        ),
        64,
    ),
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 96,
    "q_lora_rank": 24,
    "kv_lora_rank": 20,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "sliding_window": 8,
    "type_vocab_size": 2,
    "image_size": 32,
    "patch_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


_TASK = re.compile(
    r"(For[A-Z]\w*|LMHeadModel|WithLMHeadModel|ModelWithLMHead|EncoderModel|MTModel|Model|Decoder)$"
)


def tiny(kind: str, **options: Any) -> nn.Module:
    """A randomly initialised model of class `kind`; `options` add to or replace common sizes."""
    model = getattr(transformers, kind)
    return model._from_config(config_of(model.config_class, **options))


def config_of(kind: type[PretrainedConfig] | str, **options: Any) -> PretrainedConfig:
    """A tiny configuration, of a class or of the class of that name."""
    make = getattr(transformers, kind) if isinstance(kind, str) else kind
    return make(**(known(make) | options))


def known(make: type[PretrainedConfig]) -> dict[str, Any]:
    """The common sizes that a configuration class has a name for, each once.

    Sizes that the class wants one for each stage are left to the caller.
    """
    aliases = getattr(make, "attribute_map", {})
    parameters = inspect.signature(make).parameters
    staged = {key for key, p in parameters.items() if isinstance(p.default, (list, tuple))}
    names = (
        (set(parameters) | set(aliases)) - staged - {k for k, v in aliases.items() if v in staged}
    )
    if "depths" in staged:
        names.discard("num_hidden_layers")
    given = {key: value for key, value in SIZES.items() if key in names}
    return {k: v for k, v in given.items() if aliases.get(k) not in given}


def family_name(kind: str) -> str:
    """The family of a model class: "llama" for LlamaForCausalLM."""
    return _TASK.sub("", kind).lower()
