"""An update: new masks from scores, a budget and what has grown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import cos, pi

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.score.criterion import Facts
from secateur.score.weight import random
from secateur.train.choose import LOWEST, Scoring
from secateur.train.held import Held
from secateur.train.settings import Settings


@dataclass
class Update:
    """New masks for weights after `step` steps, at a part of the final sparsity.

    gradients: those to look at instead of the last step's, by name (before the first step).
    """

    settings: Settings
    held: Sequence[Held]
    step: int
    part: float
    gradients: Mapping[str, Tensor] = field(default_factory=dict)

    def run(self) -> list[Tensor]:
        """The masks, in the order of the weights; nothing is changed yet.

        Raises:
            InputError: A score is not a number, or there is no gradient where one is needed.
        """
        settings = self.settings
        if self.part <= 0:
            return [torch.ones_like(item.mask) for item in self.held]
        sparsity = 0.0 if settings.sparsity is None else settings.sparsity
        if settings.grow and self.step == 0:
            return settings.chooser.masks(self.held, self.noise, sparsity, self.part)
        masks = settings.chooser.masks(self.held, self.score, sparsity, self.part)
        if settings.grow is None:  # in the hard form, what is gone stays gone
            pairs = zip(masks, self.held, strict=True)
            return [mask if item.latent is not None else mask & item.mask for mask, item in pairs]
        part = self.exchanged
        return [
            settings.chooser.exchange(item, self.score, self.growth, mask, part)
            for item, mask in zip(self.held, masks, strict=True)
        ]

    def wider(self, by: float) -> list[Tensor]:
        """The masks of a density that is higher by so much."""
        sparsity = max((self.settings.sparsity or 0.0) - by, 0.0)
        return self.settings.chooser.masks(self.held, self.score, sparsity, self.part)

    @property
    def exchanged(self) -> float:
        """The part of the weights that is dropped for others: `drop`, along half a cosine."""
        last = None if self.settings.schedule is None else self.settings.schedule.last
        if not last:
            return self.settings.drop
        return self.settings.drop / 2 * (1 + cos(pi * min(self.step / last, 1)))

    @property
    def score(self) -> Scoring:
        """The criterion's scores; of what is gone for good, the lowest there is."""
        return self._score

    def _score(self, item: Held) -> Tensor:
        own = self.settings.form.scores(item)
        if own is not None:
            return item.site.matrix(own)
        criterion = self.settings.criterion
        gradients = {item.name: self._gradient(item)} if criterion.needs else {}
        facts = Facts(
            {item.name: item.trained}, gradients=gradients, mean_gradients=gradients,
            seed=self._seed(0),
        )  # fmt: skip
        found = self.noise(item) if criterion is random else criterion(item.site, facts)
        if item.latent is None:
            found = torch.where(item.site.matrix(item.mask), found, LOWEST)
        return found

    def growth(self, item: Held) -> Tensor:
        """By what removed weights come back."""
        if self.settings.grow == "random":
            return self.noise(item)
        if self.settings.grow == "gradient":
            return item.site.matrix(self._gradient(item).abs())
        momentum = item.momentum()
        if momentum is None:
            raise InputError(
                f"{item.name}: grow='momentum', but the optimizer keeps none",
                hint="use SGD with momentum, or one of the Adam family",
            )
        return item.site.matrix(momentum.abs())

    def noise(self, item: Held) -> Tensor:
        """Uniform numbers that depend on the seed, the step and the weight's place only."""
        number = next(k for k, other in enumerate(self.held) if other is item)
        generator = torch.Generator().manual_seed(self._seed(number))
        whole = torch.rand(item.parameter.shape, generator=generator)
        rows = item.site.shape[0] if item.site.shape else 0
        here = whole[item.first : item.first + rows].to(item.used.device)
        return item.site.matrix(here)

    def _seed(self, number: int) -> int:
        return seed_of(self.settings.seed, self.step, number)

    def _gradient(self, item: Held) -> Tensor:
        found = self.gradients.get(item.name)
        found = item.gradient if found is None else found
        if found is None:
            raise InputError(
                f"{item.name} has no gradient at this update",
                hint="before the first step, give attach(..., data=batches); in the loop, call "
                "zero_grad() after step(), not before it",
            )
        return found


def seed_of(seed: int, step: int, number: int) -> int:
    """A seed for each step and weight."""
    return (seed * 1_000_003 + step) * 10_007 + number
