"""What must hold for every random network, checked without the library's own verification."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import steps_branches  # noqa: F401
import steps_channels  # noqa: F401
import steps_code  # noqa: F401
import steps_patterns  # noqa: F401
import steps_shape  # noqa: F401
import steps_tokens  # noqa: F401
import torch
from grammar import Program, Step
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import secateur as sc
from secateur.core.errors import InfeasibleBudget, RecipeError
from secateur.search import workshop

TOLERANCE = 1e-8


class Wrong(AssertionError):
    """A network for which the promise does not hold."""


@dataclass
class Outcome:
    """What happened to one network. blamed: sites that failed a cut first, with the reason."""

    pruned: bool = False
    exact: bool = False
    kept: float = 1.0
    again: bool = False
    blamed: dict[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def run(model: nn.Module, example: Tensor) -> list[Tensor]:
    """The outputs in evaluation mode; modes are put back."""
    modes = {module: module.training for module in model.modules()}
    with torch.no_grad():
        found = [t for t in tree_leaves(model.eval()(example)) if isinstance(t, Tensor)]
    for module, mode in modes.items():
        module.training = mode
    return found


def difference(left: list[Tensor], right: list[Tensor]) -> float:
    """The largest, relative to the largest value; infinite where shapes differ.

    An output that is zero up to rounding is compared as if its values were 1e-6.
    """
    if [t.shape for t in left] != [t.shape for t in right]:
        return float("inf")
    pairs = zip(left, right, strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-6)) for a, b in pairs)


def expect(holds: bool, text: str) -> None:
    if not holds:
        raise Wrong(text)


def check(program: Program) -> Outcome:
    """Prune one network and check everything that can be checked from outside.

    Raises:
        Wrong: Something does not hold; or whatever else went wrong.
    """
    net, example = program.build(), program.example()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    dense = run(net, example)
    if not all(bool(torch.isfinite(t).all()) for t in dense):
        return Outcome()
    outcome = Outcome()
    result = _prune(net, example, program.seed, outcome)
    expect(
        all(torch.equal(state[k], v) for k, v in net.state_dict().items()), "the original changed"
    )
    expect(difference(dense, run(net, example)) == 0, "the original computes something else")
    if result is None:
        return outcome
    outcome.pruned, outcome.exact = True, not result.verification.statistical
    outcome.kept = result.after.params / result.before.params
    small = run(result.model, example)
    expect([t.shape for t in small] == [t.shape for t in dense], "the outputs have other shapes")
    expect(all(bool(torch.isfinite(t).all()) for t in small), "the outputs are not finite")
    _same_as_masked(program, net, result, example, outcome.exact)
    _reloads(net, result, example, small)
    _trains(result.model, example)
    again = _prune(result.model, example, program.seed + 1, Outcome())
    outcome.again = again is not None
    if again is not None and not again.verification.statistical:
        reference = _masked(result.model, again.plan, example)
        expect(
            difference(reference, run(again.model, example)) < TOLERANCE,
            "pruned again: other outputs",
        )
    return outcome


def recipe(seed: int) -> dict[str, Any]:
    """Half of the networks are cut in half everywhere; the others by a random recipe."""
    rng = random.Random(seed)
    found: dict[str, Any] = {"criterion": "random", "seed": seed, "latency": False}
    if rng.random() < 0.5:
        return {**found, "budget": sc.Sparsity(0.5), "allocate": "uniform"}
    budgets = [sc.Params("50%"), sc.MACs("60%"), sc.Sparsity(0.7), sc.Bytes("70%")]
    units = [sc.Channel(), sc.Head(), [sc.Channel(), sc.Head()], [sc.Channel(multiple=2)]]
    return {
        **found,
        "budget": rng.choice(budgets),
        "allocate": rng.choice(["global", "uniform", "isomorphic"]),
        "criterion": rng.choice(["random", "magnitude", "l2", "bn_scale"]),
        "unit": rng.choice([*units, [sc.Channel(), sc.Layer()], sc.Layer()]),
    }


def _prune(net: nn.Module, example: Tensor, seed: int, outcome: Outcome) -> Any:
    real = workshop.culprits

    def counted(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        outcome.blamed.update({name: str(reason) for name, reason in found.items()})
        return found

    with mock.patch.object(workshop, "culprits", counted):
        try:
            result = sc.prune(net, example, **recipe(seed))
        except InfeasibleBudget:
            return None
        except RecipeError as error:
            expect("nothing to prune" in str(error), f"another error: {error}")
            return None
    outcome.unknown = tuple(r.text for r in result.plan.frozen if " rule for " in f" {r.text}")
    return result


def _masked(net: nn.Module, plan: Any, example: Tensor) -> list[Tensor]:
    twin = copy.deepcopy(net)
    with sc.mask(twin, plan):
        for block in plan.removed:
            twin.set_submodule(block, nn.Identity())
        return run(twin, example)


def _same_as_masked(
    program: Program, net: nn.Module, result: Any, example: Tensor, exact: bool
) -> None:
    """On the example, on other data, and on another batch size where the network allows it."""
    for batch in (None, program.batch, program.batch + 2, 1):
        given = example if batch is None else program.example(batch)
        try:
            dense = run(net, given)
        except (RuntimeError, ValueError):
            continue  # the batch size is written in the network
        try:
            small = run(result.model, given)
        except ValueError as error:  # a group norm of one value, which PyTorch refuses
            expect("more than 1 value per channel" in str(error), f"batch {batch}: {error}")
            continue
        expect([t.shape for t in small] == [t.shape for t in dense], f"batch {batch}: other shapes")
        if exact:
            wrong = difference(_masked(net, result.plan, given), small)
            expect(
                wrong < TOLERANCE, f"batch {batch}: differs from the masked original by {wrong:.2g}"
            )


def _reloads(net: nn.Module, result: Any, example: Tensor, small: list[Tensor]) -> None:
    """A fresh model, the plan out of JSON, and the saved weights give the same network."""
    fresh = copy.deepcopy(net)
    sc.cut(fresh, sc.Plan.from_json(result.plan.to_json()))
    expect(
        difference(small, run(fresh, example)) < TOLERANCE,
        "the replayed plan gives another network",
    )
    fresh.load_state_dict(result.model.state_dict(), strict=True)
    expect(difference(small, run(fresh, example)) == 0, "reloaded weights give another network")
    expect(difference(small, run(copy.deepcopy(result.model), example)) == 0, "a deep copy differs")


def _trains(model: nn.Module, example: Tensor) -> None:
    """A backward pass in training mode reaches every parameter that the dense one reaches."""
    trained = copy.deepcopy(model).train()
    outputs = [t for t in tree_leaves(trained(example)) if isinstance(t, Tensor)]
    sum(t.sum() for t in outputs).backward()  # type: ignore[union-attr]
    for name, parameter in trained.named_parameters():
        grad = parameter.grad
        expect(
            grad is None or grad.shape == parameter.shape,
            f"the gradient of {name} has another shape",
        )


def smaller(program: Program, kind: type[BaseException]) -> Program:
    """The least program that still raises an error of this type: steps are deleted or hoisted."""
    from dataclasses import replace

    def fails(candidate: Program) -> bool:
        try:
            check(candidate)
        except kind:
            return True
        except Exception:
            return False
        return False

    found = True
    while found:
        found = False
        for steps in _deletions(program.steps):
            candidate = replace(program, steps=steps)
            if fails(candidate):
                program, found = candidate, True
                break
    return program


def _deletions(steps: tuple[Step, ...]) -> Any:
    for i, one in enumerate(steps):
        before, after = steps[:i], steps[i + 1 :]
        yield before + after
        for branch in one.branches:
            yield before + branch + after
        for j, branch in enumerate(one.branches):
            for shorter in _deletions(branch):
                branches = (*one.branches[:j], shorter, *one.branches[j + 1 :])
                yield (*before, Step(one.name, one.seed, branches), *after)
