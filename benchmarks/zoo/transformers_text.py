"""transformers: decoders, encoders and encoder-decoders over tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from . import Builder
from ._tiny import VOCAB, config_of, family_name, tiny

MODELS: dict[str, Builder] = {}
FAMILIES: dict[str, str] = {}


def _words(text: str) -> list[str]:
    return text.split()


_DECODERS = _words("""
AfmoeForCausalLM ApertusForCausalLM ArceeForCausalLM AriaTextForCausalLM AXK1ForCausalLM
BailingHybridForCausalLM BambaForCausalLM BeamForCausalLM BertGenerationDecoder BioGptForCausalLM
BitNetForCausalLM BloomForCausalLM CodeGenForCausalLM CohereForCausalLM Cohere2ForCausalLM
Cohere2MoeForCausalLM CpmAntForCausalLM CTRLLMHeadModel CwmForCausalLM DeepseekV2ForCausalLM
DeepseekV3ForCausalLM DeepseekV32ForCausalLM DeepseekV4ForCausalLM DiffLlamaForCausalLM
DogeForCausalLM Dots1ForCausalLM Dots3NoteForCausalLM Ernie4_5ForCausalLM
Ernie4_5_MoeForCausalLM Exaone4ForCausalLM ExaoneMoeForCausalLM FalconForCausalLM
FalconH1ForCausalLM FalconMambaForCausalLM FlexOlmoForCausalLM FlintForCausalLM GemmaForCausalLM
Gemma2ForCausalLM Gemma3ForCausalLM Gemma3nForCausalLM Gemma4ForCausalLM
Gemma4UnifiedForCausalLM GlmForCausalLM Glm4ForCausalLM Glm4MoeForCausalLM
Glm4MoeLiteForCausalLM GlmMoeDsaForCausalLM GPT2LMHeadModel GPTBigCodeForCausalLM
GPTJForCausalLM GPTNeoForCausalLM GPTNeoXForCausalLM GPTNeoXJapaneseForCausalLM
GptOssForCausalLM GraniteForCausalLM GraniteMoeForCausalLM GraniteMoeHybridForCausalLM
GraniteMoeSharedForCausalLM GraniteSWAForCausalLM HeliumForCausalLM HrmTextForCausalLM
HunYuanDenseV1ForCausalLM HunYuanMoEV1ForCausalLM HYV3ForCausalLM HYV4ForCausalLM
HyperCLOVAXForCausalLM InklingForCausalLM Inkling2ForCausalLM Jais2ForCausalLM JambaForCausalLM
JetMoeForCausalLM KimiLinearForCausalLM Kolibri1ForCausalLM LagunaForCausalLM Lfm2ForCausalLM
Lfm2MoeForCausalLM Lfm3ForCausalLM LlamaForCausalLM Llama4ForCausalLM LongcatFlashForCausalLM
MambaForCausalLM Mamba2ForCausalLM MellumForCausalLM MiMoV2FlashForCausalLM MiniCPM3ForCausalLM
MiniMaxForCausalLM MiniMaxM2ForCausalLM MiniMaxM3VLForCausalLM Ministral3ForCausalLM
MinistralForCausalLM MistralForCausalLM MixtralForCausalLM ModernBertDecoderForCausalLM
MoshiForCausalLM MptForCausalLM NanoChatForCausalLM NemotronForCausalLM
NemotronHForCausalLM OlmoForCausalLM Olmo2ForCausalLM Olmo3ForCausalLM OlmoHybridForCausalLM
OlmoeForCausalLM OpenAIGPTLMHeadModel OPTForCausalLM PersimmonForCausalLM PhiForCausalLM
Phi3ForCausalLM PhimoeForCausalLM Qwen2ForCausalLM Qwen2MoeForCausalLM Qwen3ForCausalLM
Qwen3MoeForCausalLM Qwen3NextForCausalLM Qwen3_5ForCausalLM Qwen3_5MoeForCausalLM
Qwen4ExpForCausalLM RecurrentGemmaForCausalLM ReformerModelWithLMHead RwkvForCausalLM
SeedOssForCausalLM SmolLM3ForCausalLM SolarOpenForCausalLM StableLmForCausalLM
Starcoder2ForCausalLM VaultGemmaForCausalLM XGLMForCausalLM XLNetLMHeadModel xLSTMForCausalLM
YoutuForCausalLM ZambaForCausalLM Zamba2ForCausalLM ZayaForCausalLM
""")

_ENCODERS = _words("""
AlbertForMaskedLM BertForMaskedLM BigBirdForMaskedLM CanineForSequenceClassification
ConvBertForMaskedLM Data2VecTextForMaskedLM DebertaForMaskedLM DebertaV2ForMaskedLM
DistilBertForMaskedLM DPRQuestionEncoder ElectraForMaskedLM ErnieForMaskedLM EsmForMaskedLM
EsmcForMaskedLM EuroBertForMaskedLM FlaubertWithLMHeadModel FNetForMaskedLM FunnelForMaskedLM
GteForMaskedLM IBertForMaskedLM JinaEmbeddingsV3ForMaskedLM LayoutLMForMaskedLM LiltModel
LongformerForMaskedLM LukeForMaskedLM MarkupLMModel MegatronBertForMaskedLM
MobileBertForMaskedLM ModernBertForMaskedLM MPNetForMaskedLM MraForMaskedLM NeoMMEForMaskedLM
NomicBertForMaskedLM NystromformerForMaskedLM PerceiverForMaskedLM RemBertForMaskedLM
RoCBertForMaskedLM RobertaForMaskedLM RobertaPreLayerNormForMaskedLM RoFormerForMaskedLM
SplinterModel SqueezeBertForMaskedLM T5EncoderModel TapasForMaskedLM UltrabertForMaskedLM
XLMWithLMHeadModel XLMRobertaXLForMaskedLM XmodForMaskedLM YosoForMaskedLM
""")

_PAIRS = _words("""
BartForConditionalGeneration BigBirdPegasusForConditionalGeneration
BlenderbotForConditionalGeneration BlenderbotSmallForConditionalGeneration
FSMTForConditionalGeneration LEDForConditionalGeneration LongT5ForConditionalGeneration
M2M100ForConditionalGeneration MarianMTModel MBartForConditionalGeneration
MT5ForConditionalGeneration MvpForConditionalGeneration NllbMoeForConditionalGeneration
PegasusForConditionalGeneration PegasusXForConditionalGeneration PLBartForConditionalGeneration
ProphetNetForConditionalGeneration SwitchTransformersForConditionalGeneration
T5ForConditionalGeneration T5GemmaForConditionalGeneration UMT5ForConditionalGeneration
""")

_LENGTHS = {
    "BigBirdForMaskedLM": 48, "BigBirdPegasusForConditionalGeneration": 48,
    "CanineForSequenceClassification": 24, "LEDForConditionalGeneration": 24,
    "LongformerForMaskedLM": 24, "ReformerModelWithLMHead": 32, "xLSTMForCausalLM": 16,
}  # fmt: skip
_BLOCKS = {"block_size": 4, "num_random_blocks": 1}
_HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
_ALL_HEADS = {"num_key_value_heads": 4}
_LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}  # fmt: skip
_GEMMA_N = {
    "vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 0, "activation_sparsity_pattern": None, "laurel_rank": 8,
}  # fmt: skip
_OPTIONS: dict[str, dict[str, Any]] = {
    "AXK1ForCausalLM": _ALL_HEADS,
    "BigBirdForMaskedLM": _BLOCKS,
    "BigBirdPegasusForConditionalGeneration": _BLOCKS,
    "LEDForConditionalGeneration": {"attention_window": 8},
    "LiltModel": {"hidden_size": 96},
    "LongformerForMaskedLM": {"attention_window": 8},
    "BailingHybridForCausalLM": _HYBRID | _ALL_HEADS,
    "BambaForCausalLM": {
        "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 12,
        "mamba_chunk_size": 8,
    },
    "CodeGenForCausalLM": {"rotary_dim": 8},
    "CpmAntForCausalLM": {"prompt_types": 4, "prompt_length": 4, "segment_types": 4},
    "CTRLLMHeadModel": {"dff": 128},
    "DeepseekV2ForCausalLM": _ALL_HEADS,
    "DeepseekV3ForCausalLM": _ALL_HEADS,
    "DeepseekV32ForCausalLM": _ALL_HEADS | {"index_n_heads": 2, "index_head_dim": 16},
    "Dots3NoteForCausalLM": _ALL_HEADS,
    "EsmcForMaskedLM": _ALL_HEADS,
    "FalconH1ForCausalLM": {
        "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_ssm": 128, "mamba_d_state": 12,
        "mamba_chunk_size": 8,
    },
    "FunnelForMaskedLM": {"block_sizes": [1, 1], "d_head": 16},
    "Gemma3nForCausalLM": _GEMMA_N,
    "Gemma4ForCausalLM": {
        "vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 16,
        "num_kv_shared_layers": 0, "global_head_dim": 16,
    },
    "GPTJForCausalLM": {"rotary_dim": 8},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "Glm4MoeLiteForCausalLM": _ALL_HEADS,
    "GlmMoeDsaForCausalLM": _ALL_HEADS | {"index_n_heads": 2, "index_head_dim": 16},
    "GraniteMoeHybridForCausalLM": {
        "layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 16,
        "mamba_d_state": 12, "mamba_chunk_size": 8, "shared_intermediate_size": 96,
    },
    "GraniteMoeSharedForCausalLM": {"shared_intermediate_size": 96},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "KimiLinearForCausalLM": _HYBRID | _ALL_HEADS | {"linear_head_dim": 16, "linear_num_heads": 4},
    "Lfm2ForCausalLM": {"layer_types": ["conv", "full_attention"]},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "Lfm3ForCausalLM": {"layer_types": ["conv", "full_attention"]},
    "LongcatFlashForCausalLM": _ALL_HEADS
    | {"zero_expert_num": 2, "expert_ffn_hidden_size": 48, "head_dim": 8},
    "LukeForMaskedLM": {"entity_vocab_size": 30, "entity_emb_size": 24},
    "Mamba2ForCausalLM": {"num_heads": 8, "state_size": 12, "n_groups": 2, "chunk_size": 8},
    "MiniCPM3ForCausalLM": _ALL_HEADS,
    "NemotronHForCausalLM": {
        "layer_types": ["mamba", "attention"], "mamba_num_heads": 8, "mamba_head_dim": 16,
        "ssm_state_size": 12, "n_groups": 2, "chunk_size": 8,
    },
    "PerceiverForMaskedLM": {
        "num_latents": 12, "d_latents": 64, "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4, "num_cross_attention_heads": 4, "qk_channels": 32,
        "v_channels": 64,
    },
    "Qwen3NextForCausalLM": _HYBRID | _LINEAR,
    "Qwen3_5ForCausalLM": _HYBRID | _LINEAR,
    "Qwen3_5MoeForCausalLM": _HYBRID | _LINEAR,
    "Qwen4ExpForCausalLM": _HYBRID | _LINEAR | {
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8,
        "indexer_compress_ratio": 4, "hc_lowrank": 12, "hc_count": 2,
    },
    "RecurrentGemmaForCausalLM": {"block_types": ["recurrent", "attention"], "lru_width": 72},
    "ReformerModelWithLMHead": {
        "is_decoder": True, "attn_layers": ["local", "lsh"], "axial_pos_shape": [4, 8],
        "axial_pos_embds_dim": [24, 40], "attention_head_size": 16, "num_buckets": 2,
        "lsh_attn_chunk_length": 8, "local_attn_chunk_length": 8, "hash_seed": 0,
    },
    "RoCBertForMaskedLM": {
        "pronunciation_vocab_size": 40, "shape_vocab_size": 40, "pronunciation_embed_dim": 20,
        "shape_embed_dim": 24,
    },
    "T5GemmaForConditionalGeneration": {
        side: config_of("T5GemmaModuleConfig") for side in ("encoder", "decoder")
    },
    "xLSTMForCausalLM": {  # with a cache it has no backward pass
        "chunk_size": 8, "qk_dim_factor": 1.0, "use_cache": False,
    },
    "XmodForMaskedLM": {"default_language": "en_XX", "languages": ["en_XX"]},
    "YoutuForCausalLM": _ALL_HEADS,
    "ZambaForCausalLM": {
        "layers_block_type": ["mamba", "hybrid"] * 2, "num_hidden_layers": 4,
        "num_key_value_heads": 4,
    },
    "Zamba2ForCausalLM": {
        "layers_block_type": ["mamba", "hybrid"], "mamba_d_state": 12,
        "num_key_value_heads": 4, "chunk_size": 8, "adapter_rank": 8,
    },
    "ZayaForCausalLM": {"num_experts_per_tok": 1, "router_hidden_size": 24},
}  # fmt: skip


def _tokens(length: int) -> Tensor:
    return torch.randint(3, VOCAB, (2, length))


def _single(kind: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model of one sequence."""
    return tiny(kind, **_OPTIONS.get(kind, {})), {"input_ids": _tokens(_LENGTHS.get(kind, 11))}


def _pair(kind: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model of two sequences."""
    model = tiny(kind, **_OPTIONS.get(kind, {}))
    return model, {"input_ids": _tokens(_LENGTHS.get(kind, 11)), "decoder_input_ids": _tokens(7)}


for _group, _make, _kinds in (
    ("decoders", _single, _DECODERS),
    ("encoders", _single, _ENCODERS),
    ("encoder-decoders", _pair, _PAIRS),
):
    for _kind in _kinds:
        MODELS[family_name(_kind)] = partial(_make, _kind)
        FAMILIES[family_name(_kind)] = _group
