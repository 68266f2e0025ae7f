"""Python-level functions by brute force: composites, given sizes, and pointwise ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rule_examples import GROUPED, M, N, P, R
from torch import Tensor

from secateur.testing import check_rule

IX, EDGES = torch.tensor([1, 4, 2]), torch.tensor([-0.5, 0.0, 0.1, 0.5])
LATE = torch.arange(12).reshape(3, 4) > 6
Q, K, V = R(2, 3, 5, 4), R(2, 3, 7, 4), R(2, 3, 7, 6)
SAME = (Q, R(2, 3, 5, 4), R(2, 3, 5, 4))


def assign(x: Tensor, where: Tensor, value: Tensor) -> Tensor:
    x = x.clone()
    x[:, where] = value
    return x


def assign_slice(x: Tensor, value: Tensor) -> Tensor:
    x = x.clone()
    x[:, 1:4] = value
    return x


def grid(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return torch.meshgrid(x, y, indexing="ij")


def einsum(x: Tensor, w: Tensor) -> Tensor:
    return torch.einsum("bnd,hde->bhne", x, w)


def normalized(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return F.batch_norm(x, mean, variance, training=True)


def attention(**kwargs: Any) -> Callable[..., Tensor]:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **kwargs)


def heads(x: Tensor, w: Tensor, b: Tensor, o: Tensor, ob: Tensor) -> Tensor:
    call = F.multi_head_attention_forward
    return call(x, x, x, 4, 2, w, b, None, None, False, 0.0, o, ob, training=False)[0]


def case(expected: str, function: Callable[..., Any], *args: Any) -> Any:
    name = getattr(function, "__name__", "function").replace("<lambda>", "lambda")
    return pytest.param(expected, function, args, id=f"{name}: {expected}")


CASES = [
    # views
    case("a (b*c), d e f -> a b c | a d | b e | c f", Tensor.view_as, R(3, 8), R(3, 2, 4)),
    case("a 1 b, c d e -> a f b | a c | b e | d f", Tensor.expand_as, R(3, 1, 4), R(3, 5, 4)),
    case("a (b*c) -> a b c", torch.unflatten, R(3, 8), 1, (2, 4)),
    case("a b c -> a (b*c)", torch.flatten, R(3, 2, 4), 1),
    case("a b c -> b c a", torch.movedim, R(2, 3, 4), 0, 2),
    case("a b -> a (b*2)", torch.repeat_interleave, R(3, 4), 2, 1),
    case("a b -> a (c*b)", torch.tile, R(3, 4), (1, 2)),
    case("a, b -> a c, d b | a d | b c", grid, R(3), R(4)),
    case("a (b+b) -> a b", F.glu, R(3, 8)),
    case("a 4 -> a 4", torch.roll, R(3, 4), 1, 1),
    case("a (b*4) 3 3 -> a b 6 6", F.pixel_shuffle, R(2, 12, 3, 3), 2),
    # pieces
    case("a (b+c) -> a b, a c | b c", torch.chunk, R(3, 8), 2, 1),
    case("a (b+c) -> a b, a c | b c", torch.split, R(3, 8), 4, 1),
    case("a 8 -> a 2, a 3, a 3", torch.tensor_split, R(3, 8), (2, 5), 1),
    case("a (b+c+d) -> a c", torch.narrow, R(3, 8), 1, 2, 3),
    case("a b, c b -> (a+c) b", torch.vstack, [R(3, 4), R(2, 4)]),
    case("a b -> a (2+b+3)", F.pad, R(3, 4), (2, 3)),
    case("a b 4 -> a b 6", lambda x: F.pad(x, (1, 1), mode="reflect"), R(2, 3, 4)),
    # products
    case("a b, b -> a", torch.matmul, R(3, 4), R(4)),
    case("a b c, c d -> a b d", torch.matmul, R(2, 3, 4), R(4, 5)),
    case("a b c, b c d -> a d", torch.tensordot, R(3, 4, 5), R(4, 5, 6), 2),
    case("a b c, d c e -> a d b e", einsum, R(2, 3, 4), R(5, 4, 6)),
    case("a b, a c, d b c, d -> a d", F.bilinear, R(3, 4), R(3, 5), R(6, 4, 5), R(6)),
    case("a b, c d -> (a*c) (b*d)", torch.kron, R(2, 3), R(3, 4)),
    case("a, b -> a b", torch.outer, R(3), R(4)),
    case("a b, c b -> a c", torch.cdist, R(3, 4), R(5, 4)),
    case("a b, a b -> a", F.cosine_similarity, R(3, 4), R(3, 4)),
    # attention: a default scale is 1 / sqrt(head dim), so that the head dim stays
    case("a b 5 4, a b 5 4, a b 5 c -> a b 5 c", F.scaled_dot_product_attention, *SAME),
    case("a b c 4, a b d 4, a b d e -> a b c e", F.scaled_dot_product_attention, Q, K, V),
    case("a b c d, a b e d, a b e f -> a b c f", attention(scale=0.5), Q, K, V),
    case("a b 5 4, a b 5 4, a b 5 c -> a b 5 c", attention(is_causal=True), *SAME),
    case(
        "a (b*c) 5 4, a b 7 4, a b 7 d -> a (b*c) 5 d",
        attention(enable_gqa=True), R(2, 4, 5, 4), R(2, 2, 7, 4), R(2, 2, 7, 4),
    ),
    case(
        "a b c 4, a b d 4, a b d e, b c d -> a b c e",
        F.scaled_dot_product_attention, Q, K, V, R(3, 5, 7),
    ),
    case("a b 4, 12 4, 12, c 4, c -> a b c", heads, R(5, 2, 4), R(12, 4), R(12), R(4, 4), R(4)),
    # layers
    case(GROUPED, F.conv1d, R(2, 4, 5), R(6, 2, 3), R(6), 1, 0, 1, 2),
    case("a b, b -> a b", F.rms_norm, R(3, 4), (4,), R(4)),
    case("a b c -> a b c", F.local_response_norm, R(2, 6, 5), 3),
    case("a b c d -> a b c d", F.local_response_norm, R(2, 6, 3, 2), 4),
    pytest.param(
        "a b c, b, b -> a b c", normalized, (R(3, 4, 5), R(4), P(4)), id="batch statistics",
        marks=pytest.mark.xfail(reason="batch and space cut to one value leave no statistics"),
    ),
    case("a b c, b -> a b c", F.prelu, R(3, 4, 2), R(4)),
    case("a b -> a b", F.normalize, R(3, 4)),
    case("a b 4 4 -> a (b*4) 9", F.unfold, R(2, 3, 4, 4), (2, 2)),
    case("a (b*4) 9 -> a b 4 4", F.fold, R(2, 12, 9), (4, 4), (2, 2)),
    case("a b 4 -> a b 8", lambda x: F.interpolate(x, scale_factor=2), R(2, 3, 4)),
    case("2 3 4 4 -> 2 3 2 2", F.fractional_max_pool2d, R(2, 3, 4, 4), 2, 2),
    case(
        "a b, a c, (c+c+c) b, (c+c+c) c, (c+c+c), (c+c+c) -> a c",
        torch.gru_cell, R(2, 3), R(2, 4), R(12, 3), R(12, 4), R(12), R(12),
    ),
    # look-ups
    case("6, 10 a, 2 -> 2 a", F.embedding_bag, N(10, 6), R(10, 4), torch.tensor([0, 2])),
    case("a 6, b -> a b", lambda x, i: x[:, i], R(3, 6), IX),
    case("3 4, 3 4 -> 5", lambda x, m: x[m], R(3, 4), LATE),
    case("a 6, 3, a 3 -> a 6", assign, R(5, 6), IX, R(5, 3)),
    case("a (4+b), a 3 -> a (4+b)", assign_slice, R(5, 6), R(5, 3)),
    case("a 6, a b -> a b", torch.take_along_dim, R(5, 6), N(6, 5, 3), 1),
    case("a b, 4 -> a b", torch.bucketize, R(3, 4), EDGES),
    # along a dimension
    case("a 4 -> a 3", lambda x: torch.fft.rfft(x, dim=1).abs(), R(3, 4)),
    case("a b -> a", torch.logsumexp, R(3, 4), 1),
    case("a 4 -> a 4, a 4", torch.sort, R(3, 4), 1),
    # a sample of what ATen tags as pointwise, and that has no rule of its own
    *(
        case("a b -> a b", function, R(3, 4))
        for function in (
            torch.relu, torch.sigmoid, torch.tanh, torch.exp, torch.neg, torch.abs, torch.sign,
            torch.floor, torch.cos, torch.erf, torch.square, torch.isnan, torch.logical_not, F.gelu,
            F.silu, F.elu, F.leaky_relu, F.hardsigmoid, F.softplus, F.mish, F.relu6, F.logsigmoid,
        )
    ),
    *(
        case("a b, b -> a b", function, R(3, 4), R(4))
        for function in (
            torch.add, torch.sub, torch.mul, torch.div, torch.atan2, torch.maximum, torch.fmin,
            torch.eq, torch.lt, torch.logical_and, torch.hypot, torch.remainder,
        )
    ),
    case("a b, b, a 1 -> a b", torch.addcmul, R(3, 4), R(4), R(3, 1)),
    case("a b, b, a 1 -> a b", torch.lerp, R(3, 4), R(4), P(3, 1)),
    case("a b, b, a 1 -> a b", torch.where, M(3, 4), R(4), R(3, 1)),
    case("a b -> a b", torch.clamp, R(3, 4), -0.5, 0.5),
    case("a b -> a b", torch.pow, P(3, 4), 2.5),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "function", "args"), CASES)
def test_function(expected: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    assert check_rule(function, *args) == expected
