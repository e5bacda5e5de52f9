"""View: one committed state of a table in memory, and how it follows the store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chroma_gpu.errors import DimensionMismatch
from chroma_gpu.records import Rows
from chroma_gpu.rowset import RowSet
from chroma_gpu.store import State, Store


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One committed state in memory.

    dim     length of the vectors; None before the first one
    live    live rows, of size ``live.size``; count: how many
    births  [live.size] uint32, the row under which each record was first inserted; None where every row is its own birth
    """

    seq: int
    dim: int | None
    live: RowSet
    count: int
    births: Rows | None

    @classmethod
    def nothing(cls) -> View:
        """Of a table that was never looked at."""
        return cls(0, None, RowSet.empty(0), 0, None)

    def caught_up(self, store: Store, state: State) -> View:
        """The view of a state of the store that was just read, or of a later one.  Cost: one bit a row, and what has changed since."""
        changes = store.changes(self.seq) if self.seq else None
        if changes is None:
            # Read after state(), so it may be ahead of state.seq. Applying those changes once more does no harm.
            live = store.live()
            return View(state.seq, state.dim, live, len(live), _births(None, live.size, *store.births()))
        flags = np.zeros(changes.stop, np.bool_)
        flags[: self.live.size] = self.live.flags()
        flags[changes.first :] = True
        flags[changes.dead] = False
        live = RowSet.where(flags)
        return View(
            changes.seq, state.dim, live, len(live), _births(self.births, live.size, *store.births(changes.first))
        )  # fmt: skip

    def inserted(self, rows: Rows) -> Rows:
        """Rows in the order in which their records were inserted."""
        return rows if self.births is None else rows[np.argsort(self.births[rows], kind="stable")]

    def page(self, candidates: RowSet, offset: int, limit: int | None) -> Rows:
        """The rows of a set in that order, ``limit`` of them after the first ``offset``."""
        stop = None if limit is None else offset + limit
        return candidates.between(offset, stop) if self.births is None else self.inserted(candidates.rows())[offset:stop]

    def check_dim(self, dim: int) -> None:
        """Raises DimensionMismatch."""
        if self.dim is not None and dim != self.dim:
            raise DimensionMismatch(f"Collection expecting embedding with dimension of {self.dim}, got {dim}")


def _births(old: Rows | None, size: int, rows: Rows, births: Rows) -> Rows | None:
    """[size] births: the old ones, every further row its own, but for ``rows``."""
    if old is None and not len(rows):
        return None
    result = np.arange(size, dtype=np.uint32)
    if old is not None:
        result[: len(old)] = old[:size]
    known = rows < size
    result[rows[known]] = births[known]
    return result
