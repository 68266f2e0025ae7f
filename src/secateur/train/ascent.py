"""The adaptive schedule at work: raise, look, keep or take back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from secateur.core.schedule import Adaptive
from secateur.train.bits import pack, unpack
from secateur.train.held import Held

Event = dict[str, Any]


@dataclass
class Ascent:
    """How far the sparsity has risen, and what the last rise removed until it is accepted.

    level: the fraction of the final sparsity that was accepted. trial: the one in force and not
    yet judged. by: the next rise. reference: the dense model's metric. masks, values: the masks
    before the trial, and the weights that it zeroed.
    """

    schedule: Adaptive
    level: float = 0.0
    trial: float | None = None
    by: float = 0.0
    reference: float | None = None
    masks: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """The first rise is the schedule's."""
        self.by = self.by or self.schedule.by

    def judge(self, value: float, held: Sequence[Held]) -> Event:
        """Accept the trial, or take it back; what was decided and why, as an event."""
        schedule = self.schedule
        if self.reference is None:
            self.reference = value
        lost = self.reference - value if schedule.higher else value - self.reference
        inside = lost <= schedule.tolerance
        why = (
            f"the metric is {value:.6g} against {self.reference:.6g} when dense: "
            f"{'inside' if inside else 'outside'} the tolerance of {schedule.tolerance:g}"
        )
        event: Event = {"metric": value, "reference": self.reference, "reason": why}
        if self.trial is None:
            return {**event, "kind": "wait" if not inside else "look"}
        if inside:
            self.level = self.trial
        else:
            self._take_back(held)
            self.by /= 2
        self.trial = None
        self.masks, self.values = {}, {}
        return {**event, "kind": "accept" if inside else "back off"}

    def next(self, event: Event) -> float | None:
        """The level to try after this event; None: stay."""
        stays = event["kind"] in ("wait", "back off") or self.level >= 1
        if stays or self.by < self.schedule.least:
            return None
        return min(1.0, self.level + self.by)

    def try_(self, level: float, held: Sequence[Held], masks: Sequence[Tensor]) -> None:
        """Remember what is there before masks of a level, so that they can be taken back."""
        self.masks = {item.name: item.mask for item in held}
        for item, mask in zip(held, masks, strict=True):
            if item.latent is None:
                self.values[item.name] = item.used[item.mask & ~mask].clone()
        self.trial = level

    def _take_back(self, held: Sequence[Held]) -> None:
        for item in held:
            before = self.masks[item.name]
            if item.latent is None:
                back = before & ~item.mask
                item.forget(back)
                item.used[back] = self.values[item.name]
            item.mask = before

    def dump(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "level": self.level, "trial": self.trial, "by": self.by, "reference": self.reference,
            "masks": {name: pack(mask) for name, mask in self.masks.items()},
            "values": dict(self.values),
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any], held: Sequence[Held]) -> None:
        """What `dump` gave."""
        self.level, self.trial, self.by = state["level"], state["trial"], state["by"]
        self.reference = state["reference"]
        shapes = {item.name: item.site.shape for item in held}
        self.masks = {n: unpack(m, shapes[n]).bool() for n, m in state["masks"].items()}
        self.values = {name: torch.clone(value) for name, value in state["values"].items()}
