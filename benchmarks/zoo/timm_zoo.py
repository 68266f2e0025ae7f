"""timm: the smallest member of every model family, then variants that are built differently.

The list is static so that runs are comparable: family -> model -> (image size, options). Members
were ranked by parameters, `test_*` models left out; sizes are the smallest multiple of 16 or 32
from 96 up at which the model runs. `img_size` is given where a model is built for one image size.
A few families start at hundreds of millions of parameters; they get fewer layers (`depth`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

from . import Builder

_BATCH = 2

TABLE: dict[str, dict[str, tuple[int, dict[str, Any]]]] = {
    "beit": {
        "beit_base_patch16_224": (96, {"img_size": 96}),
        "beitv2_base_patch16_224": (96, {"img_size": 96}),
    },
    "byoanet": {
        "halonet_h1": (256, {}),
        "botnet26t_256": (96, {"img_size": 96}),
        "halonet26t": (256, {}),
        "lambda_resnet26t": (96, {}),
    },
    "byobnet": {
        "mobileone_s1": (96, {}),
        "bat_resnext26ts": (256, {}),
        "gcresnext26ts": (96, {}),
        "gernet_s": (96, {}),
        "regnetz_b16": (96, {}),
        "repvgg_a0": (96, {}),
        "repvgg_b1g4": (96, {}),
        "resnet50_clip": (96, {"img_size": 96}),
        "resnet51q": (96, {}),
    },
    "cait": {
        "cait_xxs24_224": (96, {"img_size": 96}),
    },
    "coat": {
        "coat_tiny": (96, {"img_size": 96}),
        "coat_lite_tiny": (96, {"img_size": 96}),
    },
    "convit": {
        "convit_tiny": (96, {"img_size": 96}),
    },
    "convmixer": {
        "convmixer_768_32": (96, {}),
    },
    "convnext": {
        "convnext_zepto_rms": (96, {}),
        "convnext_atto_ols": (96, {}),
        "convnextv2_atto": (96, {}),
    },
    "cpubone": {
        "cpubone_nano": (96, {}),
        "cpubone_b1_dwnorm": (96, {}),
    },
    "crossvit": {
        "crossvit_tiny_240": (240, {"img_size": 240}),
        "crossvit_9_dagger_240": (240, {"img_size": 240}),
    },
    "csatv2": {
        "csatv2": (96, {}),
    },
    "cspnet": {
        "cs3darknet_focus_s": (96, {}),
        "cs3sedarknet_xdw": (96, {}),
        "cspresnet50": (96, {}),
        "cspresnext50": (96, {}),
        "darknet17": (96, {}),
    },
    "cspnext": {
        "cspnext_tiny": (96, {}),
    },
    "davit": {
        "davit_tiny": (96, {}),
    },
    "deepseek_vit": {
        "deepseek_vit_412m": (112, {"depth": 2}),
        "deepseek_vit_412m_align": (112, {"depth": 2}),
    },
    "deit": {
        "deit_tiny_patch16_224": (96, {"img_size": 96}),
        "deit3_small_patch16_224": (96, {"img_size": 96}),
        "deit_tiny_distilled_patch16_224": (96, {"img_size": 96}),
    },
    "densenet": {
        "densenet121": (96, {}),
        "densenetblur121d": (96, {}),
    },
    "dla": {
        "dla46x_c": (96, {}),
        "dla34": (96, {}),
        "dla60_res2net": (96, {}),
    },
    "dpn": {
        "dpn48b": (96, {}),
        "dpn68": (96, {}),
    },
    "edgenext": {
        "edgenext_xx_small": (96, {}),
        "edgenext_small_rw": (96, {}),
    },
    "efficientformer": {
        "efficientformer_l1": (224, {"img_size": 224}),
    },
    "efficientformer_v2": {
        "efficientformerv2_s0": (96, {"img_size": 96}),
    },
    "efficientnet": {
        "mobilenetv2_035": (96, {}),
        "efficientnet_b0": (96, {}),
        "efficientnet_b0_g16_evos": (96, {}),
        "efficientnet_b0_gn": (96, {}),
        "efficientnet_blur_b0": (96, {}),
        "efficientnet_es": (96, {}),
        "fbnetc_100": (96, {}),
        "mixnet_s": (96, {}),
        "mnasnet_050": (96, {}),
        "mobilenet_edgetpu_v2_xs": (96, {}),
        "mobilenetv1_100": (96, {}),
        "semnasnet_050": (96, {}),
        "spnasnet_100": (96, {}),
        "tf_efficientnetv2_b0": (96, {}),
        "tinynet_e": (96, {}),
    },
    "efficientvim": {
        "efficientvim_m1": (96, {}),
        "efficientvim_m1_dist": (96, {}),
    },
    "efficientvit_mit": {
        "efficientvit_b0": (96, {}),
        "efficientvit_l1": (96, {}),
    },
    "efficientvit_msra": {
        "efficientvit_m0": (96, {"img_size": 96}),
    },
    "eva": {
        "vit_tiny_patch16_dinov3_qkvb": (96, {"img_size": 96}),
        "eva02_tiny_patch14_224": (96, {"img_size": 96}),
        "vit_pe_spatial_tiny_patch16_512": (96, {"img_size": 96}),
        "vit_small_patch16_rope_224": (96, {"img_size": 96}),
        "vit_small_patch16_rope_mixed_224": (96, {"img_size": 96}),
        "vit_small_plus_patch16_dinov3": (96, {"img_size": 96}),
    },
    "fasternet": {
        "fasternet_t0": (96, {}),
    },
    "fastvit": {
        "fastvit_t8": (96, {}),
        "fastvit_mci0": (96, {}),
        "fastvit_sa12": (96, {}),
    },
    "focalnet": {
        "focalnet_tiny_srf": (96, {}),
        "focalnet_tiny_lrf": (96, {}),
    },
    "gcvit": {
        "gcvit_xxtiny": (96, {"img_size": 96}),
    },
    "gemma4_vit": {
        "gemma4_vit_167m": (112, {"depth": 2}),
    },
    "ghostnet": {
        "ghostnet_050": (96, {}),
        "ghostnetv2_100": (96, {}),
        "ghostnetv3_050": (96, {}),
    },
    "hardcorenas": {
        "hardcorenas_b": (96, {}),
    },
    "hgnet": {
        "hgnetv2_b0": (96, {}),
        "hgnet_tiny": (96, {}),
    },
    "hiera": {
        "hiera_tiny_224": (96, {"img_size": 96}),
    },
    "hieradet_sam2": {
        "sam2_hiera_tiny": (96, {}),
    },
    "hrnet": {
        "hrnet_w18_small": (96, {}),
        "hrnet_w18_small_v2": (96, {}),
    },
    "iformer": {
        "iformer_t": (96, {}),
        "iformer_m_distilled": (96, {}),
    },
    "inception_next": {
        "inception_next_atto": (96, {}),
    },
    "inception_resnet_v2": {
        "inception_resnet_v2": (96, {}),
    },
    "inception_v3": {
        "inception_v3": (96, {}),
    },
    "inception_v4": {
        "inception_v4": (96, {}),
    },
    "lcnetv2": {
        "lcnetv2_small": (96, {}),
    },
    "levit": {
        "levit_128s": (96, {"img_size": 96}),
        "levit_conv_128s": (96, {"img_size": 96}),
    },
    "lowformer": {
        "lowformer_b0": (96, {}),
        "lowformer_e1": (96, {}),
    },
    "mambaout": {
        "mambaout_femto": (96, {}),
    },
    "maxxvit": {
        "maxvit_pico_rw_256": (96, {"img_size": 96}),
        "coatnet_pico_rw_224": (96, {"img_size": 96}),
        "coatnext_nano_rw_224": (96, {"img_size": 96}),
        "maxvit_rmlp_pico_rw_256": (96, {"img_size": 96}),
        "maxvit_tiny_tf_224": (96, {"img_size": 96}),
    },
    "metaformer": {
        "poolformerv2_s12": (96, {}),
        "caformer_s18": (96, {}),
        "convformer_s18": (96, {}),
        "poolformer_s12": (96, {}),
    },
    "mlp_mixer": {
        "gmlp_ti16_224": (96, {"img_size": 96}),
        "gmixer_12_224": (96, {"img_size": 96}),
        "mixer_s16_224": (96, {"img_size": 96}),
        "resmlp_12_224": (96, {"img_size": 96}),
    },
    "mobilenetv3": {
        "mobilenetv3_small_050": (96, {}),
        "fbnetv3_b": (96, {}),
        "lcnet_050": (96, {}),
        "mobilenetv3_large_100": (96, {}),
        "mobilenetv4_conv_small": (96, {}),
        "mobilenetv4_hybrid_medium_075": (96, {}),
    },
    "mobilevit": {
        "mobilevit_xxs": (96, {}),
        "mobilevitv2_050": (96, {}),
    },
    "mvitv2": {
        "mvitv2_tiny": (96, {"img_size": 96}),
        "mvitv2_small_cls": (96, {"img_size": 96}),
    },
    "naflexvit": {
        "naflexvit_so150m2_patch16_reg1_gap": (96, {}),
        "naflexvit_so150m2_patch16_reg1_map": (96, {}),
    },
    "nasnet": {
        "nasnetalarge": (96, {}),
    },
    "nest": {
        "nest_tiny": (96, {"img_size": 96}),
    },
    "nextvit": {
        "nextvit_small": (96, {}),
    },
    "nfnet": {
        "nf_regnet_b0": (96, {}),
        "eca_nfnet_l0": (96, {}),
        "nf_resnet26": (96, {}),
        "nf_seresnet26": (96, {}),
    },
    "pit": {
        "pit_ti_224": (96, {"img_size": 96}),
        "pit_ti_distilled_224": (96, {"img_size": 96}),
    },
    "pnasnet": {
        "pnasnet5large": (96, {}),
    },
    "pvt_v2": {
        "pvt_v2_b0": (96, {}),
        "pvt_v2_b2_li": (96, {}),
    },
    "qwen3_vit": {
        "qwen3_vit_88m": (96, {}),
        "qwen3_vit_88m_merge": (96, {}),
    },
    "rdnet": {
        "rdnet_tiny": (96, {}),
    },
    "regnet": {
        "regnetx_002": (96, {}),
        "regnetv_040": (96, {}),
        "regnety_002": (96, {}),
        "regnetz_005": (96, {}),
    },
    "repghost": {
        "repghostnet_050": (96, {}),
    },
    "repvit": {
        "repvit_m1": (96, {}),
    },
    "res2net": {
        "res2next50": (96, {}),
        "res2net50_26w_4s": (96, {}),
    },
    "resnest": {
        "resnest14d": (96, {}),
        "resnest50d_4s2x40d": (96, {}),
    },
    "resnet": {
        "resnet10t": (96, {}),
        "ecaresnet26t": (96, {}),
        "resnet18": (96, {}),
        "resnet50_gn": (96, {}),
        "resnetaa34d": (96, {}),
        "resnetblur18": (96, {}),
        "resnetrs50": (96, {}),
        "resnext50_32x4d": (96, {}),
        "seresnext26t_32x4d": (96, {}),
    },
    "resnetv2": {
        "resnetv2_18": (96, {}),
        "resnetv2_50d_evos": (96, {}),
        "resnetv2_50d_frn": (96, {}),
        "resnetv2_50x1_bit": (96, {}),
    },
    "rexnet": {
        "rexnet_100": (96, {}),
        "rexnetr_100": (96, {}),
    },
    "selecsls": {
        "selecsls42": (96, {}),
        "selecsls42b": (96, {}),
    },
    "senet": {
        "legacy_seresnet18": (96, {}),
    },
    "sequencer": {
        "sequencer2d_s": (96, {"img_size": 96}),
    },
    "shvit": {
        "shvit_s1": (96, {}),
    },
    "sknet": {
        "skresnet18": (96, {}),
        "skresnext50_32x4d": (96, {}),
    },
    "starnet": {
        "starnet_s050": (96, {}),
    },
    "swiftformer": {
        "swiftformer_xs": (96, {"img_size": 96}),
    },
    "swin_transformer": {
        "swin_tiny_patch4_window7_224": (96, {"img_size": 96}),
        "swin_s3_tiny_224": (96, {"img_size": 96}),
    },
    "swin_transformer_v2": {
        "swinv2_tiny_window16_256": (96, {"img_size": 96}),
        "swinv2_tiny_window8_256": (96, {"img_size": 96}),
    },
    "swin_transformer_v2_cr": {
        "swinv2_cr_tiny_224": (96, {"img_size": 96}),
        "swinv2_cr_tiny_ns_224": (96, {"img_size": 96}),
    },
    "tiny_vit": {
        "tiny_vit_5m_224": (96, {}),
    },
    "tnt": {
        "tnt_s_legacy_patch16_224": (96, {"img_size": 96}),
    },
    "tresnet": {
        "tresnet_m": (96, {}),
        "tresnet_v2_l": (96, {}),
    },
    "twins": {
        "twins_svt_small": (96, {"img_size": 96}),
        "twins_pcpvt_small": (96, {"img_size": 96}),
    },
    "vgg": {
        "vgg11": (96, {}),
        "vgg11_bn": (96, {}),
    },
    "visformer": {
        "visformer_tiny": (96, {"img_size": 96}),
    },
    "vision_transformer": {
        "vit_tiny_patch16_224": (96, {"img_size": 96}),
        "aimv2_large_patch14_224": (96, {"img_size": 96}),
        "vit_dpwee_patch16_reg1_gap_256": (96, {"img_size": 96}),
        "vit_dwee_patch16_reg1_gap_256": (96, {"img_size": 96}),
        "vit_small_patch14_dinov2": (96, {"img_size": 96}),
        "vit_small_patch16_18x2_224": (96, {"img_size": 96}),
        "vit_small_patch16_36x1_224": (96, {"img_size": 96}),
        "vit_so150m_patch16_reg4_map_256": (96, {"img_size": 96}),
        "vit_wee_patch16_reg1_gap_256": (96, {"img_size": 96}),
        "vit_xsmall_patch16_clip_224": (96, {"img_size": 96}),
    },
    "vision_transformer_hybrid": {
        "vit_tiny_r_s16_p8_224": (96, {"img_size": 96}),
        "vit_small_r26_s32_224": (96, {"img_size": 96}),
    },
    "vision_transformer_relpos": {
        "vit_srelpos_small_patch16_224": (96, {"img_size": 96}),
        "vit_relpos_medium_patch16_cls_224": (96, {"img_size": 96}),
        "vit_relpos_small_patch16_224": (96, {"img_size": 96}),
    },
    "vision_transformer_sam": {
        "samvit_base_patch16": (96, {"img_size": 96}),
    },
    "vitamin": {
        "vitamin_small_224": (96, {"img_size": 96}),
    },
    "volo": {
        "volo_d1_224": (96, {"img_size": 96}),
    },
    "vovnet": {
        "ese_vovnet19b_slim_dw": (96, {}),
        "eca_vovnet39b": (96, {}),
        "ese_vovnet19b_dw": (96, {}),
        "ese_vovnet39b_evos": (96, {}),
    },
    "xception": {
        "legacy_xception": (96, {}),
    },
    "xception_aligned": {
        "xception41p": (96, {}),
    },
    "xcit": {
        "xcit_nano_12_p8_224": (96, {"img_size": 96}),
        "xcit_nano_12_p16_224": (96, {"img_size": 96}),
    },
}


def _build(name: str, size: int, options: dict[str, Any]) -> tuple[nn.Module, Tensor]:
    model = timm.create_model(name, pretrained=False, **options)
    return model, torch.randn(_BATCH, 3, size, size)


MODELS: dict[str, Builder] = {
    name: partial(_build, name, size, options)
    for members in TABLE.values()
    for name, (size, options) in members.items()
}
FAMILIES: dict[str, str] = {name: family for family, members in TABLE.items() for name in members}
