"""Every model family of torchvision, at its smallest member, plus variants that differ in kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from . import Builder

MODELS: dict[str, Builder] = {}
FAMILIES: dict[str, str] = {}


def _add(family: str, name: str, shape: tuple[int, ...], label: str = "", **options: Any) -> None:
    """Register a model that takes one tensor."""

    def builder() -> tuple[nn.Module, Tensor]:
        return models.get_model(name, weights=None, **options), torch.randn(*shape)

    MODELS[label or name] = builder
    FAMILIES[label or name] = family


def _detector(family: str, name: str, size: int, **options: Any) -> None:
    """Register a detector: it takes a list of images, and keeps its best boxes, good or not."""

    def builder() -> tuple[nn.Module, tuple[list[Tensor]]]:
        model = models.get_model(name, weights=None, weights_backbone=None, **options)
        return model, ([torch.rand(3, size, size - 16), torch.rand(3, size - 24, size)],)

    MODELS[name] = builder
    FAMILIES[name] = family


_SMALL = (2, 3, 96, 96)
_add("alexnet", "alexnet", _SMALL)
_add("vgg", "vgg11", (2, 3, 64, 64))
_add("vgg", "vgg11_bn", (2, 3, 64, 64))
_add("resnet", "resnet18", _SMALL)
_add("resnet", "resnet50", _SMALL)
_add("resnet", "resnext50_32x4d", _SMALL)
_add("resnet", "wide_resnet50_2", _SMALL)
_add("squeezenet", "squeezenet1_0", _SMALL)
_add("squeezenet", "squeezenet1_1", _SMALL)
_add("densenet", "densenet121", _SMALL)
_add("googlenet", "googlenet", _SMALL, init_weights=False)
_add("googlenet", "googlenet", _SMALL, "googlenet_plain", init_weights=False, aux_logits=False)
_add("inception", "inception_v3", _SMALL, init_weights=False)
_add("shufflenetv2", "shufflenet_v2_x0_5", _SMALL)
_add("shufflenetv2", "shufflenet_v2_x1_0", _SMALL)
_add("mobilenet", "mobilenet_v2", _SMALL)
_add("mobilenet", "mobilenet_v3_small", _SMALL)
_add("mobilenet", "mobilenet_v3_large", _SMALL)
_add("mnasnet", "mnasnet0_5", _SMALL)
_add("efficientnet", "efficientnet_b0", _SMALL)
_add("efficientnet", "efficientnet_v2_s", _SMALL)
_add("regnet", "regnet_x_400mf", _SMALL)
_add("regnet", "regnet_y_400mf", _SMALL)
_add("convnext", "convnext_tiny", _SMALL)
_add("vit", "vit_b_16", (2, 3, 80, 80), image_size=80)
_add("vit", "vit_b_32", (2, 3, 96, 96), image_size=96)
_add("swin", "swin_t", (2, 3, 112, 112))
_add("swin", "swin_v2_t", (2, 3, 112, 112))
_add("maxvit", "maxvit_t", (1, 3, 224, 224))

_add("quantizable", "quantized_resnet18", _SMALL, quantize=False)
_add("quantizable", "quantized_mobilenet_v2", _SMALL, quantize=False)
_add("quantizable", "quantized_mobilenet_v3_large", _SMALL, quantize=False)
_add("quantizable", "quantized_shufflenet_v2_x0_5", _SMALL, quantize=False)
_add("quantizable", "quantized_googlenet", _SMALL, quantize=False, init_weights=False)
_add("quantizable", "quantized_inception_v3", _SMALL, quantize=False, init_weights=False)

_PLAIN = {"weights_backbone": None}
_add("deeplab", "deeplabv3_mobilenet_v3_large", _SMALL, **_PLAIN)
_add("deeplab", "deeplabv3_resnet50", _SMALL, aux_loss=True, **_PLAIN)
_add("fcn", "fcn_resnet50", _SMALL, **_PLAIN)
_add("fcn", "fcn_resnet50", _SMALL, "fcn_resnet50_aux", aux_loss=True, **_PLAIN)
_add("lraspp", "lraspp_mobilenet_v3_large", _SMALL, **_PLAIN)

_RCNN = {"min_size": 128, "max_size": 128, "box_score_thresh": 0.0, "box_detections_per_img": 7}
_RCNN |= {"rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 30}
_ONE = {"min_size": 128, "max_size": 128, "score_thresh": 0.0, "detections_per_img": 7}
_detector("fasterrcnn", "fasterrcnn_resnet50_fpn", 128, **_RCNN)
_detector("fasterrcnn", "fasterrcnn_resnet50_fpn_v2", 128, **_RCNN)
_detector("fasterrcnn", "fasterrcnn_mobilenet_v3_large_fpn", 128, **_RCNN)
_detector("fasterrcnn", "fasterrcnn_mobilenet_v3_large_320_fpn", 128, **_RCNN)
_detector("maskrcnn", "maskrcnn_resnet50_fpn", 128, **_RCNN)
_detector("maskrcnn", "maskrcnn_resnet50_fpn_v2", 128, **_RCNN)
_detector("keypointrcnn", "keypointrcnn_resnet50_fpn", 128, **_RCNN)
_detector("retinanet", "retinanet_resnet50_fpn", 128, **_ONE)
_detector("retinanet", "retinanet_resnet50_fpn_v2", 128, **_ONE)
_detector("fcos", "fcos_resnet50_fpn", 128, **_ONE)
_detector("ssd", "ssd300_vgg16", 128, score_thresh=0.0, detections_per_img=7)
_detector("ssd", "ssdlite320_mobilenet_v3_large", 128, score_thresh=0.0, detections_per_img=7)

_add("video_resnet", "r3d_18", (2, 3, 6, 56, 56))
_add("video_resnet", "mc3_18", (2, 3, 6, 56, 56))
_add("video_resnet", "r2plus1d_18", (2, 3, 6, 56, 56))
_add("s3d", "s3d", (1, 3, 14, 224, 224))
_add("mvit", "mvit_v1_b", (1, 3, 16, 224, 224))
_add("mvit", "mvit_v2_s", (1, 3, 16, 224, 224))
_add("swin3d", "swin3d_t", (1, 3, 6, 64, 64))


def _flow(name: str) -> None:
    """Register an optical-flow model: it takes two images, and returns a list of flows."""

    def builder() -> tuple[nn.Module, tuple[Tensor, Tensor, int]]:
        model = models.get_model(name, weights=None)
        images = torch.rand(2, 2, 3, 128, 136) * 2 - 1
        return model, (images[0], images[1], 2)

    MODELS[name] = builder
    FAMILIES[name] = "raft"


_flow("raft_small")
_flow("raft_large")
