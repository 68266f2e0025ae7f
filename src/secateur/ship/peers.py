"""Other engines that run the same network on the CPU, to be timed beside `sc.compile`."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import Call, map_tensors, tensors_in, untouched
from secateur.core.errors import InputError
from secateur.core.registry import did_you_mean
from secateur.ship.formats import library

Run = Callable[[], object]


def peers(
    model: nn.Module, call: Call, names: Sequence[str], threads: int
) -> tuple[dict[str, Run], tuple[str, ...]]:
    """Calls of the same network by other engines, and why some are missing.

    names: of `PEERS`. threads: that each may use.

    Example:
        >>> from secateur.core.batches import as_call
        >>> net = nn.Linear(2, 2)
        >>> found, notes = peers(net, as_call(net, torch.zeros(1, 2)), ["eager"], 1)
        >>> list(found), notes
        (['eager'], ())

    Raises:
        InputError: There is no such engine.
    """
    found: dict[str, Run] = {}
    notes: list[str] = []
    for name in names:
        if name not in PEERS:
            raise InputError(f"there is no engine {name!r}", hint=did_you_mean(name, PEERS))
        try:
            with warnings.catch_warnings(), untouched(model), torch.no_grad():
                warnings.simplefilter("ignore")
                run = PEERS[name](model, call, threads)
                if run is not None:
                    run()
                    found[name] = run
        except Exception as error:  # engines raise whatever they meet
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            notes.append(f"{name} is not timed: {first[:160]}")
    return found, tuple(notes)


def _eager(model: nn.Module, call: Call, threads: int) -> Run:
    return partial(call.run, model)


def _channels_last(model: nn.Module, call: Call, threads: int) -> Run | None:
    if not any(t.dim() == 4 for t in tensors_in((call.args, dict(call.kwargs)))):
        return None

    def last(tensor: Tensor) -> Tensor:
        wide = tensor.dim() == 4
        return tensor.contiguous(memory_format=torch.channels_last) if wide else tensor

    twin: Any = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return partial(Call(*map_tensors((call.args, dict(call.kwargs)), last)).run, twin)


def _inductor(model: nn.Module, call: Call, threads: int) -> Run:
    import torch._inductor.config as settings

    twin = copy.deepcopy(model)
    with settings.patch(freezing=True), torch.no_grad():
        run: Any = torch.compile(twin, dynamic=False)
        call.run(run)
    return partial(call.run, run)


def _program(model: nn.Module, call: Call) -> Any:
    return torch.export.export(model, call.args, dict(call.kwargs), strict=False)


def _recurrent(model: nn.Module) -> bool:
    """Whether `torch.export` would write out every step of a sequence; tracing does not."""
    return any(isinstance(module, nn.RNNBase) for module in model.modules())


def _arrays(call: Call) -> list[Any]:
    return [t.detach().numpy() for t in tensors_in((call.args, dict(call.kwargs)))]


def _onnxruntime(model: nn.Module, call: Call, threads: int) -> Run:
    runtime = library("onnxruntime", "onnxruntime")
    library("onnxscript", "onnxscript")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would go on spinning for long after a run, and take the time of who comes next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if _recurrent(model):
            torch.onnx.export(model, call.args, path, dynamo=False, verbose=False)
        else:
            program = _program(model, call)
            torch.onnx.export(program, (), path, dynamo=True, external_data=True, verbose=False)
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    feeds = dict(zip(names, _arrays(call), strict=True))
    return partial(session.run, None, feeds)


def _openvino(model: nn.Module, call: Call, threads: int) -> Run:
    openvino = library("openvino", "openvino")
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    if _recurrent(model):
        converted = openvino.convert_model(model, example_input=call.args)
    else:
        converted = openvino.convert_model(_program(model, call))
    compiled = openvino.Core().compile_model(converted, "CPU", settings)
    request = compiled.create_infer_request()
    return partial(request.infer, _arrays(call))


PEERS: dict[str, Callable[[nn.Module, Call, int], Run | None]] = {
    "eager": _eager,
    "channels_last": _channels_last,
    "torch.compile": _inductor,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
