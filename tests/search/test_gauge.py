"""Goals measured on one trial: margins, words, and goals that make no sense together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from building import Case, digits_case

from secateur.core.budget import Budget, Drop, Latency, MACs, PeakMemory, Quality
from secateur.core.errors import InfeasibleBudget, RecipeError
from secateur.core.measured import Comparison
from secateur.measure.memory import peak_memory
from secateur.measure.metric import Accuracy
from secateur.search.gauge import Gauge, loss_in_words


@pytest.fixture(scope="module")
def case() -> Case:
    return digits_case()


def gauge(case: Case, budget: Budget, split: bool = False) -> Gauge:
    return Gauge(budget, case.model, evaluate=case.right, example=case.call, split=split)


def test_margins_are_shares_of_what_is_allowed(case: Case) -> None:
    trial = case.build(MACs("25%"))
    budget = Drop(points=2) & PeakMemory("50%") & Quality(at_least=0.5)
    found = gauge(case, budget).measure(trial)
    old, new = case.right(case.model), case.right(trial.model)
    worse = (old - new).mean().item()
    error = ((old - new).std() / 450**0.5).item()
    z = Drop(points=2).z
    assert found.margins["Drop(points=2.0)"] == pytest.approx((0.02 - worse - z * error) / 0.02)
    allowed = old.mean().item() - 0.5
    expected = (allowed - worse - z * error) / allowed
    assert found.margins["Quality(at_least=0.5)"] == pytest.approx(expected)
    before, after = (peak_memory(m, case.call).bytes for m in (case.model, trial.model))
    most = int(0.5 * before)
    assert found.margins["PeakMemory('50%')"] == pytest.approx((most - after) / most)
    unmet = [name for name, margin in found.margins.items() if margin < 0]
    assert [words.partition(": ")[0] for words in found.words] == unmet


def test_more_confidence_asks_for_more(case: Case) -> None:
    trial = case.build(MACs("25%"))
    margins = [
        gauge(case, Drop(points=5, confidence=c)).measure(trial).margins for c in (0.5, 0.84, 0.975)
    ]
    values = [next(iter(found.values())) for found in margins]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[2]


@pytest.mark.parametrize(("lost", "points", "met"), [(1, 1, True), (2, 1, False), (1, 0.0, False)])
def test_one_of_few_samples_is_not_told_from_none(
    case: Case, lost: int, points: float, met: bool
) -> None:
    net, small = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    wrong = {id(net): 0, id(small): lost}

    def right(model: torch.nn.Module) -> torch.Tensor:
        return (torch.arange(60) >= wrong[id(model)] + 1).float()

    found = Gauge(Drop(points=points), net, evaluate=right, split=False)
    finding = found.measure(replace(case.build(MACs("25%")), model=small))
    assert (min(finding.margins.values()) >= 0) == met
    assert any("one of the 60" in note for note in finding.notes) == met


def test_a_drop_of_nothing_still_has_finite_margins(case: Case) -> None:
    found = gauge(case, Drop(points=0)).measure(case.build(MACs("25%")))
    assert -1000 < found.margins["Drop(points=0.0)"] < 0


def test_the_note_of_a_trial_that_is_not_faster(case: Case) -> None:
    trial = case.build(MACs("99%"))
    trial.model = case.model
    found = gauge(case, Latency("1%")).measure(trial)
    assert found.margins["Latency('1%')"] < 0
    assert "of the original's time" in found.words[0]


def test_contradictions_are_refused(case: Case) -> None:
    with pytest.raises(RecipeError, match="disagree"):
        gauge(case, Drop(nats=1) & Quality(at_least=0))
    with pytest.raises(RecipeError, match="of Accuracy higher is better"):
        metric = Accuracy([(case.data.held_out_images, case.data.held_out_labels)])
        Gauge(Drop(nats=0.1), case.model, evaluate=metric)
    with pytest.raises(InfeasibleBudget, match="original itself"):
        gauge(case, Quality(at_least=1.5))


def test_the_direction_is_checked_only_where_it_is_not_said(case: Case) -> None:
    trial = case.build(MACs("25%"))
    size = sum(p.numel() for p in trial.model.parameters())

    def rises(model: torch.nn.Module) -> float:
        return 5.0 if sum(p.numel() for p in model.parameters()) == size else 1.0

    with pytest.raises(RecipeError, match="is it a loss"):
        Gauge(Drop(absolute=0.1), case.model, evaluate=rises).measure(trial)
    said = Drop(absolute=0.1, lower_is_better=False)
    assert Gauge(said, case.model, evaluate=rises).measure(trial).margins[repr(said)] > 0


def test_words() -> None:
    words = loss_in_words(Comparison(0.9, 0.85, 0.01, 100), lower=False, allowed=0.02)
    assert words == "0.05 ± 0.01 worse, 0.02 allowed"
    assert loss_in_words(Comparison(2.0, 2.5), lower=True, allowed=0.1) == "0.5 worse, 0.1 allowed"
