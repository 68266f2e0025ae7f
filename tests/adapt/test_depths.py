"""Which blocks inputs can leave behind."""

import pytest
import torch
from adapting import Chain, residual
from torch import Tensor, nn

from secateur.adapt.depths import depths
from secateur.core.batches import Call
from secateur.core.errors import RecipeError


def test_blocks_in_lists_are_found_and_the_end_is_not() -> None:
    call = Call((torch.zeros(2, 8),), {})
    assert depths(Chain(), call) == ("stem", "blocks.0", "blocks.2", "blocks.3")
    assert depths(Chain(), call, most=9)[1:] == tuple(f"blocks.{k}" for k in range(4))
    net, x = residual()
    assert set(depths(net, Call((x[:2],), {}))) == {"stem", "blocks.0", "blocks.1"}


def test_wrappers_are_looked_into() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = Chain()

        def forward(self, x: Tensor) -> Tensor:
            return self.backbone(x)

    names = depths(Wrapped(), Call((torch.zeros(2, 8),), {}), most=1)
    assert names == ("backbone.blocks.1",)


def test_a_single_layer_has_no_depth() -> None:
    with pytest.raises(RecipeError, match="no block"):
        depths(nn.Linear(2, 2), Call((torch.zeros(3, 2),), {}))


def test_blocks_that_run_twice_are_left_out() -> None:
    class Twice(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0 * self.stem(x).mean())

    assert "stem" not in depths(Twice(), Call((torch.zeros(2, 8),), {}), most=9)
