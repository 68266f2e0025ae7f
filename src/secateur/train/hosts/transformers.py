"""Sessions in the Trainer of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from secateur.core.errors import FileError
from secateur.core.recipe import Recipe
from secateur.train.attach import attach
from secateur.train.hosts.library import library
from secateur.train.session import Session
from secateur.train.state import KEY


def trainer_callback(recipe: Recipe, **how: Any) -> Any:
    """A callback: `Trainer(..., callbacks=[trainer_callback(sc.presets.gmp(0.9, end=1000))])`.

    It attaches when training begins and finishes when it ends; `callback.session` is the session.
    Its state is in the checkpoints' optimizer.pt, from which a training that resumes goes on. how:
    the other arguments of `sc.attach`.

    Raises:
        InputError: transformers is not installed.
    """
    base = library("transformers", "transformers").TrainerCallback

    class SessionCallback(base):
        """Holds the session of one training."""

        session: Session | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
            """Attach, where the checkpoint left off if there is one."""
            self.session = attach(
                objects["model"], objects["optimizer"], recipe,
                state=_saved(args, state), **how,
            )  # fmt: skip

        def on_train_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
            """Finish."""
            if self.session is not None:
                self.session.finish()

    return SessionCallback()


def _saved(args: Any, state: Any) -> dict[str, Any] | None:
    """The session's state in the checkpoint that training resumed from."""
    if not state.global_step:
        return None
    given = args.resume_from_checkpoint
    own = Path(args.output_dir) / f"checkpoint-{state.global_step}"
    path = (Path(given) if isinstance(given, str) else own) / "optimizer.pt"
    if not path.exists():
        raise FileError(
            f"training resumed at step {state.global_step}, but there is no {path}",
            hint="set resume_from_checkpoint in the TrainingArguments to the checkpoint's folder",
        )
    found = torch.load(path, map_location="cpu", weights_only=True).get(KEY)
    if found is None:
        raise FileError(f"{path} holds no session", hint="it was trained without this callback")
    return found
