"""Sessions in other people's trainers; Accelerate's needs nothing: attach to what it prepared."""

from secateur.train.hosts.lightning import lightning_callback
from secateur.train.hosts.transformers import trainer_callback

__all__ = ["lightning_callback", "trainer_callback"]
