"""A model becomes a graph: `torch.export`, its operations by name, its weights as they are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core.batches import Call, map_tensors, untouched
from secateur.core.errors import UnsupportedModel
from secateur.engine.graph import SIZES, Graph, Node, Ref, substitute


def capture(model: nn.Module, call: Call) -> Graph:
    """The operations that a model runs on an example, for any batch and size that it allows.

    Args:
        model: Left as it was; the graph shares its tensors.
        call: One call, which says how many tensors of how many dimensions there are.

    Raises:
        UnsupportedModel: It cannot be captured as a whole.
    """
    last: Exception | None = None
    for wanted, batch in (("all", 2), ("batch", 2), ("none", 0)):
        try:
            with warnings.catch_warnings(), untouched(model), torch.no_grad():
                warnings.simplefilter("ignore")
                return _graph(_export(model, call, wanted, batch))
        except UnsupportedModel:
            raise
        except Exception as error:  # export raises whatever it meets
            last = error
    first = (str(last).strip().splitlines() or [type(last).__name__])[0]
    raise UnsupportedModel(
        f"torch.export cannot capture this {type(model).__name__}: {first[:200]}"
    )


def _export(model: nn.Module, call: Call, wanted: str, batch: int) -> Any:
    """Export with sizes that may vary: all of them, the first one, or none."""
    auto = torch.export.Dim.AUTO
    args, kwargs = call.args, dict(call.kwargs)
    if wanted == "none":
        return _functional(torch.export.export(model, args, kwargs, strict=False))
    args, kwargs = map_tensors((args, kwargs), lambda t: _rows(t, batch))

    def symbols(value: Any) -> Any:
        if isinstance(value, Tensor):
            every = range(value.dim()) if wanted == "all" else range(min(1, value.dim()))
            return {d: auto for d in every if value.shape[d] > 1}
        if isinstance(value, (list, tuple)):
            return type(value)([symbols(item) for item in value])
        if isinstance(value, Mapping):
            return {key: symbols(item) for key, item in value.items()}
        return None

    named = symbols(kwargs)
    shapes = (*symbols(args), *named.values()) if args or not named else named
    program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    return _functional(program)


def _rows(tensor: Tensor, batch: int) -> Tensor:
    """A batch of one as two: torch takes sizes of one for constants."""
    if tensor.dim() and len(tensor) == 1:
        return torch.cat([tensor] * batch)
    return tensor


def _functional(program: Any) -> Any:
    """The program without changes in place, other than those that `_node` can rename."""
    nodes = program.graph.nodes
    plain = all(_renames(node) for node in nodes if _schema(node) and _schema(node).is_mutable)
    return program if plain else program.run_decompositions({})


def _schema(node: Any) -> Any:
    """The schema of an operation of torch; None for anything else."""
    overload = isinstance(node.target, torch._ops.OpOverload)
    return node.target._schema if node.op == "call_function" and overload else None


def _views(node: Any) -> bool:
    """Whether what a node gives may be the memory of its arguments."""
    schema = _schema(node)
    return schema is None or any(result.alias_info is not None for result in schema.returns)


def _renames(node: Any) -> bool:
    """Whether a change in place is seen through one name only, and has a twin that gives anew.

    Then it is that twin, and later uses of the old name are uses of the new one.
    """
    source = node.args[0] if node.args else None
    if not isinstance(source, torch.fx.Node) or source.op != "call_function":
        return False
    fresh = not _views(source) or (_schema(source).is_mutable and _renames(source))
    others = [user for user in source.users if user is not node]
    alone = all(not _views(user) or _schema(user).is_mutable for user in others)
    return fresh and alone and _twin(node.target) is not None


def _twin(target: Any) -> Any:
    """The operation that gives anew what this one changes in place: `relu` for `relu_`."""
    space, name = target._schema.name.split("::")
    packet = getattr(getattr(torch.ops, space), name.removesuffix("_"), None)
    ends = name.endswith("_") and not name.startswith("_")
    return getattr(packet, target._overloadname, None) if ends and packet is not None else None


def _graph(program: Any) -> Graph:
    """The exported program in our own words."""
    signature = program.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        raise UnsupportedModel("the model changes its buffers or inputs while it runs")
    tensors = {**program.state_dict, **program.constants}
    kinds = torch.export.graph_signature.InputKind
    weights: dict[str, Any] = {}
    names: dict[str, str] = {}
    inputs: list[str] = []
    for spec in signature.input_specs:
        if spec.kind == kinds.USER_INPUT:
            inputs.append(spec.arg.name)
        elif spec.target in tensors and isinstance(tensors[spec.target], Tensor):
            names[spec.arg.name] = _weight_name(spec.target)
            weights[names[spec.arg.name]] = tensors[spec.target].detach()
        else:
            raise UnsupportedModel(f"the model holds something that is no tensor: {spec.target}")
    nodes: list[Node] = []
    outputs: tuple[Any, ...] = ()
    for node in program.graph.nodes:
        if node.op == "call_function":
            nodes.append(_node(node).with_refs(names))
            if _schema(node) and _schema(node).is_mutable:
                _rename(names, node)
        elif node.op == "get_attr":
            value = getattr(program.graph_module, node.target)
            if not isinstance(value, Tensor):
                raise UnsupportedModel(f"the graph has a part of its own: {node.target}")
            names[node.name] = _weight_name(node.target)
            weights[names[node.name]] = value.detach()
        elif node.op == "output":
            flat = tuple(_value(item) for item in node.args[0])
            outputs = substitute(flat, lambda name: Ref(names.get(name, name)))
    spec = program.call_spec
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        texts = pytree.treespec_dumps(spec.in_spec), pytree.treespec_dumps(spec.out_spec)
    return Graph(tuple(inputs), weights, tuple(nodes), outputs, texts)


def _node(node: Any) -> Node:
    value = node.meta.get("val")
    shape = tuple(str(size) for size in value.shape) if isinstance(value, Tensor) else ()
    args, kwargs = _value(node.args), _value(dict(node.kwargs))
    changes = _schema(node) and _schema(node).is_mutable
    target = _twin(node.target) if changes else node.target
    return Node(node.name, _op(target), args, kwargs, shape)


def _rename(names: dict[str, str], node: Any) -> None:
    """What had the name of a changed value has that of the change from here on."""
    old = names.get(node.args[0].name, node.args[0].name)
    for name in [node.args[0].name, *(n for n, now in names.items() if now == old)]:
        names[name] = node.name


def _op(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return str(target)
    name = getattr(target, "__name__", str(target)).strip("_")
    if name in SIZES and not isinstance(target, torch._ops.OpOverload):
        return f"size.{name}"
    raise UnsupportedModel(f"the graph has an operation that is not understood: {target}")


def _value(value: Any) -> Any:
    """Arguments with `Ref`s for nodes; lists and tuples are kept apart."""
    if isinstance(value, torch.fx.Node):
        return Ref(value.name)
    if isinstance(value, (list, tuple)):
        return [_value(v) for v in value] if isinstance(value, list) else tuple(map(_value, value))
    if isinstance(value, dict):
        return {key: _value(item) for key, item in value.items()}
    plain = (int, float, bool, str, torch.dtype, torch.device, torch.layout, torch.memory_format)
    if value is None or isinstance(value, plain):
        return value
    raise UnsupportedModel(f"the graph has an argument that is not understood: {value!r}")


def _weight_name(target: str) -> str:
    """The user's name, with a dot in it, so that no operation has the same one."""
    return target if "." in target else f"self.{target}"
