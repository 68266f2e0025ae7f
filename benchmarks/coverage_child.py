"""One model of the zoo: prune it, and check the result without the library's own verification."""

from __future__ import annotations

import copy
import resource
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from outputs import difference, finite, shapes, tensors_in
from torch import Tensor, nn
from zoo import build, run

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
        problems = list(judge(model, small, example, expected))
        if result is not None:
            details(row, model, small, example, result, problems)
        if 1 - row["kept"] < LEAST_REMOVED:
            problems.append(f"only {1 - row['kept']:.0%} of the parameters are gone")
        row["status"] = "not ok" if problems else "ok"
        row["reason"] = "; ".join(problems)
    except Exception as error:
        row["reason"] = text(error)
    return row


def text(error: Exception) -> str:
    """The error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:600]


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
    """The same with Torch-Pruning as its README says; the last linear layers are left alone."""
    import torch_pruning as tp

    small = copy.deepcopy(model)
    linears = [m for m in small.modules() if isinstance(m, nn.Linear)]
    width = linears[-1].out_features if linears else 0
    pruner = tp.pruner.BasePruner(
        small,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[m for m in linears if m.out_features == width],
    )
    pruner.step()
    return small


def judge(
    model: nn.Module, small: nn.Module, example: Any, expected: list[Tensor]
) -> Iterator[str]:
    """What is wrong with the smaller model: shapes, numbers, backward."""
    found = outputs_of(small, example)
    if shapes(found) != shapes(expected):
        yield f"output shapes {shapes(found)} instead of {shapes(expected)}"
    if not finite(found):
        yield "outputs are not finite"
    error = backward_error(small, example)
    if error:
        yield f"backward: {error}"


def details(
    row: dict[str, Any],
    model: nn.Module,
    small: nn.Module,
    example: Any,
    result: Any,
    problems: list[str],
) -> None:
    """The independent masked check, the count of MACs, and what stayed."""
    verification = result.verification
    row["statistical"], row["method"] = verification.statistical, verification.method
    gap = masked_gap(model, small, example, result.plan)
    row["masked_gap"] = gap
    if not verification.ok:
        problems.append("not verified")
    if not verification.statistical and gap > DOUBLE:
        problems.append(f"the masked original differs by {gap:.2g}")
    for key, network, macs in (
        ("before", model, result.before.macs),
        ("after", small, result.after.macs),
    ):
        counted = flops(network, example) // 2
        if counted != macs:
            row[f"macs_{key}"] = [macs, counted]
    row["frozen"] = sorted({str(reason) for reason in result.frozen})[:40]


def masked_gap(model: nn.Module, small: nn.Module, example: Any, plan: Any) -> float:
    """How far zeroed and smaller weights are apart; in float64 where float32 leaves doubt."""
    import secateur as sc

    masked = copy.deepcopy(model)
    sc.mask(masked, plan)
    gap = difference(outputs_of(masked, example), outputs_of(small, example))
    if gap <= SINGLE:
        return 0.0 if gap <= DOUBLE else gap * DOUBLE / SINGLE
    try:
        wide = doubled(example)
        return difference(
            outputs_of(masked.double(), wide), outputs_of(copy.deepcopy(small).double(), wide)
        )
    except Exception:
        return gap


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
