"""From what an approximate index found to an answer: scored exactly, and checked against a sample of the rows.

1,024 random rows of the mask are scored exactly. If one of them beats the k-th hit, or there are too few hits, everything is scanned.
So it is where far more rows than the index visited, passing or not, are nearer than the k-th hit, as 1,024 rows of all kinds tell: the
index was not there. A sample finds an answer that is wrong on the whole, not a single neighbour that is missing, so a passed guard
never makes an answer ``exact``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.index import answers, exact
from chroma_gpu.index.held import Held
from chroma_gpu.records import Hits, Metric, Rows, Vectors, VectorSource
from chroma_gpu.rowset import RowSet

EXTREME: Final = 2.0**40
"""Norm from which a row or query is scored exactly: approximate indexes work in float32."""

SAMPLE: Final = 1024
"""Rows that are scored. Measured with a graph: recall 0.99 where it was 0.06, at 0 to 3 % needless exact scans."""


class Guard:
    """The check of one index. One thread lets it follow the rows, any may ask."""

    def __init__(self, source: VectorSource, metric: Metric) -> None:
        self._source, self._metric = source, metric
        self._sample = _draw(source, np.empty(0, np.float32))
        self._sampled_from = 0

    def follow(self, norms: npt.NDArray[np.float32], *, anew: bool = False) -> None:
        """Draw the sample anew where the rows have doubled.  norms: of all rows there are"""
        if anew or len(norms) >= 2 * self._sampled_from:
            self._sample, self._sampled_from = _draw(self._source, norms), len(norms)

    def settled(
        self,
        queries: Vectors,
        lengths: npt.NDArray[np.float32],
        found: npt.NDArray[np.integer[Any]],
        more: Rows,
        k: int,
        mask: RowSet | None,
        norms: npt.NDArray[np.float32],
        visited: float,
    ) -> Hits:
        """The answer from what an index found among the first rows, as many as there are norms.

        lengths  [q] norms of the queries
        found    [q, m] rows, all of them in the mask; what is below 0 or past the norms is none
        more     rows that no index can tell about, whatever the mask says of them
        visited  how many rows the index looked at near each query
        Returns  Hits whose guard is the worst of the batch: "passed", or "exact" (failed, so that everything was scanned)
        """
        n = len(norms)
        source, metric = self._source, self._metric
        sample = self._sample if mask is None else _draw(source, norms, mask)
        best = exact.search_block(queries, sample, 0, len(sample), None, k, metric, sample.norms)
        sampled = sample.named(best)
        reach = np.full(len(queries), np.inf) if mask is None else self._reach(queries, n, visited)
        more = more[more < n]
        more = more if mask is None or not len(more) else more[mask.flags()[more]]
        hits: list[Hits] = []
        failed: list[int] = []
        for i in range(len(queries)):
            rows = np.union1d(found[i][(found[i] >= 0) & (found[i] < n)].astype(np.uint32), more)
            one = exact.search_rows(queries[i : i + 1], source, rows, k, metric, norms)
            if one.counts[0] < k or not lengths[i] < EXTREME or _beaten(one, sampled[i], best.distances[i], reach[i]):
                failed.append(i)
            hits.append(replace(one, exact=False, guard="passed"))
        if failed:
            anew = exact.search_block(queries[failed], source, 0, n, mask, k, metric, norms)
            for place, i in enumerate(failed):
                of = slice(place, place + 1)
                hits[i] = replace(anew, rows=anew.rows[of], distances=anew.distances[of], counts=anew.counts[of], guard="exact")
        return answers.stacked(hits, k)

    def _reach(self, queries: Vectors, n: int, visited: float) -> npt.NDArray[np.float64]:
        """[q]: the distance past which an answer was hardly visited, because far more than visited / 2 of the n rows are nearer."""
        sample = self._sample
        inside = visited / 2 / n * len(sample)
        place = math.ceil(inside + 3 * math.sqrt(inside)) + 2
        if place >= len(sample):
            return np.full(len(queries), np.inf)
        best = exact.search_block(queries, sample, 0, len(sample), None, place, self._metric, sample.norms)
        return best.distances[:, -1].astype(np.float64)


def _draw(source: VectorSource, norms: npt.NDArray[np.float32], mask: RowSet | None = None) -> Held:
    """About ``SAMPLE`` random rows of those that have norms and are in the mask; the same ones each time."""
    n = len(norms)
    rng = np.random.default_rng(n)
    if mask is None:
        rows = rng.integers(0, max(n, 1), min(n, SAMPLE))
    elif 8 * len(mask) > n:
        tries = rng.integers(0, n, SAMPLE * n // len(mask))
        rows = tries[mask.bytes()[tries >> 3] >> (tries & 7).astype(np.uint8) & 1 > 0]
    else:
        passing = mask.rows()
        rows = (passing if len(passing) <= SAMPLE else passing[rng.integers(0, len(passing), SAMPLE)]).astype(np.int64)
    return Held(source, np.unique(rows).astype(np.uint32), norms)


def _beaten(hits: Hits, rows: Rows, distances: npt.NDArray[np.float32], reach: float) -> bool:
    """Whether one of the sampled rows, each [k], is nearer than the last hit of a query and not among its hits, or that hit is out
    of reach."""
    if hits.distances[0, -1] > reach:
        return True
    nearer = rows[distances < hits.distances[0, -1]]
    return bool(np.isin(nearer, hits.rows[0], invert=True).any())
