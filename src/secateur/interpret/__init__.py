"""What is left, and what it does: circuits, ranks of units, inputs that still count."""

from secateur.interpret.circuit import Behaviour, Circuit, circuit
from secateur.interpret.features import Features
from secateur.interpret.rank import Ranking, rank_units

__all__ = ["Behaviour", "Circuit", "Features", "Ranking", "circuit", "rank_units"]
