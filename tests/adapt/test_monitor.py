"""The monitor: what it notices, what it says, and the way back."""

import pytest
import torch
from adapting import Recurrent, chain, residual
from torch import nn

import secateur as sc
from secateur.core.errors import InputError, RecipeError


def test_usual_data_is_usual_and_other_data_is_not() -> None:
    net, x = residual()
    monitor = sc.adapt.Monitor(net, torch.randn(300, 3, 6, 6))
    new = torch.randn(200, 3, 6, 6)
    with torch.no_grad():
        assert torch.equal(monitor(new), net(new))
    assert not monitor.drifted
    assert monitor.seen == 200
    monitor(1.5 * x + 0.5)
    assert monitor.drifted
    assert monitor.since is not None and 200 < monitor.since <= 280
    assert "recalibrate" in str(monitor)


def test_what_the_inputs_hide_the_activations_show() -> None:
    """The same means and deviations of every channel, but other patterns in space."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    net.append(nn.Linear(4 * 16, 2))
    blank = torch.rand(400, 1, 8, 8)
    ordered = blank.flatten(2).sort(-1).values.reshape(blank.shape)
    monitor = sc.adapt.Monitor(net, blank[:300])
    monitor(ordered[300:])
    assert monitor.drifted
    assert monitor.shifts["input"] < 0.3 < max(monitor.shifts.values())


def test_the_place_of_a_shift_is_said() -> None:
    net, x = chain()
    monitor = sc.adapt.Monitor(net, x[:500], at=["blocks.3"])
    assert monitor.shifts == {}
    monitor(x[500:600] + 2)
    assert set(monitor.shifts) == {"input", "blocks.3"}
    assert monitor.shifts["input"] == pytest.approx(2, abs=0.3)


def test_recalibration_gets_closer_to_the_dense_network_and_can_be_undone() -> None:
    dense, x = residual()
    small = sc.prune(dense, data=[x], budget=sc.MACs("50%"), latency=False).model
    monitor = sc.adapt.Monitor(small, [x], dense=dense)
    recent = 2 * torch.randn(160, 3, 6, 6) + 1
    with torch.no_grad():
        monitor(recent[:40])
        assert monitor.drifted
        before, wanted = small(recent), dense(recent)
        notes = monitor.recalibrate([recent[:120]])
        assert any("least squares" in note for note in notes)
        assert not monitor.drifted
        new = recent[120:]
        assert (small(new) - wanted[120:]).norm() < (before[120:] - wanted[120:]).norm()
        monitor(new)
        assert not monitor.drifted
        monitor.restore()
        assert torch.equal(small(recent), before)
    with pytest.raises(RecipeError, match="no weights"):
        monitor.restore()


def test_without_the_dense_network_statistics_are_measured() -> None:
    net, x = residual()
    monitor = sc.adapt.Monitor(net, [x])
    mean = net.blocks[0][1].running_mean.clone()
    (note,) = monitor.recalibrate([x + 1])
    assert "not checked" in note
    assert not torch.equal(net.blocks[0][1].running_mean, mean)
    monitor.restore()
    assert torch.equal(net.blocks[0][1].running_mean, mean)
    assert not net.training


def test_hooks_go_with_the_monitor() -> None:
    net, x = chain()
    monitor = sc.adapt.Monitor(net, x[:100])
    assert any(module._forward_hooks for module in net.modules())
    monitor.close()
    assert not any(module._forward_hooks for module in net.modules())


def test_recurrent_networks_and_modes() -> None:
    net = Recurrent().train()
    monitor = sc.adapt.Monitor(net, torch.randn(100, 6, 5), at=["lstm"])
    assert net.training
    monitor(torch.randn(30, 6, 5) + 3)
    assert monitor.drifted


def test_what_makes_no_sense_is_refused() -> None:
    net, x = chain()
    with pytest.raises(RecipeError, match="alarm"):
        sc.adapt.Monitor(net, x, alarm=0)
    with pytest.raises(InputError, match="40"):
        sc.adapt.Monitor(net, x[:20])
    with pytest.raises(RecipeError, match="nothing to recalibrate"):
        sc.adapt.Monitor(net, x[:100]).recalibrate(x[100:200])
    words = nn.Sequential(nn.Embedding(5, 4))
    with pytest.raises(InputError, match="nothing to watch"):
        sc.adapt.Monitor(words, torch.randint(5, (100, 3)))
