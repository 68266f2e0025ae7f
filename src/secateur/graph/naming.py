"""Gives leaf axes names that people recognise: those of the tensors that produce them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from secateur.core.site import Role
from secateur.graph.axes import Axis
from secateur.graph.graph import Axis as NamedAxis
from secateur.graph.trace import Trace


def name_leaves(trace: Trace, leaves: set[Axis]) -> dict[Axis, str]:
    """A unique name for every leaf: the first producing tensor's, else the first tensor's."""
    ranked: dict[Axis, tuple[int, str]] = {}
    for name, tensor in trace.tensors.items():
        for d, axis in enumerate(trace.axes(tensor)):
            members = [leaf for leaf in dict.fromkeys(axis.leaves()) if leaf in leaves]
            consumed = (name, d) in trace.contracted
            rank = (tensor.dim() < 2) + 2 * consumed + 4 * (not isinstance(tensor, nn.Parameter))
            for position, leaf in enumerate(members):
                label = name.removesuffix(".weight")
                if len(members) > 1:
                    label += f".{'head' if 'batched' in leaf.marks else position}"
                if leaf not in ranked or rank < ranked[leaf][0]:
                    ranked[leaf] = (rank, label)
    names: dict[Axis, str] = {}
    taken: set[str] = set()
    for leaf, (_, label) in ranked.items():
        unique, k = label, 2
        while unique in taken:
            unique, k = f"{label}#{k}", k + 1
        taken.add(unique)
        names[leaf] = unique
    return names


def describe(
    trace: Trace, names: Mapping[Axis, str], roles: Mapping[tuple[str, int], Role]
) -> list[NamedAxis]:
    """What every named leaf is, in a word, and whether it is frozen."""
    owners = trace_modules(trace.model)
    producers: dict[Axis, list[nn.Module | None]] = {}
    factors: set[Axis] = set()
    recurrent: set[Axis] = set()
    for name, tensor in trace.tensors.items():
        for d, axis in enumerate(trace.axes(tensor)):
            members = [leaf for leaf in dict.fromkeys(axis.leaves()) if leaf in names]
            if any("batched" in leaf.marks for leaf in members):
                factors.update(members)
            for leaf in members:
                if tensor.dim() > 1 and roles[name, d] == "out":
                    producers.setdefault(leaf, []).append(owners.get(name))
                if "weight_hh" in name:
                    recurrent.add(leaf)
    return [
        NamedAxis(
            name=name,
            n=leaf.size,
            what=_word(leaf, producers.get(leaf, []), leaf in factors, leaf in recurrent),
            head="batched" in leaf.marks,
            statistical="statistical" in leaf.marks,
            frozen=leaf.frozen,
        )
        for leaf, name in names.items()
    ]


def trace_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Tensor name -> the module that holds it."""
    found: dict[str, nn.Module] = {}
    for prefix, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for key, _ in own:
            found[f"{prefix}.{key}" if prefix else key] = module
    return found


def _word(leaf: Axis, producers: list[nn.Module | None], factor: bool, recurrent: bool) -> str:
    if "batched" in leaf.marks:
        return "heads"
    if factor:
        return "head dims"
    if recurrent:
        return "hidden units"
    if len(producers) > 2:
        return "residual width"
    if any(isinstance(module, nn.modules.conv._ConvNd) for module in producers):
        return "filters"
    return "neurons"
