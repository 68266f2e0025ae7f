"""Whole models: what is free, what moves together, and that every claim survives a cut."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from analysis import cuts, free, frozen, tied
from torch import Tensor, nn

from secateur.core.errors import InputError, UnsupportedModel
from secateur.core.plan import Reason
from secateur.graph import analyze

T = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Wrapped(nn.Module):
    """A transformer part between two linear layers."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.stem, self.part, self.head = nn.Linear(5, 12), part, nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.part(self.stem(x)))


def encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


@pytest.mark.parametrize(
    "options", [{}, {"norm_first": True}, {"activation": "gelu"}, {"bias": False}]
)
def test_transformer_encoders(options: dict[str, Any]) -> None:
    model = Wrapped(encoder(**options))
    graph = analyze(model, T)
    assert {name: n for name, n in free(graph).items() if "linear" in name} == {
        "part.layers.0.linear1": 16, "part.layers.1.linear1": 16,
    }  # fmt: skip
    (tie,) = tied(graph)  # embed_dim == heads * head_dim is checked by torch
    assert {axis: graph.axes[axis].head for axis in tie} == {
        "stem": False,
        "part.layers.0.self_attn.in_proj_weight.head": True,
        "part.layers.1.self_attn.in_proj_weight.head": True,
    }
    assert graph.axes["stem"].statistical
    cuts(model, T, graph)


def test_attention_with_other_keys_and_values() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(5, 12), nn.Linear(5, 8)
            self.attention = nn.MultiheadAttention(12, 3, kdim=8, vdim=8, batch_first=True)
            self.head = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            k = self.k(x).relu()
            return self.head(self.attention(self.q(x), k, k, need_weights=False)[0])

    model = Cross()
    graph = analyze(model, T)
    assert free(graph)["k"] == 8
    cuts(model, T, graph)


def test_convolutions_norms_and_residuals() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
            self.b = nn.Conv2d(6, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.b(torch.relu(self.n(self.a(x)))))

    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 2),
    )  # fmt: skip
    graph = analyze(net, IMAGE)
    assert free(graph) == {"0": 8, "2.a": 6, "3.a": 6}
    assert graph.axes["0"].what == "residual width" and not graph.axes["0"].statistical
    assert [b.module for b in graph.blocks] == ["2", "3"]
    assert graph.roles["2.n.weight", 0] == "scale" and graph.roles["2.n.bias", 0] == "shift"
    assert graph.roles["2.n.running_var", 0] == "buffer" and graph.roles["2.a.weight", 1] == "in"
    cuts(net, IMAGE, graph)


def test_dense_concatenation() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(4 + 3 * k, 3, 3, padding=1) for k in range(3))
            self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(13, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            features = [self.stem(x)]
            for conv in self.convs:
                features.append(conv(torch.cat(features, 1)))
            return self.head(torch.cat(features, 1))

    model = Dense()
    graph = analyze(model, IMAGE)
    assert free(graph) == {"stem": 4, "convs.0": 3, "convs.1": 3, "convs.2": 3}
    assert graph.layouts["head.weight"][1].to_json() == {
        "concat": ["stem", "convs.0", "convs.1", "convs.2"]
    }
    cuts(model, IMAGE, graph)


def test_channel_shuffle() -> None:
    class Shuffle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.groups = 2
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1, groups=2)
            self.c = nn.Conv2d(12, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            n, c, h, w = y.shape
            y = y.view(n, self.groups, c // self.groups, h, w).transpose(1, 2)
            return self.c(self.b(y.reshape(n, c, h, w)))

    model = Shuffle()
    graph = analyze(model, IMAGE)
    assert free(graph)
    cuts(model, IMAGE, graph)
    model.b.groups = 2
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ChannelShuffle(2), nn.Conv2d(8, 2, 1))
    assert free(analyze(net, IMAGE)) == {"0.1": 4}
    cuts(net, IMAGE)


def test_unused_parameters_stay() -> None:
    class Extra(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.never = nn.Linear(5, 6), nn.Linear(6, 2), nn.Linear(6, 9)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    graph = analyze(Extra(), T)
    assert free(graph) == {"a": 6}
    assert frozen(graph, "never").text == "not used when the model ran on the example"


def test_tied_weights_are_one_tensor() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mid = nn.Embedding(11, 6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mid(self.embed(x)))

    model, tokens = Tied(), torch.randint(11, (2, 4))
    graph = analyze(model, tokens)
    assert "head.weight" not in graph.layouts
    assert graph.layouts["mid.weight"][0] == graph.layouts["mid.weight"][1]
    assert list(free(graph).values()) == [6]
    cuts(model, tokens, graph)


def test_shared_modules_are_cut_once() -> None:
    layer = nn.Linear(6, 6)
    net = nn.Sequential(nn.Linear(5, 6), layer, nn.ReLU(), layer, nn.Linear(6, 2))
    graph = analyze(net, T)
    assert list(free(graph).values()) == [6]
    cuts(net, T, graph)


def test_several_inputs_and_outputs() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor, *, y: Tensor, scale: float = 1.0) -> dict[str, Any]:
            z = self.a(x) + self.b(y)
            return {"out": self.c(z) * scale, "more": [z.mean(-1)]}

    model = Many()
    example = {"x": torch.randn(2, 5), "y": torch.randn(2, 4)}
    graph = analyze(model, example)
    assert free(graph) == {"a": 6} and graph.axes["a"].statistical
    assert graph.layouts["b.weight"][0] == graph.layouts["a.weight"][0]
    cuts(model, example, graph)


def test_what_is_returned_stays() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.a(x)
            return y, self.b(y)

    graph = analyze(Features(), T)
    assert free(graph) == {} and frozen(graph, "a").text == "an output of the model"


def test_equal_sizes_are_not_equal_axes() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    graph = analyze(net, torch.zeros(6, 6))
    assert free(graph) == {"0": 6}
    assert graph.layouts["0.weight"][0].names == {"0"} and not graph.layouts["0.weight"][1].names


def test_not_a_number_on_the_way_does_not_matter_to_axes() -> None:
    net = nn.Sequential(nn.Linear(5, 6), nn.LogSoftmax(-1), nn.Linear(6, 2))
    assert free(analyze(net, torch.full((2, 5), float("nan")))) == {"0": 6}


def state(model: nn.Module) -> dict[str, Any]:
    return {
        "tensors": {k: v.clone() for k, v in model.state_dict().items()},
        "grads": {
            k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()
        },
        "flags": {k: p.requires_grad for k, p in model.named_parameters()},
        "modes": {k: m.training for k, m in model.named_modules()},
        "hooks": {k: len(m._forward_hooks) for k, m in model.named_modules()},
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


def test_the_model_stays_as_it_is() -> None:
    net = nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)
    ).train()
    net[1].eval()
    net[3].bias.requires_grad_(False)
    net(torch.randn(4, 5)).sum().backward()
    net[0].register_forward_hook(lambda *_: None)
    before, rng = copy.deepcopy(state(net)), torch.random.get_rng_state()
    graph = analyze(net, torch.randn(4, 5))
    assert same(before, state(net))
    torch.randn(4, 5)
    assert free(graph) == {"0": 6}
    torch.random.set_rng_state(rng)
    analyze(net, torch.ones(4, 5))
    assert rng.equal(torch.random.get_rng_state())


def test_repeated_analysis_gives_the_same() -> None:
    model = Wrapped(encoder())
    first, second = analyze(model, T), analyze(model, T)
    assert first.layouts == second.layouts and first.ties == second.ties
    assert first.axes == second.axes and first.attributes == second.attributes


def test_axes_can_be_frozen_by_name() -> None:
    net = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 8), nn.Linear(8, 2))
    graph = analyze(net, T, also_frozen={"1": Reason("it failed before")})
    assert free(graph) == {"0": 6} and frozen(graph, "1").text == "it failed before"


def test_work_is_counted_by_layouts() -> None:
    net = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2))
    graph = analyze(net, torch.zeros(3, 5))
    totals = {
        t.module: t.factor * torch.tensor([n.size for n in t.layouts]).prod() for t in graph.terms
    }
    assert {k: int(v) for k, v in totals.items()} == {"0": 3 * 5 * 6, "1": 3 * 6 * 2}


def test_models_that_cannot_be_analysed_say_why() -> None:
    with pytest.raises(UnsupportedModel, match="the model raised on the example: RuntimeError"):
        analyze(nn.Linear(5, 2), torch.zeros(3, 4))
    with pytest.raises(InputError, match="no tensor"):
        analyze(nn.Linear(5, 2), (None,))


def test_half_precision_and_double() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        net = nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 2)).to(dtype)
        assert free(analyze(net, T.to(dtype))) == {"0": 6}
        cuts(net, T.to(dtype))


def test_weight_normalisation() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 6)), nn.Linear(6, 2))
    graph = analyze(net, T)
    assert list(free(graph).values()) == [6]
    cuts(net, T, graph)


def test_functional_style() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1, self.b1 = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(6))
            self.w2 = nn.Parameter(torch.randn(2, 6))

        def forward(self, x: Tensor) -> Tensor:
            y = F.linear(x, self.w1, self.b1)
            return torch.einsum("...i,oi->...o", y, self.w2)

    assert free(analyze(Net(), T)) == {"w1": 6}
    cuts(Net(), T)
