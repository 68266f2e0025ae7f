"""WHAT is removed: channels, heads, blocks, as sites."""

from secateur.units.channel import Channel
from secateur.units.head import Head
from secateur.units.join import Unit, sites
from secateur.units.layer import Layer

__all__ = ["Channel", "Head", "Layer", "Unit", "sites"]
