"""What happens around every step of an optimizer: the only hooks there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from secateur.train.held import Held
from secateur.train.peers import is_spread
from secateur.train.settings import Settings
from secateur.train.together import Together, gathered
from secateur.train.update import seed_of

ELEMENTWISE = (
    optim.SGD, optim.Adam, optim.AdamW, optim.Adamax, optim.NAdam, optim.RAdam, optim.RMSprop,
    optim.Adagrad, optim.Adadelta, optim.ASGD, optim.Rprop,
)  # fmt: skip
"""Optimizers in which a weight's step depends on its own gradients only, so that gradients of
removed weights need not be masked (and their moments show what would grow)."""


class Steps:
    """Sets the trained values before an optimizer's step, and the used ones after it.

    For the hard form these are the same tensors, and one multiplication after the step is all.

    step: how many steps the first optimizer has taken.
    """

    def __init__(
        self,
        root: nn.Module,
        held: Sequence[Held],
        settings: Settings,
        stepped: Callable[[], None],
    ) -> None:
        self._root = root
        self._held = held
        self._settings = settings
        self._form = settings.form
        self._stepped = stepped
        self._moved: list[tuple[Held, Tensor]] = []
        self._together: dict[int, list[Together]] = {}
        self._first: Optimizer | None = None
        self._quiet = False
        self.step = 0

    def begin(self) -> None:
        """Make the latent tensors and the form's state."""
        with torch.no_grad():
            for item in self._held:
                item.latent = item.used.clone() if self._form.latent else None
                self._form.begin(item)
        self._draw()

    def hooks(self, optimizers: Sequence[Optimizer]) -> list[Any]:
        """Register everything; the handles that take it away again."""
        self._first = optimizers[0]
        handles: list[Any] = []
        for optimizer in optimizers:
            if self._form.latent or not isinstance(optimizer, ELEMENTWISE):
                handles.append(optimizer.register_step_pre_hook(self._before))
            handles.append(optimizer.register_step_post_hook(self._after))
        if self._form.noisy:
            handles.append(self._root.register_forward_pre_hook(self._looked))
        return handles

    def refresh(self) -> None:
        """Masks are other tensors now."""
        self._together = gathered(self._held)

    @torch.no_grad()
    def show(self, optimizer: Optimizer | None = None) -> None:
        """Write the used values of all weights, or of one optimizer's."""
        for item in self._held:
            if optimizer is None or item.optimizer is optimizer:
                self._form.write(item, item.used)

    @torch.no_grad()
    def close(self) -> None:
        """Write the values that stay."""
        for item in self._held:
            self._form.close(item, item.used)
            if not self._form.chosen:
                item.mask = item.used != 0
            item.latent = None

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """Masked gradients, or trained values with their own gradients; after a closure, if any."""
        closure = kwargs.get("closure") if len(args) < 2 else args[1]
        if closure is None:
            self._ready(optimizer)
            return None

        def run() -> Any:
            loss = closure()
            self._ready(optimizer)
            return loss

        return (args[:1], {**kwargs, "closure": run})

    @torch.no_grad()
    def _ready(self, optimizer: Optimizer) -> None:
        self._restore()
        if skipped(optimizer):
            return
        if self._form.latent:
            unscale(optimizer)
        elif self._looks_next():
            return
        for item in self._held:
            gradient = item.gradient
            if gradient is None or item.optimizer is not optimizer:
                continue
            if item.latent is None:
                item.clear(gradient)
                continue
            self._form.pull(item, gradient, self._settings.chooser.peers)
            self._moved.append((item, item.used))
            if is_spread(item.parameter):
                item.used.copy_(item.latent)
            else:
                item.parameter.data = item.latent  # no copy; the old memory is back after the step

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Between updates of the hard form nothing but `apply`, which is cheap, as steps may be."""
        if skipped(optimizer):
            return
        if self._moved:
            self._restore()
        if optimizer is self._first:
            self.step += 1
            self._stepped()
        if self._form.latent:
            self._draw(optimizer)
            self.show(optimizer)
            return
        for together in self._together.get(id(optimizer), ()):
            together.apply()

    @torch.no_grad()
    def _restore(self) -> None:
        """The parameters' own memory again, and in `latent` what the optimizer made."""
        for item, shown in self._moved:
            assert item.latent is not None
            if is_spread(item.parameter):
                item.latent.copy_(shown)
            else:
                item.parameter.data = shown
        self._moved = []

    def _looks_next(self) -> bool:
        """Whether the update after this step looks at gradients, so that they stay whole."""
        schedule = self._settings.schedule
        looks = self._settings.grow == "gradient" or bool(self._settings.criterion.needs)
        return looks and schedule is not None and schedule.due(self.step + 1)

    @torch.no_grad()
    def _draw(self, optimizer: Optimizer | None = None) -> None:
        if not self._form.noisy:
            return
        self._quiet = False
        for number, item in enumerate(self._held):
            if optimizer is None or item.optimizer is optimizer:
                generator = torch.Generator(item.used.device)
                generator.manual_seed(seed_of(self._settings.seed, self.step, number))
                self._form.draw(item, generator)

    @torch.no_grad()
    def _looked(self, module: nn.Module, args: Any) -> None:
        """Before a forward: in eval mode there is no noise."""
        if module.training == self._quiet:
            self._quiet = not module.training
            for item in self._held:
                (self._form.close if self._quiet else self._form.write)(item, item.used)


def skipped(optimizer: Optimizer) -> bool:
    """Whether a gradient scaler lets a fused optimizer do nothing, as gradients overflowed."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and bool(found)


def unscale(optimizer: Optimizer) -> None:
    """Divide gradients by the scale that a fused optimizer would divide by, which then does not."""
    scale = getattr(optimizer, "grad_scale", None)
    if not isinstance(scale, Tensor):
        return
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.mul_(1 / float(scale))
