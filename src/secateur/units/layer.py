"""Layer: whole residual blocks, which leave the identity behind."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from secateur.core.scope import Scope
from secateur.core.site import Site
from secateur.graph.graph import Graph


@dataclass(frozen=True)
class Layer:
    """Remove whole blocks x + f(x), so that x is left."""

    def sites(self, graph: Graph, scope: Scope, model: nn.Module) -> list[Site]:
        """One site of one index for every block of which everything is in scope."""
        selected = scope.select(model)
        tensors = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        return [
            Site(block.module, "layer", 1, what="blocks", floor=0, module=block.module)
            for block in graph.blocks
            if block.module in selected
            and all(t in selected for t in tensors if t.startswith(block.module + "."))
        ]
