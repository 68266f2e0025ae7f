"""Everything learned by running the model or counting it."""

from secateur.measure.cost import Amounts, Cost
from secateur.measure.gradients import mean_over_batches
from secateur.measure.loss import default_loss, loss_of

__all__ = ["Amounts", "Cost", "default_loss", "loss_of", "mean_over_batches"]
