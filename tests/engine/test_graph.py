from __future__ import annotations

import pytest
import torch

import secateur as sc
from secateur.engine.graph import Graph, Node, Ref, function, run

GRAPH = Graph(
    ("x",),
    {"self.w": torch.tensor([2.0]), "self.unused": torch.zeros(1)},
    (
        Node("n", "aten.sym_size.int", (Ref("x"), 0)),
        Node("a", "aten.mul.Tensor", (Ref("x"), Ref("self.w"))),
        Node("dead", "aten.relu.default", (Ref("a"),)),
        Node("m", "size.mul", (Ref("n"), 2)),
        Node("c", "aten.cat.default", ([Ref("a"), Ref("x")],)),
        Node("v", "aten.view.default", (Ref("c"), [Ref("m"), 1])),
    ),
    (Ref("v"), 3, Ref("m")),
)


def test_it_runs_and_forgets() -> None:
    seen = []
    out = run(GRAPH, [torch.ones(3)], GRAPH.weights, lambda n, a: None, lambda n, v: seen.append(n))
    assert out[0].tolist() == [[2.0]] * 3 + [[1.0]] * 3 and out[1:] == [3, 6]
    assert seen == ["n", "a", "dead", "m", "c", "v"]


def test_what_nothing_uses_goes() -> None:
    alive = GRAPH.alive()
    assert [node.name for node in alive.nodes] == ["n", "a", "m", "c", "v"]
    assert list(alive.weights) == ["self.w"]
    assert alive.uses == {"x": 3, "self.w": 1, "n": 1, "a": 1, "c": 1, "m": 2, "v": 1}


def test_other_names() -> None:
    node = GRAPH.nodes[4].with_refs({"a": "b"})
    assert node.refs == ("b", "x")


@pytest.mark.parametrize("op", ["os.system", "aten.nothing.default", "aten.relu", "size.exec", ""])
def test_unknown_operations(op: str) -> None:
    with pytest.raises(sc.errors.InputError, match="is not known"):
        function(op)
