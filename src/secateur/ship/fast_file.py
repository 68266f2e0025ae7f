"""Compiled networks on disk: one safetensors file with weights, operations and decisions.

Weights that are mostly zeros are stored as `ship/sparse.py` says. The metadata entry
`secateur.fast` holds the rest as JSON: operations by name, of a closed list; what layers do; which
kernel each one has. There is no code in the file: kernels are made again from what it says, and
what is out of range is refused before that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file
from torch import Tensor

from secateur.core.errors import FileError, InputError, SecateurError
from secateur.core.measured import Latency
from secateur.engine.decide import Decision
from secateur.engine.fast import Fast
from secateur.engine.graph import Graph, Node, Ref, function
from secateur.engine.kernels import runs_here
from secateur.engine.layer import ACTIVATIONS, Layer, pack
from secateur.engine.recurrence import Recurrence
from secateur.engine.report import Report, Row
from secateur.ship import sparse
from secateur.ship.operations import allowed
from secateur.ship.weights import open_tensors

KEY = "secateur.fast"
SCHEMA = 1
_KERNEL = re.compile(
    r"torch|llvm-recurrent|llvm-csr [1-9]\d?/([1-9]|1[0-6])|vec-(sliced|blocks|windowed) [1-9]\d?|"
    r"llvm-depthwise [1-8]|llvm-bcsr [1-9]\d?x[1-9]\d?|"
    r"vec-banked [1-9]\d{0,2}|"
    r"emit-\w{4,6}(-loop [1-9]\d?/[1-9]\d{2,8}/[1-9]\d{0,5}(/1)?| [1-9]\d?x[1-9](x[1-9]\d?)?)\+?"
)
_KINDS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
_FIELDS = {"schema", "graph", "layers", "decisions", "report"}
_HINT = "the file was changed or damaged; export the network again"


def save_fast(network: Fast, path: Path) -> int:
    """Write a compiled network; the bytes that it takes.

    Raises:
        InputError: It has an operation that such files do not hold, or nothing was gained.
    """
    if network.original is not None:
        raise InputError(
            "nothing was gained by compiling this network, so there is nothing to store",
            hint="save the model itself: sc.save, or torch.save of its state_dict",
        )
    graph = network.graph
    for node in graph.nodes:
        if node.op.startswith("aten.") and not allowed(node.op):
            raise InputError(f"operation {node.op} cannot be stored in {path.name}")
    tensors = {f"weights/{name}": value for name, value in graph.weights.items()}
    layers: dict[str, Any] = {}
    for name, layer in graph.layers.items():
        fields = {k: v for k, v in vars(layer).items() if k not in ("weight", "bias", "weights")}
        kind = "recurrence" if isinstance(layer, Recurrence) else "layer"
        layers[name] = {"kind": kind, **fields}
        packed = layer.weights if isinstance(layer, Recurrence) else (layer.weight,)
        tensors |= {f"layers/{name}/{i}": weight.dense() for i, weight in enumerate(packed)}
        if isinstance(layer, Layer) and layer.bias is not None:
            tensors[f"layers/{name}/bias"] = torch.from_numpy(layer.bias)
    content = {
        "schema": SCHEMA,
        "graph": {
            "inputs": graph.inputs,
            "nodes": [
                [n.name, n.op, _encode(n.args), _encode(dict(n.kwargs))] for n in graph.nodes
            ],
            "outputs": _encode(graph.outputs),
            "signature": graph.signature,
        },
        "layers": layers,
        "decisions": {name: asdict(decision) for name, decision in network.decisions.items()},
        "report": asdict(network.report),
    }
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    written, entry = sparse.encode(plain)
    metadata = {KEY: json.dumps(content), **({sparse.KEY: entry} if entry is not None else {})}
    save_file(written, path, metadata)
    return path.stat().st_size


def load_fast(path: str | Path) -> Fast:
    """Read a compiled network; it runs without its model, and nothing is timed.

    Kernels are those that were chosen where the file was made; those that this machine lacks are
    replaced, or torch runs the layer, and `print` says so.

    Example:
        >>> load_fast("missing.sct")
        Traceback (most recent call last):
        secateur.core.errors.FileError: there is no file missing.sct

    Raises:
        FileError: The file is missing, damaged, newer, or no compiled network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"there is no file {path}", hint="sc.export(fast, 'm.sct') makes one")
    with open_tensors(path) as (file, _):
        text = file.metadata.get(KEY)
        if text is None:
            _fail(path, "it holds no compiled network")
        tensors = {name: file.get_tensor(name) for name in file.names}
    try:
        return _network(json.loads(text), tensors, path)
    except FileError:
        raise
    except SecateurError as error:  # such as an operation that this PyTorch does not know
        _fail(path, error.message)
    except (
        ValueError, TypeError, KeyError, AttributeError, LookupError, RecursionError, OverflowError
    ) as error:  # fmt: skip
        _fail(path, f"{type(error).__name__}: {str(error)[:200]}")
    except NotImplementedError as error:
        _fail(path, str(error)[:200])


def _network(content: Any, tensors: Mapping[str, Tensor], path: Path) -> Fast:
    if not isinstance(content, dict) or content.keys() != _FIELDS:
        _fail(path, f"it has other fields than {sorted(_FIELDS)}")
    if content["schema"] != SCHEMA:
        raise FileError(
            f"{path} was written by another Secateur (schema {content['schema']!a}; this one reads "
            f"{SCHEMA})",
            hint="pip install --upgrade secateur",
        )
    layers = {n: _layer(n, fields, tensors, path) for n, fields in content["layers"].items()}
    graph = _graph(content["graph"], layers, tensors, path)
    decisions, notes = {}, []
    for name, fields in content["decisions"].items():
        decision = Decision(**fields)
        if name not in layers or not _KERNEL.fullmatch(decision.kernel):
            _fail(path, f"kernel {decision.kernel!a} of {name!a} is not known")
        here = runs_here(decision.kernel, getattr(layers[name], "activation", "none"))
        if here != decision.kernel:
            notes.append(f"{layers[name].label}: {decision.kernel} is not here, {here} is used")
        decisions[name] = replace(decision, kernel=here)
    if decisions.keys() != layers.keys():
        _fail(path, "not every layer has a kernel")
    fields: dict[str, Any] = dict(content["report"])
    fields["rows"] = tuple(Row(**row) for row in fields["rows"])
    fields |= {name: Latency(**fields[name]) for name in ("before", "after")}
    fields["notes"] = (*fields["notes"], *notes)
    block = fields.get("block", 0)
    if type(block) is not int or not 0 <= block < 1 << 20:
        _fail(path, f"layers cannot take turns by {block!a} positions")
    report = Report(**fields)
    return Fast(graph, decisions, report)


def _layer(
    name: str, fields: dict[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> Layer | Recurrence:
    fields = dict(fields)
    kind = fields.pop("kind")
    parts = [tensors[f"layers/{name}/0"]]
    while f"layers/{name}/{len(parts)}" in tensors:
        parts.append(tensors[f"layers/{name}/{len(parts)}"])
    if any(part.dtype != torch.float32 for part in parts):
        _fail(path, f"the weight of {name!a} is not float32")
    packed = tuple(pack(part) for part in parts)
    if kind == "recurrence":
        return _checked_recurrence(Recurrence(weights=packed, **fields), name, path)
    bias = tensors.get(f"layers/{name}/bias")
    for key in ("stride", "padding", "dilation"):
        fields[key] = tuple(fields[key])
    array = None if bias is None else bias.numpy()
    layer = Layer(weight=packed[0], bias=array, **fields)
    return _checked(layer, name, path)


def _checked(layer: Layer, name: str, path: Path) -> Layer:
    """A layer whose numbers make sense."""
    least = {"stride": 1, "padding": 0, "dilation": 1}
    numbers = all(
        len(pair) == 2 and all(type(n) is int and low <= n < 1 << 12 for n in pair)
        for pair, low in ((getattr(layer, key), low) for key, low in least.items())
    )
    rank = len(layer.weight.shape) == (4 if layer.dims else 2) and layer.weight.numel > 0
    groups = type(layer.groups) is int and layer.groups > 0 and layer.out % layer.groups == 0
    bias = layer.bias is None or (
        layer.bias.dtype == "float32" and layer.bias.shape == (layer.out,)
    )
    known = layer.activation in ACTIVATIONS and layer.dims in (0, 1, 2)
    typed = type(layer.residual) is bool and type(layer.label) is str
    if not (numbers and rank and groups and bias and known and typed):
        _fail(path, f"layer {name!a} makes no sense")
    return layer


def _checked_recurrence(layer: Recurrence, name: str, path: Path) -> Recurrence:
    """A recurrence whose matrices fit each other."""
    gates = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}.get(layer.cell, 0)
    each, ways = (4 if layer.biases else 2), (2 if layer.both else 1)
    fits = gates and type(layer.layers) is int and len(layer.weights) == each * ways * layer.layers
    hidden = layer.weights[0].shape[0] // gates if gates else 0
    for i in range(0, len(layer.weights) if fits else 0, each):
        inputs = layer.weights[0].shape[-1] if i < each * ways else hidden * ways
        wanted = [(gates * hidden, inputs), (gates * hidden, hidden), *[(gates * hidden,)] * 2]
        fits = fits and [w.shape for w in layer.weights[i : i + each]] == wanted[:each]
    if not fits or not hidden:
        _fail(path, f"recurrent layer {name!a} makes no sense")
    return layer


def _graph(
    fields: dict[str, Any], layers: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> Graph:
    """Operations of the closed list, each after what it refers to."""
    prefix = "weights/"
    weights = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    known = {*weights, *fields["inputs"]}
    nodes = []
    for name, op, args, kwargs in fields["nodes"]:
        kind = layers.get(name)
        right = (op == "layer" and isinstance(kind, Layer)) or (
            op == "recurrence" and isinstance(kind, Recurrence)
        )
        if kind is None:
            right = op.startswith("size.") or (op.startswith("aten.") and allowed(op))
        node = Node(name, op, tuple(_decode(args)), _decode(kwargs))
        if isinstance(kind, Layer):  # what it reads, and what is added to the result
            right &= len(node.args) == 1 + kind.residual and not node.kwargs
            right &= all(isinstance(item, Ref) for item in node.args)
        if not right or not set(node.refs) <= known or name in known:
            _fail(path, f"operation {op!a} cannot be at {name!a}")
        if kind is None:
            function(op)
        known.add(name)
        nodes.append(node)
    outputs = tuple(_decode(fields["outputs"]))
    graph = Graph(
        tuple(fields["inputs"]), weights, tuple(nodes), outputs, tuple(fields["signature"]), layers
    )
    if not set(graph.uses) <= known or {n.name for n in nodes} < layers.keys():
        _fail(path, "it refers to what is not there")
    return graph


def _encode(value: Any) -> Any:
    """Arguments as JSON has them; what it has not is an object with one key."""
    if isinstance(value, Ref):
        return {"ref": value.name}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {"dict": {key: _encode(item) for key, item in value.items()}}
    if isinstance(value, float):
        return {"float": value.hex()}
    for name, kind in _KINDS.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    return {"device": str(value)} if isinstance(value, torch.device) else value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((key, inner),) = value.items()
    if key == "ref":
        return Ref(str(inner))
    if key == "tuple":
        return tuple(_decode(item) for item in inner)
    if key == "dict":
        return {str(name): _decode(item) for name, item in inner.items()}
    if key == "float":
        return float.fromhex(inner)
    if key == "device":
        if inner != "cpu":
            raise ValueError(f"device {inner!a}")
        return torch.device("cpu")
    found = getattr(torch, str(inner))
    if not isinstance(found, _KINDS[key]):
        raise ValueError(f"{inner!a} is no {key}")
    return found


def _fail(path: Path, message: str) -> NoReturn:
    raise FileError(f"{path} cannot be read: {message}", hint=_HINT)
