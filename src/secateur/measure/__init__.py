"""Everything learned by running the model or counting it."""

from secateur.measure.cost import Amounts, Cost
from secateur.measure.gradients import default_loss, mean_over_batches

__all__ = ["Amounts", "Cost", "default_loss", "mean_over_batches"]
