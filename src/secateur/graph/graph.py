"""The result of an analysis: what every dimension is made of, what is free, and what is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from secateur.core.layout import Layout
from secateur.core.plan import Attribute, Reason
from secateur.core.site import Role, Tie


@dataclass(frozen=True)
class Axis:
    """One leaf axis: `n` indices, free unless `frozen` says why not.

    what: "filters", "neurons", "hidden units", "heads", "head dims", "residual width", ...
    head: the axis counts attention heads. statistical: a normalisation runs over it.
    """

    name: str
    n: int
    what: str = "channels"
    head: bool = False
    statistical: bool = False
    frozen: Reason | None = None


@dataclass(frozen=True)
class Term:
    """Multiply-accumulates of one operation: factor times the product of the layouts' counts."""

    module: str
    op: str
    factor: int
    layouts: tuple[Layout, ...]


@dataclass(frozen=True)
class Block:
    """A module that computes x + f(x), so that removing it leaves the identity.

    as_tuple: it returns a tuple whose first item is the result.
    """

    module: str
    as_tuple: bool = False


@dataclass(frozen=True)
class Replay:
    """What the reference run must know: the operations in order, and which to restrict.

    ops: (operation, module). restrictions: operation number -> (how, argument, dim, layout).
    """

    ops: tuple[tuple[str, str], ...] = ()
    restrictions: Mapping[int, tuple[tuple[str, str, int, Layout], ...]] = field(
        default_factory=dict
    )


@dataclass(frozen=True)
class Graph:
    """A model's structure after one traced run.

    layouts: for every parameter and buffer, one layout a dimension. roles: for (tensor, dim) what
    the dimension does. axes: every leaf that some parameter has, by name. ties: free axes, grouped
    by what their counts must agree on (every free axis is in exactly one tie). stale_caches:
    modules keep tensors of earlier runs that the model can do without; a cut must empty them.
    states: for every output tensor that is a recurrent state which the model takes back (by its
    number among the outputs), one layout a dimension: it gets narrower with the hidden units.
    """

    layouts: Mapping[str, tuple[Layout, ...]]
    roles: Mapping[tuple[str, int], Role]
    axes: Mapping[str, Axis]
    ties: tuple[Tie, ...]
    attributes: tuple[Attribute, ...]
    terms: tuple[Term, ...]
    blocks: tuple[Block, ...]
    replay: Replay = Replay()
    unknown: Mapping[str, Reason] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stale_caches: bool = False
    states: Mapping[int, tuple[Layout, ...]] = field(default_factory=dict)
