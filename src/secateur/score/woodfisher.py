"""WoodFisher: the Fisher information in blocks, what a weight's removal costs, and the update."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.core.weight_site import WeightSite
from secateur.score.criterion import Facts
from secateur.score.weight import weight_criterion, weight_of

BLOCK = 64
"""Neighbours in a row-major weight whose interaction is known."""
DAMP = 1e-2
_PAPER = "Singh and Alistarh, WoodFisher, NeurIPS 2020; Kurtic et al., oBERT, EMNLP 2022"


def in_blocks(matrix: Tensor, block: int = BLOCK) -> Tensor:
    """A matrix `[out, k]` as `[blocks, block]`, row-major, the last one filled up with zeros."""
    flat = matrix.reshape(-1)
    return torch.nn.functional.pad(flat, (0, -len(flat) % block)).reshape(-1, block)


def outer(site: WeightSite, gradient: Tensor, block: int = BLOCK) -> Tensor:
    """The products of one sample's gradient with itself, `[blocks, block, block]`; float64.

    Averaged over samples they are the empirical Fisher information. Memory: 8 * block bytes a
    weight.
    """
    rows = in_blocks(site.matrix(gradient), block).double()
    return rows[:, :, None] * rows[:, None, :]


def damped(blocks: Tensor) -> Tensor:
    """Blocks with `DAMP` times the tensor's mean diagonal added to the diagonal."""
    diagonal = blocks.diagonal(dim1=1, dim2=2)
    eye = torch.eye(blocks.shape[1], dtype=blocks.dtype, device=blocks.device)
    return blocks + (DAMP * diagonal.mean() + 1e-12) * eye


def saliency(weight: Tensor, blocks: Tensor) -> Tensor:
    """w² / (2 [F⁻¹]qq): how much the loss rises when one weight goes and others make up for it."""
    inverse = torch.linalg.inv(damped(blocks)).diagonal(dim1=1, dim2=2)
    found = in_blocks(weight, blocks.shape[1]).double().square() / (2 * inverse)
    return found.reshape(-1)[: weight.numel()].reshape(weight.shape)


def updated(weight: Tensor, blocks: Tensor, keep: Tensor) -> Tensor:
    """The kept weights after the best update for all removed weights of a block together.

    `δ = -F⁻¹ E (Eᵀ F⁻¹ E)⁻¹ w`, which is the minimum of the quadratic on the kept ones:
    `F_SS w' = (F w)_S`.
    """
    block = blocks.shape[1]
    stiff, kept = damped(blocks), in_blocks(keep.to(blocks.dtype), block)
    wanted = (stiff @ in_blocks(weight, block).double()[..., None])[..., 0] * kept
    both = kept[:, :, None] * kept[:, None, :]
    found = torch.linalg.solve(stiff * both + torch.diag_embed(1 - kept), wanted)
    return (found.reshape(-1)[: weight.numel()].reshape(weight.shape) * keep).to(weight.dtype)


def _update(site: WeightSite, facts: Facts, keep: Tensor) -> Tensor:
    blocks = facts.get("fisher_blocks").get(site.name)
    weight = weight_of(site, facts)
    return weight * keep if blocks is None else updated(weight, blocks, keep)


@weight_criterion("woodfisher", "obs", needs="fisher_blocks", update=_update, paper=_PAPER)
def woodfisher(site: WeightSite, facts: Facts) -> Tensor:
    """Optimal brain surgery with the empirical Fisher information, in blocks of 64 weights.

    Needs labels. The weights that stay are moved to make up for those that go, all of a block
    together (as oBERT does; WoodFisher adds up the updates for single weights).
    """
    blocks = facts.get("fisher_blocks").get(site.name)
    weight = weight_of(site, facts)
    return torch.zeros_like(weight) if blocks is None else saliency(weight, blocks)


__all__ = ["BLOCK", "DAMP", "damped", "in_blocks", "outer", "saliency", "updated", "woodfisher"]
