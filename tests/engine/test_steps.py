from __future__ import annotations

import numpy as np
import torch

from secateur.engine.graph import Node, Ref
from secateur.engine.native import Slot
from secateur.engine.steps import Chosen, PlanesStep, anew, arguments, copied, into, split


class Written:
    """A kernel's numbers, without one."""

    name, step, wide, block, bytes, address = "none", 8, 16, 1, 0, 0


def test_a_table_covers_everything_once() -> None:
    chosen = Chosen(Written(), np.ones(6, np.int64))  # type: ignore[arg-type]
    step = PlanesStep(chosen, 6, 50, 3, (1000, 2000, 0), (10, 20, 0), None)
    for threads in (1, 2, 4, 16):
        done = np.zeros((3, 6, 56), int)
        for x, y, r, b, e, f, last in step.rounds(threads)[0][1]:
            image = (x - 1000) // 40
            assert y == 2000 + 80 * image and r == 0
            done[image, f:last, b:e] += 1
        assert (done == 1).all()


def test_steps_of_torch() -> None:
    run = [torch.ones(2), None]
    node = Node("a", "", (Ref("x"), 2), {})
    given = arguments(node, {"x": Slot(0)})
    anew(torch.mul, given, 1)(run)
    assert run[1] is not None and run[1].tolist() == [2, 2]
    target = torch.zeros(2)
    into(
        torch.mul, arguments(Node("a", "", ([Ref("x")],), {"k": Ref("x")}), {"x": Slot(0)}), target
    )
    copied(Slot(1), target)(run)
    assert target.tolist() == [2, 2]
    parts = torch.zeros(1)
    split(Slot(0), [((slice(0, 1),), parts)])(run)
    assert parts.tolist() == [1]
    nested = arguments(Node("a", "", ([Ref("x"), 1],), {}), {"x": Slot(0)})(run)
    assert nested[0][0][0] is run[0]
