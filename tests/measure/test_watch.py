"""What is seen of a model's predictions, and the bound on an accuracy's error that follows."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.measure import watch
from secateur.measure.watch import Seen, changed, error_bound, looks_like_accuracy, watching


def seen(*outputs: Any) -> Seen:
    found = Seen()
    for output in outputs:
        found.add(output)
    return found


def one_hot(index: Tensor, classes: int) -> Tensor:
    return nn.functional.one_hot(index, classes).float()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: SimpleNamespace(logits=x),
        lambda x: {"logits": x},
        lambda x: (x, None),
        lambda x: [x, x],
    ],
)
def test_scores_are_found_in_what_models_return(wrap: Any) -> None:
    found = seen(wrap(one_hot(torch.tensor([2, 0, 1]), 3)))
    assert found.calls[0][0].tolist() == [2, 0, 1]
    assert found.complete


@pytest.mark.parametrize(
    "output", [torch.zeros(3), torch.zeros(3, 1), torch.zeros(3, 4).long(), None, "text", (), {}]
)
def test_what_does_not_look_like_scores_is_not_kept(output: Any) -> None:
    found = seen(torch.eye(3), output, torch.eye(3))
    assert not found.complete
    assert not found.calls
    assert changed(found, found) is None


@pytest.mark.parametrize("classes", [2, 256, 257, 40000])
def test_predictions_are_small(classes: int) -> None:
    index = torch.tensor([0, classes - 1])
    (found,) = seen(one_hot(index, classes)).calls[0]
    assert found.tolist() == index.tolist()
    assert found.itemsize == (1 if classes <= 256 else 2 if classes <= 2**15 else 4)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MOST_PREDICTIONS", 5)
    found = seen(*[torch.eye(4)] * 3)
    assert not found.complete
    assert not found.calls


def test_different_calls_cannot_be_compared() -> None:
    three, four = seen(torch.eye(3)), seen(torch.eye(4))
    assert changed(three, four) is None
    assert changed(three, seen(torch.eye(3), torch.eye(3))) is None
    assert error_bound(three, seen()) is None


def test_of_three_dimensions_either_may_be_the_classes() -> None:
    first = torch.randn(5, 3, 4)
    second = torch.randn(5, 3, 4)
    one, two = changed(seen(first), seen(second)) or ((), ())
    assert one.tolist() == pytest.approx(
        (first.argmax(1) != second.argmax(1)).double().mean(1).tolist()
    )
    assert two.tolist() == pytest.approx(
        (first.argmax(2) != second.argmax(2)).double().mean(1).tolist()
    )


@pytest.mark.parametrize("trial", range(20))
def test_the_bound_holds_for_any_labels(trial: int) -> None:
    rng = torch.Generator().manual_seed(trial)
    n = 200
    before = torch.randint(0, 5, (n,), generator=rng)
    moved = torch.rand(n, generator=rng) < 0.02 * trial
    after = torch.where(moved, torch.randint(0, 5, (n,), generator=rng), before)
    bound = error_bound(seen(one_hot(before, 5)), seen(one_hot(after, 5)))
    assert bound is not None
    for _ in range(10):
        labels = torch.randint(0, 5, (n,), generator=rng)
        difference = ((after == labels).double() - (before == labels).double()).numpy()
        assert difference.std() / np.sqrt(n) <= bound + 1e-12


def test_the_bound_holds_for_pixels_that_change_together() -> None:
    before = torch.zeros(30, 2, 4, 4)
    before[:, 0] = 1
    after = before.clone()
    after[:10] = after[:10].flip(1)
    bound = error_bound(seen(before), seen(after))
    assert bound == pytest.approx(np.sqrt(10) / 30)


@pytest.mark.parametrize(
    ("value", "total", "scale"),
    [
        (0.87, 100, 1),
        (87.0, 100, 100),
        (87.08, 10000, 100),
        (float(torch.tensor(0.8708)), 10000, 1),
        (1.0, 7, 1),
        (0.0, 7, 1),
        (0.8712345, 1000, None),
        (2.301, 1000, None),
        (101.0, 100, None),
        (-0.5, 100, None),
    ],
)
def test_an_accuracy_is_a_whole_number_of_predictions(
    value: float, total: int, scale: int | None
) -> None:
    found = Seen([(np.zeros(total, np.uint8),)])
    assert looks_like_accuracy(value, found) == scale


def test_the_hook_is_removed_after_an_error_and_copies_report_here() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(RuntimeError), watching(model) as found:
        copy.deepcopy(model)(torch.zeros(3, 2))
        model(torch.zeros(3, 5))
    assert not model._forward_hooks
    assert len(found.calls) in (0, 1)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_scripted_models_do_not_break_it() -> None:
    model = torch.jit.script(nn.Linear(2, 3))
    with watching(model) as found:
        model(torch.zeros(3, 2))
    assert found.complete == bool(found.calls)
