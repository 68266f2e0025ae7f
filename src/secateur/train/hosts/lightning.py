"""Sessions in Lightning."""

from __future__ import annotations

from typing import Any

from secateur.core.recipe import Recipe
from secateur.train.attach import attach
from secateur.train.hosts.library import library
from secateur.train.session import Session


def lightning_callback(recipe: Recipe, **how: Any) -> Any:
    """A callback: `Trainer(callbacks=[lightning_callback(sc.presets.gmp(0.9, end=1000))])`.

    It attaches when training starts, rides in the trainer's checkpoints, and finishes when training
    ends; `callback.session` is the session. how: the other arguments of `sc.attach`; the weights of
    losses and metrics inside the module are in scope too, so give a `scope` if there are such.

    Raises:
        InputError: Lightning is not installed.
    """
    base = library("lightning.pytorch", "lightning").Callback

    class SessionCallback(base):
        """Holds the session of one training."""

        session: Session | None = None
        _state: dict[str, Any] | None = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Attach, where the checkpoint left off if there is one."""
            self.session = attach(pl_module, trainer.optimizers, recipe, state=self._state, **how)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """Finish."""
            if self.session is not None:
                self.session.finish()

        def state_dict(self) -> dict[str, Any]:
            """The session's state."""
            return {} if self.session is None else self.session.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """Keep it until training starts."""
            self._state = state_dict or None

    return SessionCallback()
