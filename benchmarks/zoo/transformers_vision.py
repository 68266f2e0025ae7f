"""transformers: images and video: classification, segmentation, detection, depth, key points."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from . import Builder
from ._tiny import config_of, family_name, tiny

MODELS: dict[str, Builder] = {}
FAMILIES: dict[str, str] = {}

_FOUR: dict[str, Any] = {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 24, 40, 64]}
_PYRAMID = _FOUR | {"num_attention_heads": [1, 2, 4, 4]}
_WINDOWS: dict[str, Any] = {
    "depths": [1, 2, 1], "num_heads": [2, 2, 4], "embed_dim": 24, "window_size": 4,
    "image_size": 64, "patch_size": 4,
}  # fmt: skip
_STAGES = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
_RESNET = _FOUR | {"embedding_size": 16, "layer_type": "basic"}


def _add(kind: str, size: int = 32, family: str = "", **options: Any) -> None:
    """Register a model of one image."""

    def build() -> tuple[nn.Module, dict[str, torch.Tensor]]:
        model = tiny(kind, **{k: v() if isinstance(v, partial) else v for k, v in options.items()})
        return model, {"pixel_values": torch.randn(2, 3, size, size)}

    name = family or family_name(kind)
    MODELS[name] = build
    FAMILIES[name] = "vision"


for _kind in (
    "ViTForImageClassification", "DeiTForImageClassification", "ViTMSNForImageClassification",
    "Data2VecVisionForImageClassification", "Dinov2ForImageClassification",
    "Dinov2WithRegistersForImageClassification", "DINOv3ViTModel", "IJepaForImageClassification",
    "Aimv2VisionModel", "PixioModel",
):  # fmt: skip
    _add(_kind)
_add("BeitForImageClassification", use_relative_position_bias=True)
_add("YolosForObjectDetection", num_detection_tokens=6, image_size=[32, 32])
_add("VitDetModel", 64, image_size=64, use_relative_position_embeddings=True, window_size=4,
     window_block_indices=[0])  # fmt: skip
_add("DPTForDepthEstimation", 32, neck_hidden_sizes=[16, 24, 32, 40], fusion_hidden_size=20,
     backbone_out_indices=[0, 1, 2, 3], num_hidden_layers=4)  # fmt: skip
_add("SwinForImageClassification", 64, **_WINDOWS)
_add("Swinv2ForImageClassification", 64, **_WINDOWS)
_add("DonutSwinModel", 64, **_WINDOWS)
_add("Swin2SRForImageSuperResolution", 32, depths=[2, 2], num_heads=[2, 2], embed_dim=24,
     window_size=4, image_size=32, patch_size=1)  # fmt: skip
_add("FocalNetForImageClassification", 64, depths=[1, 1, 2, 1], embed_dim=16, image_size=64,
     hidden_sizes=[16, 32, 64, 128], patch_size=4)  # fmt: skip
_add("HieraForImageClassification", 64, num_heads=[1, 2, 4, 4], image_size=[64, 64],
     depths=[1, 1, 2, 1], embed_dim=16, patch_size=[7, 7])  # fmt: skip
_add("ConvNextForImageClassification", 64, patch_size=4, **_FOUR)
_add("ConvNextV2ForImageClassification", 64, patch_size=4, **_FOUR)
_add("DINOv3ConvNextModel", 64, **_FOUR)
_add("ResNetForImageClassification", 64, **_RESNET)
_add("ResNetForImageClassification", 64, "resnet_bottleneck", **_FOUR, embedding_size=16)
_add("RegNetForImageClassification", 64, embedding_size=16, groups_width=8, **_FOUR)
_add("BitForImageClassification", 64, embedding_size=16, num_groups=2, **_FOUR)
_add("HGNetV2ForImageClassification", 64)
_add("MobileNetV1ForImageClassification", 64, depth_multiplier=0.25)
_add("MobileNetV2ForImageClassification", 64, depth_multiplier=0.35)
_add("MobileViTForImageClassification", 64, image_size=64, patch_size=2,
     hidden_sizes=[32, 48, 64], neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 80])  # fmt: skip
_add("MobileViTV2ForImageClassification", 64, image_size=64, patch_size=2, width_multiplier=0.25)
_add("EfficientNetForImageClassification", 64, width_coefficient=0.5, depth_coefficient=0.5,
     image_size=64, hidden_dim=640)  # fmt: skip
_add("PoolFormerForImageClassification", 64, **_FOUR)
_add("PvtForImageClassification", 64, image_size=64, **_PYRAMID)
_add("PvtV2ForImageClassification", 64, image_size=64, **_PYRAMID)
_add("SegformerForImageClassification", 64, **_PYRAMID)
_add(
    "SegformerForSemanticSegmentation", 64, "segformer_semantic", decoder_hidden_size=36, **_PYRAMID
)
_add("GLPNForDepthEstimation", 64, decoder_hidden_size=16, **_PYRAMID)
_add("LevitForImageClassification", 64, image_size=64, hidden_sizes=[24, 32, 48], depths=[1, 1, 1],
     num_attention_heads=[2, 4, 4], key_dim=[8, 8, 8], patch_size=16)  # fmt: skip
_add("CvtForImageClassification", 64, embed_dim=[16, 32, 48], num_heads=[1, 2, 4], depth=[1, 2, 3])
_add("SwiftFormerForImageClassification", 64, embed_dims=[16, 24, 32, 48], depths=[1, 1, 2, 1],
     image_size=64, patch_size=4)  # fmt: skip
_add("TextNetForImageClassification", 64)
_add("PPLCNetForImageClassification", 64)
_add(
    "SuperPointForKeypointDetection",
    64,
    encoder_hidden_sizes=[16, 24, 32, 40],
    decoder_hidden_size=48,
    descriptor_decoder_dim=48,
    keypoint_threshold=0.0,
    max_keypoints=9,
)
_add(
    "UperNetForSemanticSegmentation",
    64,
    hidden_size=24,
    pool_scales=[1, 2],
    use_auxiliary_head=True,
    auxiliary_in_channels=40,
    auxiliary_channels=16,
    backbone_config=partial(config_of, "ConvNextConfig", patch_size=4, **_FOUR, **_STAGES),
)
_add(
    "DepthAnythingForDepthEstimation",
    56,
    reassemble_hidden_size=64,
    neck_hidden_sizes=[16, 24],
    fusion_hidden_size=20,
    head_hidden_size=12,
    reassemble_factors=[2, 1],
    patch_size=14,
    backbone_config=partial(
        config_of,
        "Dinov2Config",
        patch_size=14,
        image_size=56,
        out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
    ),
)
_add(
    "VitPoseForPoseEstimation",
    32,
    num_labels=5,
    scale_factor=2,
    backbone_config=partial(
        config_of,
        "VitPoseBackboneConfig",
        image_size=[32, 32],
        patch_size=[8, 8],
        out_indices=[2],
        num_experts=1,
    ),
)

_DETR = {
    "use_timm_backbone": False, "use_pretrained_backbone": False, "num_queries": 7, "num_labels": 5,
    "backbone_config": partial(config_of, "ResNetConfig", out_features=["stage4"], **_RESNET),
}  # fmt: skip
_RT = {
    "encoder_in_channels": [24, 40, 64], "decoder_in_channels": [64, 64, 64],
    "encoder_hidden_dim": 64, "d_model": 64, "num_queries": 9, "num_denoising": 0, "num_labels": 5,
    "decoder_n_points": 2, "feat_strides": [8, 16, 32],
    "backbone_config": partial(
        config_of, "RTDetrResNetConfig", out_features=["stage2", "stage3", "stage4"], **_RESNET
    ),
}  # fmt: skip
for _kind in ("DetrForObjectDetection", "ConditionalDetrForObjectDetection",
              "TableTransformerForObjectDetection"):  # fmt: skip
    _add(_kind, 64, **_DETR)
_add(
    "DeformableDetrForObjectDetection",
    64,
    encoder_n_points=2,
    decoder_n_points=2,
    num_feature_levels=2,
    **{
        **_DETR,
        "backbone_config": partial(
            config_of, "ResNetConfig", out_features=["stage3", "stage4"], **_RESNET
        ),
    },
)
_add("RTDetrForObjectDetection", 64, **_RT)
_add("RTDetrV2ForObjectDetection", 64, **_RT)
_add(
    "DFineForObjectDetection",
    64,
    **_RT
    | {
        "decoder_n_points": [2, 2, 2],
        "backbone_config": partial(
            config_of, "HGNetV2Config", out_features=["stage2", "stage3", "stage4"]
        ),
        "encoder_in_channels": [512, 1024, 2048],
    },
)
_add(
    "MaskFormerForInstanceSegmentation",
    64,
    fpn_feature_size=32,
    mask_feature_size=32,
    num_labels=5,
    backbone_config=partial(
        config_of,
        "SwinConfig",
        **_WINDOWS | {"depths": [1, 1, 1, 1], "num_heads": [2, 2, 4, 4]},
        **_STAGES,
    ),
    decoder_config=partial(config_of, "DetrConfig", num_queries=7),
)
_add(
    "Mask2FormerForUniversalSegmentation",
    64,
    feature_size=32,
    mask_feature_size=32,
    hidden_dim=32,
    num_queries=7,
    num_labels=5,
    encoder_feedforward_dim=32,
    dim_feedforward=32,
    num_attention_heads=4,
    backbone_config=partial(
        config_of,
        "SwinConfig",
        **_WINDOWS | {"depths": [1, 1, 1, 1], "num_heads": [2, 2, 4, 4]},
        **_STAGES,
    ),
)
_add(
    "EomtForUniversalSegmentation",
    32,
    num_queries=5,
    num_blocks=1,
    num_upscale_blocks=1,
    num_labels=5,
)


def _video(kind: str, frames: int, **options: Any) -> None:
    """Register a model of one clip."""

    def build() -> tuple[nn.Module, dict[str, torch.Tensor]]:
        clip = torch.randn(2, frames, 3, 32, 32)
        key = "pixel_values_videos" if kind.startswith("VJEPA2") else "pixel_values"
        return tiny(kind, num_frames=frames, **options), {key: clip}

    MODELS[family_name(kind)] = build
    FAMILIES[family_name(kind)] = "vision"


_video("VideoMAEForVideoClassification", 4)
_video("TimesformerForVideoClassification", 3)
_video("VivitForVideoClassification", 4, tubelet_size=[2, 8, 8])
_video(
    "VJEPA2ForVideoClassification",
    4,
    frames_per_clip=4,
    crop_size=32,
    pred_hidden_size=48,
    pred_num_attention_heads=4,
    pred_num_hidden_layers=2,
)


def _masked_autoencoder() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    model = tiny(
        "ViTMAEForPreTraining",
        decoder_hidden_size=48,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=80,
    )
    return model, {"pixel_values": torch.randn(2, 3, 32, 32), "noise": torch.rand(2, 16)}


def _segment_anything() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    vision = config_of(
        "SamVisionConfig",
        image_size=64,
        output_channels=32,
        window_size=4,
        global_attn_indexes=[1],
        num_pos_feats=16,
        mlp_dim=128,
    )
    prompt = config_of(
        "SamPromptEncoderConfig", hidden_size=32, image_size=64, mask_input_channels=8
    )
    mask = config_of("SamMaskDecoderConfig", hidden_size=32, mlp_dim=48, iou_head_hidden_dim=40)
    model = tiny(
        "SamModel", vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=mask
    )
    points = torch.tensor([[[[10.0, 20.0], [30.0, 5.0]]]] * 2)
    return model, {"pixel_values": torch.randn(2, 3, 64, 64), "input_points": points}


def _pixels_as_tokens() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return tiny("ImageGPTForCausalImageModeling"), {"input_ids": torch.randint(0, 127, (2, 16))}


for _name, _make in {"vitmae": _masked_autoencoder, "sam": _segment_anything,
                     "imagegpt": _pixels_as_tokens}.items():  # fmt: skip
    MODELS[_name] = _make
    FAMILIES[_name] = "vision"
