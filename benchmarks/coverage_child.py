"""One model of the zoo: prune it, and check the result without the library's own verification."""

from __future__ import annotations

import copy
import resource
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from alive import AliveStatistics
from outputs import difference, finite, shapes, tensors_in
from torch import Tensor, nn
from zoo import build, run

_TORCH = Path(torch.__file__).parent
SINGLE, DOUBLE = 2e-4, 1e-7
LEAST_REMOVED = 0.3


def check(set_name: str, name: str, peer: str, memory_gib: float) -> dict[str, Any]:
    """The row of one model: status, share of parameters kept, seconds, reason, details."""
    limit = int(memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    row: dict[str, Any] = {"set": set_name, "name": name, "status": "error", "peer": peer}
    try:
        model, example = build(set_name, name)
    except Exception as error:
        return row | {"status": "unbuildable", "reason": text(error)}
    try:
        expected = outputs_of(model, example)
        start = time.perf_counter()
        small, result = prune(model, example, peer)
        row["seconds"] = round(time.perf_counter() - start, 3)
        row["kept"] = round(parameters(small) / parameters(model), 4)
        found = outputs_of(small, example)
        row["effect"] = difference(expected, found)
        wanted = [shapes(expected)]
        problems = [] if finite(found) else ["outputs are not finite"]
        if result is not None:
            wanted.append(details(row, model, small, example, result, problems))
        if shapes(found) not in wanted:
            problems.insert(0, f"output shapes {shapes(found)} instead of {shapes(expected)}")
        error = backward_error(small, example)
        problems += [f"backward: {error}"] if error else []
        if 1 - row["kept"] < LEAST_REMOVED:
            problems.append(f"only {1 - row['kept']:.0%} of the parameters are gone")
        row["status"] = "not ok" if problems else "ok"
        row["reason"] = "; ".join(problems)
    except Exception as error:
        row["reason"] = text(error)
    return row


def text(error: Exception) -> str:
    """The error in one line, with the innermost line of code that is not PyTorch's."""
    frames = [(Path(f.filename), f.lineno) for f in extract_tb(error.__traceback__)]
    outside = [(path, line) for path, line in frames if path.suffix and _TORCH not in path.parents]
    place = "".join(f" ({'/'.join(p.parts[-3:])}:{line})" for p, line in outside[-1:])
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:600] + place


def prune(model: nn.Module, example: Any, peer: str) -> tuple[nn.Module, Any]:
    """Half of every prunable axis, by the library under test."""
    if peer == "torch-pruning":
        return prune_with_torch_pruning(model, example), None
    import secateur as sc

    result = sc.prune(
        model,
        example,
        unit=[sc.Channel(), sc.Head()],
        criterion="magnitude",
        budget=sc.Sparsity(0.5),
        allocate="uniform",
        latency=False,
    )
    return result.model, result


def prune_with_torch_pruning(model: nn.Module, example: Any) -> nn.Module:
    """The same with Torch-Pruning as its README says, the layers that make the outputs left alone.

    There is no plan to mask the original by, so that wrong numbers go unnoticed here.
    """
    import torch_pruning as tp

    small = copy.deepcopy(model)
    pruner = tp.pruner.BasePruner(
        small,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=output_layers(small, example),
    )
    pruner.step()
    return small


def output_layers(model: nn.Module, example: Any) -> list[nn.Module]:
    """Layers whose result is an output, as it is or as a view; and the last linear layer."""
    made: dict[int, nn.Module] = {}

    def note(module: nn.Module, _: Any, result: Any) -> None:
        if isinstance(result, Tensor):
            made[result.untyped_storage().data_ptr()] = module
            kept.append(result)

    kept: list[Tensor] = []  # alive until the end, so that no address is used twice
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, layers)]
    outputs = outputs_of(model, example)
    for handle in handles:
        handle.remove()
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]
    found = (made.get(t.untyped_storage().data_ptr()) for t in outputs)
    return list(dict.fromkeys([*last, *(m for m in found if m is not None)]))


def details(
    row: dict[str, Any],
    model: nn.Module,
    small: nn.Module,
    example: Any,
    result: Any,
    problems: list[str],
) -> list[tuple[int, ...]]:
    """The masked check, the count of MACs, and what stayed; the masked original's shapes.

    independent: the masked original agrees, with nothing of the library but `sc.mask` and the plan.
    Where statistics run over cut axes that needs `AliveStatistics`, and is evidence when it agrees.
    """
    import secateur as sc

    verification = result.verification
    row["statistical"], row["method"] = verification.statistical, verification.method
    masked = copy.deepcopy(model)
    sc.mask(masked, result.plan)
    expected = shapes(outputs_of(masked, example))
    row["masked_gap"], ok = gap(masked, small, example, nullcontext())
    if verification.statistical and not ok:
        row["alive_gap"], ok = gap(masked, small, example, AliveStatistics())
    row["independent"] = ok
    if not verification.ok:
        problems.append("not verified")
    if not verification.statistical and not ok:
        problems.append(f"the masked original differs by {row['masked_gap']:.2g}")
    for key, network, macs in (
        ("before", model, result.before.macs),
        ("after", small, result.after.macs),
    ):
        counted = flops(network, example) // 2
        if counted != macs:
            row[f"macs_{key}"] = [macs, counted]
    row["frozen"] = sorted({str(reason) for reason in result.frozen})[:40]
    return expected


def gap(
    masked: nn.Module, small: nn.Module, example: Any, mode: AbstractContextManager[Any]
) -> tuple[float, bool]:
    """How far two models' outputs are apart, and whether that is rounding: float64 decides."""
    with plain_kernels(), mode:
        reference = outputs_of(masked, example)
    single = difference(reference, outputs_of(small, example))
    if single <= SINGLE:
        return single, True
    try:
        wide = doubled(example)
        with plain_kernels(), mode:
            reference = outputs_of(copy.deepcopy(masked).double(), wide)
        double = difference(reference, outputs_of(copy.deepcopy(small).double(), wide))
    except Exception:  # not every model runs in float64
        return single, False
    return double, double <= DOUBLE


def doubled(example: Any) -> Any:
    """The example with its floating-point tensors in float64."""
    if isinstance(example, Tensor):
        return example.double() if example.is_floating_point() else example
    if isinstance(example, dict):
        return {key: doubled(value) for key, value in example.items()}
    if isinstance(example, (list, tuple)):
        return type(example)(doubled(value) for value in example)
    return example


def outputs_of(model: nn.Module, example: Any) -> list[Tensor]:
    """The output tensors in evaluation mode."""
    torch.manual_seed(0)
    with torch.no_grad():
        return list(tensors_in(run(model.eval(), example)))


def backward_error(model: nn.Module, example: Any) -> str:
    """What a backward pass raises; in evaluation mode where training needs targets."""
    error = ""
    for training in (True, False):
        trial = copy.deepcopy(model).train(training)
        try:
            outputs = [t for t in tensors_in(run(trial, example)) if t.requires_grad]
            if not outputs:
                error = "no output depends on the parameters"
                continue
            sum(t.float().sum() for t in outputs if not t.is_complex()).backward()
            return ""
        except Exception as failure:
            error = text(failure)
    return error


def parameters(model: nn.Module) -> int:
    """Distinct parameters."""
    return sum(p.numel() for p in model.parameters())


def flops(model: nn.Module, example: Any) -> int:
    """PyTorch's own count, with fused kernels off: it does not see inside them."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.is_leaf:
            parameter.requires_grad_(False)  # the counter's hooks want no gradients
    with plain_kernels(), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            run(model.eval(), example)
        return int(counter.get_total_flops())


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Fused RNNs and encoder layers off."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.backends.mkldnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
