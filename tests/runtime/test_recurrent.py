"""Whole sequences give what nn.LSTM, nn.GRU and nn.RNN give in float64."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from rnn_reference import KINDS, both, fast, network, same
from torch import Tensor

from secateur.core.errors import InputError
from secateur.runtime.kernels import llvm
from secateur.runtime.recurrent import Direction, Recurrent

pytestmark = pytest.mark.skipif(not llvm.available(), reason="llvmlite is not installed")


@pytest.mark.parametrize("batch", [1, 3, 8, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_in_both_directions_with_states(kind: str, batch: int) -> None:
    rnn = network(kind, 5, 13, num_layers=2, bidirectional=True)
    state = torch.randn(4, batch, 13)
    given = (state, torch.randn(4, batch, 13)) if kind == "lstm" else state
    same(*both(kind, rnn, torch.randn(37, batch, 5), given))


@pytest.mark.parametrize("steps", [1, 127, 128, 129, 300])
@pytest.mark.parametrize("batch", [1, 2])
def test_sequences_longer_than_one_run(steps: int, batch: int) -> None:
    rnn = network("lstm", 3, 8, bidirectional=True)
    same(*both("lstm", rnn, torch.randn(steps, batch, 3)))


@pytest.mark.parametrize("density", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("bias", [True, False])
def test_any_density_with_and_without_biases(density: float, bias: bool) -> None:
    rnn = network("gru", 9, 16, density, bias=bias)
    same(*both("gru", rnn, torch.randn(6, 1, 9)))
    same(*both("gru", rnn.float(), torch.randn(6, 4, 9)))


def test_batch_first_and_inputs_with_gaps() -> None:
    rnn = network("lstm", 6, 7, batch_first=True)
    same(*both("lstm", rnn, torch.randn(3, 6, 10).transpose(1, 2)))


def test_a_single_sample_without_batch() -> None:
    rnn = network("lstm", 6, 7)
    state = torch.randn(1, 7), torch.randn(1, 7)
    same(*both("lstm", rnn, torch.randn(4, 6), state))


def test_rows_in_blocks_and_banks() -> None:
    for period in (8, 1):  # 8x1 blocks, then one of every 8 columns
        rnn = network("gru", 8, 16, 1.0)
        with torch.no_grad():
            rows, columns = torch.meshgrid(torch.arange(48), torch.arange(16), indexing="ij")
            rnn.weight_hh_l0 *= (columns - rows // period) % 8 == 0
        kinds = {8: "blocks", 1: "banked"}
        assert fast("gru", rnn).layers[0][0].one.packed.kind == kinds[period]
        same(*both("gru", rnn, torch.randn(9, 1, 8)))


def test_what_a_sample_has_no_number_for_stays_in_that_sample() -> None:
    rnn = network("lstm", 4, 8, 1.0)
    x = torch.randn(5, 3, 4)
    x[2, 1, 0] = torch.nan
    y, _ = fast("lstm", rnn)(x)
    assert y[2:, 1].isnan().all()
    assert not y[:2].isnan().any() and not y[:, [0, 2]].isnan().any()


def test_threads_share_one_network() -> None:
    rnn = network("gru", 8, 16, num_layers=2)
    model = fast("gru", rnn)
    inputs = [torch.randn(200, n, 8) for n in (1, 4, 1, 4)]
    alone = [model(x)[0] for x in inputs]
    found: list[Tensor | None] = [None] * 4

    def work(i: int) -> None:
        for _ in range(5):
            found[i] = model(inputs[i])[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=True))


@pytest.mark.parametrize("batch", [1, 3, 17])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_more_threads_give_the_same(bidirectional: bool, batch: int) -> None:
    rnn = network("lstm", 8, 12, num_layers=3, bidirectional=bidirectional)
    model, x = fast("lstm", rnn), torch.randn(150, batch, 8)
    before, one = torch.get_num_threads(), model(x)[0]
    try:
        torch.set_num_threads(2)
        torch.testing.assert_close(model(x)[0], one, rtol=0, atol=1e-6)
    finally:
        torch.set_num_threads(before)


def test_weights_take_little_memory() -> None:
    rnn = network("lstm", 256, 256, density=0.1)
    model, dense = fast("lstm", rnn), 4 * sum(w.numel() for w in rnn.parameters())
    for batch in (1, 2):
        model(torch.zeros(1, batch, 256))
    assert 0.1 * dense < model.bytes < 0.5 * dense


def test_gradients_are_not_followed() -> None:
    rnn = network("gru", 3, 4)
    x = torch.randn(5, 1, 3, requires_grad=True)
    y, _ = fast("gru", rnn)(x, torch.zeros(1, 1, 4, requires_grad=True))
    assert not y.requires_grad
    torch.testing.assert_close(y, rnn(x)[0].detach())


def test_an_empty_batch_is_empty() -> None:
    rnn = network("lstm", 3, 4)
    y, (h, c) = fast("lstm", rnn)(torch.zeros(5, 0, 3))
    assert y.shape == (5, 0, 4) and h.shape == c.shape == (1, 0, 4)


@pytest.mark.parametrize(
    ("x", "state", "message"),
    [
        (torch.zeros(2, 1, 5), None, r"the input has shape \[2, 1, 5\]"),
        (torch.zeros(2, 1, 3).double(), None, "the input is torch.float64 on cpu"),
        (torch.zeros(2), None, r"the input has shape \[2\]"),
        (torch.zeros(0, 1, 3), None, "no steps"),
        (torch.zeros(2, 1, 3), torch.zeros(1, 1, 4), "the states have shapes"),
        (torch.zeros(2, 1, 3), (torch.zeros(1, 2, 4),) * 2, r"\[1, 2, 4\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x: Tensor, state: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fast("lstm", network("lstm", 3, 4))(x, state)


def test_weights_that_do_not_fit_are_refused() -> None:
    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    with pytest.raises(InputError, match="cell 'elman' is not known"):
        Recurrent("elman", [])
    with pytest.raises(InputError, match="3 gates of equal size"):
        Recurrent("gru", [[Direction(zeros(8, 3), zeros(8, 2))]])
