"""The search with real networks, real builds and real measurements."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from building import Case, digits_case, wide_case
from torch import nn

from secateur.core.attempt import Attempt
from secateur.core.budget import (
    Budget,
    Drop,
    Latency,
    MACs,
    Params,
    PeakMemory,
    Quality,
)
from secateur.core.errors import InfeasibleBudget, InputError, RecipeError
from secateur.core.measured import Latency as Clocked
from secateur.measure.memory import peak_memory
from secateur.measure.metric import Accuracy, Loss
from secateur.search.loop import Found, search
from secateur.search.timing import Timing


@pytest.fixture(scope="module")
def case() -> Case:
    return digits_case()


def run(case: Case, budget: Budget, evaluate: Any = None, **arguments: Any) -> Found:
    case.build.asked.clear()
    return search(
        case.build, case.model, budget, evaluate=evaluate or case.right, example=case.call,
        **arguments,
    )  # fmt: skip


def test_a_drop_gives_the_smallest_network_that_was_seen_to_keep_it(case: Case) -> None:
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    found = run(case, Drop(points=2))
    assert len(case.build.asked) <= 7
    accepted = [a for a in found.attempts if a.accepted]
    rejected = [a for a in found.attempts if not a.accepted]
    assert accepted
    assert rejected
    best = min(accepted, key=lambda a: a.left or 1)
    assert found.trial.amounts.macs == best.macs
    assert (best.left or 1) < 0.7
    assert max(a.left or 0 for a in rejected if a.worse) < (best.left or 0)
    assert best.worse is not None
    assert best.error is not None
    assert best.worse + best.error <= 0.02 + 1e-3
    for name, value in case.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_report_is_of_samples_that_nothing_was_selected_on(case: Case) -> None:
    found = run(case, Drop(points=2))
    assert found.quality is not None
    assert (found.quality.data, found.quality.samples) == ("held out", 225)
    old, new = case.right(case.model), case.right(found.trial.model)
    whole = (found.quality.after + [a for a in found.attempts if a.accepted][-1].quality) / 2  # type: ignore[operator]
    assert whole == pytest.approx(new.mean().item())
    assert 0 <= found.quality.before <= 1
    assert old.mean() > 0.95
    assert "samples that nothing was selected on" in str(found.quality)


def test_without_a_split_the_report_says_so(case: Case) -> None:
    found = run(case, Drop(points=2), split=False)
    assert found.quality is not None
    assert (found.quality.data, found.quality.samples) == ("all", 450)
    assert any("reported on the same data" in line for line in found.lines)


def test_one_number_is_enough_and_errors_come_from_changed_predictions(case: Case) -> None:
    found = run(case, Drop(points=2), case.accuracy)
    assert found.quality is not None
    assert found.quality.data == "all"
    assert found.quality.error is not None
    assert found.quality.samples == 450
    before, after = case.right(case.model), case.right(found.trial.model)
    exact = ((after - before).std() / 450**0.5).item()
    assert found.quality.error >= exact * 0.99
    assert (before.mean() - after.mean()).item() <= 0.02


def test_it_is_the_same_again(case: Case) -> None:
    first, second = run(case, Drop(points=2)), run(case, Drop(points=2))
    assert first.attempts == second.attempts
    assert first.quality == second.quality
    for a, b in zip(first.trial.model.parameters(), second.trial.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_interrupted_search_resumes(case: Case) -> None:
    whole = run(case, Drop(points=2))
    kept: list[Attempt] = []

    def stop(attempt: Attempt) -> None:
        kept.append(Attempt.from_dict(attempt.to_dict()))
        if len(kept) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(case, Drop(points=2), on_trial=stop)
    resumed = run(case, Drop(points=2), resume=kept)
    assert resumed.attempts == whole.attempts
    assert resumed.quality == whole.quality
    assert len(case.build.asked) <= len(whole.attempts) - 3 + 1
    done = run(case, Drop(points=2), resume=whole.attempts)
    assert len(case.build.asked) == 1
    assert done.quality == whole.quality
    other = run(case, Drop(points=3), resume=whole.attempts)
    assert len(case.build.asked) == len(other.attempts)


def test_a_floor_and_a_ceiling_on_the_metric(case: Case) -> None:
    found = run(case, Quality(at_least=0.9), split=False)
    assert case.accuracy(found.trial.model) >= 0.9
    loss = Loss([(case.data.held_out_images, case.data.held_out_labels)])
    most = loss(case.model).mean().item() + 0.05
    found = run(case, Quality(at_most=most), loss, split=False)
    assert loss(found.trial.model).mean().item() <= most
    assert (found.attempts[0].left or 1) <= 0.5


def test_a_loss_in_nats_and_relative(case: Case) -> None:
    batches = [
        (case.data.held_out_images[k : k + 20], case.data.held_out_labels[k : k + 20])
        for k in range(0, 440, 20)
    ]
    loss = Loss(batches)
    dense = loss(case.model).mean().item()
    found = run(case, Drop(nats=0.05), loss)
    assert found.quality is not None
    assert found.quality.data == "held out"
    assert found.trial.left("macs") < 1
    found = run(case, Drop(relative=0.5), loss, split=False)
    assert loss(found.trial.model).mean().item() <= 1.5 * dense


def test_evaluation_stops_early_where_it_is_clear(case: Case) -> None:
    images, labels = case.data.held_out_images, case.data.held_out_labels
    metric = Accuracy(list(zip(images.split(10), labels.split(10), strict=True)))
    found = run(case, Drop(points=20), metric, trials=3)
    samples = [a.samples for a in found.attempts if a.samples is not None]
    assert min(samples) < 225
    assert found.quality is not None
    assert found.quality.samples == 225


def test_ceilings_hold_for_every_trial(case: Case) -> None:
    found = run(case, Drop(points=20) & Params("40%") & MACs("60%"))
    params = sum(p.numel() for p in case.model.parameters())
    assert all((a.params or 0) <= 0.4 * params for a in found.attempts)
    assert all((a.left or 0) <= 0.6 for a in found.attempts)
    assert found.trial.amounts.params == sum(p.numel() for p in found.trial.model.parameters())


def test_ceilings_alone_need_no_search(case: Case) -> None:
    found = run(case, MACs("50%"))
    assert len(case.build.asked) == 1
    assert found.trial.left("macs") <= 0.5
    assert found.attempts == ()


def test_peak_memory_gives_the_largest_network_that_fits(case: Case) -> None:
    found = run(case, PeakMemory("60%"))
    before, after = (peak_memory(m, case.call).bytes for m in (case.model, found.trial.model))
    assert after <= 0.6 * before
    assert found.peak == after
    assert found.peak_before == before
    accepted = [a.left or 0 for a in found.attempts if a.accepted]
    assert found.trial.left("macs") == max(accepted)


def test_latency_is_measured_and_needs_no_quality() -> None:
    model, build, call = wide_case()
    found = search(build, model, Latency("85%", threads=1), example=call, trials=4)
    assert found.timing is not None
    assert found.timing.bound <= 0.85
    assert found.timing.after.threads == 1
    assert found.quality is None
    assert any(line.startswith("latency: ") for line in found.lines)
    assert all(a.latency_ms and a.latency_before_ms for a in found.attempts if a.left)


def test_where_shapes_decide_only_the_winner_is_repaired(case: Case) -> None:
    finished: list[Any] = []

    def refuse(asked: Budget) -> Any:
        raise AssertionError("repaired")

    found = search(
        refuse, case.model, PeakMemory("80%"), example=case.call, trials=3, sketch=case.build,
        finish=finished.append,
    )  # fmt: skip
    assert len(found.attempts) > 1 and finished == [found.trial]
    with pytest.raises(AssertionError, match="repaired"):
        search(
            refuse, case.model, Drop(points=30), evaluate=case.right, sketch=case.build,
            finish=finished.append,
        )  # fmt: skip


def test_the_winner_is_timed_again_and_gives_way_if_it_was_lucky() -> None:
    model, build, call = wide_case(64)
    goal = "Latency('100%', threads=1) & Drop(absolute=1.0)"
    margins = {"Latency('100%', threads=1)": 0.5, "Drop(absolute=1.0)": 0.5}
    lucky = Attempt(goal, 0.5, 0.5, margins=margins, accepted=True)
    told: list[Attempt] = []
    budget = Latency("100%", threads=1) & Drop(absolute=1.0)

    def slow(asked: Budget) -> Any:
        trial = build(asked)
        trial.model = nn.Sequential(*[model[:-1], *[nn.Linear(64, 64)] * 40, model[-1]]).eval()
        return trial

    with pytest.raises(InfeasibleBudget, match="of the original's time"):
        search(
            slow, model, budget, evaluate=lambda m: 1.0, example=call, trials=1, resume=[lucky],
            on_trial=told.append,
        )  # fmt: skip
    assert [attempt.accepted for attempt in told[:2]] == [True, False]
    assert told[1].why.startswith("timed again, ")


def test_a_winner_that_was_lucky_gives_one_more_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    model, build, call = wide_case(64)
    asked: list[Timing] = []

    def timed(*args: Any, **how: Any) -> Timing:
        """Just inside the first time, just outside when the winner is timed again, then inside."""
        ms = Latency("60%").ceiling(1.0)
        value = ms * (1.05 if len(asked) == 1 else 0.95)
        same = Clocked(1.0, 0.0, 9, 1)
        asked.append(Timing(same, same, value, value, ms))
        return asked[-1]

    monkeypatch.setattr("secateur.search.gauge.time_pair", timed)
    found = search(build, model, Latency("60%"), example=call, trials=1)
    assert [attempt.accepted for attempt in found.attempts] == [False, True]
    assert found.attempts[1].share < found.attempts[0].share


def test_latency_and_quality_together(case: Case) -> None:
    found = run(case, Latency("100%", batch=128) & Drop(points=30), trials=4)
    best = min((a for a in found.attempts if a.accepted), key=lambda a: a.left or 1)
    assert set(best.margins) == {"Latency('100%', batch=128)", "Drop(points=30.0)"}
    assert min(best.margins.values()) >= 0
    assert found.trial.left("macs") == best.left


def test_what_is_out_of_reach_is_said_with_what_is_reachable(case: Case) -> None:
    with pytest.raises(
        InfeasibleBudget, match=r"Drop\(points=1.0\) was not reached: the best is"
    ) as e:
        run(case, Drop(points=1), any_change)
    assert "1 ± 0 worse, 0.01 allowed with 96." in str(e.value)
    with pytest.raises(InfeasibleBudget, match="the original itself has"):
        run(case, Quality(at_least=0.999), split=False)
    with pytest.raises(InfeasibleBudget, match=r"PeakMemory\(1000\) was not reached: the best is"):
        run(case, PeakMemory(1000), trials=3)
    with pytest.raises(InfeasibleBudget, match=r"Params\(10\) cannot be reached"):
        run(case, Drop(points=1) & Params(10))


def any_change(model: nn.Module) -> torch.Tensor:
    """A metric that falls from 1 to 0 with the first weight that goes."""
    return torch.full((50,), float(sum(p.numel() for p in model.parameters()) == WHOLE))


WHOLE = sum(p.numel() for p in digits_case().model.parameters())


def test_goals_need_what_they_measure_with(case: Case) -> None:
    with pytest.raises(RecipeError, match="needs evaluate="):
        search(case.build, case.model, Drop(1), example=case.call)
    with pytest.raises(RecipeError, match="needs an example"):
        search(case.build, case.model, Latency("50%"))
    with pytest.raises(RecipeError, match="disagree"):
        run(case, Quality(at_most=2) & Quality(at_least=0.5))
    with pytest.raises(RecipeError, match="trials=0"):
        run(case, Drop(1), trials=0)
    with pytest.raises(InputError):
        run(case, Drop(1), lambda model: "good")


def test_a_loss_taken_for_an_accuracy_is_noticed(case: Case) -> None:
    images, labels = case.data.held_out_images, case.data.held_out_labels

    def loss(model: nn.Module) -> float:
        return nn.functional.cross_entropy(model(images), labels).item()

    with pytest.raises(RecipeError, match="is it a loss"):
        run(case, Drop(relative=0.01), loss)
    with pytest.raises(RecipeError, match="of Loss lower is better"):
        run(case, Drop(relative=0.1, lower_is_better=False), Loss([(images, labels)]))
    assert run(case, Drop(absolute=0.5, lower_is_better=True), loss).trial.left("macs") < 1
