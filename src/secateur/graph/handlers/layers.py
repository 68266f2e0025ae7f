"""Layers that take sizes: normalisations, convolutions, attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.graph.axes import unify
from secateur.graph.handlers.registry import equate, handles

if TYPE_CHECKING:
    from secateur.graph.trace import Trace


@handles(F.layer_norm, torch.layer_norm, F.rms_norm, torch.rms_norm, "native_layer_norm",
         "_fused_rms_norm")  # fmt: skip
def _layer_norm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    for size, axis in zip(shape, trace.axes(args[0])[-len(shape) :], strict=True):
        equate(trace, size, axis, "a normalised size")


@handles(torch.batch_norm)
def _batch_norm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    channels = trace.axes(args[0])[1]
    for tensor in args[1:5]:
        if isinstance(tensor, Tensor):  # also where an empty batch skips the operation itself
            unify(trace.axes(tensor)[0], channels)


@handles(F.group_norm, torch.group_norm)
def _group_norm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    groups = args[1] if len(args) > 1 else kwargs["num_groups"]
    axis = trace.scratch.pop("groups", None)
    if axis is not None:
        equate(trace, groups, axis, "a number of groups")


@handles("native_group_norm")
def _native_group_norm(
    trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> None:
    axes, groups = trace.axes(args[0]), trace.scratch.pop("groups", None)
    for size, axis in ((args[3], axes[0]), (args[4], axes[1]), (args[6], groups)):
        if axis is not None:
            equate(trace, size, axis, "a size")


@handles(torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d, torch.conv_transpose2d,
         torch.conv_transpose3d)  # fmt: skip
def _convolution(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axis = trace.scratch.pop("groups", None)
    if axis is not None:
        equate(
            trace, kwargs.get("groups", args[6] if len(args) > 6 else 1), axis, "a number of groups"
        )


@handles("convolution", "_convolution")
def _raw_convolution(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axis = trace.scratch.pop("groups", None)
    if axis is not None:
        equate(
            trace, args[8] if len(args) > 8 else kwargs.get("groups", 1), axis, "a number of groups"
        )


@handles(F.scaled_dot_product_attention)
def _attention(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    query = args[0] if args else kwargs["query"]
    if kwargs.get("scale") is None:  # the default is 1 / sqrt(head dim)
        axis = trace.axes(query)[-1]
        trace.equate(("count", axis), axis.size, "attention is scaled by 1/sqrt of this size")


@handles(torch.channel_shuffle, F.channel_shuffle, torch.native_channel_shuffle, F.pixel_shuffle,
         F.pixel_unshuffle, torch.flatten, Tensor.flatten, torch.permute, Tensor.permute,
         torch.transpose, Tensor.transpose, torch.unbind, Tensor.unbind,
         F.dropout, F.unfold, F.fold, torch._VF._pad_packed_sequence,
         torch._VF._pack_padded_sequence,
         F.glu, torch.kron, torch.block_diag)  # fmt: skip
def self_adjusting(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Integer arguments that are not sizes of free axes; their rules freeze what they must."""
