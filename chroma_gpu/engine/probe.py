"""Probe: whether the rows near a query pass a filter as often as rows anywhere do.

An approximate way finds what is near and then asks the filter. Where a filter rules out just what is near, it finds nothing, and the
exact way has to answer after it. A look at a few rows before tells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from chroma_gpu.index import scoring
from chroma_gpu.records import Metric, Rows, Vectors, VectorSource
from chroma_gpu.rowset import RowSet

SAMPLE: Final = 768
"""Rows that are looked at, ..."""

NEAR: Final = 48
"""... and how many of them, the nearest to a query, stand for all that is near it."""

_QUERIES: Final = 1_024


class Probe:
    """Looks at the same random rows each time, drawn anew when the table has doubled. Safe for many threads."""

    def __init__(self, source: VectorSource, metric: Metric) -> None:
        self._source = source
        self._metric = metric
        self._sample = _Sample.draw(source, metric, 0)

    def missing(self, queries: Vectors, candidates: RowSet, count: int) -> float:
        """Share of the candidates that is missing near the query that misses most, compared with a filter that knows nothing of vectors.

        It is 0 where chance explains what is missing, for 99 calls of 100.
        queries  [q, dim], of which the first thousand are looked at; count: how many candidates there are
        Cost     some 50 µs at dim 384
        """
        size, share = candidates.size, count / candidates.size
        if not self._sample.size <= size < 2 * self._sample.size:
            self._sample = _Sample.draw(self._source, self._metric, size)
        sample = self._sample
        if len(sample.rows) < SAMPLE // 2:
            return 0.0
        with np.errstate(over="ignore", invalid="ignore"):  # of huge vectors nothing is learned, and nothing is lost
            # For one query a product on several threads costs more to begin than it takes.
            products = np.vecdot(sample.vectors, queries) if len(queries) == 1 else queries[:_QUERIES] @ sample.vectors.T
            keys = sample.halves - products
        near = np.argpartition(np.atleast_2d(keys), NEAR - 1, axis=1)[:, :NEAR]
        found = sample.rows[near]
        passing = int((candidates.bytes()[found >> 3] >> (found & 7).astype(np.uint8) & 1).sum(axis=1).min())
        expected = share * NEAR
        # Each query has a chance of its own to look bad.
        clear = math.sqrt(2 * math.log(100 * len(found)) * expected * (1 - share))
        return 0.0 if passing > expected - clear else 1.0 - passing / expected


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Random rows of the first ``size``: their vectors as the metric places them, and half their squared lengths where these count."""

    size: int
    rows: Rows
    vectors: Vectors
    halves: npt.NDArray[np.float32]

    @classmethod
    def draw(cls, source: VectorSource, metric: Metric, size: int) -> Self:
        if not size:
            return cls(0, np.empty(0, np.uint32), np.empty((0, 0), np.float32), np.empty(0, np.float32))
        rows = np.unique(np.random.default_rng(size).integers(0, size, SAMPLE)).astype(np.uint32)
        vectors = source.gather(rows)
        norms = scoring.norms(vectors)
        if metric is Metric.COSINE:
            vectors = scoring.normalised(vectors, norms)
        with np.errstate(over="ignore"):
            halves = (norms**2 / 2 * (metric is Metric.L2)).astype(np.float32)
        return cls(size, rows, vectors, halves)
