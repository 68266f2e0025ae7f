"""Thousands of random networks are pruned, and checked from outside (see check.py)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from check import Outcome, Wrong, check, difference, run, smaller
from grammar import STEPS, Program, make_program
from torch import nn

import secateur as sc

PER_TEST = 15
MOST_FALLBACKS = 0.02  # of networks in which some cut failed first: gaps in the analysis


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are tiny, and the machine is shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def checked(seeds: range) -> dict[int, Outcome]:
    """Check the networks of these seeds; a failure shows the smallest network that fails alike."""
    outcomes = {}
    for seed in seeds:
        program = make_program(seed)
        try:
            outcomes[seed] = check(program)
        except Exception as error:
            least = smaller(program, type(error))
            raise AssertionError(f"seed {seed}: {error!r}\n\n{least}") from error
    return outcomes


def fallbacks(outcomes: dict[int, Outcome]) -> str:
    """Which networks needed the fallback, and why."""
    return "\n".join(
        f"seed {seed}: {name}: {reason}"
        for seed, outcome in outcomes.items()
        for name, reason in outcome.blamed.items()
    )


@pytest.mark.parametrize("start", range(0, 75, PER_TEST))
def test_random_networks(start: int) -> None:
    outcomes = checked(range(start, start + PER_TEST))
    assert sum(outcome.pruned for outcome in outcomes.values()) > PER_TEST // 2
    assert len([o for o in outcomes.values() if o.blamed]) <= 2, fallbacks(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 4000, 100))
def test_many_random_networks(start: int) -> None:
    outcomes = checked(range(start, start + 100))
    blamed = [outcome for outcome in outcomes.values() if outcome.blamed]
    assert len(blamed) <= 100 * MOST_FALLBACKS, fallbacks(outcomes)


def test_the_grammar_is_varied() -> None:
    programs = [make_program(seed) for seed in range(400)]
    used = {step.name for program in programs for step in _all_steps(program.steps)}
    assert used == STEPS.keys()
    assert {program.kind for program in programs} == {"flat", "seq", "image", "volume", "tokens"}
    assert len({program.source() for program in programs}) == len(programs)


def test_a_program_is_the_same_every_time() -> None:
    first, second = make_program(7), make_program(7)
    assert first == second and str(first) == str(second)
    assert torch.equal(first.example(), second.example())
    assert (
        difference(run(first.build(), first.example()), run(second.build(), second.example())) == 0
    )


def test_wrong_cuts_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks have teeth: a cut model with two channels exchanged is not accepted."""
    real = sc.prune

    def spoiled(model: nn.Module, *args: object, **kwargs: object) -> object:
        result = real(model, *args, **kwargs)
        with torch.no_grad():
            weight = next(p for p in result.model.parameters() if p.dim() > 1 and p.shape[0] > 1)
            weight.copy_(weight.flip(0).clone())
        return replace(result, model=copy.deepcopy(result.model))

    monkeypatch.setattr(sc, "prune", spoiled, raising=False)
    noticed = 0
    for seed in range(12):
        try:
            check(make_program(seed))
        except Wrong:
            noticed += 1
    assert noticed >= 4  # half of the networks are cut statistically, so are compared less closely


def _all_steps(steps: tuple[object, ...]) -> Iterator[object]:
    for step in steps:
        yield step
        for branch in step.branches:  # type: ignore[attr-defined]
            yield from _all_steps(branch)


def test_minimising_keeps_the_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses_norms(program: Program) -> Outcome:
        if "Norm" in program.source():
            raise Wrong("a norm")
        return Outcome()

    monkeypatch.setattr("check.check", refuses_norms)
    big = next(p for p in map(make_program, range(99)) if p.source().count("Norm") > 2)
    small = smaller(big, Wrong)
    assert "Norm" in small.source() and len(small.steps) < len(big.steps)
