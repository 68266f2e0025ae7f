"""What the gatherer serves, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from secateur.core.batches import Call
from secateur.core.errors import InputError
from secateur.measure.gradients import pieces, samples
from secateur.measure.stats import Gather


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


DATA = torch.arange(30.0).reshape(10, 3)


@pytest.mark.parametrize(
    "data",
    [
        [DATA],
        [DATA[:4], DATA[4:]],
        [(DATA, torch.zeros(10))],
        [[DATA[:7], torch.zeros(7)], [DATA[7:], torch.zeros(3)], [DATA[:0], torch.zeros(0)]],
        [{"input": DATA}],
        iter([DATA[:5], DATA[5:]]),
    ],
    ids=["tensor", "tensors", "pair", "lists", "mapping", "iterator"],
)
def test_all_kinds_of_data_give_the_same(data: Any) -> None:
    given = Gather(net(), None, data)
    for _ in range(2):
        found = given.once({"inputs"}, {"0.weight"})["inputs"]["0.weight"]
        assert found.count == 10
        assert found.mean[0].tolist() == pytest.approx(DATA.double().mean(0).tolist())
    gram = given.once({"grams"}, {"0.weight"})["grams"]["0.weight"]
    assert gram.count == 10
    torch.testing.assert_close(gram.gram[0], DATA.double().T.cov(correction=0))


def test_statistics_are_of_wanted_weights_only() -> None:
    found = Gather(net(), None, [DATA]).once({"inputs", "grams"}, {"2.weight"})
    assert set(found) == {"inputs", "grams"}
    assert set(found["inputs"]) == set(found["grams"]) == {"2.weight"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no sample"),
        ([DATA[:0]], "no sample"),
        ([DATA, DATA * float("nan")], "batch 1 of the data holds values that are not finite"),
        (None, "no data"),
    ],
)
def test_data_without_use_is_refused(data: Any, message: str) -> None:
    for need in ("inputs", "grams"):
        with pytest.raises(InputError, match=message):
            Gather(net(), None, data).once({need}, {"0.weight"})[need]["0.weight"]


def test_memory_is_bounded_by_more_passes() -> None:
    model = net()
    runs: list[int] = []
    model.register_forward_hook(lambda m, args, out: runs.append(len(out)))
    wide = Gather(model, None, [DATA]).once({"grams"}, {"0.weight", "2.weight"})["grams"]
    found = [wide[name].gram for name in ("0.weight", "2.weight")]
    assert len(runs) == 2  # one to see what there is, one for both
    runs.clear()
    narrow = Gather(model, None, [DATA], limit=8 * 4 * 4).once({"grams"}, set(wide))["grams"]
    for name, gram in zip(wide, found, strict=True):
        assert torch.equal(narrow[name].gram, gram)
    assert len(runs) == 3
    assert sum(g.gram.numel() * 8 for g in narrow._held.values()) <= 8 * 4 * 4


def test_features_are_averaged_over_samples() -> None:
    sizes = []

    def visit(found: Any) -> dict[str, torch.Tensor]:
        x = found["features"]["0.weight"]
        sizes.append(len(x))
        return {"mean": x.mean(0)}

    found = Gather(net(), None, [DATA[:1], DATA[1:]]).mean({"features"}, visit, {"0.weight"})
    torch.testing.assert_close(found["mean"], DATA.double().mean(0))
    assert sizes == [1, 9]


def test_what_can_be_served() -> None:
    call = Call((DATA,), {})
    assert [Gather(net(), call, None).can(n) for n in ("paths", "inputs")] == [True, False]
    assert [Gather(net(), None, [DATA]).can(n) for n in ("paths", "inputs")] == [True, True]
    assert not Gather(net(), None, None).can("paths")
    of_data = Gather(net(), None, [DATA]).once({"paths"}, ())["paths"]
    torch.testing.assert_close(of_data, Gather(net(), call, None).once({"paths"}, ())["paths"])


def test_mean_gradients_keep_the_parameters_precision() -> None:
    data = [(DATA, torch.zeros(10, 2)), (DATA[:3], torch.ones(3, 2))]
    for model, dtype in ((net(), torch.float32), (net().double(), torch.float64)):
        given = [(x.to(dtype), y.to(dtype)) for x, y in data]
        found = Gather(model, None, given).once({"mean_gradients"}, ())["mean_gradients"]
        expected = 0
        for x, y in given:
            loss = nn.functional.mse_loss(model(x), y)
            expected = expected + torch.autograd.grad(loss, model[2].weight)[0] / 2
        torch.testing.assert_close(found["2.weight"], expected)


def test_pieces_split_only_what_agrees() -> None:
    both = (torch.zeros(5, 2), {"y": torch.zeros(5)})
    assert [samples(part) for part in pieces(both, 2)] == [2, 2, 1]
    odd = (torch.zeros(5, 2), torch.zeros(3))
    assert [part is odd for part in pieces(odd, 1)] == [True]
    assert samples((torch.zeros(()),)) is None and samples(()) is None
