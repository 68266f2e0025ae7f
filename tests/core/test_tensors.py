"""Copies that share memory until they are cut, and names for all tensors."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.tensors import caches, compact, light_copy, named_tensors, own_memory, snapshot


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.ones(3))
        self.plain = torch.zeros(2)
        self.listed = [torch.zeros(4), {"deep": torch.zeros(5)}]
        self.cache: dict[str, Tensor] = {"cpu": torch.zeros(6)}


def test_every_tensor_has_one_name() -> None:
    names = [name for name, _ in named_tensors(Net())]
    assert names == [
        "first.weight", "first.bias", "second.bias", "scale", "plain", "listed.0",
        "listed.1.deep", "cache.cpu",
    ]  # fmt: skip


def test_a_light_copy_shares_parameters_and_nothing_else() -> None:
    net = Net()
    twin = light_copy(net)
    assert twin.first.weight.data_ptr() == net.first.weight.data_ptr()
    assert twin.first.weight is not net.first.weight
    assert twin.first.weight is twin.second.weight
    for name in ("scale", "plain"):
        assert getattr(twin, name).data_ptr() != getattr(net, name).data_ptr()
    own_memory(twin, net)
    twin.first.weight.data.zero_()
    assert bool(net.first.weight.abs().sum() > 0)
    assert twin.second.weight.data_ptr() == twin.first.weight.data_ptr()


def test_a_copy_keeps_requires_grad_and_drops_gradients() -> None:
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    net.weight.grad = torch.ones(2, 2)
    twin = light_copy(net)
    assert twin.weight.requires_grad and not twin.bias.requires_grad
    assert twin.weight.grad is None and net.weight.grad is not None


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_scripted_parts_keep_trainable_parameters() -> None:
    net = nn.Sequential(nn.Linear(2, 3), torch.jit.script(nn.Linear(3, 2)))
    assert all(p.is_leaf and isinstance(p, nn.Parameter) for p in light_copy(net).parameters())


def test_what_cannot_be_copied_is_said() -> None:
    net = nn.Linear(2, 2)
    net.lock = threading.Lock()
    with pytest.raises(InputError, match="prune_"):
        light_copy(net)


def test_caches_are_dictionaries_of_tensors_only() -> None:
    net = Net()
    assert len(caches(net)) == 1 and caches(net)[0] is net.cache
    assert caches(nn.Linear(2, 2)) == []


def test_a_snapshot_puts_values_back_in_place() -> None:
    model = nn.BatchNorm1d(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weight, restore = model.weight, snapshot(model)
    model(torch.randn(8, 3))
    with torch.no_grad():
        weight.mul_(2)
    restore()
    assert model.weight is weight
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_compacting_changes_nothing_on_the_cpu() -> None:
    net = nn.Sequential(nn.LSTM(3, 4), nn.Linear(4, 2))
    before = {name: (tensor, tensor.data_ptr()) for name, tensor in net.named_parameters()}
    compact(net)
    for name, tensor in net.named_parameters():
        assert before[name][0] is tensor
        assert before[name][1] == tensor.data_ptr()
