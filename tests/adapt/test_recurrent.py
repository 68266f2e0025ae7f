"""Recurrent layers that skip, against PyTorch's and against zeros written by hand."""

from __future__ import annotations

import copy
import pickle
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from secateur.adapt.recurrent import SkipRecurrent
from secateur.adapt.skipping import sparse
from secateur.core.batches import tensors_in

KINDS: list[Any] = [nn.LSTM, nn.GRU, nn.RNN]
FORMS: list[dict[str, Any]] = [
    {},
    {"batch_first": True, "bias": False},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
]


def pair(kind: Any, **form: Any) -> tuple[nn.RNNBase, SkipRecurrent]:
    layer = kind(5, 7, **form).eval()
    return layer, SkipRecurrent(copy.deepcopy(layer)).eval()


def same(a: Any, b: Any, tolerance: float = 1e-5) -> bool:
    pairs = zip(tensors_in(a), tensors_in(b), strict=True)
    return all(x.shape == y.shape and torch.allclose(x, y, atol=tolerance) for x, y in pairs)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "form"), list(product(KINDS, FORMS)))
def test_without_thresholds_it_is_pytorchs(kind: Any, form: dict[str, Any]) -> None:
    layer, lazy = pair(kind, **form)
    for x in (torch.randn(4, 4, 5), torch.randn(1, 1, 5), torch.randn(6, 5)):
        out, state = layer(x)
        assert same(lazy(x), (out, state))
        assert same(lazy(x, state), layer(x, state))


@torch.no_grad()
@pytest.mark.parametrize(("kind", "form"), list(product(KINDS, FORMS)))
def test_packed_sequences(kind: Any, form: dict[str, Any]) -> None:
    layer, lazy = pair(kind, **form)
    x, lengths = torch.randn(3, 6, 5), torch.tensor([2, 6, 4])
    first = bool(form.get("batch_first"))
    given = x if first else x.transpose(0, 1)
    packed = pack_padded_sequence(given, lengths, batch_first=first, enforce_sorted=False)
    (found, after), (wanted, state) = lazy(packed), layer(packed)
    assert same(pad_packed_sequence(found)[0], pad_packed_sequence(wanted)[0])
    assert same(after, state)
    assert same(lazy(packed, state)[1], layer(packed, state)[1])


@torch.no_grad()
def test_an_lstm_with_zeros_by_hand() -> None:
    layer, lazy = pair(nn.LSTM)
    lazy.thresholds = [0.4, 0.1]
    x = torch.randn(6, 1, 5)
    h = c = torch.zeros(1, 7)
    wanted = []
    for t in range(6):
        gates = sparse(x[t], 0.4) @ layer.weight_ih_l0.t() + layer.bias_ih_l0 + layer.bias_hh_l0
        i, f, g, o = (gates + sparse(h, 0.1) @ layer.weight_hh_l0.t()).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        wanted.append(h)
    assert torch.allclose(lazy(x)[0], torch.stack(wanted), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_one_sequence_gives_what_it_gives_in_a_batch(kind: Any) -> None:
    _, lazy = pair(kind, batch_first=True)
    lazy.thresholds = [0.5, 0.15]
    x = torch.randn(4, 6, 5)
    whole = lazy(x)[0]
    assert same(whole, torch.cat([lazy(one)[0] for one in x.split(1)]))
    state, outs = None, []
    for t in range(6):  # a step at a time, as a decoder runs
        out, state = lazy(x[:1, t : t + 1], state)
        outs.append(out)
    assert same(whole[:1], torch.cat(outs, 1))


def test_gradients_copies_and_pickles() -> None:
    layer, lazy = pair(nn.GRU)
    x = torch.randn(3, 2, 5)
    lazy(x)[0].sum().backward()
    layer(x)[0].sum().backward()
    for name, parameter in layer.named_parameters():
        assert torch.allclose(parameter.grad, lazy.get_parameter(name).grad, atol=1e-5)  # type: ignore[arg-type]
    for other in (copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy))):
        assert same(other(x), lazy(x))
    assert lazy.state_dict().keys() == layer.state_dict().keys()


def test_dropout_between_layers_while_training() -> None:
    lazy = SkipRecurrent(nn.GRU(5, 7, num_layers=2, dropout=0.5))
    x = torch.randn(4, 3, 5)
    assert not torch.equal(lazy(x)[0], lazy(x)[0])
    lazy.eval()
    assert torch.equal(lazy(x)[0], lazy(x)[0])
