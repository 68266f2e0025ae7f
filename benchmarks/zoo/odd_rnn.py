"""Recurrent models: the library's layers, its cells, and hand-written ones."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ._register import Registry, floats, tokens

MODELS = Registry()
_VOCAB = 50


class Recurrent(nn.Module):
    """A recurrent layer of the library, read at its last step."""

    def __init__(self, kind: type[nn.RNNBase], width: int = 24, **options: object) -> None:
        super().__init__()
        self.rnn = kind(10, width, **options)
        sides = 2 if options.get("bidirectional") else 1
        self.batch_first = bool(options.get("batch_first"))
        self.head = nn.Linear(sides * (options.get("proj_size", 0) or width), 7)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x)
        return self.head(out[:, -1] if self.batch_first else out[-1])


for _name, _kind in {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}.items():
    for _label, _options in {
        "": {},
        "_batch_first": {"batch_first": True},
        "_three_layers": {"num_layers": 3, "batch_first": True},
        "_bidirectional": {"num_layers": 2, "bidirectional": True, "batch_first": True},
        "_no_bias": {"bias": False, "num_layers": 2},
    }.items():
        MODELS.put(_name + _label, partial(Recurrent, _kind, **_options), floats(5, 5, 10))
MODELS.put("rnn_relu", partial(Recurrent, nn.RNN, nonlinearity="relu"), floats(5, 3, 10))
MODELS.put("lstm_proj", partial(Recurrent, nn.LSTM, proj_size=12), floats(5, 3, 10))
MODELS.put(
    "lstm_proj_bidirectional",
    partial(Recurrent, nn.LSTM, proj_size=12, num_layers=2, bidirectional=True, batch_first=True),
    floats(3, 5, 10),
)


@MODELS.add(lambda: (torch.randn(3, 6, 10), torch.randn(2, 3, 24), torch.randn(2, 3, 24)))
class LstmGivenState(nn.Module):
    """The initial state comes from outside; the last one goes back there."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(10, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, 7)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        out, state = self.lstm(x, (h, c))
        return self.head(out), state


@MODELS.add(floats(3, 6, 10))
class LstmZeroState(nn.Module):
    """The initial state is made of zeros with the size kept in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size, self.num_layers = 24, 2
        self.lstm = nn.LSTM(10, self.hidden_size, self.num_layers, batch_first=True)
        self.head = nn.Linear(self.hidden_size, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(self.num_layers, x.size(0), self.hidden_size, device=x.device)
        c = torch.zeros_like(h)
        out, _ = self.lstm(x, (h, c))
        return self.head(out[:, -1, :])


@MODELS.add(floats(3, 6, 10))
class GruLearnedState(nn.Module):
    """The initial state is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, 1, 24))
        self.gru = nn.GRU(10, 24, batch_first=True)
        self.head = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.gru(x, self.start.expand(-1, x.size(0), -1).contiguous())
        return self.head(last.squeeze(0))


@MODELS.add(lambda: (torch.randint(0, _VOCAB, (3, 7)), torch.tensor([7, 5, 3])))
class PackedLstm(nn.Module):
    """Sequences of unequal length, packed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(_VOCAB, 20)
        self.lstm = nn.LSTM(20, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 7)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True)
        _, (h, _) = self.lstm(packed)
        return self.head(torch.cat([h[-2], h[-1]], dim=1))


@MODELS.add(lambda: (torch.randn(3, 7, 10), torch.tensor([4, 7, 2])))
class PackedGru(nn.Module):
    """Packed, unsorted, padded again, and averaged under a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(10, 24, batch_first=True, num_layers=2)
        self.head = nn.Linear(24, 7)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        mask = torch.arange(out.size(1))[None, :] < lengths[:, None]
        return self.head((out * mask[..., None]).sum(1) / lengths[:, None])


class Cells(nn.Module):
    """Cells of the library, stacked in a loop over time."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.first, self.second = kind(10, 24), kind(24, 20)
        self.head = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        one = two = None
        for step in x.unbind(1):
            one = self.first(step, one)
            two = self.second(one[0] if isinstance(one, tuple) else one, two)
        return self.head(two[0] if isinstance(two, tuple) else two)


MODELS.put("lstm_cells", partial(Cells, nn.LSTMCell), floats(3, 5, 10))
MODELS.put("gru_cells", partial(Cells, nn.GRUCell), floats(3, 5, 10))
MODELS.put("rnn_cells", partial(Cells, nn.RNNCell), floats(3, 5, 10))


@MODELS.add(lambda: (torch.randint(0, _VOCAB, (2, 7)), torch.randint(0, _VOCAB, (2, 5))))
class Seq2SeqAttention(nn.Module):
    """An encoder, a decoder, additive attention between them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(_VOCAB, 20)
        self.encoder = nn.GRU(20, 24, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(48, 32)
        self.decoder = nn.GRUCell(20 + 48, 32)
        self.keys = nn.Linear(48, 18, bias=False)
        self.query = nn.Linear(32, 18)
        self.energy = nn.Linear(18, 1, bias=False)
        self.out = nn.Linear(32 + 48, _VOCAB)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, last = self.encoder(self.embed(source))
        state = torch.tanh(self.bridge(torch.cat([last[0], last[1]], dim=-1)))
        keys, logits = self.keys(memory), []
        for t in range(target.shape[1]):
            energy = self.energy(torch.tanh(keys + self.query(state)[:, None])).squeeze(-1)
            context = torch.bmm(energy.softmax(-1)[:, None], memory).squeeze(1)
            state = self.decoder(torch.cat([self.embed(target[:, t]), context], -1), state)
            logits.append(self.out(torch.cat([state, context], dim=-1)))
        return torch.stack(logits, dim=1)


@MODELS.add(tokens(_VOCAB, 3, 9))
class CharLm(nn.Module):
    """A language model whose output matrix is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(_VOCAB, 32)
        self.lstm = nn.LSTM(32, 48, num_layers=2, batch_first=True)
        self.down = nn.Linear(48, 32)
        self.out = nn.Linear(32, _VOCAB)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embed(tokens))
        return self.out(self.down(hidden))


@MODELS.add(floats(2, 4, 3, 12, 12))
class ConvLstm(nn.Module):
    """Gates from one convolution over input and state."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 14
        self.gates = nn.Conv2d(3 + self.hidden, 4 * self.hidden, 3, padding=1)
        self.head = nn.Conv2d(self.hidden, 3, 1)

    def forward(self, frames: Tensor) -> Tensor:
        n, steps, _, rows, columns = frames.shape
        h = frames.new_zeros(n, self.hidden, rows, columns)
        c = torch.zeros_like(h)
        for t in range(steps):
            both = self.gates(torch.cat([frames[:, t], h], dim=1))
            i, f, o, g = torch.split(both, self.hidden, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h)


@MODELS.add(floats(3, 5, 10))
class BareLstm(nn.Module):
    """An LSTM of bare parameters, with gates chunked from one product."""

    def __init__(self) -> None:
        super().__init__()
        self.w_x = nn.Parameter(torch.randn(10, 4 * 24) * 0.2)
        self.w_h = nn.Parameter(torch.randn(24, 4 * 24) * 0.2)
        self.bias = nn.Parameter(torch.zeros(4 * 24))
        self.head = nn.Parameter(torch.randn(24, 7))

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], self.w_h.shape[0])
        for step in x.transpose(0, 1):
            i, f, g, o = (step @ self.w_x + h @ self.w_h + self.bias).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h @ self.head


@MODELS.add(floats(3, 5, 10))
class SeparateGatesLstm(nn.Module):
    """An LSTM with one matrix a gate, and peepholes."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.ModuleDict({gate: nn.Linear(10, 24) for gate in "ifgo"})
        self.h = nn.ModuleDict({gate: nn.Linear(24, 24, bias=False) for gate in "ifgo"})
        self.peep = nn.ParameterDict({gate: nn.Parameter(torch.randn(24)) for gate in "ifo"})
        self.head = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], self.head.in_features)
        for t in range(x.shape[1]):
            g = {gate: self.x[gate](x[:, t]) + self.h[gate](h) for gate in "ifgo"}
            new = torch.sigmoid(g["i"] + self.peep["i"] * c) * torch.tanh(g["g"])
            c = torch.sigmoid(g["f"] + self.peep["f"] * c) * c + new
            h = torch.sigmoid(g["o"] + self.peep["o"] * c) * torch.tanh(c)
        return self.head(h)


@MODELS.add(floats(3, 5, 10))
class LayerNormGru(nn.Module):
    """A hand-written GRU with layer norms inside."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.width = width
        self.x, self.h = nn.Linear(10, 3 * width), nn.Linear(width, 3 * width, bias=False)
        self.norm_x, self.norm_h = nn.LayerNorm(3 * width), nn.LayerNorm(3 * width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], self.width)
        for step in x.unbind(1):
            a, b = self.norm_x(self.x(step)).chunk(3, -1), self.norm_h(self.h(h)).chunk(3, -1)
            r, z = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
            h = self.norm((1 - z) * torch.tanh(a[2] + r * b[2]) + z * h)
        return self.head(h)


@MODELS.add(floats(3, 12, 10))
class QuasiRnn(nn.Module):
    """Gates by convolution over time, pooling by recurrence."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(10, 3 * 24, 2)
        self.head = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        z, f, o = self.conv(F.pad(x.transpose(1, 2), (1, 0))).chunk(3, dim=1)
        z, f, o = z.tanh(), f.sigmoid(), o.sigmoid()
        c, states = torch.zeros_like(z[..., 0]), []
        for t in range(z.shape[-1]):
            c = f[..., t] * c + (1 - f[..., t]) * z[..., t]
            states.append(o[..., t] * c)
        return self.head(torch.stack(states, dim=1).mean(1))


@MODELS.add(floats(3, 12, 10))
class StateSpace(nn.Module):
    """A diagonal linear recurrence with input-dependent steps (a selective state space)."""

    def __init__(self, width: int = 28, states: int = 6) -> None:
        super().__init__()
        self.states = states
        self.up, self.down = nn.Linear(10, 2 * width), nn.Linear(width, 10)
        self.conv = nn.Conv1d(width, width, 3, padding=2, groups=width)
        self.project = nn.Linear(width, 1 + 2 * states)
        self.step = nn.Linear(1, width)
        self.decay = nn.Parameter(torch.rand(width, states).log())
        self.skip = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.up(x).chunk(2, dim=-1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        low, b, c = self.project(u).split([1, self.states, self.states], dim=-1)
        dt, a = F.softplus(self.step(low)), -self.decay.exp()
        state, out = u.new_zeros(u.shape[0], u.shape[2], self.states), []
        for t in range(u.shape[1]):
            decay = torch.exp(dt[:, t, :, None] * a)
            state = decay * state + (dt[:, t] * u[:, t])[..., None] * b[:, t, None, :]
            out.append(torch.einsum("nds,ns->nd", state, c[:, t]))
        return x + self.down((torch.stack(out, 1) + self.skip * u) * F.silu(gate))


@MODELS.add(floats(2, 3, 16, 40))
class Crnn(nn.Module):
    """Text recognition: convolutions, columns as time steps, a recurrent head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 20, 3, padding=1), nn.ReLU(), nn.MaxPool2d((2, 1)),
        )  # fmt: skip
        self.rnn = nn.LSTM(20 * 4, 24, bidirectional=True)
        self.head = nn.Linear(48, 11)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        n, c, h, w = x.shape
        x = x.permute(3, 0, 1, 2).reshape(w, n, c * h)
        return self.head(self.rnn(x)[0]).log_softmax(-1)


@MODELS.add(floats(2, 6, 3, 20, 20))
class CnnLstmAttention(nn.Module):
    """Video: a convolutional encoder a frame, an LSTM over time, attention pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 28, 3, 2, 1), nn.BatchNorm2d(28), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.lstm = nn.LSTM(28, 24, batch_first=True)
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)
        self.score, self.head = nn.Linear(24, 1), nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[:2]
        h, _ = self.lstm(self.cnn(x.flatten(0, 1)).view(n, t, -1))
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.head((self.score(h).softmax(1) * h).sum(1))
