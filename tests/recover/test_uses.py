"""Which layers may be solved, in which order, and that looking leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.core.batches import Call
from secateur.recover.uses import plain, uses


class Code(nn.Module):
    """Some weights, and a function that uses them."""

    def __init__(self, body: Callable[..., Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.table = nn.Embedding(4, 4)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def found(body: Callable[..., Tensor], *inputs: Tensor) -> list[tuple[str, int]]:
    model = Code(body)
    calls = [Call((x,), {}) for x in inputs or (torch.randn(3, 4),)]
    return [
        (slot[0].removesuffix(".weight"), used.times) for slot, used in uses(model, calls).items()
    ]


def test_layers_come_in_the_order_of_use() -> None:
    assert found(lambda m, x: m.b(m.c(m.a(x)))) == [("a", 1), ("c", 1), ("b", 1)]
    assert found(lambda m, x: m.b(m.a(m.a(x)))) == [("a", 2), ("b", 1)]


def test_layers_that_only_some_calls_use_come_in_between() -> None:
    def body(m: Code, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.c(m.b(y) if len(x) > 2 else y)

    for inputs in ([torch.randn(2, 4), torch.randn(3, 4)], [torch.randn(3, 4), torch.randn(2, 4)]):
        assert found(body, *inputs) == [("a", 1), ("b", 1), ("c", 1)]


def test_the_most_that_one_call_uses_counts() -> None:
    def body(m: Code, x: Tensor) -> Tensor:
        for _ in range(len(x)):
            x = m.a(x)
        return x

    assert found(body, torch.randn(1, 4), torch.randn(3, 4)) == [("a", 3)]


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: F.linear(m.b(m.table(x.argmax(1))), m.table.weight),
        lambda m, x: F.linear(torch.relu(m.b(m.a(x))), m.a.weight.t()),
        lambda m, x: m.b(m.a(x)) + m.a.weight.sum(),
        lambda m, x: m.b(m.a(x)) + F.linear(x, m.a.weight[:2]).sum(),
        lambda m, x: m.b(m.a(x)) + F.linear(x, m.a.weight * 2),
    ],
    ids=["tied embedding", "tied transpose", "weight decay", "a part", "a copy"],
)
def test_weights_that_something_else_uses_are_left_out(body: Callable[..., Tensor]) -> None:
    assert found(body) == [("b", 1)]


def test_parts_that_do_not_overlap_stay() -> None:
    model = nn.MultiheadAttention(4, 2)
    x, y = torch.randn(3, 1, 4), torch.randn(3, 1, 4)
    assert len(uses(model, [Call((x, y, y), {})])) == 3
    assert len(uses(model, [Call((x, y, y), {}), Call((x, x, x), {})])) == 1


def test_one_sample_is_kept_and_no_more() -> None:
    for model, x in (
        (nn.Conv2d(3, 4, 1), torch.randn(9, 3, 5, 5)),
        (nn.Linear(4, 2), torch.randn(9, 4)),
    ):
        (found,) = uses(model, [Call((x,), {})]).values()
        use = found.sample
        assert found.rows == (225 if x.dim() == 4 else 9)
        assert len(use.x) == len(use.out) == 1
        assert use.x.untyped_storage().nbytes() == use.x.numel() * 4


class Remembers(nn.Module):
    """Stores results on itself and counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.last: Any = None
        self.log: list[int] = []
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.fc(x)
        self.log.append(len(x))
        self.calls += 1
        return self.last


def test_looking_leaves_no_trace() -> None:
    model, other = Remembers().train(), Remembers().train()
    with plain(model, other):
        assert not model.training and not other.training
        for each in (model, other):
            uses(each, [Call((torch.randn(3, 4),), {})])
    for each in (model, other):
        assert each.training and each.last is None and each.log == []
        assert int(each.calls) == 0


def test_of_the_smaller_network_only_what_is_named_is_kept() -> None:
    model, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with plain(model, other) as kept, torch.no_grad():
        for each in (model, other):
            assert each.running_mean is not None and each.running_var is not None
            each.running_mean.add_(1)
            each.running_var.add_(1)
        kept.append(other.running_mean)  # type: ignore[arg-type]
    assert other.running_mean.tolist() == [1, 1] and other.running_var.tolist() == [1, 1]  # type: ignore[union-attr]
    assert model.running_mean.tolist() == [0, 0]  # type: ignore[union-attr]
