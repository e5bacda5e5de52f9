"""Rows that are out of proportion, kept apart so that one bound can serve all others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from chroma_gpu.index.growing import Growing
from chroma_gpu.records import Rows

_FEW: Final = 64
"""Outliers that are always affordable."""


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """largest: no size is above it, those of ``rows`` aside."""

    largest: float = 0.0
    rows: Rows = field(default_factory=lambda: np.empty(0, np.uint32))


class Outliers:
    """Follows a column of sizes (norms, distances from a centre) as it grows, and says which rows are far above the others.

    One thread takes rows in; ``bound`` is replaced whole, so that others may read it meanwhile.
    Cost     O(1) a row, amortised: the limit is 1.25 times what 255 of 256 rows stay below, drawn anew when the rows have doubled
             or more than one in 128 lies above it
    """

    def __init__(self, sizes: Growing) -> None:
        self.bound = Bound()
        self._sizes = sizes
        self._limit = 0.0
        self._seen = self._drawn = 0

    def take(self, stop: int) -> None:
        """Take in rows up to ``stop``, whose sizes are there."""
        first, self._seen = self._seen, stop
        sizes = self._sizes.view(stop)
        inside = sizes[first:] <= self._limit
        rows = np.concatenate([self.bound.rows, (np.flatnonzero(~inside) + first).astype(np.uint32)])
        if len(rows) > max(_FEW, stop // 128) or stop >= 2 * self._drawn:
            self._drawn = stop
            nth = stop - 1 - stop // 256
            self._limit = 1.25 * float(np.partition(sizes, nth)[nth])
            inside = sizes <= self._limit
            self.bound = Bound(float(sizes[inside].max(initial=0)), np.flatnonzero(~inside).astype(np.uint32))
        else:
            self.bound = Bound(max(self.bound.largest, float(sizes[first:][inside].max(initial=0))), rows)
