"""Codes of a few bits: how exact they are, and how small."""

import pytest
import torch

from secateur.adapt.packed import BITS, pack, unpack


@pytest.mark.parametrize("bits", BITS)
def test_every_row_is_within_its_scale(bits: int) -> None:
    tensor = torch.randn(5, 3, 7) * torch.tensor([1e-3, 1.0, 10.0, 0.1, 100.0])[:, None, None]
    codes, scales = pack(tensor, bits)
    found = unpack(codes, scales, tensor.shape, bits)
    step = tensor.reshape(5, -1).abs().amax(1) / (2 ** (bits - 1) - 1)
    error = (found - tensor).reshape(5, -1)
    # not worse than rounding to the grid that the largest value gives (scales are rounded)
    assert bool((error.square().sum(1) <= 21 * (0.504 * step).square()).all())


@pytest.mark.parametrize("bits", BITS)
def test_the_codes_take_the_bits_they_say(bits: int) -> None:
    codes, scales = pack(torch.randn(8, 33), bits)
    assert codes.nbytes == -(-8 * 33 * bits // 8)
    assert scales.nbytes == 16


def test_what_the_grid_holds_comes_back_exactly() -> None:
    tensor = torch.randint(-7, 8, (6, 10)).float()
    tensor[:, 0] = 7
    assert torch.equal(unpack(*pack(tensor, 4), tensor.shape, 4), tensor)


def test_rows_of_zeros_and_of_values_far_from_one_stay_finite() -> None:
    tensor = torch.stack([torch.zeros(4), torch.full((4,), 1e-30), torch.full((4,), 1e20)])
    found = unpack(*pack(tensor, 4), tensor.shape, 4)
    assert bool(found.isfinite().all())
    assert torch.equal(found[0], tensor[0])
