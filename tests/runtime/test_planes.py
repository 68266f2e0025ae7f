"""The numbers of a layer over planes give what PyTorch's convolutions and linears give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planes_reference import reference
from torch.nn.functional import conv2d, linear

from secateur.core.errors import InputError
from secateur.runtime.planes import Planes, from_conv, from_linear, phases

CASES = [
    # in, out, kernel, stride, padding, dilation, groups, height, width
    (3, 4, (1, 1), (1, 1), (0, 0), (1, 1), 1, 5, 6),
    (3, 4, (3, 3), (1, 1), (1, 1), (1, 1), 1, 5, 6),
    (4, 6, (3, 3), (2, 2), (1, 1), (1, 1), 2, 7, 8),
    (2, 3, (1, 1), (2, 2), (0, 0), (1, 1), 1, 7, 8),
    (2, 3, (7, 7), (2, 2), (3, 3), (1, 1), 1, 12, 11),
    (2, 2, (3, 3), (1, 1), (2, 2), (2, 2), 1, 9, 8),
    (3, 3, (3, 3), (1, 1), (1, 1), (1, 1), 3, 6, 6),
    (2, 2, (3, 2), (3, 2), (1, 0), (2, 3), 2, 11, 12),
    (2, 5, (1, 5), (1, 2), (0, 2), (1, 1), 1, 1, 17),
    (2, 2, (5, 3), (1, 1), (0, 1), (1, 1), 1, 8, 5),
]


@pytest.mark.parametrize("case", CASES)
def test_a_convolution_reads_shifted_planes(case) -> None:
    inside, out, kernel, stride, padding, dilation, groups, height, width = case
    x = torch.randn(inside, height, width, dtype=torch.float64).float()
    weight = torch.randn(out, inside // groups, *kernel)
    weight[torch.rand_like(weight) < 0.5] = 0
    bias = torch.randn(out)
    right = conv2d(
        x.double()[None], weight.double(), bias.double(), stride, padding, dilation, groups
    )[0]
    rows, columns = right.shape[1:]

    found = phases(kernel, stride, padding, dilation)
    border = 8
    row = columns + 2 * border
    pitch = (rows + 2 * border) * row
    split = np.zeros((inside, len(found), rows + 2 * border, row), np.float32)
    for i, (a, b) in enumerate(found):
        part = x[:, a :: stride[0], b :: stride[1]].numpy()[:, : rows + border, : columns + border]
        split[:, i, border : border + part.shape[1], border : border + part.shape[2]] = part
    layer = from_conv(
        weight.numpy(),
        pitch=pitch,
        row=row,
        out_pitch=rows * row,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias.numpy(),
        size=(rows, columns),
    )
    low, high = layer.reach
    assert layer.columns == inside // groups * kernel[0] * kernel[1]
    origin = border * row + border
    buffer = np.concatenate([np.zeros(origin), split.reshape(-1), np.zeros(pitch)])
    assert low >= -2 * origin
    y, _ = reference(layer, buffer, 2 * origin, 0, rows * row)
    y = y.reshape(out, rows, row)
    np.testing.assert_allclose(y[:, :, :columns], right.numpy(), atol=1e-5)
    assert not y[:, :, columns:].any()
    assert high < len(buffer)


def test_a_linear_reads_transposed_tokens() -> None:
    x, weight = torch.randn(7, 5).double(), torch.randn(4, 5).double()
    weight[:, 2] = 0
    weight[1] = 0
    layer = from_linear(weight.numpy(), pitch=8)
    planes = np.zeros((5, 8))
    planes[:, :7] = x.T.numpy()
    y, _ = reference(layer, planes.reshape(-1), 0, 0, 7)
    np.testing.assert_allclose(y, linear(x, weight).T.numpy(), atol=1e-6)
    assert layer.nnz == 12
    assert layer.density == 0.6


def test_a_nan_in_the_weight_is_kept() -> None:
    layer = from_linear(np.array([[0.0, np.nan]]), pitch=4)
    assert np.isnan(layer.values).tolist() == [True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "tanh"}, "activation 'tanh'"),
        ({"rows": 3}, "indptr has 3 entries for 3 rows"),
        ({"indptr": np.array([0, 2, 1])}, "indptr"),
        ({"indptr": np.array([0, 1, 9])}, "indptr"),
        ({"offsets": np.array([0])}, "1 offsets for 2 values"),
        ({"bias": np.zeros(1, np.float32)}, "1 biases for 2 rows"),
        ({"values": np.zeros(2)}, "float64"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change, message) -> None:
    right = {
        "rows": 2,
        "indptr": np.array([0, 1, 2]),
        "offsets": np.array([0, 8]),
        "values": np.ones(2, np.float32),
    }
    Planes(**right)
    with pytest.raises(InputError, match=message):
        Planes(**{**right, **change})
