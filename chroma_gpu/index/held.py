"""Some rows of a table, held together in memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from chroma_gpu.index import scoring
from chroma_gpu.records import Hits, Rows, Vectors, VectorSource


class Held:
    """A source of its own for ``exact``, whose rows are places among those held; ``named`` turns places into rows again.

    rows     [n] uint32, ascending, so that places are in the order of rows
    vectors  [n, dim] float32, theirs
    norms    [n] float32, theirs
    """

    def __init__(self, source: VectorSource, rows: Rows, norms: npt.NDArray[np.float32] | None = None) -> None:
        self.rows, self.dim = rows, source.dim
        self.vectors = source.gather(rows)
        self.norms = scoring.norms(self.vectors) if norms is None else norms[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def block(self, start: int, stop: int) -> Vectors:
        """As ``VectorSource.block``."""
        return self.vectors[start:stop]

    def gather(self, rows: Rows) -> Vectors:
        """As ``VectorSource.gather``."""
        return self.vectors[rows]

    def named(self, hits: Hits) -> Rows:
        """[q, k] uint32: the rows of hits that are places here; what stands past ``counts`` stays."""
        filled = np.arange(hits.rows.shape[1]) < hits.counts[:, None]
        rows = hits.rows.copy()
        rows[filled] = self.rows[hits.rows[filled]]
        return rows
