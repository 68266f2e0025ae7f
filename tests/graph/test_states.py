"""States that go in and out of a recurrent model, and outputs that only look like them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.graph import analyze


class Stateful(nn.Module):
    """Returns its state and takes it back."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.rnn = kind(5, 12, 2, batch_first=True)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y, state = self.rnn(x, state)
        return self.fc(y), state


class Encoder(nn.Module):
    """Returns the last state as its features; `mask` is no state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 12, batch_first=True)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, state = self.rnn(x if mask is None else x * mask)
        return self.fc(y), state


class OnlyState(nn.Module):
    """The state is the result."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(5, 12)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        return self.cell(x, state)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_state_that_is_taken_back_gets_narrower(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    model, x = Stateful(kind).eval(), torch.randn(4, 7, 5)
    result = sc.prune(model, x, budget=sc.Params("50%"), latency=False)
    width = result.model.rnn.hidden_size
    assert result.verification.ok and width < 12
    first, state = result.model(x)
    assert all(t.shape == (2, 4, width) for t in (state if isinstance(state, tuple) else (state,)))
    second, _ = result.model(x, state)
    assert not torch.allclose(first, second), "the state has no effect"


def test_the_narrower_state_goes_on_as_the_masked_original_does() -> None:
    torch.manual_seed(0)
    model, x = Stateful().eval(), torch.randn(4, 7, 5)
    plan = sc.plan(model, x, budget=sc.Params("50%"))
    small = sc.prune(model, x, budget=sc.Params("50%"), latency=False).model
    with torch.no_grad():
        wanted = small(x)[0]
        parts = x.split([3, 4], 1)
        first, state = small(parts[0])
        second, _ = small(parts[1], state)
        assert torch.allclose(torch.cat([first, second], 1), wanted, atol=1e-6)
        sc.mask(model, plan)
        masked, _ = model(x)
    assert torch.allclose(masked, wanted, atol=1e-5)


@pytest.mark.parametrize("model", [Encoder(), OnlyState()])
def test_a_state_that_is_a_result_stays(model: nn.Module) -> None:
    x = torch.randn(4, 5) if isinstance(model, OnlyState) else torch.randn(4, 7, 5)
    graph = analyze(model, x)
    assert not graph.states
    reasons = {str(a.frozen) for a in graph.axes.values() if a.n == 12}
    assert any("output" in reason for reason in reasons)
