"""Sessions: weights that are pruned, and grown, while your own loop trains the model."""

from secateur.train.attach import attach
from secateur.train.session import Session

__all__ = ["Session", "attach"]
