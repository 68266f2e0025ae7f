"""Vision transformers with fewer tokens in every block, without training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from secateur.adapt.merging import Merging, Sizes, current, kind, width
from secateur.apply.verify import compare, run_detached
from secateur.core.batches import Call, check_model
from secateur.core.errors import RecipeError
from secateur.core.tensors import light_copy

_TRIED = 9  # tokens on which a block is compared with what is known of its kind


class Tokens(nn.Module):
    """A vision transformer whose blocks merge tokens; made by `sc.adapt.tokens`.

    blocks: the names of the blocks. r: how many tokens each of them merges away.
    """

    def __init__(self, model: nn.Module, r: int, fixed: int) -> None:
        super().__init__()
        self.model, self.r = model, r
        self.blocks = tuple(name for name, module in model.named_modules() if kind(module))
        for name in self.blocks:
            model.set_submodule(name, Merging(model.get_submodule(name), r, fixed))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output, from fewer and fewer tokens."""
        token = current.set(Sizes())
        try:
            return self.model(*args, **kwargs)
        finally:
            current.reset(token)


def tokens(model: nn.Module, r: int = 8, *, fixed: int | None = None) -> Tokens:
    """Let every block of a vision transformer merge the `r` most similar pairs of its tokens.

    No training and no data: similar tokens are averaged, and attention counts each for as many
    patches as it stands for. Accuracy falls slowly with `r`; measure it.

    Args:
        model: A ViT of timm or torchvision; it stays as it was, and shares its weights.
        r: Tokens that every block merges away, at most half of those that are there.
        fixed: How many tokens at the front are never merged (class token, registers); by default
            what the model says, else 1.

    Paper: Bolya et al., Token Merging, ICLR 2023.

    Raises:
        RecipeError: No block is known, or one computes something else than its kind does.
    """
    check_model(model)
    if r < 0:
        raise RecipeError(f"r={r!r}: expected how many tokens each block merges away")
    if fixed is None:
        fixed = int(getattr(model, "num_prefix_tokens", 1))
    small = Tokens(light_copy(model), r, fixed)
    if not small.blocks:
        raise RecipeError(
            f"{type(model).__name__} has no block whose tokens could be merged",
            hint="the blocks of timm's and torchvision's vision transformers are known",
        )
    for name in small.blocks:
        _check(name, model.get_submodule(name))
    return small.train(model.training)


def _check(name: str, block: nn.Module) -> None:
    """Compare a block that merges nothing with the block itself."""
    like = next(block.parameters())
    seed = torch.Generator().manual_seed(0)
    x = torch.randn(1, _TRIED, width(block), generator=seed).to(like.device, like.dtype)
    call = Call((x,), {})
    try:
        same = compare(run_detached(block, call), run_detached(Merging(block, 0, 1), call)).ok
    except (AttributeError, RuntimeError, TypeError, ValueError):
        same = False
    if not same:
        raise RecipeError(
            f"{name} computes something else than the blocks that are known",
            hint="blocks with gates, rotary positions or windows cannot merge tokens",
        )
