"""WHAT is removed: channels, heads, blocks, as sites; single weights, alone or in patterns."""

from secateur.units.channel import Channel
from secateur.units.head import Head
from secateur.units.join import Unit, sites
from secateur.units.layer import Layer
from secateur.units.pattern import Pattern
from secateur.units.weight import NM, Block, Weight, WeightUnit, weight_sites

__all__ = [
    "NM", "Block", "Channel", "Head", "Layer", "Pattern", "Unit", "Weight", "WeightUnit", "sites",
    "weight_sites",
]  # fmt: skip
