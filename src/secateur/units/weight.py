"""Weight, NM, Block: single weights that are zeroed, alone or in patterns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from secateur.core.errors import RecipeError
from secateur.core.matrix import Matrix
from secateur.core.scope import Scope
from secateur.core.weight_site import WeightSite
from secateur.units.axes import positive
from secateur.units.pattern import Pattern


@dataclass(frozen=True)
class Weight:
    """Zero single weights.

    per: what competes: None (all weights of a tensor, and the tensors with each other where the
    allocation is global), "row" (the weights of one output), or a number: that many neighbours
    along the input channels ("bank-balanced").

    Papers: Han et al., NeurIPS 2015; Cao et al., Bank-Balanced Sparsity, FPGA 2019.

    Raises:
        RecipeError: `per` is none of these.
    """

    per: int | str | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.per is not None and self.per != "row":
            positive("Weight", per=self.per)

    @property
    def pattern(self) -> Pattern:
        """Which entries compete."""
        return Pattern(group=self.per)


@dataclass(frozen=True)
class NM:
    """Keep `n` of every `m` neighbours along the input channels, such as 2:4.

    Paper: Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks, ICLR 2021.

    Raises:
        RecipeError: not 1 <= n < m.
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        positive("NM", n=self.n, m=self.m)
        if self.n >= self.m:
            raise RecipeError(
                f"NM({self.n}, {self.m}) removes nothing",
                hint="n of every m stay, so n is below m: NM(2, 4)",
            )

    @property
    def pattern(self) -> Pattern:
        """Which entries compete, and how many stay."""
        return Pattern(group=self.m, keep=self.n)


@dataclass(frozen=True)
class Block:
    """Zero whole blocks of `rows x columns` (outputs x input channels at one kernel tap).

    columns: None stands for whole rows: all inputs of an output, at all taps, so that
    `Block(1, None)` zeroes outputs of layers, which can come back in training (`grow=`).

    Paper: Gray et al., GPU Kernels for Block-Sparse Weights, 2017.

    Raises:
        RecipeError: a size is not an integer of at least 1.
    """

    rows: int = 4
    columns: int | None = 1

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        positive("Block", rows=self.rows)
        if self.columns is not None:
            positive("Block", columns=self.columns)

    @property
    def pattern(self) -> Pattern:
        """Which entries go together."""
        return Pattern(self.rows, self.columns)


WeightUnit = Weight | NM | Block


def weight_sites(model: nn.Module, scope: Scope | None = None) -> list[WeightSite]:
    """The weights of linear, convolutional, recurrent and attention layers that are in scope.

    Left out: biases, normalisations and embeddings (a tied head counts as its embedding), bare
    parameters of other modules, and weights that a parametrization computes. A weight with several
    names goes by its first.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
        >>> [(site.name, site.shape) for site in weight_sites(net)]
        [('0.weight', (8, 3, 3, 3)), ('2.weight', (2, 8))]
    """
    allowed = Scope.of(scope).select(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    embedded = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    }
    found: dict[str, WeightSite] = {}
    for module in model.modules():
        for key, form in _weights(module):
            parameter = module._parameters.get(key)
            if parameter is None or id(parameter) in embedded or not parameter.is_floating_point():
                continue
            name = names[id(parameter)]
            if name in allowed and name not in found:
                found[name] = WeightSite(name, tuple(parameter.shape), form)
    order = {name: number for number, name in enumerate(names.values())}
    return sorted(found.values(), key=lambda site: order[site.name])


def _weights(module: nn.Module) -> list[tuple[str, Matrix]]:
    """A module's own weights by parameter name, and how each is a matrix."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return [("weight", Matrix("transposed", module.groups))]
    if isinstance(module, nn.modules.conv._ConvNd):
        return [("weight", Matrix("conv", module.groups))]
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return [(key, Matrix()) for key in module._parameters if key.startswith("weight_")]
    if isinstance(module, nn.MultiheadAttention):
        return [(key, Matrix()) for key in module._parameters if key.endswith("_proj_weight")]
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # GPT-2's: [in, out]
        return [("weight", Matrix("flipped"))]
    if isinstance(module, nn.Linear):
        return [("weight", Matrix())]
    return []
