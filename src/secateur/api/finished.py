"""A folder of finished blocks, from which an interrupted stream goes on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.api.weights import WeightArguments
from secateur.core.batches import tensors_in
from secateur.core.errors import FileError
from secateur.measure.calibration import Calibration
from secateur.score.weight_run import resolve_weight


@dataclass(frozen=True)
class Done:
    """What was done to one block: masks by the block's own names, and sentences."""

    masks: dict[str, Tensor]
    notes: tuple[str, ...]
    repairs: tuple[str, ...]


@dataclass
class Store:
    """A folder of finished blocks. seal: of the arguments, the data and the blocks so far."""

    folder: Path
    seal: str

    @classmethod
    def of(
        cls, folder: Path, given: WeightArguments, model: nn.Module, calls: Calibration
    ) -> Store:
        """Open or make a folder for these arguments, the model's weights and the data."""
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        criterion = given.criterion
        criterion = criterion if isinstance(criterion, str) else resolve_weight(criterion).name
        said = (given.unit, criterion, given.budget, given.allocate, given.scope, given.recover)
        digest.update(repr((*said, given.seed)).encode())
        for call in calls.calls:
            for tensor in tensors_in((call.args, dict(call.kwargs))):
                _add(digest, tensor)
        for name, tensor in model.state_dict().items():
            digest.update(name.encode())
            _add(digest, tensor)
        return cls(folder, digest.hexdigest())

    def path(self, number: int) -> Path:
        """The file of a block."""
        return self.folder / f"block_{number:04d}.safetensors"

    def read(self, number: int, block: nn.Module) -> Done | None:
        """Give a block its finished weights; None if it was not finished.

        Raises:
            FileError: The file was made from something else, or is damaged.
        """
        path = self.path(number)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise FileError(f"{path} cannot be read: {error}", hint="delete it") from error
        if meta.get("seal") != self.seal:
            raise FileError(
                f"{path} was made from other weights, data or arguments",
                hint="give another folder, or delete this one",
            )
        own = {f"value.{name}": t for name, t in block.state_dict(keep_vars=True).items()}
        with torch.no_grad():
            for key, tensor in own.items():
                tensor.copy_(tensors[key])
        masks = {
            key[5:]: mask.to(own[f"value.{key[5:]}"].device)
            for key, mask in tensors.items()
            if key.startswith("mask.")
        }
        said = json.loads(meta["said"])
        return Done(masks, tuple(said["notes"]), tuple(said["repairs"]))

    def write(self, number: int, block: nn.Module, found: Done) -> None:
        """Keep a finished block; a write that is interrupted leaves nothing that is read."""
        values = {f"value.{name}": t.detach().clone() for name, t in block.state_dict().items()}
        masks = {f"mask.{name}": mask for name, mask in found.masks.items()}
        said = json.dumps({"notes": found.notes, "repairs": found.repairs})
        path = self.path(number)
        new = path.with_suffix(".part")
        save_file({**values, **masks}, new, metadata={"seal": self.seal, "said": said})
        new.replace(path)


def _add(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    raw = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(raw.view(torch.uint8).numpy().tobytes() if raw.numel() else b"")


__all__ = ["Done", "Store"]
