"""The knob: levels, threads, deadlines, memory, and everything modules can do."""

import copy
import pickle
from pathlib import Path
from threading import Barrier, Thread

import pytest
import torch
from adapting import Recurrent, perceptron, residual
from torch import Tensor, nn

import secateur as sc
from secateur.adapt import Dial
from secateur.adapt.dial import _Timed
from secateur.core.batches import Call
from secateur.core.errors import InfeasibleBudget, InputError, RecipeError
from secateur.core.history import plans_of
from secateur.core.measured import Latency
from secateur.graph import analyze
from secateur.measure.cost import Cost


@pytest.fixture(scope="module")
def made() -> tuple[nn.Module, Tensor, Dial]:
    net, x = residual()
    return net, x, sc.dial(net, data=[x])


def times(dial: Dial, milliseconds: list[float], spread: float = 0.0) -> None:
    pairs = zip(dial.levels, milliseconds, strict=True)
    dial.table = {level: Latency(ms, spread, 10, 1) for level, ms in pairs}


def macs(net: nn.Module, x: Tensor) -> int:
    return Cost(analyze(net, x), net).total({}).macs


def test_the_largest_level_is_the_model(made: tuple[nn.Module, Tensor, Dial]) -> None:
    net, x, dial = made
    assert dial.level == 1.0
    assert torch.allclose(dial(x), net(x), atol=1e-5)
    assert dial.levels == (1.0, 0.75, 0.5, 0.25)


def test_every_level_costs_its_share_and_gives_what_its_export_gives(
    made: tuple[nn.Module, Tensor, Dial],
) -> None:
    net, x, dial = made
    for level in dial.levels:
        alone = dial.export(level)
        with dial.at(level):
            assert torch.allclose(dial(x), alone(x), atol=1e-6)
        assert 0.75 * level <= macs(alone, x[:1]) / macs(net, x[:1]) <= level
    assert dial.export(0.5)(x).shape == net(x).shape


def test_packing_stays_within_the_tolerance(made: tuple[nn.Module, Tensor, Dial]) -> None:
    _, _, dial = made
    for level in dial.stored:
        repaired, stored = level.distance
        assert stored - repaired <= 0.05 * max(repaired, 0.02)
        assert repaired < 1


def test_an_export_has_its_own_memory_and_can_be_saved(
    made: tuple[nn.Module, Tensor, Dial], tmp_path: Path
) -> None:
    _, x, dial = made
    alone = dial.export(0.5)
    before = dial(x)
    sc.save(alone, tmp_path)
    again = sc.load(tmp_path, residual()[0])
    assert torch.equal(again(x), alone(x))
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter.zero_()
    assert torch.equal(dial(x), before)
    assert len(plans_of(alone)) == 1


def test_blocks_nest_and_end(made: tuple[nn.Module, Tensor, Dial]) -> None:
    _, _, dial = made
    with dial.at(0.5):
        with pytest.raises(ZeroDivisionError), dial.at(0.25):
            assert dial.level == 0.25
            raise ZeroDivisionError
        assert dial.level == 0.5
        dial.set(0.75)
        assert dial.level == 0.5
    assert dial.level == 0.75
    dial.set(1)


def test_two_dials_do_not_mix() -> None:
    net, x = perceptron()
    one, two = (sc.dial(net, x, levels=[0.5]) for _ in range(2))
    with one.at(0.5):
        assert (one.level, two.level) == (0.5, 1.0)


def test_threads_run_their_own_levels(made: tuple[nn.Module, Tensor, Dial]) -> None:
    _, x, dial = made
    wanted = {level: dial.export(level)(x) for level in dial.levels}
    dial.cache = 1  # so that levels are unpacked and forgotten all the time
    start, wrong = Barrier(len(wanted)), list[float]()

    def work(level: float) -> None:
        with dial.at(level):
            start.wait()
            for _ in range(5):
                if not torch.allclose(dial(x), wanted[level], atol=1e-6):
                    wrong.append(level)

    threads = [Thread(target=work, args=(level,)) for level in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dial.cache = 4
    assert wrong == []
    assert len(dial.memory.ready) == 1


def test_set_is_for_all_threads(made: tuple[nn.Module, Tensor, Dial]) -> None:
    _, _, dial = made
    thread = Thread(target=dial.set, args=(0.25,))
    thread.start()
    thread.join()
    assert dial.level == 0.25
    dial.set(1.0)


def test_a_deadline_takes_the_largest_level_that_fits() -> None:
    net, x = perceptron()
    dial = sc.dial(net, x)
    with pytest.raises(InputError, match="not known"):
        dial.within(5)
    times(dial, [8.0, 6.0, 4.0, 2.0], spread=0.5)
    for ms, level in ((20, 1.0), (9.5, 1.0), (9.4, 0.75), (5.5, 0.5), (3.5, 0.25)):
        with dial.within(ms):
            assert dial.level == level
    with pytest.raises(InfeasibleBudget, match=r"level 0\.25 takes 2"):
        dial.within(3.4)
    assert "latency" in str(dial)
    dial._tails = {1.0: 100.0}  # one call in a hundred took so long
    with dial.within(20):
        assert dial.level == 0.75


def test_the_tail_leaves_out_one_call_in_a_hundred() -> None:
    net, x = perceptron()
    timed = _Timed(Call((x,), {}), net)
    timed()
    assert len(timed.ms) == 1 and timed.tail(1) == timed.ms[0] > 0
    timed.ms = [1000.0, *(float(k) for k in range(1, 201))]  # the first was a warm-up
    assert timed.tail(200) == 198.0
    timed.ms = [1.0, 3.0, 2.0]
    assert timed.tail(3) == 2.0


def test_measured_times_are_of_every_level() -> None:
    net, x = perceptron()
    dial = sc.dial(net, x)
    table = dial.measure(x, repeats=3, min_time=0, warmup=0)
    assert tuple(table) == dial.levels
    assert all(time.runs >= 3 and time.median_ms > 0 for time in table.values())
    assert tuple(dial._tails) == dial.levels and min(dial._tails.values()) > 0
    assert dial.memory.ready == ()


def test_without_data_levels_are_views() -> None:
    net, x = perceptron()
    dial = sc.dial(net, x)
    with dial.at(0.5):
        dial(x)
    assert dial.memory.unpacked == 0
    assert dial.memory.ready == (0.5,)
    assert dial.memory.times < 1.2  # plans' indices, which are much for a network of this size


def test_states_come_back_into_another_dial(made: tuple[nn.Module, Tensor, Dial]) -> None:
    _, x, dial = made
    other = copy.deepcopy(dial)
    state = {name: tensor.clone() for name, tensor in dial.state_dict().items()}
    with torch.no_grad(), other.at(0.5):
        other(x)
        for tensor in other.state_dict().values():
            tensor.zero_()
        other.load_state_dict(state)
        assert torch.allclose(other(x), dial.export(0.5)(x), atol=1e-5)


def test_copies_and_pickles_run_alike(made: tuple[nn.Module, Tensor, Dial]) -> None:
    _, x, dial = made
    for other in (copy.deepcopy(dial), pickle.loads(pickle.dumps(dial))):
        with dial.at(0.5), other.at(0.5):
            assert torch.equal(dial(x), other(x))


def test_modes_and_types_reach_levels_that_are_unpacked() -> None:
    net, x = residual()
    dial = sc.dial(net, x[:1], levels=[0.5])
    assert not dial.training
    with dial.at(0.5):
        dial(x)
        dial.train()
        assert all(module.training for module in dial._at(0.5).modules())
        dial.eval().double()
        assert dial(x.double()).dtype == torch.float64


def test_the_model_stays_as_it_was() -> None:
    net, x = residual()
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    dial = sc.dial(net, data=[x], levels=[0.5])
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training and dial.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    addresses = {p.data_ptr() for p in net.parameters()}
    assert not addresses & {p.data_ptr() for p in dial.parameters()}


def test_recurrent_networks_have_levels() -> None:
    torch.manual_seed(0)
    net, x = Recurrent(), torch.randn(40, 6, 5)
    dial = sc.dial(net, data=[x], levels=[0.5])
    with dial.at(0.5):
        assert torch.allclose(dial(x), dial.export(0.5)(x), atol=1e-6)
    assert dial.export(0.5).lstm.hidden_size < 16


def test_levels_that_make_no_sense_are_refused() -> None:
    net, x = perceptron()
    for levels in ([0.0, 0.5], [1.5], [1.0], []):
        with pytest.raises(RecipeError):
            sc.dial(net, x, levels=levels)
    for wrong in ({"cost": "joules"}, {"budget": sc.MACs("50%")}, {"allocate": "search"}):
        with pytest.raises(RecipeError):
            sc.dial(net, x, **wrong)  # type: ignore[arg-type]
    dial = sc.dial(net, x, levels=[0.5])
    with pytest.raises(RecipeError, match=r"0\.7"):
        dial.set(0.7)
    with pytest.raises(InfeasibleBudget):
        sc.dial(net, x, levels=[1e-4])
