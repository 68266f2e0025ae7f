"""SNIP, GraSP and SynFlow against the papers' formulas."""

from __future__ import annotations

import pytest
import torch
from small_net import SITES, batches, by_name, consumed, gradients, hessian, net
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.errors import RecipeError
from secateur.core.layout import Fixed, Leaf, Product
from secateur.core.site import Site, Slice
from secateur.measure.stats import Gather
from secateur.score import Facts, scores


def test_snip_is_a_share_of_the_whole_model_s_sensitivity() -> None:
    model = net()
    each = [gradients(model, x, y) for x, y in batches()]
    weights = {k: p.detach().double() for k, p in model.named_parameters()}
    absolute = {k: ((each[0][k] + each[1][k]) / 2 * weights[k]).abs() for k in weights}
    whole = sum(float(v.sum()) for v in absolute.values())
    found = scores("snip", SITES, Facts.of(model), Gather(model, None, batches()))
    for site in SITES:
        expected = consumed(site, absolute) / whole
        torch.testing.assert_close(found[site.name].double(), expected, rtol=1e-4, atol=1e-8)


def test_snip_counts_a_shared_weight_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False))
    model[2].weight = model[0].weight
    leaf = Leaf("a", 2)
    where = Site("a", "channel", 2, (Slice("0.weight", 1, leaf, "in"),))
    data = [(torch.randn(4, 2), torch.tensor([0, 1, 1, 0]))]
    found = scores("snip", [where], Facts.of(model), Gather(model, None, data))["a"]
    assert float(found.sum()) == pytest.approx(1)


def test_grasp_keeps_what_the_gradient_s_norm_needs() -> None:
    """The lowest scores are the weights whose removal lets the gradient's norm rise most."""
    model = net().double()
    total_h = total_g = 0
    for x, y in batches():
        _, flat, matrix = hessian(model, x, y)
        g = gradients(model, x.double(), y)
        total_g = total_g + torch.cat([g[k].reshape(-1) for k, _ in model.named_parameters()]) / 2
        total_h = total_h + matrix / 2
    expected_by_weight = by_name(model, flat * (total_h @ total_g))
    data = [(x.double(), y) for x, y in batches()]
    found = scores("grasp", SITES, Facts.of(model), Gather(model, None, data))
    for site in SITES:
        expected = consumed(site, expected_by_weight)
        torch.testing.assert_close(found[site.name], expected, rtol=1e-6, atol=1e-12)
    # Its sign, by experiment: a step of removal changes |g|^2 by -2 eps w (H g).
    site, eps = SITES[0], 1e-5
    owner = site.slices[2].layout.coordinate("c")

    def norm() -> float:
        each = [gradients(model, x, y) for x, y in data]
        return sum(float(((each[0][k] + each[1][k]) / 2).square().sum()) for k in each[0])

    for index in range(3):
        before = norm()
        kept = model.fc.weight.detach().clone()
        with torch.no_grad():
            model.fc.weight[:, torch.from_numpy(owner == index)] *= 1 - eps
        rise = (norm() - before) / (2 * eps)
        with torch.no_grad():
            model.fc.weight.copy_(kept)
        assert float(found["c"][index]) == pytest.approx(-rise, rel=1e-2, abs=1e-7)


class Plain(nn.Module):
    """Convolution, norm, rectifier, linear: all paths can be multiplied out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(12, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.norm(self.conv(x))).flatten(1))


def test_synflow_is_the_sum_of_all_paths() -> None:
    torch.manual_seed(0)
    model = Plain().eval()
    with torch.no_grad():
        model.norm.weight.uniform_(-1, 1)
        model.norm.bias.zero_()
        model.norm.running_mean.fill_(5)
        model.norm.running_var.fill_(9)
    leaf = Leaf("c", 3)
    flat = Slice("fc.weight", 1, Product((leaf, Fixed(4))), "in")
    where = Site("c", "channel", 3, (Slice("conv.weight", 0, leaf, "out"), flat))
    example = Call((torch.randn(5, 2, 3, 3),), {})
    found = scores("synflow", [where], Facts.of(model), Gather(model, example, None))["c"]
    assert found.dtype == torch.float64
    conv = model.conv.weight.detach().double().abs().sum((1, 2, 3))  # all ones come in
    gain = model.norm.weight.detach().double().abs() / (1 + model.norm.eps) ** 0.5
    onward = model.fc.weight.detach().double().abs().reshape(2, 3, 4).sum((0, 2))
    torch.testing.assert_close(found, conv * gain * onward)
    # Flow is conserved: the same from the side of the producer.
    producer = Site("c", "channel", 3, (Slice("conv.weight", 0, leaf, "out"),))
    same = scores("synflow", [producer], Facts.of(model), Gather(model, example, None))["c"]
    torch.testing.assert_close(same, found)


def test_synflow_needs_an_example_and_the_others_data() -> None:
    model = net()
    for name, message in (("synflow", "needs an example"), ("snip", "needs the mean gradient")):
        with pytest.raises(RecipeError, match=message):
            scores(name, SITES, Facts.of(model), Gather(model, None, None))
