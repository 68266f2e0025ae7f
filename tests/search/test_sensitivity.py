"""Scans of real networks, one place at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from building import Case, digits_case
from torch import Tensor, nn
from torch.nn.functional import kl_div

from secateur.core.batches import Call
from secateur.core.errors import InputError, RecipeError
from secateur.core.scan import Sensed
from secateur.core.site import Site, Tie
from secateur.graph.analyze import analyze
from secateur.search.sensitivity import _levels, _places, output_distance, sensitivity
from secateur.units import Channel, sites


@pytest.fixture(scope="module")
def case() -> Case:
    return digits_case()


def places(case: Case, *names: str) -> tuple[list[Site], tuple[Tie, ...]]:
    graph = analyze(case.model, case.call)
    found = sites(graph, Channel(), None, case.model)
    return [site for site in found if site.name in names], graph.ties


def test_the_loss_of_quality_of_each_place(case: Case) -> None:
    found_sites, ties = places(case, "stage1.conv1", "stage3.conv2")
    seen: list[Sensed] = []
    scan = sensitivity(
        case.build.keep, case.model, found_sites, ties, evaluate=case.right, levels=(0.5, 0.1),
        on_sensed=seen.append,
    )  # fmt: skip
    assert [dict(item.kept) for item in scan.sensed] == [
        {"stage1.conv1": 12}, {"stage1.conv1": 2}, {"stage3.conv2": 40}, {"stage3.conv2": 8},
    ]  # fmt: skip
    assert list(scan.sensed) == seen
    assert (scan.metric, scan.samples) == ("quality", 450)
    for item in scan.sensed:
        trial = case.build.keep(item.kept)
        worse = case.accuracy(case.model) - case.accuracy(trial.model)
        assert item.error == pytest.approx(worse, abs=1e-6)
        assert item.params < 1
        assert trial.plan.counts == dict(item.kept)
    assert scan.as_database()["stage1.conv1"].keys() == {24, 12, 2}


def test_without_evaluate_outputs_are_compared(case: Case) -> None:
    found_sites, ties = places(case, "stage2.conv1")
    calls = [Call((case.data.images[:64],), {})]
    for distance in ("relative", "kl"):
        scan = sensitivity(
            case.build.keep, case.model, found_sites, ties, calls=calls,
            distance=distance,  # type: ignore[arg-type]
        )  # fmt: skip
        errors = [item.error for item in scan.sensed]
        assert len(errors) == 3
        assert errors[0] < errors[2]
        assert scan.metric == distance
        assert scan.samples is None


def test_distances_against_the_formulas() -> None:
    first, second = nn.Linear(5, 4), nn.Linear(5, 4)
    calls = [Call((torch.randn(n, 5),), {}) for n in (3, 6)]
    a = torch.cat([call.run(first) for call in calls])
    b = torch.cat([call.run(second) for call in calls])
    relative = output_distance(first, second, calls)
    assert relative == pytest.approx(((a - b).norm() / a.norm()).item(), rel=1e-5)
    kl = output_distance(first, second, calls, "kl")
    reference = kl_div(b.log_softmax(1), a.softmax(1), reduction="batchmean")
    assert kl == pytest.approx(reference.item(), rel=1e-4)
    assert output_distance(first, first, calls, "kl") == 0


class Shape(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Any:
        return self.value


def test_what_cannot_be_compared() -> None:
    call = Call((torch.zeros(1),), {})
    for value, distance in ((torch.zeros(2).long(), "relative"), (torch.zeros(3), "kl")):
        with pytest.raises(InputError):
            output_distance(Shape(value), Shape(value), [call], distance)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="other shapes"):
        output_distance(Shape(torch.ones(2)), Shape(torch.ones(3)), [call])


def site(name: str, n: int, **settings: Any) -> Site:
    return Site(name, "channel", n, **settings)


def test_ties_move_together_and_incomplete_ones_stay() -> None:
    ties = [Tie({"a": 2, "b": 1}, (1, 2, 3, 4)), Tie({"c": 1, "gone": 1}, (1, 2))]
    found, notes = _places([site("a", 8), site("b", 4), site("c", 2), site("d", 3)], ties)
    assert [_levels(place, (0.75, 0.5, 0.25)) for place in found] == [
        [{"a": 6, "b": 3}, {"a": 4, "b": 2}, {"a": 2, "b": 1}],
        [{"d": 2}, {"d": 1}],
    ]
    assert notes == ["c not scanned: tied to gone"]


def test_levels_respect_multiples_and_floors_and_blocks_have_none() -> None:
    found, _ = _places([site("a", 64, multiple=16, floor=20), site("b", 1, module="b")], [])
    assert len(found) == 1
    assert _levels(found[0], (0.75, 0.6, 0.5, 0.3)) == [{"a": 48}, {"a": 32}]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"levels": ()}, {"levels": (1.0,)}, {"levels": (0,)}, {"distance": "far"}],
)
def test_wrong_arguments(case: Case, arguments: dict[str, Any]) -> None:
    settings = {**({"evaluate": case.right} if arguments else {}), **arguments}
    with pytest.raises(RecipeError):
        sensitivity(case.build.keep, case.model, [], **settings)
