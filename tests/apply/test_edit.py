"""Changes that can be taken back."""

from __future__ import annotations

import pytest
import torch
from apply_nets import Snapshot, blocks, mlp, points
from torch import nn

from secateur.apply.edit import Edit, restoring


def test_data_keeps_identity_and_comes_back() -> None:
    model = mlp()
    model(points()).sum().backward()
    weight = model[0].weight
    before, old, edit = Snapshot(model), weight.data_ptr(), Edit()
    edit.data(weight, weight.data[:4].clone(), weight.grad[:4].clone())
    assert model[0].weight is weight and weight.shape == (4, 6) and weight.grad.shape == (4, 6)
    assert weight.is_leaf and weight.requires_grad and weight.data_ptr() != old
    edit.undo()
    before.check()


def test_data_without_gradient() -> None:
    model, edit = mlp(), Edit()
    edit.data(model[0].weight, torch.zeros(2, 6), None)
    assert model[0].weight.grad is None
    edit.undo()
    assert model[0].weight.shape == (16, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_live_graph_does_not_remember_the_old_shape(dtype: torch.dtype) -> None:
    """The loss of the last step is usually still in scope when a model is cut."""
    layer, edit = nn.Linear(6, 4).to(dtype), Edit()
    x = points().to(dtype)
    loss = layer(x).sum()
    loss.backward()
    edit.data(layer.weight, layer.weight.data[:2].clone(), None)
    edit.data(layer.bias, layer.bias.data[:2].clone(), None)
    layer(x).sum().backward()
    assert layer.weight.grad.shape == (2, 6) and layer.weight.dtype == dtype
    kept = layer(x).sum()
    edit.undo()
    layer(x).sum().backward()
    assert layer.weight.grad.shape == (4, 6)
    assert loss.grad_fn is not None and kept.grad_fn is not None


def test_hooks_of_a_parameter_survive() -> None:
    layer, edit, seen = nn.Linear(6, 4), Edit(), []
    layer.weight.register_hook(lambda grad: seen.append(tuple(grad.shape)))
    layer.weight.register_post_accumulate_grad_hook(lambda p: seen.append(tuple(p.grad.shape)))
    loss = layer(points()).sum()
    loss.backward()
    edit.data(layer.weight, layer.weight.data[:, :3].clone(), None)
    layer(points()[:, :3]).sum().backward()
    assert seen == [(4, 6), (4, 6), (4, 3), (4, 3)]


def test_without_keep_nothing_is_remembered() -> None:
    layer, edit = nn.Linear(6, 4), Edit(keep=False)
    edit.data(layer.weight, torch.zeros(2, 6), None)
    edit.undo()
    assert layer.weight.shape == (2, 6)


def test_attributes_in_every_container() -> None:
    module = nn.Module()
    module.size, module.sizes, module.pair = 8, [4, 8], (2, (8, 3))
    module.table = {"width": 8}
    before, edit = Snapshot(module), Edit()
    for path in ("size", "sizes.1", "pair.1.0", "table.width"):
        edit.attribute(module, path, 5)
    assert (module.size, module.sizes, module.pair) == (5, [4, 5], (2, (5, 3)))
    assert module.table == {"width": 5}
    edit.undo()
    before.check()


def test_an_attribute_that_does_not_change_is_left_alone() -> None:
    module, edit = nn.Module(), Edit()
    module.sizes = [8]
    same = module.sizes
    edit.attribute(module, "sizes.0", 8)
    assert module.sizes is same


def test_children_come_back_in_their_place() -> None:
    model, edit = blocks(), Edit()
    before, names = Snapshot(model), [name for name, _ in model.named_children()]
    edit.child(model, "1", nn.Identity())
    edit.child(model, "2.up", nn.Identity())
    assert isinstance(model[1], nn.Identity)
    edit.undo()
    before.check()
    assert [name for name, _ in model.named_children()] == names


def test_entries_of_a_state() -> None:
    state, edit = {"momentum": torch.ones(4)}, Edit()
    old = state["momentum"]
    edit.entry(state, "momentum", torch.zeros(2))
    edit.undo()
    assert state["momentum"] is old


def test_zeroed_values_come_back_bit_for_bit() -> None:
    values = torch.tensor([[1.0, -0.0, float("nan")], [float("inf"), 1e-40, 2.0]])
    tensor, edit = values.clone(), Edit()
    edit.values(tensor, 0, torch.tensor([1]))
    edit.values(tensor, 1, torch.tensor([0, 2]))
    assert tensor.tolist()[1] == [0, 0, 0] and tensor[0, 0] == 0
    edit.undo()
    assert torch.equal(tensor.view(torch.int32), values.view(torch.int32))


def test_changes_are_undone_last_first() -> None:
    module, edit = nn.Module(), Edit()
    module.n = 8
    for value in (6, 4, 2):
        edit.attribute(module, "n", value)
    edit.undo()
    assert module.n == 8
    edit.undo()  # nothing is left to undo
    assert module.n == 8


def test_restoring_undoes_on_any_exception() -> None:
    module = nn.Module()
    module.n = 8
    edit = Edit()
    with pytest.raises(KeyboardInterrupt), restoring(edit):
        edit.attribute(module, "n", 2)
        raise KeyboardInterrupt
    assert module.n == 8
    with restoring(edit):
        edit.attribute(module, "n", 2)
    assert module.n == 2
