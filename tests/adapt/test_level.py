"""Levels as stored: what is shared, what is packed, and what comes back."""

import numpy as np
import pytest
import torch
from adapting import perceptron
from torch import nn

import secateur as sc
from secateur.adapt.level import Level, packing_errors
from secateur.core.errors import RecipeError
from secateur.core.plan import Plan
from secateur.core.tensors import light_copy, own_memory
from secateur.measure.cost import Amounts

NOTHING = Amounts(0, 0, 0)


def cut(prefix: bool = True) -> tuple[nn.Module, nn.Module, Plan]:
    """A dense network, a cut one, and the plan between them."""
    net, x = perceptron()
    plan = sc.plan(net, x, budget=sc.MACs("50%"))
    if prefix:
        sites = plan.sites.values()
        for choice in sites:
            choice.keep[:] = np.arange(len(choice.keep))
    small = light_copy(net)
    assert sc.cut(small, plan).ok
    own_memory(small, net)
    return net, small, plan


@pytest.mark.parametrize("prefix", [True, False])
def test_a_plain_cut_takes_no_memory_but_its_indices(prefix: bool) -> None:
    net, small, plan = cut(prefix)
    level = Level(0.5, small, net, plan, NOTHING, {})
    assert {entry.kind for entry in level.entries.values()} == {"slice"}
    assert level.nbytes == 8 * sum(len(choice.keep) for choice in plan.sites.values())
    for name, tensor in level.network(net).named_parameters():
        assert torch.equal(tensor, small.get_parameter(name))


def test_prefixes_are_views_of_the_dense_weights() -> None:
    net, small, plan = cut()
    again = Level(0.5, small, net, plan, NOTHING, {}).network(net)
    for name, tensor in again.named_parameters():
        assert tensor.data_ptr() == net.get_parameter(name).data_ptr()


def test_changed_weights_are_packed_and_biases_are_exact() -> None:
    net, small, plan = cut()
    with torch.no_grad():
        small[2].weight.mul_(1.5).add_(0.1 * torch.randn_like(small[2].weight))
        small[2].bias.add_(1)
    wide, narrow = (Level(0.5, small, net, plan, NOTHING, {"2.weight": bits}) for bits in (8, 4))
    kinds = {name: entry.kind for name, entry in wide.entries.items()}
    assert kinds["2.weight"] == "change" and kinds["2.bias"] == "exact"
    assert sum(kind == "slice" for kind in kinds.values()) == 4
    assert narrow.nbytes < wide.nbytes
    with torch.no_grad():
        found = [level.network(net)[2].weight - small[2].weight for level in (wide, narrow)]
    error = [float(difference.norm()) for difference in found]
    # the factor takes the 1.5 away, so that what is packed is the noise alone
    assert error[0] < error[1] < 0.1 * 0.2 * small[2].weight.numel() ** 0.5
    assert torch.equal(narrow.network(net)[2].bias, small[2].bias)
    exact = Level(0.5, small, net, plan, NOTHING, {}).network(net)
    assert torch.equal(exact[2].weight, small[2].weight)
    assert (wide.bits, narrow.bits) == (8, 4)
    errors = packing_errors(small, net, plan)
    assert errors.keys() == {"2.weight"}
    sizes = list(errors["2.weight"].values())
    assert sizes == sorted(sizes, reverse=True)
    relative = error[1] / float(small[2].weight.detach().norm())
    assert errors["2.weight"][4] == pytest.approx(relative, rel=1e-4)


def test_exact_tensors_are_not_shared_with_the_store() -> None:
    net, small, plan = cut()
    with torch.no_grad():
        small[2].bias.add_(1)
    level = Level(0.5, small, net, plan, NOTHING, {})
    with torch.no_grad():
        level.network(net)[2].bias.zero_()
    assert torch.equal(level.network(net)[2].bias, small[2].bias)


def test_other_tensors_are_refused() -> None:
    net, small, plan = cut()
    small.register_buffer("more", torch.zeros(1))
    with pytest.raises(RecipeError, match="more"):
        Level(0.5, small, net, plan, NOTHING, {})
