"""Every rule, by brute force: what it believes must be what the operation does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rule_examples import EXAMPLES, EXEMPT, Example
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.graph.op import RULES
from secateur.graph.trace import decomposed
from secateur.testing import check_rule


class Seen(TorchDispatchMode):
    """Notes which operations are executed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def identity(example: Example) -> str:
    return f"{example.name}: {example.expected}"


@pytest.mark.parametrize("example", EXAMPLES, ids=identity)
def test_rule(example: Example) -> None:
    if not hasattr(torch.ops.aten, example.name):
        pytest.skip(f"torch {torch.__version__} has no {example.name}")
    op = example.through or getattr(torch.ops.aten, example.name)
    assert check_rule(op, *example.args, **example.kwargs) == example.expected


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.through], ids=identity)
def test_calls_through_python_reach_the_operation(example: Example) -> None:
    assert example.through is not None
    with decomposed(), Seen() as seen:
        example.through(*example.args, **example.kwargs)
    assert example.name in seen.names


def test_every_rule_has_an_example() -> None:
    own = {
        packet.__name__
        for packet, function in RULES.items()
        if function.__module__.startswith("secateur.graph.rules")
        and str(packet).startswith("aten.")
    }
    missing = own - {example.name for example in EXAMPLES} - EXEMPT.keys()
    assert not missing, f"add an example call to rule_examples.py for {sorted(missing)}"


def test_exempt_operations_have_no_example() -> None:
    assert not EXEMPT.keys() & {example.name for example in EXAMPLES}
