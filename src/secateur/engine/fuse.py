"""What needs no operation of its own: batch norms, biases, sums and activations join layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.engine.graph import Graph, Node, Ref
from secateur.engine.layer import Layer, pack
from secateur.engine.recurrence import Recurrence, find

_NOTHING = {"alias", "clone", "contiguous", "detach", "dropout", "lift_fresh_copy", "_to_copy"}
_BATCH_NORMS = {
    "aten.batch_norm.default",
    "aten._native_batch_norm_legit_no_training.default",
    "aten.native_batch_norm.default",
}


@dataclass
class _Draft:
    """A layer while it grows: dense weight and bias in float64, as batch norms are folded."""

    label: str
    weight: Tensor
    bias: Tensor | None
    geometry: dict[str, Any]


def fuse(graph: Graph) -> Graph:
    """The same network with linear operations as layers; what does nothing is gone.

    Tensors of the graph stay as they are. Only float32 operations on fixed weights become layers.
    """
    graph = _layers(_plain(graph).alive())
    for join in (_join_sums, _join_activations):
        graph = join(graph).alive()
    return graph


def _plain(graph: Graph) -> Graph:
    """Without operations that only give their input."""
    same: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        node = node.with_refs(same)
        name = node.op.split(".")[1]
        gives = node.op.startswith("aten.") and name in _NOTHING and not node.kwargs
        if gives and name == "dropout" and node.args[2:] == (True,):
            gives = False
        if gives:
            same[node.name] = node.args[0].name
        else:
            nodes.append(node)
    renamed = Node("", "", graph.outputs).with_refs(same).args
    return replace(graph, nodes=tuple(nodes), outputs=renamed)


def _layers(graph: Graph) -> Graph:
    """Linear operations and the batch norms behind them, as layers."""
    uses = graph.uses
    nodes: list[Node] = []
    drafts: dict[str, _Draft] = {}
    recurrences: dict[str, Recurrence] = {}
    same: dict[str, str] = {}
    pairs: dict[str, str] = {}  # a batch norm with three results -> the layer it was folded into
    for node in graph.nodes:
        node = node.with_refs(same)
        found = _draft(graph, node)
        if found is not None:
            x, drafts[node.name] = found
            nodes.append(Node(node.name, "layer", (x,), {}, node.shape))
            continue
        sequence = find(graph, node)
        if sequence is not None:
            args, recurrences[node.name] = sequence
            nodes.append(Node(node.name, "recurrence", args))
            continue
        if node.op == "size.getitem" and node.args[0].name in pairs:
            same[node.name] = pairs[node.args[0].name]
            continue
        source = node.args[0].name if node.args and isinstance(node.args[0], Ref) else ""
        scale = _affine(graph, node) if node.op in _BATCH_NORMS else None
        if source in drafts and uses.get(source) == 1 and scale is not None:
            _fold(drafts[source], *scale)
            target = same if node.op == "aten.batch_norm.default" else pairs
            target[node.name] = source
            uses[source] = uses[node.name]
            continue
        nodes.append(node)
    outputs = Node("", "", graph.outputs).with_refs(same).args
    layers = {name: _finished(draft) for name, draft in drafts.items()} | recurrences
    return replace(graph, nodes=tuple(nodes), outputs=outputs, layers=layers)


def _draft(graph: Graph, node: Node) -> tuple[Ref, _Draft] | None:
    """The input of a linear operation, and its weights; None for anything else."""
    kinds: dict[str, Callable[[Graph, Node], tuple[Ref, str, Tensor, Any, dict[str, Any]] | None]]
    kinds = {
        "aten.linear.default": _linear,
        "aten.addmm.default": _addmm,
        "aten.conv1d.default": _conv,
        "aten.conv2d.default": _conv,
        "aten.conv1d.padding": _conv,
        "aten.conv2d.padding": _conv,
    }
    kind = kinds.get(node.op)
    found = kind(graph, node) if kind is not None else None
    if found is None:
        return None
    x, name, weight, bias, geometry = found
    b = None if bias is None else graph.weights.get(bias.name)
    if bias is not None and not isinstance(b, Tensor):
        return None
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or not weight.numel():
        return None
    label = name.rpartition(".")[0]
    return x, _Draft(
        label if label != "self" else name.removeprefix("self."),
        weight.double(),
        None if b is None else b.double(),
        geometry,
    )


def _linear(graph: Graph, node: Node) -> Any:
    x, weight, bias = (*node.args, None)[:3]
    tensor = graph.weights.get(weight.name)
    if tensor is None or tensor.dim() != 2 or not isinstance(x, Ref):
        return None
    return x, weight.name, tensor, bias, {"dims": 0}


def _addmm(graph: Graph, node: Node) -> Any:
    """`bias + x @ weight`, as the `Conv1D` of GPT-2 has it."""
    bias, x, weight = node.args[:3]
    tensor = graph.weights.get(weight.name)
    known = graph.weights.get(bias.name)
    if tensor is None or known is None or known.dim() != 1 or node.kwargs or x.name == weight.name:
        return None
    return x, weight.name, tensor.t(), bias, {"dims": 0}


def _conv(graph: Graph, node: Node) -> Any:
    dims = 1 if "conv1d" in node.op else 2
    defaults = (None, [1], [0], [1], 1)
    x, weight, *rest = node.args
    bias, stride, padding, dilation, groups = (*rest, *defaults[len(rest) :])
    tensor = graph.weights.get(weight.name)
    if tensor is None or len(node.shape) != dims + 2:
        return None
    strides, dilations = _pair(stride, dims, 1), _pair(dilation, dims, 1)
    kernel = (1, *tensor.shape[2:])[-2:]
    if isinstance(padding, str):
        spans = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        if padding == "same" and any(span % 2 for span in spans):
            return None
        pads = tuple(span // 2 if padding == "same" else 0 for span in spans)
    else:
        pads = _pair(padding, dims, 0)
    shaped = tensor.unsqueeze(2) if dims == 1 else tensor
    geometry = {"dims": dims, "stride": strides, "padding": pads, "dilation": dilations}
    return x, weight.name, shaped, bias, {**geometry, "groups": groups}


def _pair(value: Any, dims: int, first: int) -> tuple[int, int]:
    """The numbers of a 1-d or 2-d window, as two."""
    given = [value] if isinstance(value, int) else list(value)
    given = given * dims if len(given) == 1 else given
    down, across = given if dims == 2 else (first, given[0])
    return down, across


def _affine(graph: Graph, node: Node) -> tuple[Tensor, Tensor] | None:
    """Scale and shift of a batch norm that uses its running statistics."""
    functional = node.op != "aten._native_batch_norm_legit_no_training.default"
    if functional and node.args[5] is not False:
        return None
    eps = float(node.args[7] if functional else node.args[6])
    weight, bias, mean, var = (
        None if ref is None else graph.weights.get(ref.name) for ref in node.args[1:5]
    )
    if mean is None or var is None or mean.dtype != torch.float32:
        return None
    scale = torch.rsqrt(var.double() + eps)
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale
    return scale, shift if bias is None else shift + bias.double()


def _fold(draft: _Draft, scale: Tensor, shift: Tensor) -> None:
    shape = (-1, *[1] * (draft.weight.dim() - 1))
    zero = draft.weight == 0  # a scale that is not finite must not fill what was pruned
    draft.weight = torch.where(zero, draft.weight, draft.weight * scale.view(shape))
    draft.bias = shift if draft.bias is None else draft.bias * scale + shift


def _finished(draft: _Draft) -> Layer:
    bias = None if draft.bias is None else np.ascontiguousarray(draft.bias.float().numpy())
    return Layer(draft.label, pack(draft.weight.float()), bias, **draft.geometry)


def _join_sums(graph: Graph) -> Graph:
    """A sum of a layer's output, which nothing else uses, and anything of the same shape."""
    uses, layers = graph.uses, dict(graph.layers)
    by_name = {node.name: node for node in graph.nodes}
    gone: set[str] = set()
    nodes: list[Node] = []
    for node in graph.nodes:
        pair = node.args[:2] if node.op == "aten.add.Tensor" and not node.kwargs else ()
        joined = None
        for mine, other in (pair, pair[::-1]) if len(pair) == 2 else ():
            if not (isinstance(mine, Ref) and isinstance(other, Ref)) or mine == other:
                continue
            first, second = by_name.get(mine.name), by_name.get(other.name)
            if first is None or second is None or first.op != "layer" or uses[mine.name] != 1:
                continue
            same = first.shape == second.shape == node.shape
            if same and not layers[mine.name].residual:
                joined = Node(node.name, "layer", (first.args[0], other), {}, node.shape)
                layers[node.name] = layers.pop(mine.name).named(residual=True)
                gone.add(mine.name)
                break
        by_name[node.name] = joined or node
        nodes.append(joined or node)
    kept = tuple(node for node in nodes if node.name not in gone)
    return replace(graph, nodes=kept, layers=layers)


def _join_activations(graph: Graph) -> Graph:
    """An activation of a layer's output that nothing else uses."""
    uses, layers = graph.uses, dict(graph.layers)
    by_name: dict[str, Node] = {}
    gone: set[str] = set()
    nodes: list[Node] = []
    for node in graph.nodes:
        kind = _activation(node)
        source = node.args[0].name if kind else ""
        layer = layers.get(source)
        if layer is not None and layer.activation == "none" and uses[source] == 1:
            layers[node.name] = layers.pop(source).named(activation=kind)
            gone.add(source)
            node = replace(by_name[source], name=node.name, shape=node.shape)
        by_name[node.name] = node
        nodes.append(node)
    kept = tuple(node for node in nodes if node.name not in gone)
    return replace(graph, nodes=kept, layers=layers)


def _activation(node: Node) -> str | None:
    """Which of the fused activations a node is."""
    name, args = node.op.removeprefix("aten.").partition(".")[0], node.args[1:]
    if not node.op.startswith("aten.") or not node.args or not isinstance(node.args[0], Ref):
        return None
    if name in ("relu", "relu6", "silu", "hardswish") and not args and not node.kwargs:
        return name
    if name == "hardtanh" and tuple(args) in ((0, 6), (0.0, 6.0)):
        return "relu6"
    if name == "clamp" and not node.kwargs and tuple(args) in ((0, 6), (0.0, 6.0)):
        return "relu6"
    if name == "gelu":
        how = node.kwargs.get("approximate", "none") if not args else args[0]
        return "gelu" if how == "none" else "gelu_tanh"
    return None
