"""Single samples, one by one: what they take in the whole network, and in one that adapts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from secateur.core.batches import Call, map_tensors, tensors_in
from secateur.core.page import Line, milliseconds, plural
from secateur.measure.clock import compare

_MOST = 64  # samples


def singles(
    whole: nn.Module, early: nn.Module, calls: Sequence[Call]
) -> tuple[tuple[float, float], int] | None:
    """Mean milliseconds of single samples in two networks, in turns, and of how many samples.

    None where calls cannot be split into samples.
    """
    samples = [one for call in calls for one in each_sample(call)][:_MOST]
    if not samples:
        return None

    def run(network: nn.Module) -> None:
        for sample in samples:
            float(sample.run(network)[0, 0])  # the answer is read, also from an accelerator

    runs = {"whole": partial(run, whole), "early": partial(run, early)}
    times = compare(runs, warmup=1, repeats=5, min_time=0.1, max_time=1.0)
    dense, mine = (times[name].median_ms / len(samples) for name in ("whole", "early"))
    return (dense, mine), len(samples)


def each_sample(call: Call) -> list[Call]:
    """A call as calls of one sample each; none where it cannot be split.

    Example:
        >>> len(each_sample(Call((torch.zeros(8, 3),), {})))
        8
    """
    whole = call.args, dict(call.kwargs)
    sizes = {len(tensor) if tensor.dim() else 0 for tensor in tensors_in(whole)}
    if len(sizes) != 1:
        return []
    return [
        Call(*map_tensors(whole, lambda tensor, k=k: tensor[k : k + 1])) for k in range(sizes.pop())
    ]


def timed_line(times: tuple[float, float] | None, samples: int) -> list[Line]:
    """What a page says of the means of some samples; nothing where nothing was timed.

    Example:
        >>> timed_line((2.0, 1.0), 64)[0].text
        'single samples: 2.00 ms -> 1.00 ms (means of 64 samples)'
    """
    if times is None:
        return []
    before, after = (milliseconds(ms) for ms in times)
    text = f"single samples: {before} -> {after} (means of {plural(samples, 'sample')})"
    return [Line(text, "plain" if times[1] < times[0] else "warn")]
