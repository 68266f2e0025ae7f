"""File formats of other runtimes: how a program is written, and how the file is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.core.batches import Call, tensors_in
from secateur.core.errors import InputError
from secateur.train.hosts.library import library

Runner = Callable[[Call], list[Tensor]]
_ONE_FILE = 2**31 - 2**27  # protobuf's limit, with room for the graph
MOST_ROWS = 1024
"""Rows of a batch for which ExecuTorch plans its memory at most."""


@dataclass(frozen=True)
class Format:
    """One kind of file. bounded: the batch needs a largest size when the file is written.

    write: an exported program to a file. load: a file to a function from a call to its outputs.
    packages: what both of them import, and the names to install them by.
    """

    runtime: str
    write: Callable[[Any, Path], None]
    load: Callable[[Path], Runner]
    packages: tuple[tuple[str, str], ...] = ()
    bounded: bool = False

    def check(self) -> None:
        """Raise `InputError` if a package is not installed."""
        for module, package in self.packages:
            library(module, package)


def _write_pt2(program: Any, path: Path) -> None:
    try:  # the user's data is no part of the file
        program.example_inputs = None
    except ValueError:  # PyTorch 2.6 wants a pair
        program.example_inputs = ((), {})
    torch.export.save(program, path)


def _load_pt2(path: Path) -> Runner:
    module = torch.export.load(path).module()
    return lambda call: list(tensors_in(call.run(module)))


def _write_onnx(program: Any, path: Path) -> None:
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    torch.onnx.export(program, (), path, dynamo=True, external_data=size > _ONE_FILE, verbose=False)


def _load_onnx(path: Path) -> Runner:
    runtime = library("onnxruntime", "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(call: Call) -> list[Tensor]:
        feeds = {name: t.numpy() for name, t in zip(names, _inputs(call, names), strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, feeds)]

    return run


def _write_openvino(program: Any, path: Path) -> None:
    openvino = library("openvino", "openvino")
    openvino.save_model(openvino.convert_model(program), path, compress_to_fp16=False)


def _load_openvino(path: Path) -> Runner:
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # some processors would compute in bfloat16
    }
    core = library("openvino", "openvino").Core()
    compiled = core.compile_model(path, "CPU", settings)

    def run(call: Call) -> list[Tensor]:
        given = [tensor.numpy() for tensor in _inputs(call, compiled.inputs)]
        return [torch.from_numpy(value.copy()) for value in compiled(given).to_tuple()]

    return run


def _write_executorch(program: Any, path: Path) -> None:
    exir = library("executorch.exir", "executorch")
    xnnpack = library("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    edge = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
    path.write_bytes(edge.to_executorch().buffer)


def _load_executorch(path: Path) -> Runner:
    runtime = library("executorch.runtime", "executorch").Runtime.get()
    method = runtime.load_program(path).load_method("forward")
    return lambda call: list(tensors_in(method.execute(tuple(_inputs(call)))))


def _inputs(call: Call, wanted: Sequence[Any] | None = None) -> list[Tensor]:
    """The tensors of a call, in order."""
    found = [tensor.detach().cpu() for tensor in tensors_in((call.args, dict(call.kwargs)))]
    if wanted is not None and len(wanted) != len(found):
        raise InputError(
            f"the file has {len(wanted)} inputs, and the example {len(found)} tensors",
            hint="leave out of the example what the model does not use",
        )
    return found


FORMATS = {
    ".pt2": Format("PyTorch", _write_pt2, _load_pt2),
    ".onnx": Format(
        "ONNX Runtime",
        _write_onnx,
        _load_onnx,
        (("onnx", "onnx"), ("onnxscript", "onnxscript"), ("onnxruntime", "onnxruntime")),
    ),
    ".xml": Format("OpenVINO", _write_openvino, _load_openvino, (("openvino", "openvino"),)),
    ".pte": Format(
        "ExecuTorch",
        _write_executorch,
        _load_executorch,
        (("executorch.exir", "executorch"),),
        bounded=True,
    ),
}
