"""Model -> axes and groups: which indices of which tensors live and die together, and why.

In reading order: `axes` is the algebra. `trace` runs the model; for every primitive operation a
rule from `rules/` says what it does to axes (`op` is what a rule sees), and for every Python-level
call with sizes a handler from `handlers/` says what they must equal (`functions` intercepts them,
`attributes` makes the model's own integers traceable, `sizes` is the traced integer, `builtin` what
PyTorch's modules say of themselves). `ties` solves the equations, `naming` and `blocks` find words
and residual blocks, `analyze` puts it all into a `graph`. `rewrite` is for code full of literals.
"""

from secateur.graph.analyze import analyze
from secateur.graph.graph import Axis, Block, Graph, Replay, Term
from secateur.graph.op import Op, rule
from secateur.graph.rewrite import rewrite

__all__ = ["Axis", "Block", "Graph", "Op", "Replay", "Term", "analyze", "rewrite", "rule"]
