"""Model -> axes and groups: which indices of which tensors live and die together, and why."""

from secateur.graph.analyze import analyze
from secateur.graph.graph import Axis, Block, Graph, Replay, Term
from secateur.graph.op import Op, rule
from secateur.graph.rewrite import rewrite

__all__ = ["Axis", "Block", "Graph", "Op", "Replay", "Term", "analyze", "rewrite", "rule"]
