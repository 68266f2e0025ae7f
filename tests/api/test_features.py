"""Feature selection from a trained network, on data of which it is known what counts."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import secateur as sc
from secateur.core.errors import InputError
from secateur.interpret.features import Visit

pytest.importorskip("accelerate", reason="training needs accelerate")


def trained(net: nn.Module, x: Tensor, y: Tensor, epochs: int, decay: float = 0.01) -> nn.Module:
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=decay)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(32):
            loss = cross_entropy(net(x[part]), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def batches(x: Tensor, y: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


def test_the_features_that_count_are_found() -> None:
    torch.manual_seed(0)
    x = torch.randn(900, 7)
    y = (x[:, [0, 2, 5]].tanh().sum(1) > 0).long()
    net = trained(nn.Sequential(nn.Linear(7, 3), nn.ReLU(), nn.Linear(3, 2)), x[:500], y[:500], 30)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    visits: list[Visit] = []
    found = sc.features(
        net, batches(x[:500], y[:500], 50), evaluate=sc.Accuracy([(x[500:], y[500:])]), seeds=2,
        recover=[sc.Finetune(epochs=3, lr=1e-2)], names=[f"f{k}" for k in range(7)],
        outputs=("no", "yes"), on_visit=visits.append,
    )  # fmt: skip
    assert found.selected == (0, 2, 5)
    assert found.stability is not None
    assert found.stability > 0.5
    assert [tuple(run.visits) for run in found.runs] == [
        tuple(visits[: len(found.runs[0].visits)]), tuple(visits[len(found.runs[0].visits) :]),
    ]  # fmt: skip
    assert visits[0].quality == pytest.approx(found.dense)
    for run in found.runs:
        best = max(visit.quality for visit in run.visits)
        assert run.smallest.quality >= best - 0.01 - 1e-9
    inputs, *_, outputs = found.drawing.columns
    assert {node.label for node in inputs} == {f"f{k}" for k in found.best.inputs}
    assert [node.label for node in outputs] == ["no", "yes"]
    small = found.model
    assert small is not None
    alone = torch.zeros_like(x)  # nothing else is read
    alone[:, list(found.best.inputs)] = x[:, list(found.best.inputs)]
    assert torch.allclose(small(x), small(alone), atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_no_more_units_than_asked_for() -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 7)
    y = (x[:, [0, 2, 5]].tanh().sum(1) > 0).long()
    net = trained(nn.Sequential(nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 2)), x, y, 30)
    found = sc.features(
        net, batches(x, y, 50), evaluate=sc.Accuracy([(x, y)]), seeds=1, tolerance=0.0, most=4,
        recover=[sc.Finetune(epochs=2, lr=1e-2)],
    )  # fmt: skip
    small = found.best.smallest
    assert small.inputs + small.units <= 4


def test_what_does_not_fit_is_refused() -> None:
    net, data = nn.Linear(3, 2), [(torch.randn(8, 3), torch.zeros(8).long())]
    evaluate = sc.Accuracy(data)
    with pytest.raises(InputError, match="2 names for 3 inputs"):
        sc.features(net, data, evaluate=evaluate, names=["a", "b"])
    with pytest.raises(InputError, match="no seed"):
        sc.features(net, data, evaluate=evaluate, seeds=0)
    with pytest.raises(InputError, match="part=0"):
        sc.features(net, data, evaluate=evaluate, part=0)
    with pytest.raises(InputError, match="most=1"):
        sc.features(net, data, evaluate=evaluate, most=1)


@pytest.mark.slow
def test_twenty_of_two_hundred() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8500, 200, generator=generator)
    true = torch.randperm(200, generator=generator)[:20]
    sign = torch.randint(0, 2, (20,), generator=generator) * 2.0 - 1
    z = x[:, true]
    y = ((z.tanh() * sign).sum(1) + 0.7 * (z[:, ::2] * z[:, 1::2]).sum(1) > 0).long()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(200, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(),
                        nn.Linear(16, 2))  # fmt: skip
    trained(net, x[:4000], y[:4000], 8, decay=0.1)
    found = sc.features(
        net, batches(x[:4000], y[:4000], 64), evaluate=sc.Accuracy([(x[4000:5500], y[4000:5500])]),
        seeds=3,
    )  # fmt: skip
    chosen, wanted = set(found.selected), set(true.tolist())
    assert len(chosen & wanted) >= 0.9 * len(chosen)
    assert len(chosen & wanted) >= 0.9 * len(wanted)
    unseen = sc.Accuracy([(x[5500:], y[5500:])])  # nothing was chosen on these
    assert found.model is not None
    assert unseen(found.model).mean() >= unseen(net).mean() - 0.01


@pytest.mark.slow
def test_breast_cancer_in_twelve_units() -> None:
    """On average over splits: of 169 unseen samples one is 0.6 points."""
    data = pytest.importorskip("sklearn.datasets").load_breast_cancer()
    gained = []
    for split in range(4):
        torch.manual_seed(split)
        x, y = torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)
        order = torch.randperm(len(x))
        fit, unseen = order[:400], order[400:]  # nothing is chosen on those that are unseen
        x = (x - x[fit].mean(0)) / x[fit].std(0)
        net = nn.Sequential(nn.Linear(30, 4), nn.ReLU(), nn.Linear(4, 2))
        trained(net, x[fit], y[fit], 20)
        found = sc.features(
            net, batches(x[fit], y[fit], 32), evaluate=sc.Accuracy([(x[fit], y[fit])]), most=10,
            recover=[sc.Finetune(epochs=8, optimizer=decayed)],
            names=list(data.feature_names), outputs=list(data.target_names),
        )  # fmt: skip
        assert found.model is not None
        assert sum(map(len, found.drawing.columns)) <= 12
        assert len(found.drawing.edges) == found.best.smallest.weights
        accuracy = sc.Accuracy([(x[unseen], y[unseen])])
        gained.append(float(accuracy(found.model).mean() - accuracy(net).mean()))
    assert sum(gained) / len(gained) >= -0.01


def decayed(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, 1e-2, weight_decay=0.3)
