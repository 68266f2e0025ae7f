"""transformers: text with images, sound or layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from . import Builder
from ._tiny import VOCAB, config_of, family_name, tiny

MODELS: dict[str, Builder] = {}
FAMILIES: dict[str, str] = {}
_IMAGE_TOKEN = 5


def _add(kind: str, example: Callable[[], dict[str, Any]], **options: Any) -> None:
    """Register a model with what makes its example; partial options are called."""

    def build() -> tuple[nn.Module, dict[str, Any]]:
        made = {k: v() if isinstance(v, partial) else v for k, v in options.items()}
        return tiny(kind, **made), example()

    name = family_name(kind) + ("_with_images" if kind.startswith("Gemma3") else "")
    MODELS[name] = build
    FAMILIES[name] = "multimodal"


def _tokens(length: int = 9) -> Tensor:
    return torch.randint(6, VOCAB, (2, length))


def _images() -> Tensor:
    return torch.randn(2, 3, 32, 32)


def _both() -> dict[str, Tensor]:
    return {"input_ids": _tokens(), "pixel_values": _images()}


def _ended() -> dict[str, Tensor]:
    """Text that ends with the end token, whose place these models look up."""
    tokens = _tokens()
    tokens[:, -1] = 2
    return {"input_ids": tokens, "pixel_values": _images()}


def _placeholders(count: int = 16) -> dict[str, Tensor]:
    """Text with one placeholder token for every image feature."""
    places = torch.full((2, count), _IMAGE_TOKEN)
    return {"input_ids": torch.cat([_tokens(2), places, _tokens(4)], 1), "pixel_values": _images()}


def _parts(
    prefix: str, text: str = "Text", vision: str = "Vision", **options: Any
) -> dict[str, Any]:
    return {
        "text_config": partial(config_of, f"{prefix}{text}Config", **options),
        "vision_config": partial(config_of, f"{prefix}{vision}Config"),
    }


_PROJECT = {"projection_dim": 40}
_add("CLIPModel", _ended, **_parts("CLIP"), **_PROJECT)
_add("SiglipModel", _both, **_parts("Siglip"))
_add("ChineseCLIPModel", _both, **_parts("ChineseCLIP"), **_PROJECT)
_add("AltCLIPModel", _both, **_parts("AltCLIP", project_dim=40), **_PROJECT)
_add(
    "CLIPSegForImageSegmentation",
    _ended,
    **_parts("CLIPSeg"),
    projection_dim=64,
    reduce_dim=32,
    extract_layers=[0, 1],
    decoder_num_attention_heads=4,
    decoder_intermediate_size=80,
)
_add(
    "GroupViTModel",
    _ended,
    projection_dim=40,
    projection_intermediate_dim=96,
    text_config=partial(config_of, "GroupViTTextConfig"),
    vision_config=partial(
        config_of,
        "GroupViTVisionConfig",
        depths=[1, 1, 1],
        num_hidden_layers=3,
        num_group_tokens=[6, 4, 0],
        num_output_groups=[6, 4, 4],
    ),
)
_add(
    "OwlViTForObjectDetection",
    _ended,
    **_parts("OwlViT", max_position_embeddings=9),
    projection_dim=64,
)
_add("Aimv2Model", _ended, **_parts("Aimv2"), **_PROJECT)
_add(
    "AlignModel",
    lambda: {"input_ids": _tokens(), "pixel_values": torch.randn(2, 3, 64, 64)},
    text_config=partial(config_of, "AlignTextConfig"),
    vision_config=partial(
        config_of,
        "AlignVisionConfig",
        width_coefficient=0.5,
        depth_coefficient=0.5,
        image_size=64,
        hidden_dim=64,
    ),
    projection_dim=160,
)
_add(
    "BlipForConditionalGeneration",
    _both,
    projection_dim=40,
    **_parts("Blip", encoder_hidden_size=64, projection_dim=40, sep_token_id=2),
)
_add(
    "Blip2ForConditionalGeneration",
    lambda: _placeholders(7),
    num_query_tokens=7,
    image_token_index=_IMAGE_TOKEN,
    image_text_hidden_size=40,
    text_config=partial(config_of, "OPTConfig", word_embed_proj_dim=64),
    vision_config=partial(config_of, "Blip2VisionConfig"),
    qformer_config=partial(config_of, "Blip2QFormerConfig", encoder_hidden_size=64),
)
_add("GitForCausalLM", _both, vision_config=partial(config_of, "GitVisionConfig"))
_add(
    "LlavaForConditionalGeneration",
    _placeholders,
    image_token_index=_IMAGE_TOKEN,
    text_config=partial(config_of, "LlamaConfig"),
    vision_feature_layer=-1,
    vision_config=partial(config_of, "CLIPVisionConfig"),
)
_add(
    "PaliGemmaForConditionalGeneration",
    _placeholders,
    image_token_index=_IMAGE_TOKEN,
    projection_dim=64,
    text_config=partial(config_of, "GemmaConfig"),
    vision_config=partial(config_of, "SiglipVisionConfig"),
)
_add(
    "Gemma3ForConditionalGeneration",
    lambda: (
        _placeholders(4)
        | {
            "token_type_ids": torch.cat(
                [torch.zeros(2, 2), torch.ones(2, 4), torch.zeros(2, 4)], 1
            ).long()
        }
    ),
    image_token_index=_IMAGE_TOKEN,
    mm_tokens_per_image=4,
    text_config=partial(config_of, "Gemma3TextConfig"),
    vision_config=partial(config_of, "SiglipVisionConfig"),
)
_add(
    "Idefics3ForConditionalGeneration",
    lambda: {**_placeholders(4), "pixel_values": torch.randn(2, 1, 3, 32, 32)},
    image_token_id=_IMAGE_TOKEN,
    scale_factor=2,
    text_config=partial(config_of, "LlamaConfig"),
    vision_config=partial(config_of, "Idefics3VisionConfig"),
)
_add(
    "Qwen2VLForConditionalGeneration",
    lambda: {
        "input_ids": torch.cat([_tokens(2), torch.full((2, 4), _IMAGE_TOKEN), _tokens(4)], 1),
        "pixel_values": torch.randn(2 * 16, 3 * 2 * 8 * 8),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * 2),
        "mm_token_type_ids": torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0, 0, 0]] * 2),
    },
    image_token_id=_IMAGE_TOKEN,
    video_token_id=4,
    vision_start_token_id=3,
    vision_end_token_id=3,
    text_config=partial(
        config_of,
        "Qwen2VLTextConfig",
        rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
    ),
    vision_config=partial(
        config_of, "Qwen2VLVisionConfig", depth=2, embed_dim=64, hidden_size=64, patch_size=8
    ),
)
_add(
    "VisualBertModel",
    lambda: {"input_ids": _tokens(), "visual_embeds": torch.randn(2, 5, 40)},
    visual_embedding_dim=40,
)
_add(
    "LxmertModel",
    lambda: {
        "input_ids": _tokens(),
        "visual_feats": torch.randn(2, 5, 40),
        "visual_pos": torch.rand(2, 5, 4),
    },
    visual_feat_dim=40,
    l_layers=1,
    x_layers=1,
    r_layers=1,
)
_add(
    "FlavaModel",
    _both,
    text_config=partial(config_of, "FlavaTextConfig"),
    image_config=partial(config_of, "FlavaImageConfig"),
    projection_dim=40,
    hidden_size=64,
    multimodal_config=partial(config_of, "FlavaMultimodalConfig"),
    image_codebook_config=partial(config_of, "FlavaImageCodebookConfig"),
)
_add(
    "BridgeTowerModel",
    _both,
    text_config=partial(config_of, "BridgeTowerTextConfig"),
    vision_config=partial(config_of, "BridgeTowerVisionConfig"),
)
_add(
    "LayoutLMv3Model",
    lambda: _both() | {"bbox": torch.randint(0, 60, (2, 9, 4)).sort(-1).values},
    coordinate_size=11,
    shape_size=10,
    hidden_size=64,
    input_size=32,
    max_2d_position_embeddings=64,
)
_add(
    "Kosmos2ForConditionalGeneration",
    lambda: {
        **_placeholders(4),
        "image_embeds_position_mask": torch.tensor([[0] * 2 + [1] * 4 + [0] * 4] * 2),
    },
    latent_query_num=4,
    text_config=partial(config_of, "Kosmos2TextConfig", layers=2, attention_heads=4),
    vision_config=partial(config_of, "Kosmos2VisionConfig"),
)
_add(
    "ClapModel",
    lambda: {
        "input_ids": _tokens(),
        "input_features": torch.randn(2, 1, 40, 16),
        "is_longer": torch.zeros(2, 1, dtype=torch.bool),
    },
    projection_dim=40,
    text_config=partial(config_of, "ClapTextConfig", projection_dim=40),
    audio_config=partial(
        config_of,
        "ClapAudioConfig",
        spec_size=64,
        num_mel_bins=16,
        patch_size=4,
        patch_stride=[4, 4],
        window_size=4,
        depths=[1, 1],
        patch_embeds_hidden_size=16,
        num_attention_heads=[2, 4],
        hidden_size=32,
        projection_dim=40,
        enable_fusion=False,
        num_hidden_layers=2,
    ),
)
_add(
    "VisionEncoderDecoderModel",
    lambda: {"pixel_values": _images(), "decoder_input_ids": _tokens()},
    encoder=partial(config_of, "ViTConfig"),
    decoder=partial(config_of, "GPT2Config", add_cross_attention=True, is_decoder=True),
)
_add(
    "VisionTextDualEncoderModel",
    _both,
    vision_config=partial(config_of, "ViTConfig"),
    text_config=partial(config_of, "BertConfig"),
    **_PROJECT,
)
