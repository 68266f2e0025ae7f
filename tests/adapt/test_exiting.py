"""Running with exits: who leaves, what is computed, and what comes out."""

import copy
import pickle
from threading import Thread

import pytest
import torch
from adapting import Chain, chain
from torch import Tensor, nn

from secateur.adapt.exiting import Exits, stops
from secateur.adapt.heads import Head
from secateur.core.batches import Call
from secateur.core.errors import RecipeError

NAMES = ("blocks.0", "blocks.2")


def make(thresholds: list[float], net: nn.Module | None = None, scale: float = 1) -> Exits:
    net = chain()[0] if net is None else net
    stops(net, NAMES)
    heads = [Head(nn.Linear(16, 3)) for _ in NAMES]
    with torch.no_grad():
        for head in heads:
            head.linear.weight.mul_(scale)
    return Exits(net, NAMES, heads, torch.tensor(thresholds)).eval()


@torch.no_grad()
def by_hand(exits: Exits, x: Tensor) -> tuple[Tensor, Tensor]:
    """All samples through all blocks, one by one, and then who leaves where."""
    net, h, seen = exits.model, exits.model.stem(x), []
    for number, part in enumerate(net.blocks):
        inner = nn.Sequential.forward(part, h)
        if f"blocks.{number}" in NAMES:
            seen.append(exits.heads[len(seen)](inner))
        h = h + 0.3 * inner
    out, where = 5 * net.fc(h), torch.full((len(x),), len(NAMES))
    for number in reversed(range(len(NAMES))):
        top = seen[number].softmax(1).topk(2).values
        leave = top[:, 0] - top[:, 1] >= exits.thresholds[number]
        out[leave], where[leave] = seen[number][leave], number
    return out, where


def test_a_batch_that_stays_whole_gives_what_blocks_give_by_hand() -> None:
    exits, x = make([0.7, 0.2], scale=10), chain()[1][:60]
    with torch.no_grad():
        (found, where), (wanted, places) = exits.leave(x), by_hand(exits, x)
    assert len(where.unique()) == 3
    assert torch.equal(where, places)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_batch_that_shrinks_gives_what_single_samples_give() -> None:
    exits, x = make([0.2, 0.15], Blocks()), chain()[1][:60]
    with torch.no_grad():
        alone = [exits.leave(one) for one in x.split(1)]
        exits.compacts = True
        found, where = exits.leave(x)
    assert len(where.unique()) == 3
    assert torch.equal(where, torch.cat([place for _, place in alone]))
    assert torch.allclose(found, torch.cat([out for out, _ in alone]), atol=1e-5)


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(16, 16)
        self.sizes = list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return x + torch.relu(self.f(x))


class Blocks(Chain):
    """The sums are inside the blocks."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()
        self.blocks = nn.ModuleList([Step() for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for part in self.blocks:
            x = part(x)
        return 5 * self.fc(x)


def test_compaction_is_allowed_only_where_it_changes_nothing() -> None:
    x = chain()[1][:10]
    whole, parts = make([0.5, 0.5]), make([0.5, 0.5], Blocks())
    for exits in (whole, parts):
        exits.check_compaction(Call((x,), {}))
    assert parts.compacts
    assert not whole.compacts
    parts.check_compaction(Call((x[:1],), {}))  # one sample proves nothing
    assert not parts.compacts


def test_samples_that_left_are_not_computed() -> None:
    exits, x = make([0.2, 0.2], Blocks()), chain()[1][:40]
    exits.compacts = True
    with torch.no_grad():
        _, where = exits.leave(x)
    left = [40, int((where > 0).sum()), int((where > 0).sum()), int((where > 1).sum())]
    assert [part.sizes[-1] for part in exits.model.blocks] == left
    assert left[0] > left[1] > left[3] > 0


def test_a_single_sample_stops_the_computation() -> None:
    exits, x = make([0.0, 0.0]), chain()[1]
    exits.model.ran = 0
    exits(x[:1])
    assert exits.model.ran == 1
    exits.train()(x[:1])
    assert exits.model.ran == 5


def test_thresholds_that_nobody_reaches_run_the_network() -> None:
    exits, x = make([float("inf")] * 2), chain()[1][:5]
    assert torch.equal(exits(x), exits.model(x))
    exits.thresholds.fill_(1.0)
    assert torch.equal(exits(x), exits.model(x))


def test_outputs_that_are_no_numbers_do_not_leave() -> None:
    exits, x = make([0.0, 0.0]), torch.full((1, 8), float("nan"))
    exits.model.ran = 0
    exits(x)
    assert exits.model.ran == 4


def test_code_that_catches_exceptions_does_not_hold_a_sample() -> None:
    class Careful(Chain):
        def forward(self, x: Tensor) -> Tensor:
            try:
                return super().forward(x)
            except Exception:
                return torch.zeros(len(x), 3)

    exits = make([0.0, 0.0], Careful())
    assert bool(exits(chain()[1][:1]).any())


def test_threads_and_copies() -> None:
    exits, x = make([0.2, 0.2]), chain()[1][:30]
    with torch.no_grad():
        wanted = exits(x)
        wrong = list[int]()

        def work(k: int) -> None:
            with torch.no_grad():
                for one in range(k, 30, 3):
                    if not torch.allclose(exits(x[one : one + 1]), wanted[one], atol=1e-5):
                        wrong.append(one)

        threads = [Thread(target=work, args=(k,)) for k in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        for other in (copy.deepcopy(exits), pickle.loads(pickle.dumps(exits))):
            assert torch.equal(other(x), wanted)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(RecipeError, match="'nowhere'"):
        stops(Chain(), ["nowhere"])
