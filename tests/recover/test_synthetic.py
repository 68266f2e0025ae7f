"""Noise with the form, the statistics and the spectrum that it should have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.errors import InputError
from secateur.measure.calibration import calibration
from secateur.recover import synthetic


def made(example: Tensor, samples: int = 64, seed: int = 0) -> Tensor:
    calls, _ = synthetic(Call((example,), {}), samples, seed)
    assert calls is not None
    return torch.cat([call.args[0] for call in calls])


@pytest.mark.parametrize(
    "shape", [(2, 3, 16, 16), (1, 1, 9, 9, 9), (3, 40, 6), (1, 12, 50), (4, 7), (1, 16, 12, 3)]
)
def test_noise_has_the_form_of_the_example(shape: tuple[int, ...]) -> None:
    found = made(torch.zeros(shape), samples=40)
    assert found.shape == (40, *shape[1:]) and found.dtype == torch.float32
    assert abs(float(found.mean())) < 0.3 and 0.6 < float(found.std()) < 1.4


def test_calls_are_calibration_data() -> None:
    model = nn.Conv2d(3, 4, 3)
    calls, words = synthetic(Call((torch.zeros(1, 3, 8, 8),), {}), samples=70)
    assert calls is not None and words == "70 samples of 1/f^1.5 noise"
    found = calibration(model, calls)
    assert found.samples == 70 and len(found.held) >= 1
    for call in found.calls:
        assert call.run(model).shape[1:] == (4, 6, 6)


def test_the_seed_decides() -> None:
    example = torch.zeros(1, 3, 8, 8)
    state = torch.random.get_rng_state()
    assert torch.equal(made(example), made(example))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(made(example), made(example, seed=1))
    assert len(made(example).flatten(1).unique(dim=0)) == 64


def test_amplitudes_fall_with_frequency() -> None:
    """The slope of the spectrum of numpy, in one and two dimensions."""
    series = made(torch.zeros(1, 512, 2), samples=400).numpy()
    power = np.square(np.abs(np.fft.rfft(series, axis=1))).mean((0, 2))
    at = np.arange(2, 200)
    slope = np.polyfit(np.log(at), np.log(power[at]), 1)[0]
    assert slope == pytest.approx(-3.0, abs=0.1)
    images = made(torch.zeros(1, 1, 64, 64), samples=200).numpy()
    power = np.square(np.abs(np.fft.fft2(images))).mean((0, 1))
    slope = np.polyfit(np.log(np.arange(2, 30)), np.log(np.diagonal(power)[2:30]), 1)[0]
    assert slope == pytest.approx(-3.0, abs=0.2)


def test_colours_go_together() -> None:
    rows = made(torch.zeros(1, 3, 16, 16), samples=200).transpose(0, 1).flatten(1)
    found = rows.corrcoef()[torch.tril_indices(3, 3, -1).unbind()]
    torch.testing.assert_close(found, torch.full((3,), 0.9), atol=0.03, rtol=0)
    for shape in ((1, 3, 200), (1, 4, 16, 16)):  # series, and channels that are no colours
        rows = made(torch.zeros(shape), samples=200).transpose(0, 1).flatten(1)
        assert float(rows.corrcoef()[0, 1:].abs().max()) < 0.15


def test_rows_of_features_are_white() -> None:
    found = made(torch.zeros(1, 5), samples=2000)
    torch.testing.assert_close(found.T.cov(), torch.eye(5), atol=0.1, rtol=0)
    assert synthetic(Call((torch.zeros(1, 5),), {}), 3)[1] == "3 samples of white noise"


@pytest.mark.parametrize("shape", [(8, 3, 16, 16), (8, 64, 3), (8, 3, 64), (64, 3)])
def test_each_channel_has_the_statistics_of_the_example(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    dim = 2 if shape == (8, 64, 3) else 1
    wide = [3 if d == dim else 1 for d in range(len(shape))]
    mean, scale = torch.tensor([1.0, -2, 30]).view(wide), torch.tensor([0.1, 5, 1]).view(wide)
    example = torch.randn(shape) * scale + mean
    example.movedim(dim, 0)[2] = 7  # a channel that is constant
    rows = made(example, samples=600).movedim(dim, 0).flatten(1)
    for channel, (m, s) in enumerate([(1.0, 0.1), (-2.0, 5.0), (0.0, 1.0)]):
        assert float(rows[channel].mean()) == pytest.approx(m, abs=0.3 * s)
        assert float(rows[channel].std()) == pytest.approx(s, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    assert made(torch.zeros(1, 3, 8, 8, dtype=dtype)).dtype == dtype


def test_lengths_masks_and_numbers_are_those_of_the_example() -> None:
    lengths, mask = torch.tensor([3, 9]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    call = Call(
        (torch.zeros(2, 9, 2), lengths), {"mask": mask, "scale": torch.tensor(2.0), "on": True}
    )
    calls, _ = synthetic(call, samples=5)
    assert calls is not None and len(calls) == 1
    assert calls[0].args[1].tolist() == [3, 9, 3, 9, 3]
    assert torch.equal(calls[0].kwargs["mask"], mask[[0, 1, 0, 1, 0]])
    assert calls[0].kwargs["scale"] == 2 and calls[0].kwargs["on"] is True


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (Call((torch.zeros(2, 5, dtype=torch.long),), {}), "integers"),
        (Call((), {"input_ids": torch.zeros(2, 5, dtype=torch.long)}), "integers"),
        (Call((torch.zeros(5),), {}), "one number each"),
        (Call((torch.zeros(2, 5), torch.zeros(3, 5)), {}), "disagree on the number of samples"),
    ],
)
def test_where_noise_says_nothing_there_is_none(call: Any, words: str) -> None:
    calls, reason = synthetic(call)
    assert calls is None and words in reason


def test_big_inputs_give_fewer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(synthetic.__globals__, "_MOST", 2**10)
    calls, words = synthetic(Call((torch.zeros(1, 2**8),), {}), samples=9)
    assert calls is not None and sum(len(call.args[0]) for call in calls) == 4
    assert words.startswith("4 samples")


def test_at_least_one_sample() -> None:
    with pytest.raises(InputError, match="samples=0"):
        synthetic(Call((torch.zeros(1, 3),), {}), 0)
