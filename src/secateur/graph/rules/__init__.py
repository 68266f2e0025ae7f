"""What primitive operations do to axes, one file per family."""

from secateur.graph.rules import (
    attention,
    convolution,
    create,
    indexing,
    joining,
    matmul,
    normalisation,
    pointwise,
    recurrent,
    reduction,
    shape,
    spatial,
)
from secateur.graph.rules.create import CONSTANT

__all__ = [
    "CONSTANT",
    "attention",
    "convolution",
    "create",
    "indexing",
    "joining",
    "matmul",
    "normalisation",
    "pointwise",
    "recurrent",
    "reduction",
    "shape",
    "spatial",
]
