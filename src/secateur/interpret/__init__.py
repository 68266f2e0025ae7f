"""What is left, and what it does: circuits, ranks of units, inputs that still count."""

from secateur.interpret.circuit import Behaviour, Circuit, circuit

__all__ = ["Behaviour", "Circuit", "circuit"]
