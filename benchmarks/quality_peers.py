"""Torch-Pruning and torch-kirigami in every setting that prunes without training.

A setting is a name and a function `(case, removed) -> model`, where `removed` in [0, 1) is what the
peer calls its ratio. Neither takes a budget in MACs, so `to_budget` searches for the ratio that
leaves the largest network within the budget. Criteria that need gradients get the labels of the
calibration data, which Secateur does without.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import torch
from quality_cases import Case, macs
from torch import Tensor, nn

Prune = Callable[[Case, float], nn.Module]
STEPS = 9
KIRIGAMI_EXAMPLES = os.environ.get("KIRIGAMI_EXAMPLES", "")


@dataclass(frozen=True)
class Setting:
    """One way to use a peer. shape: gives the same widths as `prune`, where that takes longer."""

    peer: str
    name: str
    prune: Prune
    shape: Prune | None = None
    halves: bool = False


def to_budget(setting: Setting, case: Case, most: float) -> nn.Module:
    """The largest network of at most `most` MACs that a setting gives.

    A ratio at which the peer raises counts as too much; if none is within the budget, or three in
    a row raise from the first, its last error is raised.
    """
    low, high, full = 0.0, 1.0, macs(case.build(), case)
    best: tuple[int, float] | None = None
    error: Exception = RuntimeError(f"no ratio gives at most {most:,.0f} MACs")
    for step in range(STEPS):
        middle = (low + high) / 2
        try:
            count = macs((setting.shape or setting.prune)(case, middle), case)
        except Exception as raised:
            error, high = raised, middle
            if step == 2 and low == 0.0:
                break
            continue
        if count > most:
            if count == full and middle >= 0.75:
                raise RuntimeError(f"nothing is removed at a ratio of {middle:.2f}")
            low = middle
            continue
        high = middle
        if best is None or count > best[0]:
            best = count, middle
    if best is None:
        raise error
    return setting.prune(case, best[1])


def reestimated(model: nn.Module, case: Case) -> nn.Module:
    """A copy whose batch norms have the cumulative average statistics of the calibration data."""
    model = copy.deepcopy(model)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in case.calibration.batches(64):
            model(*batch.inputs)
    return model.eval()


def has_batch_norm(model: nn.Module) -> bool:
    """Whether there is anything to re-estimate."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def inner(case: Case, model: nn.Module) -> list[str]:
    """Convolutions and linear layers that write neither the residual stream nor the output."""
    kinds = (nn.Conv2d, nn.Linear)
    outer = (*case.outer, case.output)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds) and not any(fnmatchcase(name, glob) for glob in outer)
    ]


_GRADIENTS: dict[tuple[str, bool], dict[str, Tensor]] = {}


def gradients(case: Case, squared: bool) -> dict[str, Tensor]:
    """Mean gradients of the loss, or mean squared gradients of single samples, by parameter."""
    if (case.name, squared) in _GRADIENTS:
        return _GRADIENTS[case.name, squared]
    model = case.build()
    part = case.calibration[:128] if squared else case.calibration
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for batch in part.batches(1 if squared else 64):
        model.zero_grad()
        case.loss(model, batch).backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                total[name] += (p.grad.square() if squared else p.grad * len(batch)) / len(part)
    _GRADIENTS[case.name, squared] = total
    return total


def _with_gradients(case: Case, kind: str) -> nn.Module:
    model = case.build()
    if kind:
        found = gradients(case, kind == "squared")
        for name, p in model.named_parameters():
            p.grad = found[name].clone()
    return model


_ACTIVATIONS: dict[str, dict[str, Tensor]] = {}


def _with_activations(case: Case, model: nn.Module, criterion: Any) -> None:
    """What Torch-Pruning's activation criterion stores on modules, computed once for a case."""
    if case.name not in _ACTIVATIONS:
        with criterion.compute_importance(model), torch.no_grad():
            model(*case.calibration.inputs)
        found = {name: getattr(m, "_importance", None) for name, m in model.named_modules()}
        _ACTIVATIONS[case.name] = {name: v for name, v in found.items() if v is not None}
    for name, value in _ACTIVATIONS[case.name].items():
        model.get_submodule(name)._importance = value.clone()


def torch_pruning(importance: str, how: str, where: str) -> Setting:
    """A setting of Torch-Pruning: a criterion, an allocation, and what may be pruned."""

    def prune(case: Case, removed: float) -> nn.Module:
        import torch_pruning as tp

        criteria: dict[str, tuple[str, Callable[[], Any]]] = {
            "L1": ("", lambda: tp.importance.GroupMagnitudeImportance(p=1)),
            "L2": ("", lambda: tp.importance.GroupMagnitudeImportance(p=2)),
            "L2, unnormalised": (
                "", lambda: tp.importance.GroupMagnitudeImportance(p=2, normalizer=None),
            ),
            "LAMP": ("", tp.importance.LAMPImportance),
            "FPGM": ("", tp.importance.FPGMImportance),
            "BN scale": ("", tp.importance.BNScaleImportance),
            "Taylor": ("mean", tp.importance.GroupTaylorImportance),
            "Taylor, unnormalised": (
                "mean", lambda: tp.importance.GroupTaylorImportance(normalizer=None),
            ),
            "Hessian": ("squared", tp.importance.GroupHessianImportance),
            "Hessian, unnormalised": (
                "squared", lambda: tp.importance.GroupHessianImportance(normalizer=None),
            ),
            "activation": ("", lambda: tp.pruner.importance.ActivationImportance()),
        }  # fmt: skip
        kind, make = criteria[importance]
        model, criterion = _with_gradients(case, kind), make()
        if importance == "activation":
            _with_activations(case, model, criterion)
        allowed = set(inner(case, model))
        kinds = (nn.Conv2d, nn.Linear, nn.RNNBase, nn.Embedding)
        ignored = [
            module
            for name, module in model.named_modules()
            if (where == "inner" and isinstance(module, kinds) and name not in allowed)
            or name == case.output
        ]
        pruner = tp.pruner.BasePruner(
            model,
            case.example,
            importance=criterion,
            pruning_ratio=removed,
            global_pruning=how != "uniform",
            isomorphic=how == "isomorphic",
            ignored_layers=ignored,
            num_heads={model.get_submodule(name): n for name, n in case.heads.items()},
            round_to=max(case.heads.values(), default=None),
        )
        pruner.step()
        model.zero_grad()
        return model.eval()

    halves = how == "uniform" and where == "inner"
    return Setting("Torch-Pruning", f"{importance}, {how}, {where}", prune, halves=halves)


class Planned:
    """A graph and a pruner of torch-kirigami for a case, built once."""

    def __init__(self, case: Case, gradients_of: str = "") -> None:
        from torch_kirigami import DependencyGraph, pruning

        self.case, self.model = case, _with_gradients(case, gradients_of)
        graph = DependencyGraph.build(self.model, args=case.example)
        self.pruner = pruning.Pruner(self.model, graph=graph)

    def ordered(self, metric: Any) -> list[Any]:
        """Candidates in the order in which its static greedy search visits them."""
        from torch_kirigami import pruning

        case, pruner = self.case, self.pruner
        targets = inner(case, self.model) if case.outer else None
        space = pruner.discover_candidates(targets=targets)
        if not space.candidates:
            raise RuntimeError(f"no candidates: {dict(space.exclusions)}")
        budget = pruning.ChannelRatio(0.5)
        context = pruning.PlanningContext(
            pruner.graph, space.candidates, budget, space.channel_axes, pruner.constraints
        )
        scores = metric.score(context, space.candidates, accepted_impact=context.impact(()))
        ranked = sorted(zip(scores, space.candidates, strict=True), key=lambda p: (p[0], p[1].key))
        return [candidate for _, candidate in ranked]

    def without(self, removed: list[Any]) -> nn.Module:
        """A fresh model without these selections."""
        from torch_kirigami import pruning

        plan = self.pruner.plan_remove(removed)
        model, _ = pruning.Pruner(self.case.build()).apply(plan)
        return model.eval()


_ORDERS: dict[tuple[str, str], tuple[Planned, list[Any]]] = {}


def kirigami(metric: str, how: str) -> Setting:
    """A setting of torch-kirigami: a metric, over all axes or the same share of each.

    Its greedy search tries candidates one by one, which takes minutes a plan; as all candidates
    here can go independently of each other, the first ones of its order are planned at once.
    """

    def planned(case: Case) -> tuple[Planned, list[Any]]:
        from torch_kirigami import pruning

        if (case.name, metric) not in _ORDERS:
            metrics: dict[str, Callable[[], Any]] = {
                "L1": lambda: pruning.Magnitude(1),
                "L2": lambda: pruning.Magnitude(2),
                "group L2": lambda: pruning.GroupMagnitude(2),
                "Taylor": pruning.WeightTaylor,
            }
            found = Planned(case, "mean" if metric == "Taylor" else "")
            _ORDERS[case.name, metric] = found, found.ordered(metrics[metric]())
        return _ORDERS[case.name, metric]

    def prune(case: Case, removed: float) -> nn.Module:
        plan, order = planned(case)
        widths = {c.axis: c.axis.tensor.shape[c.axis.dim] for c in order}
        count = dict.fromkeys(widths, 0)
        total, chosen = int(removed * len(order)), []
        for candidate in order:
            most = widths[candidate.axis] - 1
            if how == "uniform":
                width = widths[candidate.axis]
                most = width - max(1, int((1 - removed) * width))
            elif len(chosen) == total:
                break
            if count[candidate.axis] < most:
                count[candidate.axis] += 1
                chosen += [candidate.remove]
        return plan.without([selection for remove in chosen for selection in remove])

    return Setting("torch-kirigami", f"{metric}, {how}", prune, halves=how == "uniform")


@cache
def _example_script(name: str) -> Any:
    """A workflow of torch-kirigami's source archive; its readers of ImageNet are not needed."""
    if not KIRIGAMI_EXAMPLES:
        raise RuntimeError("set KIRIGAMI_EXAMPLES to examples/workflows of its source archive")
    for missing, names in (
        ("imagenet_data", ("evaluate", "load_images")),
        ("imagenet_models", ("MODELS", "MLP_MODELS", "make_model", "make_mlp_model")),
    ):
        module = types.ModuleType(missing)
        module.__dict__.update(dict.fromkeys(names))
        sys.modules.setdefault(missing, module)
    os.environ.setdefault("TQDM_DISABLE", "1")
    sys.path.append(KIRIGAMI_EXAMPLES)
    return importlib.import_module(name)


def osscar(damping: float) -> Setting:
    """The OSSCAR workflow of torch-kirigami's examples: selection and refitting of weights.

    As there, one fraction of the channels goes everywhere.
    """
    cached: dict[str, tuple[Planned, dict[str, str]]] = {}

    def planned(case: Case) -> tuple[Planned, dict[str, str]]:
        if case.name not in cached:
            found = Planned(case)
            script = _example_script("osscar_pruning")
            pairs, reasons = script.discover_reconstruction_pairs(found.pruner.graph)
            if not pairs:
                raise RuntimeError(f"no eligible pair: {next(iter(reasons.values()), 'none')}")
            cached[case.name] = found, pairs
        return cached[case.name]

    def widths(case: Case, removed: float) -> dict[str, int]:
        model, pairs = planned(case)[0].model, planned(case)[1]
        full = {name: model.get_submodule(name).weight.shape[0] for name in pairs}
        return {name: width - min(int(removed * width), width - 1) for name, width in full.items()}

    def shape(case: Case, removed: float) -> nn.Module:
        found, _ = planned(case)
        axes = {
            found.pruner.graph.parameter(f"{name}.weight").axis(0): width
            for name, width in widths(case, removed).items()
        }
        return found.without(
            [axis.select(range(width, axis.tensor.shape[0])) for axis, width in axes.items()
             if width < axis.tensor.shape[0]]
        )  # fmt: skip

    def prune(case: Case, removed: float) -> nn.Module:
        pairs = planned(case)[1]
        return reconstruct(case, pairs, widths(case, removed), damping)

    name = f"OSSCAR example, damping {damping:g}"
    return Setting("torch-kirigami", name, prune, shape, halves=True)


def reconstruct(
    case: Case, pairs: dict[str, str], widths: dict[str, int], damping: float
) -> nn.Module:
    """The main loop of the OSSCAR workflow, on all calibration data."""
    from torch_kirigami import DependencyGraph
    from torch_kirigami.pruning import Pruner

    script = _example_script("osscar_pruning")
    model, teacher = case.build(), case.build()
    data = [(batch.inputs[0], None) for batch in case.calibration.batches(64)]
    for first, second in pairs.items():
        width = model.get_submodule(first).weight.shape[0]
        if widths[first] == width:
            continue
        moments = script.collect_reconstruction(model, teacher, second, data, "cpu", 0, 4096)
        original = teacher.get_submodule(second).weight.detach().flatten(1).T
        gram, cross = moments.system(original, damping)
        solution = script.solve_osscar(gram, cross, width, widths[first], prune_batch=1)
        graph = DependencyGraph.build(model, args=case.example)
        script.apply_reconstruction(Pruner(model, graph=graph), first, second, solution)
    return model.eval()


def settings(case: Case) -> list[Setting]:
    """Everything that is tried on a case."""
    criteria = ["L1", "L2", "L2, unnormalised", "LAMP", "FPGM", "Taylor", "Taylor, unnormalised",
                "Hessian", "Hessian, unnormalised", "activation"]  # fmt: skip
    if has_batch_norm(case.build()):
        criteria.append("BN scale")
    places = ("inner", "all") if case.outer else ("all",)
    found = [
        torch_pruning(criterion, how, where)
        for where in places
        for criterion in criteria
        for how in ("uniform", "global", "isomorphic")
    ]
    found += [
        kirigami(metric, how)
        for metric in ("L1", "L2", "group L2", "Taylor")
        for how in ("uniform", "global")
    ]
    return [*found, osscar(0.01), osscar(0.0001)]
