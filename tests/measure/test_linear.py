"""Every linear operation as rows times a matrix, against the operation itself and `F.unfold`."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.graph.trace import decomposed
from secateur.measure.linear import Parameters, Spec, Use, kept_columns, sample_rows


class _Recorded(TorchDispatchMode):
    """Every linear operation of a run, with the values that it had then."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.parameters = Parameters(model)
        self.uses: list[Use] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        use = self.parameters.use(func, args, out, kwargs)
        if use is not None:
            self.uses.append(Use(use.spec, use.x.clone(), use.out.clone(), use.left))
        return out


def uses(model: nn.Module, *inputs: Any) -> list[tuple[Use, Tensor, Tensor | None]]:
    """The linear operations of one run, with the weight and the bias of each."""
    with decomposed(), _Recorded(model) as mode:
        model(*inputs)
    named = mode.parameters.tensors
    return [
        (use, named[use.spec.weight], None if use.spec.bias is None else named[use.spec.bias])
        for use in mode.uses
    ]


def check(use: Use, weight: Tensor, bias: Tensor | None) -> None:
    """Inputs times matrix are the outputs; rows of some, `again`, and the way back agree."""
    spec = use.spec
    with torch.no_grad():
        x, matrix, y = use.inputs(), spec.matrix(weight), use.outputs()
        assert x.shape == (spec.groups, use.count, matrix.shape[2])
        assert y.shape == (use.count, matrix.shape[0] * matrix.shape[1])
        found = torch.einsum("gnk,gok->ngo", x, matrix).flatten(1)
        if bias is not None:
            rows = slice(None) if spec.bias_rows is None else slice(*spec.bias_rows)
            found = found + bias[rows]
        torch.testing.assert_close(found, y, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(use.again(weight, bias), use.out, rtol=1e-4, atol=1e-5)
        index = sample_rows(use.count, 5, torch.Generator().manual_seed(0))
        assert torch.equal(use.inputs(index), x[:, index])
        assert torch.equal(use.outputs(index), y[index])
        other = torch.randn_like(use.out)
        whole = use.outputs(of=other)
        assert torch.equal(use.outputs(index, of=other), whole[index])
        assert sorted(whole.flatten().tolist()) == sorted(other.flatten().tolist())
        copy, wanted = weight.clone(), torch.randn_like(matrix)
        spec.store(copy, wanted)
        assert torch.equal(spec.matrix(copy), wanted)
        spec.store(copy, matrix)
        assert torch.equal(copy, weight)


CASES: list[tuple[str, nn.Module, tuple[int, ...], Spec]] = [
    (
        "conv1d",
        nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2),
        (2, 4, 19),
        Spec("weight", "bias", "conv", None, 1, (3,), (2,), (2,), (2,), (0,)),
    ),
    (
        "conv2d grouped",
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2, bias=False),
        (2, 4, 9, 8),
        Spec("weight", None, "conv", None, 2, (3, 2), (2, 1), (1, 0), (1, 1), (0, 0)),
    ),
    (
        "conv3d",
        nn.Conv3d(4, 8, (1, 3, 2), groups=4),
        (2, 4, 5, 6, 7),
        Spec("weight", "bias", "conv", None, 4, (1, 3, 2), (1,) * 3, (0,) * 3, (1,) * 3, (0,) * 3),
    ),
    (
        "depthwise",
        nn.Conv2d(5, 10, 3, padding=1, groups=5),
        (2, 5, 6, 7),
        Spec("weight", "bias", "conv", None, 5, (3, 3), (1, 1), (1, 1), (1, 1), (0, 0)),
    ),
    (
        "transposed",
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        (2, 4, 5, 6),
        Spec("weight", "bias", "transposed", None, 2, (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ),
    (
        "transposed, padded beyond the kernel",
        nn.ConvTranspose1d(3, 2, 2, stride=2, padding=2),
        (2, 3, 7),
        Spec("weight", "bias", "transposed", None, 1, (2,), (2,), (2,), (1,), (0,)),
    ),
    ("linear", nn.Linear(4, 6), (3, 4), Spec("weight", "bias", "dense")),
    ("tokens", nn.Linear(4, 6), (2, 3, 4), Spec("weight", "bias", "dense")),
    ("no bias", nn.Linear(4, 6, bias=False), (2, 3, 4), Spec("weight", None, "dense")),
    ("square", nn.Linear(4, 4), (3, 4), Spec("weight", "bias", "dense")),
    ("one sample without a batch", nn.Linear(4, 6), (4,), Spec("weight", "bias", "dense")),
    ("same padding", nn.Conv2d(3, 4, 3, padding="same"), (2, 3, 5, 5),
     Spec("weight", "bias", "conv", None, 1, (3, 3), (1, 1), (1, 1), (1, 1), (0, 0))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "shape", "spec"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_inputs_times_the_matrix_are_the_outputs(
    model: nn.Module, shape: tuple[int, ...], spec: Spec
) -> None:
    torch.manual_seed(0)
    found = uses(model, torch.randn(shape))
    assert [use.spec for use, _, _ in found] == [spec]
    check(*found[0])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_geometry(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    n, groups = draw(1, 3), draw(1, 3)
    kernel, stride, dilation = ([draw(1, 3) for _ in range(n)] for _ in range(3))
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    padding = [draw(0, 2) for _ in range(n)]
    size = [max(1, r + 1 - 2 * p) + draw(0, 4) for r, p in zip(reach, padding, strict=True)]
    inside, out = groups * draw(1, 3), groups * draw(1, 3)
    more: dict[str, Any] = {}
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1]
    if data.draw(st.booleans()):
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[n - 1]
        most = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
        more["output_padding"] = tuple(draw(0, m) for m in most)
        size = [s + 2 * p for s, p in zip(size, padding, strict=True)]  # so that something is left
    torch.manual_seed(draw(0, 99))
    model = kind(
        inside, out, tuple(kernel), stride=tuple(stride), padding=tuple(padding),
        dilation=tuple(dilation), groups=groups, bias=data.draw(st.booleans()), **more,
    )  # fmt: skip
    found = uses(model, torch.randn(draw(1, 2), inside, *size))
    assert len(found) == 1
    check(*found[0])


@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (3, 2, 2), (1, 1, 3)]
)
def test_rows_are_those_of_unfold(stride: int, padding: int, dilation: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 10)
    model = nn.Conv2d(6, 4, (3, 2), stride=stride, padding=padding, dilation=dilation, groups=2)
    ((use, _, _),) = uses(model, x)
    for group, part in enumerate(x.chunk(2, 1)):
        columns = F.unfold(part, (3, 2), dilation, padding, stride)
        assert torch.equal(use.inputs()[group], columns.transpose(1, 2).flatten(0, 1))


def test_rows_of_a_transposed_convolution_are_written_out() -> None:
    torch.manual_seed(0)
    x, model = torch.randn(1, 2, 4), nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1)
    ((use, _, _),) = uses(model, x)
    wanted = torch.zeros(use.count, 2 * 3)
    for source, tap, channel in product(range(4), range(3), range(2)):
        target = source * 2 - 1 + tap
        if 0 <= target < use.count:
            wanted[target, channel * 3 + tap] = x[0, channel, source]
    assert torch.equal(use.inputs()[0], wanted)


class _Flipped(nn.Module):
    """The Conv1D of GPT-2: its weight is [in, out]."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(inside, out)),
            nn.Parameter(torch.randn(out)),
        )

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return flat.view(*x.shape[:-1], -1)


class _Left(nn.Module):
    """The weight is the left factor; samples lie in the columns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight @ x


@pytest.mark.parametrize("size", [(4, 6), (4, 4)])
def test_a_weight_stored_as_in_by_out(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    found = uses(_Flipped(*size), torch.randn(2, 3, 4))
    assert [use.spec for use, _, _ in found] == [Spec("weight", "bias", "flipped")]
    check(*found[0])
    assert (found[0][0].spec.in_dim, found[0][0].spec.out_dim) == (0, 1)


def test_a_weight_on_the_left() -> None:
    torch.manual_seed(0)
    ((use, weight, bias),) = uses(_Left(), torch.randn(4, 7))
    assert use.left and use.count == 7
    check(use, weight, bias)


def test_a_packed_attention_projection_is_used_in_parts() -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    query, key = torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    found = uses(model, query, key, key)
    assert [(u.spec.weight, u.spec.rows) for u, _, _ in found] == [
        ("in_proj_weight", (0, 8)),
        ("in_proj_weight", (8, 24)),
        ("out_proj.weight", None),
    ]
    for use, weight, bias in found:
        check(use, weight, bias)
    (whole, _, _), _ = uses(model, query, query, query)
    assert whole.spec.rows is None and whole.spec.matrix(found[0][1]).shape == (1, 24, 8)


def test_separate_projections_that_share_one_bias() -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, kdim=5, vdim=6)
    nn.init.normal_(model.in_proj_bias)
    found = uses(model, torch.randn(3, 4, 8), torch.randn(5, 4, 5), torch.randn(5, 4, 6))
    assert [use.spec.bias_rows for use, _, _ in found] == [(0, 8), (8, 16), (16, 24), None]
    for use, weight, bias in found:
        check(use, weight, bias)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bias", [True, False])
def test_recurrent_layers_use_their_weights_step_by_step(kind: Any, bias: bool) -> None:
    torch.manual_seed(0)
    model = kind(4, 6, 2, bias=bias, bidirectional=True)
    found = uses(model, torch.randn(3, 2, 4))
    counts: dict[str, int] = {}
    for use, weight, own in found:
        counts[use.spec.weight] = counts.get(use.spec.weight, 0) + use.count
        check(use, weight, own)
    assert len(counts) == 8  # two weights, layers and directions
    assert set(counts.values()) == {3 * 2}


def test_a_projected_lstm() -> None:
    torch.manual_seed(0)
    found = uses(nn.LSTM(4, 6, proj_size=3), torch.randn(5, 2, 4))
    assert {use.spec.weight for use, _, _ in found} == {
        "weight_ih_l0",
        "weight_hh_l0",
        "weight_hr_l0",
    }
    for use, weight, bias in found:
        check(use, weight, bias)


class _Added(nn.Module):
    """Linear operations that add something else than a bias, or use a computed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(x, x, self.weight)  # adds a residual
        y = y + torch.addmm(self.weight[0], x, self.weight, alpha=2.0)
        y = y + F.linear(x, self.weight * 2) + F.linear(x, self.weight[:, [0, 1, 2, 3]])
        y = y + self.weight @ self.weight.t()  # of no data
        image = x.reshape(-1, 2, 1, 2)
        other = F.conv2d(image, self.conv.weight, self.conv.bias * 2)
        other = other + F.conv2d(image, self.conv.weight.transpose(0, 1))
        return y.sum() + other.sum() + F.linear(x[:, :2], self.weight[:, 1:3]).sum()


def test_what_is_not_the_plain_product_is_left_alone() -> None:
    assert uses(_Added(), torch.randn(4, 4)) == []


def test_many_parameters_in_one_storage() -> None:
    """As cuDNN wants the weights of recurrent layers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    tensors = [*model.parameters()]
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    start = 0
    for tensor in tensors:
        tensor.data = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    found = uses(model, torch.randn(3, 4))
    assert [(use.spec.weight, use.spec.bias) for use, _, _ in found] == [
        (f"{k}.weight", f"{k}.bias") for k in range(3)
    ]
    for use, weight, bias in found:
        check(use, weight, bias)


def test_tensors_that_are_no_parameters_are_left_alone() -> None:
    model = nn.Linear(3, 2)
    weight = model.weight.detach().clone()
    del model.weight
    model.register_buffer("weight", weight)
    assert uses(model, torch.randn(4, 3)) == []


def test_sampled_rows_are_some_of_them_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    assert sample_rows(4, 9, generator).tolist() == [0, 1, 2, 3]
    found = sample_rows(100, 10, generator)
    assert len(found.unique()) == 10 and found.tolist() == sorted(found.tolist())
    assert int(found.min()) >= 0 and int(found.max()) < 100
    again = sample_rows(100, 10, torch.Generator().manual_seed(0))
    assert not torch.equal(found, sample_rows(100, 10, generator))
    assert torch.equal(again, sample_rows(100, 10, torch.Generator().manual_seed(0)))


def test_columns_of_kept_channels() -> None:
    spec = Spec("weight", None, "conv", kernel=(2, 1))
    assert kept_columns(spec, torch.tensor([0, 2])).tolist() == [0, 1, 4, 5]
    assert kept_columns(Spec("weight", None, "dense"), torch.tensor([1])).tolist() == [1]
