from __future__ import annotations

import pytest
import torch

from secateur.ship.operations import _KNOWN, allowed


@pytest.mark.parametrize(
    "op",
    ["aten.from_file.default", "aten.relu_.default", "aten.set_.source_Tensor", "os.system", ""],
)
def test_what_is_not_pure_is_not_allowed(op: str) -> None:
    assert not allowed(op)


def test_what_is_allowed_is_there_and_changes_nothing() -> None:
    for name in _KNOWN:
        packet = getattr(torch.ops.aten, name)
        found = [o for o in packet.overloads() if allowed(f"aten.{name}.{o}")]
        assert found
        assert not any(getattr(packet, overload)._schema.is_mutable for overload in found)
