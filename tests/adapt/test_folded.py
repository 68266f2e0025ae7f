"""Batch normalisations in the layers before them: the same outputs, and where they stay."""

import pytest
import torch
from adapting import residual
from torch import Tensor, nn

import secateur as sc
from secateur.adapt.folded import fold, foldable
from secateur.core.batches import Call
from secateur.core.tensors import light_copy


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_stay(affine: bool, bias: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 5, bias=bias), nn.BatchNorm1d(5, affine=affine),
    )  # fmt: skip
    x = torch.randn(8, 3, 6, 6)
    for _ in range(5):
        net(x)
    for parameter in net[1].parameters():
        parameter.data.uniform_(0.5, 2)
    net.eval()
    wanted, before = net(x), {name: t.clone() for name, t in net.state_dict().items()}
    pairs = foldable(net, Call((x,), {}))
    assert pairs == (("0", "1"), ("4", "5"))
    without = fold(light_copy(net), pairs)
    assert isinstance(without[1], nn.Identity)  # type: ignore[index]
    assert torch.allclose(without(x), wanted, atol=1e-5)
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())


class Twice(nn.Module):
    """Something else reads what the layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return self.norm(y) + 3 * y


class Shared(nn.Module):
    """The normalisation runs behind two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.b(self.norm(self.a(x))))


@pytest.mark.parametrize("make", [Twice, Shared])
def test_what_others_read_is_not_folded(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net, x = make(), 3 * torch.randn(50, 4) + 1
    net(x)
    assert foldable(net.eval(), Call((x,), {})) == ()


def test_levels_of_a_dial_run_without_them_and_are_exported_with_them() -> None:
    net, x = residual()
    dial = sc.dial(net, data=[x], levels=[0.5])
    assert len(dial.folds) == 4
    norms = (nn.BatchNorm2d,)
    with torch.no_grad(), dial.at(0.5):
        exported = dial.export(0.5)
        assert torch.allclose(dial(x), exported(x), atol=1e-5)
        assert not any(isinstance(module, norms) for module in dial._at(0.5).modules())
        assert sum(isinstance(module, norms) for module in exported.modules()) == 4
        dial.train()
        assert sum(isinstance(module, norms) for module in dial._at(0.5).modules()) == 4
