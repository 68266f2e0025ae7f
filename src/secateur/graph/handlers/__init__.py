"""What the sizes in Python-level calls mean, one file per family of functions."""

from secateur.graph.handlers import creation, layers, pieces, views
from secateur.graph.handlers.layers import self_adjusting
from secateur.graph.handlers.registry import HANDLERS, handles

__all__ = ["HANDLERS", "creation", "handles", "layers", "pieces", "self_adjusting", "views"]
