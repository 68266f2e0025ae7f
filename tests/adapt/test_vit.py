"""Vision transformers of both libraries with merged tokens."""

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.core.errors import RecipeError

pytestmark = pytest.mark.zoo


def vit(library: str) -> nn.Module:
    torch.manual_seed(0)
    if library == "timm":
        made = pytest.importorskip("timm.models.vision_transformer").VisionTransformer(
            img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=3, num_classes=5,
            init_values=0.5, qk_norm=True, reg_tokens=2,
        )  # fmt: skip
    else:
        made = pytest.importorskip("torchvision.models").VisionTransformer(
            16, 4, 3, 3, 24, 48, num_classes=5
        )
        nn.init.normal_(made.heads.head.weight)  # torchvision starts it at zero
    return made.eval()


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_nothing_merged_changes_nothing_and_more_changes_more(library: str) -> None:
    model, x = vit(library), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        wanted = model(x)
        assert torch.allclose(sc.adapt.tokens(model, r=0)(x), wanted, atol=1e-5)
        errors = [float((sc.adapt.tokens(model, r=r)(x) - wanted).norm()) for r in (1, 5)]
        assert 0 < errors[0] < errors[1]
        assert torch.equal(model(x), wanted)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_identical_patches_merge_without_a_trace(library: str) -> None:
    """Tokens that are equal are exact when merged, if attention counts them by their sizes."""
    model = vit(library)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pos_emb" in name:
                parameter[:, 1:] = 0
        x = torch.randn(1, 3, 1, 1).expand(2, 3, 16, 16)
        merged = sc.adapt.tokens(model, r=4)
        assert torch.allclose(merged(x), model(x), atol=1e-5)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_every_block_gives_fewer_tokens(library: str) -> None:
    merged = sc.adapt.tokens(vit(library), r=3)
    counts = list[int]()
    for name in merged.blocks:
        merged.model.get_submodule(name).register_forward_hook(
            lambda module, args, out: counts.append(out.shape[1])
        )
    merged(torch.randn(1, 3, 16, 16))
    first = 16 + (3 if library == "timm" else 1)
    assert counts == [first - 3, first - 6, first - 9]


class Gated(nn.Module):
    """It looks like a block of timm's, and is none."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = nn.LayerNorm(8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.attn = nn.Module()
        self.attn.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(RecipeError, match="something else"):
        sc.adapt.tokens(nn.Sequential(Gated()))
    with pytest.raises(RecipeError, match="no block"):
        sc.adapt.tokens(nn.Linear(2, 2))
    with pytest.raises(RecipeError, match="r=-1"):
        sc.adapt.tokens(nn.Linear(2, 2), r=-1)
