"""timm: the smallest member of every model family, then variants that are built differently.

The list is static so that runs are comparable: family -> models, the smallest one first. Members
were ranked by parameters, with `test_*` models left out. Images are 96 pixels wide wherever a
model runs at that size (also where it was made for one larger size: it is then built for 96). A
few families start at hundreds of millions of parameters; these are made shallower or narrower.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

from . import Builder

_BATCH = 2
_SIZE = 96
_SIZES = {
    "halonet_h1": 256,
    "halonet26t": 256,
    "bat_resnext26ts": 256,
    "crossvit_tiny_240": 240,
    "crossvit_9_dagger_240": 240,
    "deepseek_vit_412m": 112,
    "deepseek_vit_412m_align": 112,
    "efficientformer_l1": 224,
    "gemma4_vit_167m": 112,
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "aimv2_large_patch14_224": {"depth": 4},
    "deepseek_vit_412m": {"depth": 2},
    "deepseek_vit_412m_align": {"depth": 2},
    "gemma4_vit_167m": {"depth": 2},
    "mobilenetv5_300m": {"channel_multiplier": 0.25},
}

TABLE: dict[str, tuple[str, ...]] = {
    "beit": (
        "beit_base_patch16_224",
        "beitv2_base_patch16_224",
    ),
    "byoanet": (
        "halonet_h1",
        "botnet26t_256",
        "halonet26t",
        "lambda_resnet26t",
    ),
    "byobnet": (
        "mobileone_s1",
        "bat_resnext26ts",
        "gcresnext26ts",
        "gernet_s",
        "regnetz_b16",
        "repvgg_a0",
        "repvgg_b1g4",
        "resnet50_clip",
        "resnet51q",
    ),
    "cait": ("cait_xxs24_224",),
    "coat": (
        "coat_tiny",
        "coat_lite_tiny",
    ),
    "convit": ("convit_tiny",),
    "convmixer": ("convmixer_768_32",),
    "convnext": (
        "convnext_zepto_rms",
        "convnext_atto_ols",
        "convnextv2_atto",
    ),
    "cpubone": (
        "cpubone_nano",
        "cpubone_b1_dwnorm",
    ),
    "crossvit": (
        "crossvit_tiny_240",
        "crossvit_9_dagger_240",
    ),
    "csatv2": ("csatv2",),
    "cspnet": (
        "cs3darknet_focus_s",
        "cs3sedarknet_xdw",
        "cspresnet50",
        "cspresnext50",
        "darknet17",
    ),
    "cspnext": ("cspnext_tiny",),
    "davit": ("davit_tiny",),
    "deepseek_vit": (
        "deepseek_vit_412m",
        "deepseek_vit_412m_align",
    ),
    "deit": (
        "deit_tiny_patch16_224",
        "deit3_small_patch16_224",
        "deit_tiny_distilled_patch16_224",
    ),
    "densenet": (
        "densenet121",
        "densenetblur121d",
    ),
    "dla": (
        "dla46x_c",
        "dla34",
        "dla60_res2net",
    ),
    "dpn": (
        "dpn48b",
        "dpn68",
    ),
    "edgenext": (
        "edgenext_xx_small",
        "edgenext_small_rw",
    ),
    "efficientformer": ("efficientformer_l1",),
    "efficientformer_v2": ("efficientformerv2_s0",),
    "efficientnet": (
        "mobilenetv2_035",
        "efficientnet_b0",
        "efficientnet_b0_g16_evos",
        "efficientnet_b0_gn",
        "efficientnet_blur_b0",
        "efficientnet_es",
        "fbnetc_100",
        "mixnet_s",
        "mnasnet_050",
        "mobilenet_edgetpu_v2_xs",
        "mobilenetv1_100",
        "semnasnet_050",
        "spnasnet_100",
        "tf_efficientnetv2_b0",
        "tinynet_e",
    ),
    "efficientvim": (
        "efficientvim_m1",
        "efficientvim_m1_dist",
    ),
    "efficientvit_mit": (
        "efficientvit_b0",
        "efficientvit_l1",
    ),
    "efficientvit_msra": ("efficientvit_m0",),
    "eva": (
        "vit_tiny_patch16_dinov3_qkvb",
        "eva02_tiny_patch14_224",
        "vit_pe_spatial_tiny_patch16_512",
        "vit_small_patch16_rope_224",
        "vit_small_patch16_rope_mixed_224",
        "vit_small_plus_patch16_dinov3",
    ),
    "fasternet": ("fasternet_t0",),
    "fastvit": (
        "fastvit_t8",
        "fastvit_mci0",
        "fastvit_sa12",
    ),
    "focalnet": (
        "focalnet_tiny_srf",
        "focalnet_tiny_lrf",
    ),
    "gcvit": ("gcvit_xxtiny",),
    "gemma4_vit": ("gemma4_vit_167m",),
    "ghostnet": (
        "ghostnet_050",
        "ghostnetv2_100",
        "ghostnetv3_050",
    ),
    "hardcorenas": ("hardcorenas_b",),
    "hgnet": (
        "hgnetv2_b0",
        "hgnet_tiny",
    ),
    "hiera": ("hiera_tiny_224",),
    "hieradet_sam2": ("sam2_hiera_tiny",),
    "hrnet": (
        "hrnet_w18_small",
        "hrnet_w18_small_v2",
    ),
    "iformer": (
        "iformer_t",
        "iformer_m_distilled",
    ),
    "inception_next": ("inception_next_atto",),
    "inception_resnet_v2": ("inception_resnet_v2",),
    "inception_v3": ("inception_v3",),
    "inception_v4": ("inception_v4",),
    "lcnetv2": ("lcnetv2_small",),
    "levit": (
        "levit_128s",
        "levit_conv_128s",
    ),
    "lowformer": (
        "lowformer_b0",
        "lowformer_e1",
    ),
    "mambaout": ("mambaout_femto",),
    "maxxvit": (
        "maxvit_pico_rw_256",
        "coatnet_pico_rw_224",
        "coatnext_nano_rw_224",
        "maxvit_rmlp_pico_rw_256",
        "maxvit_tiny_tf_224",
    ),
    "metaformer": (
        "poolformerv2_s12",
        "caformer_s18",
        "convformer_s18",
        "poolformer_s12",
    ),
    "mlp_mixer": (
        "gmlp_ti16_224",
        "gmixer_12_224",
        "mixer_s16_224",
        "resmlp_12_224",
    ),
    "mobilenetv3": (
        "mobilenetv3_small_050",
        "fbnetv3_b",
        "lcnet_050",
        "mobilenetv3_large_100",
        "mobilenetv4_conv_small",
        "mobilenetv4_hybrid_medium_075",
    ),
    "mobilenetv5": ("mobilenetv5_300m",),
    "mobilevit": (
        "mobilevit_xxs",
        "mobilevitv2_050",
    ),
    "mvitv2": (
        "mvitv2_tiny",
        "mvitv2_small_cls",
    ),
    "naflexvit": (
        "naflexvit_so150m2_patch16_reg1_gap",
        "naflexvit_so150m2_patch16_reg1_map",
    ),
    "nasnet": ("nasnetalarge",),
    "nest": ("nest_tiny",),
    "nextvit": ("nextvit_small",),
    "nfnet": (
        "nf_regnet_b0",
        "eca_nfnet_l0",
        "nf_resnet26",
        "nf_seresnet26",
    ),
    "pit": (
        "pit_ti_224",
        "pit_ti_distilled_224",
    ),
    "pnasnet": ("pnasnet5large",),
    "pvt_v2": (
        "pvt_v2_b0",
        "pvt_v2_b2_li",
    ),
    "qwen3_vit": (
        "qwen3_vit_88m",
        "qwen3_vit_88m_merge",
    ),
    "rdnet": ("rdnet_tiny",),
    "regnet": (
        "regnetx_002",
        "regnetv_040",
        "regnety_002",
        "regnetz_005",
    ),
    "repghost": ("repghostnet_050",),
    "repvit": ("repvit_m1",),
    "res2net": (
        "res2next50",
        "res2net50_26w_4s",
    ),
    "resnest": (
        "resnest14d",
        "resnest50d_4s2x40d",
    ),
    "resnet": (
        "resnet10t",
        "ecaresnet26t",
        "resnet18",
        "resnet50_gn",
        "resnetaa34d",
        "resnetblur18",
        "resnetrs50",
        "resnext50_32x4d",
        "seresnext26t_32x4d",
    ),
    "resnetv2": (
        "resnetv2_18",
        "resnetv2_50d_evos",
        "resnetv2_50d_frn",
        "resnetv2_50x1_bit",
    ),
    "rexnet": (
        "rexnet_100",
        "rexnetr_100",
    ),
    "selecsls": (
        "selecsls42",
        "selecsls42b",
    ),
    "senet": ("legacy_seresnet18",),
    "sequencer": ("sequencer2d_s",),
    "shvit": ("shvit_s1",),
    "sknet": (
        "skresnet18",
        "skresnext50_32x4d",
    ),
    "starnet": ("starnet_s050",),
    "swiftformer": ("swiftformer_xs",),
    "swin_transformer": (
        "swin_tiny_patch4_window7_224",
        "swin_s3_tiny_224",
    ),
    "swin_transformer_v2": (
        "swinv2_tiny_window16_256",
        "swinv2_tiny_window8_256",
    ),
    "swin_transformer_v2_cr": (
        "swinv2_cr_tiny_224",
        "swinv2_cr_tiny_ns_224",
    ),
    "tiny_vit": ("tiny_vit_5m_224",),
    "tnt": ("tnt_s_legacy_patch16_224",),
    "tresnet": (
        "tresnet_m",
        "tresnet_v2_l",
    ),
    "twins": (
        "twins_svt_small",
        "twins_pcpvt_small",
    ),
    "vgg": (
        "vgg11",
        "vgg11_bn",
    ),
    "visformer": ("visformer_tiny",),
    "vision_transformer": (
        "vit_tiny_patch16_224",
        "aimv2_large_patch14_224",
        "vit_dpwee_patch16_reg1_gap_256",
        "vit_dwee_patch16_reg1_gap_256",
        "vit_small_patch14_dinov2",
        "vit_small_patch16_18x2_224",
        "vit_small_patch16_36x1_224",
        "vit_so150m_patch16_reg4_map_256",
        "vit_wee_patch16_reg1_gap_256",
        "vit_xsmall_patch16_clip_224",
    ),
    "vision_transformer_hybrid": (
        "vit_tiny_r_s16_p8_224",
        "vit_small_r26_s32_224",
    ),
    "vision_transformer_relpos": (
        "vit_srelpos_small_patch16_224",
        "vit_relpos_medium_patch16_cls_224",
        "vit_relpos_small_patch16_224",
    ),
    "vision_transformer_sam": ("samvit_base_patch16",),
    "vitamin": ("vitamin_small_224",),
    "volo": ("volo_d1_224",),
    "vovnet": (
        "ese_vovnet19b_slim_dw",
        "eca_vovnet39b",
        "ese_vovnet19b_dw",
        "ese_vovnet39b_evos",
    ),
    "xception": ("legacy_xception",),
    "xception_aligned": ("xception41p",),
    "xcit": (
        "xcit_nano_12_p8_224",
        "xcit_nano_12_p16_224",
    ),
}


def _build(name: str) -> tuple[nn.Module, Tensor]:
    size = _SIZES.get(name, _SIZE)
    config = timm.get_pretrained_cfg(name)
    fixed = config is not None and config.fixed_input_size
    options = _OPTIONS.get(name, {}) | ({"img_size": size} if fixed else {})
    model = timm.create_model(name, pretrained=False, **options)
    return model, torch.randn(_BATCH, 3, size, size)


MODELS: dict[str, Builder] = {
    name: partial(_build, name) for members in TABLE.values() for name in members
}
FAMILIES: dict[str, str] = {name: family for family, members in TABLE.items() for name in members}
