"""Held: one weight under a session, with its mask and what its form keeps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.core.weight_site import WeightSite
from secateur.runtime.kernels.clear import Clear, takes
from secateur.train.bits import pack, unpack
from secateur.train.peers import is_spread, local

MOMENTA = ("momentum_buffer", "exp_avg")
"""Where PyTorch's optimizers keep the mean of gradients; what scales steps is left as it is."""


@dataclass
class Held:
    """One weight of a model in training, as far as this process holds it.

    site: its name, shape and form here. total: entries on all processes. first: how many of its
    rows are on processes before this one. packed: the mask, a bit for each weight; `latent`: what
    is trained, where that is not what is used; extra: what its form keeps besides.
    """

    site: WeightSite
    parameter: nn.Parameter
    optimizer: Optimizer
    total: int
    first: int = 0
    packed: Tensor = field(default_factory=lambda: torch.ones(0, dtype=torch.uint8))
    latent: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, site: WeightSite, parameter: nn.Parameter, optimizer: Optimizer) -> Held:
        """A weight with a mask that keeps everything."""
        here = local(parameter.detach())
        first = 0
        if is_spread(parameter):
            from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

            _, offsets = compute_local_shape_and_global_offset(
                parameter.shape,
                parameter.device_mesh,  # type: ignore[attr-defined]
                parameter.placements,  # type: ignore[attr-defined]
            )
            first = offsets[0]
        held = cls(
            WeightSite(site.name, tuple(here.shape), site.form), parameter, optimizer,
            parameter.numel(), first,
        )  # fmt: skip
        held.mask = torch.ones_like(here, dtype=torch.bool)
        return held

    @property
    def name(self) -> str:
        """The parameter's name."""
        return self.site.name

    @property
    def mask(self) -> Tensor:
        """What is kept, as booleans; a new tensor each time: to change it, assign another."""
        return self.bits.view(torch.bool)

    @mask.setter
    def mask(self, kept: Tensor) -> None:
        self.packed = pack(kept)

    @property
    def bits(self) -> Tensor:
        """The same as zeros and ones."""
        return unpack(self.packed, self.site.shape)

    def clear(self, tensor: Tensor) -> None:
        """Set what is removed to zero in a tensor of the weight's shape."""
        if takes(tensor):
            Clear([tensor], self.packed)()
        else:
            tensor.mul_(self.bits)

    def show(self, out: Tensor) -> None:
        """Write the trained values into another tensor, with zeros for what is removed."""
        if takes(out) and takes(self.trained) and out.dtype == self.trained.dtype:
            Clear([out], self.packed, [self.trained])()
        else:
            torch.mul(self.trained, self.bits, out=out)

    @property
    def used(self) -> Tensor:
        """The values that the model computes with (between steps), in the parameter's memory."""
        return local(self.parameter.detach())

    @property
    def trained(self) -> Tensor:
        """The values that the optimizer changes."""
        return self.used if self.latent is None else self.latent

    @property
    def gradient(self) -> Tensor | None:
        """The gradient, if there is one."""
        grad = self.parameter.grad
        return None if grad is None else local(grad.detach())

    @property
    def rate(self) -> float:
        """The learning rate of the parameter's group."""
        for group in self.optimizer.param_groups:
            if any(p is self.parameter for p in group["params"]):
                return float(group["lr"])
        return 0.0

    def momentum(self) -> Tensor | None:
        """The optimizer's mean of gradients, if it keeps one."""
        state = self.optimizer.state.get(self.parameter, {})
        for key in MOMENTA:
            if isinstance(state.get(key), Tensor):
                return local(state[key].detach())
        return None

    def forget(self, where: Tensor) -> None:
        """Let entries start without momentum."""
        found = self.momentum()
        if found is not None:
            found.masked_fill_(where, 0)
