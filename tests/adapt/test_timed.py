"""Single samples: split, timed in turns, and what pages say of it."""

import torch
from adapting import chain

from secateur.adapt.timed import each_sample, singles, timed_line
from secateur.core.batches import Call


def test_samples_one_by_one() -> None:
    net, x = chain()
    assert torch.equal(torch.cat([one.args[0] for one in each_sample(Call((x[:5],), {}))]), x[:5])
    assert each_sample(Call((x[:5], x[:3]), {})) == []
    times, count = singles(net, net, [Call((x[:5],), {})]) or ((0.0, 0.0), 0)
    assert count == 5 and min(times) > 0
    assert singles(net, net, [Call((x[:5], x[:3]), {})]) is None


def test_what_was_not_timed_is_not_said_and_what_is_slower_is_marked() -> None:
    assert timed_line(None, 0) == []
    assert [timed_line(times, 5)[0].tone for times in ((2.0, 1.0), (1.0, 2.0))] == [
        "plain",
        "warn",
    ]
