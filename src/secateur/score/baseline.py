"""Random scores: the sanity check that every other criterion has to beat."""

from __future__ import annotations

from zlib import crc32

import torch
from torch import Tensor

from secateur.core.site import Site
from secateur.score.criterion import Facts, criterion


@criterion("random", paper="baseline; see Blalock et al., What is the State of NN Pruning? (2020)")
def random(site: Site, facts: Facts) -> Tensor:
    """Uniform in [0, 1), from its own generator: seeded by `facts.seed` and the site's name.

    The global random state is neither read nor changed, and a site's scores do not depend on
    which other sites there are.

    Example:
        >>> site = Site("fc", "channel", 3)
        >>> bool((random(site, Facts({}, seed=1)) == random(site, Facts({}, seed=1))).all())
        True
    """
    generator = torch.Generator().manual_seed(crc32(f"{facts.seed}/{site.name}".encode()))
    return torch.rand(site.n, generator=generator)
