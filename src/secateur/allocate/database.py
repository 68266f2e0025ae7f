"""A database: how much every site's loss of indices hurts, measured at a few kept counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import numpy as np

from secateur.allocate.ladder import Ladder, Vector
from secateur.core.errors import InputError


@dataclass(frozen=True)
class Database:
    """Measured errors by site: `{site name: {kept count: error}}`.

    An error is a number of at least 0 that is 0 when all indices stay: a divergence from the dense
    outputs, a rise of the loss. Sites that are tied need one entry, under any of their names (the
    first one's is looked up first); kept counts are those of the named site. A block is an entry
    under its own name with the kept count 0; the errors of several blocks add up.

    Between the counts errors are interpolated linearly, after isotonic regression (pool adjacent
    violators): what keeps more never has the larger error. Below the least measured count the last
    slope goes on.

    Example:
        >>> database = Database({"conv1": {2: 0.4, 4: 0.1, 6: 0.1}})
        >>> database.at("conv1", 8, [1, 2, 3, 4, 7, 8]).round(3)
        array([0.55, 0.4 , 0.25, 0.1 , 0.05, 0.  ])

    Raises:
        InputError: An entry is empty, or an error is negative or not finite.
    """

    entries: Mapping[str, Mapping[int, float]]

    def __post_init__(self) -> None:
        """Refuse what cannot be a measurement."""
        for name, points in self.entries.items():
            if not points:
                raise InputError(f"the database has no measurement of {name}")
            for count, error in points.items():
                where = f"the error of {name} at {count} kept indices"
                if not isfinite(error):
                    raise InputError(
                        f"{where} is {error}",
                        hint="errors must be finite: leave that count out, or give a large number",
                    )
                if error < 0:
                    raise InputError(
                        f"{where} is {error}, which is negative",
                        hint="subtract the error of the whole model, and let nothing be below 0",
                    )

    def at(self, name: str, n: int, counts: list[int]) -> Vector:
        """The errors of a site of `n` indices at kept counts; `[counts]`.

        Raises:
            InputError: The site is not in the database, or a measured count is not one of 0 to n.
        """
        if name not in self.entries:
            raise InputError(f"the database has no site {name}")
        points = {int(count): float(error) for count, error in self.entries[name].items()}
        for count in points:
            if not 0 <= count <= n:
                raise InputError(f"the database keeps {count} of the {n} indices of {name}")
        if points.setdefault(n, 0.0) != 0:
            raise InputError(
                f"the error of {name} with all {n} indices kept is {points[n]}, not 0",
                hint="subtract the error of the whole model from all errors",
            )
        known = np.array(sorted(points), dtype=np.float64)
        errors = _falling(np.array([points[int(count)] for count in known]))
        found = np.interp(counts, known, errors)
        if len(known) > 1:
            below = np.maximum(known[0] - np.array(counts, dtype=np.float64), 0.0)
            found += below * (errors[0] - errors[1]) / (known[1] - known[0])
        return found

    def errors(self, ladder: Ladder) -> Vector:
        """The error at every level of a ladder, ascending; the last is 0; `[levels]`.

        Raises:
            InputError: None of its sites is in the database, although it has smaller levels.
        """
        if len(ladder.levels) == 1:
            return np.zeros(1)
        if ladder.blocks:
            each = [float(self.at(name, 1, [0])[0]) for name in ladder.blocks]
            return np.append(np.cumsum(each[::-1])[::-1], 0.0)
        for member in ladder.members:
            if member.site.name in self.entries:
                counts = [member.ratio * level for level in ladder.levels]
                return self.at(member.site.name, member.site.n, counts)
        known = ", ".join(list(self.entries)[:5]) or "nothing"
        raise InputError(
            f"the database has no measurement of {ladder.name}",
            hint=f"measure every site that can shrink; it knows {known}"
            + (" and more" if len(self.entries) > 5 else ""),
        )


def _falling(errors: Vector) -> Vector:
    """The nearest sequence that never rises, in the least-squares sense; the last value is 0.

    Pool adjacent violators, O(n): Barlow et al., Statistical Inference under Order Restrictions,
    1972. The last value is the least already, so that it stays.
    """
    pools: list[list[float]] = []
    for error in errors:
        pools.append([float(error), 1.0])
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            value, size = pools.pop()
            before, more = pools[-1]
            pools[-1] = [(before * more + value * size) / (more + size), more + size]
    return np.repeat([value for value, _ in pools], [int(size) for _, size in pools])
