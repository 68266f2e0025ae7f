"""A repair in the making: the two networks, the data, and the rule that only what helps stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.plan import Plan
from secateur.core.site import Role
from secateur.core.tensors import snapshot
from secateur.measure.calibration import Calibration
from secateur.recover.distance import distance, outputs
from secateur.recover.supervision import Supervision


class Recover(Protocol):
    """One way to repair a network after a cut."""

    def run(self, job: Job) -> None:
        """Change `job.small` in place, through `job.attempt`."""
        ...


@dataclass
class Job:
    """What a repair works on.

    dense: the network before the cut, never changed. small: the one after it, repaired in place.
    plan: what was cut. roles: what every dimension of every parameter does (`Graph.roles`).
    distance: how far `small` is from `dense` on the held-out calls (see `distance`). supervision:
    what repairs that train need. masks: for parameters by name, which weights are there (True);
    the others are zero and have to stay so.

    Without calibration data nothing can be measured: `distance` is NaN, and a change that a repair
    attempts stays, with a note that it was not checked.
    """

    dense: nn.Module
    small: nn.Module
    plan: Plan
    roles: Mapping[tuple[str, int], Role]
    calibration: Calibration | None
    seed: int = 0
    notes: list[str] = field(default_factory=list)
    supervision: Supervision = field(default_factory=Supervision)
    masks: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        """Measure where the repair starts."""
        held = () if self.calibration is None else self.calibration.held
        self._dense = outputs(self.dense, held)
        self.distance = self.measure()

    @property
    def calls(self) -> tuple[Call, ...]:
        """What the networks can be run on: the data, else the example that the plan was made on."""
        if self.calibration is not None:
            return self.calibration.calls
        return (self.plan.example,) if isinstance(self.plan.example, Call) else ()

    @property
    def teacher(self) -> nn.Module:
        """The network before all pruning."""
        return self.dense if self.supervision.teacher is None else self.supervision.teacher

    def refresh(self) -> None:
        """Measure the distance anew, after a change that was judged by something else."""
        self.distance = self.measure()

    def note(self, text: str) -> None:
        """Add a sentence to the report."""
        self.notes.append(text)

    def measure(self) -> float:
        """How far the smaller network is now; NaN without data."""
        if self.calibration is None:
            return float("nan")
        found = outputs(self.small, self.calibration.held)
        return distance(self._dense, found)

    def attempt(self, name: str, change: Callable[[], object]) -> bool:
        """Make a change, and take it back unless held-out data gets closer to the dense outputs.

        Memory: a copy of the smaller network's parameters and buffers.
        """
        restore = snapshot(self.small)
        try:
            change()
            after = self.measure()
        except BaseException:
            restore()
            raise
        if self.calibration is None:
            self.note(f"{name}: done, not checked (there is no data)")
            return True
        if after < self.distance:
            self.note(f"{name}: distance from the dense outputs {self.distance:.3g} -> {after:.3g}")
            self.distance = after
            return True
        restore()
        self.note(f"{name}: no help on held-out data ({self.distance:.3g} -> {after:.3g}), undone")
        return False
