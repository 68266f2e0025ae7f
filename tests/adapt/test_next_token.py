"""Language models with exits: what heads say, and what is promised of the next word."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.adapt.next_token import NextToken, TokenHead, is_decoder, layers_of, token_heads
from secateur.core.batches import Call
from secateur.core.errors import RecipeError


class Step(nn.Module):
    """A causal mean over what came before, and an MLP."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.mix, self.mlp = nn.Linear(16, 16), nn.Linear(16, 16)
        self.scale = scale

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        counts = torch.arange(1, x.shape[1] + 1).reshape(1, -1, 1)
        x = x + self.scale * self.mix(x.cumsum(1) / counts)
        return x + self.scale * torch.tanh(self.mlp(x)), None


class Decoder(nn.Module):
    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tok = nn.Embedding(12, 16)
        self.layers = nn.ModuleList([Step(s) for s in (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)])
        self.norm = nn.LayerNorm(16) if norm else None
        self.head = nn.Linear(16, 12, bias=False)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        x = self.tok(ids)
        for layer in self.layers:
            x = layer(x)[0]
        return {"logits": 20 * x if self.norm is None else self.head(self.norm(x))}


def words(count: int) -> Tensor:
    return torch.randint(12, (count, 7))


def test_the_last_word_decides() -> None:
    net, ids = Decoder().eval(), words(40)
    assert is_decoder(net, Call((ids,), {}))
    with torch.no_grad():
        assert torch.equal(NextToken(net)(ids), net(ids)["logits"][:, -1])
    assert layers_of(NextToken(net), None, 4) == tuple(f"net.layers.{k}" for k in (0, 1, 3, 4))
    assert layers_of(NextToken(net), ["layers.3"], 4) == ("net.layers.3",)


@torch.no_grad()
def test_heads_are_the_models_own_behind_a_matrix() -> None:
    net, ids = Decoder().eval(), words(300)
    model = NextToken(net)
    names = [f"net.layers.{k}" for k in (1, 4)]
    heads = token_heads(model, names, [Call((part,), {}) for part in ids.split(50)])
    assert all(head.norm is net.norm and head.head is net.head for head in heads)
    new = words(400)
    wanted, x, agree = model(new).argmax(1), net.tok(new), []
    for k, layer in enumerate(net.layers):
        x = layer(x)[0]
        if k in (1, 4):
            found, plain = heads[len(agree)](x), net.head(net.norm(x))[:, -1]  # type: ignore[misc]
            agree.append(float((found.argmax(1) == wanted).float().mean()))
            assert agree[-1] >= float((plain.argmax(1) == wanted).float().mean())
    assert agree[1] > agree[0] > 0.5


def test_the_promise_holds_on_new_sequences() -> None:
    net = Decoder().eval()
    early = sc.adapt.exits(net, [words(2000)], guarantee=0.9, only_faster=False)
    assert early.agreement >= 0.9 and sum(early.leaving) > 0
    ids = words(1000)
    with torch.no_grad():
        found, where = early.leave(ids)
        wanted = net(ids)["logits"][:, -1]
        alone = torch.cat([early(one) for one in ids[:20].split(1)])
    assert found.shape == (1000, 12) and float((where < 4).float().mean()) > 0.1
    assert float((found.argmax(1) == wanted.argmax(1)).float().mean()) >= 0.9
    assert torch.allclose(alone, found[:20], atol=1e-4)
    assert early.compacts and "net.layers.3" in str(early)


def test_a_word_that_leaves_stops_the_computation() -> None:
    net, ran = Decoder().eval(), list[int]()
    early = sc.adapt.exits(net, [words(300)], guarantee=0.9, at=["layers.2"], only_faster=False)
    early.model.net.layers[3].register_forward_hook(lambda *_: ran.append(1))  # type: ignore[union-attr,index]
    early.thresholds.fill_(0.0)
    early(words(1))
    assert ran == []
    early.thresholds.fill_(2.0)
    early(words(1))
    assert ran == [1]


def test_scores_that_something_happens_to_are_refused() -> None:
    with pytest.raises(RecipeError, match="something happens"):
        sc.adapt.exits(Decoder(norm=False).eval(), [words(100)])


def test_heads_without_a_norm() -> None:
    head = TokenHead(nn.Linear(4, 4), None, nn.Linear(4, 6))
    assert head(torch.randn(3, 5, 4)).shape == (3, 6)
