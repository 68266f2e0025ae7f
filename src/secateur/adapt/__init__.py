"""Networks that adapt while they run: to the load, to a deadline, to the input."""

from secateur.adapt.activations import activations
from secateur.adapt.build import build
from secateur.adapt.controller import Controller, Event
from secateur.adapt.dial import Dial
from secateur.adapt.early import exits
from secateur.adapt.exiting import Exits
from secateur.adapt.gated import GatedModel
from secateur.adapt.lazy import Lazy
from secateur.adapt.level import Level
from secateur.adapt.memory import Memory
from secateur.adapt.monitor import Monitor
from secateur.adapt.passing import skip
from secateur.adapt.skippable import Layers
from secateur.adapt.vit import Tokens, tokens

__all__ = [
    "Controller", "Dial", "Event", "Exits", "GatedModel", "Layers", "Lazy", "Level", "Memory",
    "Monitor", "Tokens", "activations", "build", "exits", "skip", "tokens",
]  # fmt: skip
