"""Plans: counts, shapes, attributes and fingerprints."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from secateur.core.layout import Concat, Fixed, Leaf, Product
from secateur.core.plan import Attribute, Choice, Plan, Reason, fingerprint


def plan() -> Plan:
    heads, gate = Leaf("heads", 4), Leaf("gate", 6)
    return Plan(
        "f" * 64,
        {"heads": Choice(4, np.array([0, 3])), "gate": Choice(6, np.array([1, 2, 5]))},
        {
            "qkv": (Product((Fixed(3), heads, Fixed(2))), Fixed(5)),
            "lstm": (Concat((gate, gate)), gate),
        },
        attributes=(Attribute("attn", "num_heads", 4, heads),),
    )


def test_shapes_follow_from_layouts() -> None:
    assert plan().shape("qkv") == (3 * 2 * 2, 5)
    assert plan().shape("lstm") == (6, 3)


def test_counts_and_keeps() -> None:
    assert plan().counts == {"heads": 2, "gate": 3}
    assert plan().keeps["heads"].tolist() == [True, False, False, True]


def test_attributes_follow_their_axis() -> None:
    assert plan().attributes[0].new_value(plan().counts) == 2
    doubled = Attribute("m", "hidden", 8, Leaf("heads", 4))
    assert doubled.new_value({"heads": 3}) == 6


def test_equality_is_by_value_and_the_example_does_not_count() -> None:
    from dataclasses import replace

    assert plan() == plan()
    assert replace(plan(), example=torch.zeros(1)) == plan()
    other = replace(plan(), sites={"heads": Choice(4, np.array([0, 2]))})
    assert other != plan()


def test_a_fingerprint_is_of_structure_not_of_values() -> None:
    first, second = nn.Linear(2, 3), nn.Linear(2, 3)
    assert fingerprint(first) == fingerprint(second)
    assert fingerprint(first) != fingerprint(nn.Linear(3, 2))
    assert fingerprint(first) != fingerprint(nn.Linear(2, 3).double())
    assert fingerprint(first) != fingerprint(nn.Sequential(nn.Linear(2, 3)))


def test_a_reason_names_the_line() -> None:
    assert str(Reason("it stays", "op", "net.py:3")) == "it stays (net.py:3)"
    assert str(Reason("it stays")) == "it stays"
