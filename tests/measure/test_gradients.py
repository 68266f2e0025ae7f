"""Gradients in one pass: right, streamed, and without a trace on the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.measure.gradients import mean_over_batches, single_samples
from secateur.measure.loss import default_loss

Grads = Mapping[str, Tensor]


def everything(gradients: Grads) -> dict[str, Tensor]:
    return {name: g.clone() for name, g in gradients.items()}


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def batches(n: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(5, 3, generator=generator), torch.randint(0, 2, (5,), generator=generator))
        for _ in range(n)
    ]


def test_the_mean_is_taken_after_the_visit(net: nn.Module) -> None:
    net.eval()
    expected: dict[str, Tensor] = {}
    for x, y in batches(3):
        loss = nn.functional.cross_entropy(net(x), y)
        for (name, p), g in zip(
            net.named_parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True
        ):
            expected[name] = expected.get(name, 0) + (g * p).detach().abs().double() / 3
    parameters = dict(net.named_parameters())
    found = mean_over_batches(
        net, batches(3), lambda gs: {n: (g * parameters[n]).abs() for n, g in gs.items()}
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
        assert not found[name].requires_grad


def test_nothing_on_the_model_changes(net: nn.Module) -> None:
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[3].weight.grad = torch.ones(2, 4)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    random = torch.get_rng_state()
    found = mean_over_batches(net, batches(2), everything)
    assert "0.weight" in found
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert [m.training for m in net] == [True, False, True, True]
    assert not net[0].weight.requires_grad and net[0].bias.requires_grad
    assert net[0].bias.grad is None
    assert torch.equal(net[3].weight.grad, torch.ones(2, 4))


def test_nothing_changes_after_an_error_either(net: nn.Module) -> None:
    net[0].weight.requires_grad_(False)
    random = torch.get_rng_state()

    def fails(_: Grads) -> Grads:
        torch.rand(3)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        mean_over_batches(net, batches(1), fails)
    assert torch.equal(torch.get_rng_state(), random)
    assert net.training and not net[0].weight.requires_grad


def test_it_works_inside_no_grad(net: nn.Module) -> None:
    with torch.no_grad():
        assert mean_over_batches(net, batches(1), everything)["0.weight"].abs().sum() > 0
        assert not torch.is_grad_enabled()


def test_data_is_streamed_and_limited(net: nn.Module) -> None:
    asked: list[int] = []

    def stream() -> Iterator[Any]:
        for i, batch in enumerate(batches(5)):
            asked.append(i)
            yield batch

    mean_over_batches(net, stream(), everything, batches=2)
    assert asked == [0, 1]


def test_only_one_batch_of_gradients_is_alive(net: nn.Module) -> None:
    import weakref

    alive: list[weakref.ref[Tensor]] = []

    def visit(gradients: Grads) -> Grads:
        assert all(ref() is None for ref in alive)
        alive.append(weakref.ref(gradients["0.weight"]))
        return {"x": torch.ones(1)}

    mean_over_batches(net, batches(3), visit)
    assert len(alive) == 3


def test_a_shared_parameter_is_found_under_all_its_names() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    found = mean_over_batches(net, [(torch.ones(2, 3), torch.ones(2, 3))], everything)
    assert torch.equal(found["0.weight"], found["1.weight"])


def test_a_parameter_that_is_not_used_has_no_gradient() -> None:
    net = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    found = mean_over_batches(
        net, [torch.ones(1, 2)], everything, loss=lambda model, x: model[0](x).sum()
    )
    assert set(found) == {"0.weight", "0.bias"}


class Named(nn.Module):
    """Takes keyword arguments and returns a record, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        """Inputs [N, 2] and classes [N] -> loss and logits [N, 3]."""
        logits = self.fc(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SimpleNamespace(loss=loss, logits=logits)


def test_default_losses() -> None:
    x, labels = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    model = Named()
    expected = nn.functional.cross_entropy(model(x).logits, labels)
    for batch in ({"x": x, "labels": labels}, (x, labels), ({"x": x}, labels), ((x,), labels)):
        assert torch.equal(default_loss(model, batch), expected)
    tokens = nn.Embedding(5, 7)
    ids = torch.randint(0, 5, (2, 3))
    assert torch.allclose(
        default_loss(tokens, (ids, ids)),
        nn.functional.cross_entropy(tokens(ids).flatten(0, 1), ids.flatten()),
    )
    line = nn.Linear(2, 1)
    assert torch.equal(default_loss(line, (x, torch.zeros(4, 1))), line(x).square().mean())


@pytest.mark.parametrize(
    "batch", [torch.ones(2, 2), (torch.ones(2, 2),), {"x": torch.ones(2, 2)}, (torch.ones(2, 2), 3)]
)
def test_batches_without_a_default_loss_are_refused(batch: Any) -> None:
    with pytest.raises(InputError, match="loss"):
        default_loss(Named(), batch)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda m, b: m(b), r"must be a scalar tensor, not \(1, 2\)"),
        (lambda m, b: 3.0, "must be a scalar tensor, not float"),
        (lambda m, b: m(b).sum().detach(), "does not depend on the parameters"),
        (lambda m, b: m(b).sum() * float("nan"), "loss of batch 0 is nan"),
    ],
)
def test_losses_that_make_no_sense_are_refused(loss: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mean_over_batches(nn.Linear(2, 2), [torch.ones(1, 2)], everything, loss=loss)


def test_no_data_and_no_parameters_are_refused(net: nn.Module) -> None:
    with pytest.raises(InputError, match="no batch"):
        mean_over_batches(net, [], everything)
    with pytest.raises(InputError, match="no floating-point parameters"):
        mean_over_batches(nn.ReLU(), batches(1), everything)


def test_batches_of_several_inputs_end_with_their_targets() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    x, y, target = torch.randn(3, 4, 2)
    expected = nn.functional.mse_loss(x + y, target)
    assert torch.equal(default_loss(Two(), (x, y, target)), expected)


def test_data_without_labels_is_a_clear_error() -> None:
    with pytest.raises(InputError, match="without targets there is no loss") as caught:
        mean_over_batches(nn.Linear(2, 1), [torch.ones(3, 2)], everything)
    assert "hint: give labels" in str(caught.value) and "'osscar'" in str(caught.value)


def test_single_samples_of_all_kinds_of_batches() -> None:
    x, y = torch.arange(6.0).reshape(3, 2), torch.arange(3)
    for batch in ((x, y), [x, y]):
        parts = list(single_samples([batch, batch]))
        assert len(parts) == 6 and type(parts[0]) is type(batch)
        assert torch.equal(parts[4][0], x[1:2]) and torch.equal(parts[4][1], y[1:2])
    assert [part["a"].tolist() for part in single_samples([{"a": y}])] == [[0], [1], [2]]
    with pytest.raises(InputError, match="batch 1 differ in their first dimension"):
        list(single_samples([(x, y), (x, y[:2])]))


def test_recurrent_layers_can_be_differentiated_in_eval_mode() -> None:
    net = nn.GRU(2, 3)
    found = mean_over_batches(
        net, [torch.randn(4, 1, 2)], everything, loss=lambda m, x: m(x)[0].sum()
    )
    assert found["weight_hh_l0"].abs().sum() > 0
