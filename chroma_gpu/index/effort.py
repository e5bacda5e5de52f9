"""How much work an approximate index must do for a recall: tried on stored rows whose neighbours are found exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu.index import exact, scoring
from chroma_gpu.records import Metric, Rows, Vectors, VectorSource

_QUESTIONS: Final = 64
"""Queries that are tried."""

Found: TypeAlias = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Effort:
    """What reaches the recall that was wanted.

    rows    that it was tried with; wanted: the recall
    level   of work for 10 neighbours; growth: the power of their number by which it grows
    recall  that was seen for 10; None if nobody has looked
    deep    rows that are scored exactly for each neighbour, where more than one is
    """

    rows: int
    wanted: float
    level: int
    growth: float
    recall: float | None
    deep: int = 1

    @classmethod
    def between(cls, rows: int, wanted: float, ten: Reached, hundred: Reached, deep: int = 1) -> Effort:
        """From what was reached for 10 and for 100 neighbours."""
        return cls(rows, wanted, ten.level, math.log10(max(1.0, hundred.level / ten.level)), ten.recall, deep)

    def needed(self, k: float) -> int:
        """The level for so many neighbours. Those under a mask that passes one row in ten count as ten times as many."""
        more: float = max(1.0, k / 10) ** self.growth
        return math.ceil(self.level * more)


@dataclass(frozen=True, slots=True)
class Reached:
    """A level of work and the recall that was seen at it."""

    level: int
    recall: float


class Trial:
    """Some queries and their k nearest among the first rows.

    A stored row finds itself too easily, so each query is one moved away by half a standard deviation of every coordinate.
    norms    of the rows that are looked at, at least one
    more     rows that are scored exactly whatever is found
    Cost     one exact search of 64 queries
    """

    def __init__(self, source: VectorSource, metric: Metric, norms: npt.NDArray[np.float32], k: int, more: Rows) -> None:
        n = len(norms)
        self._more = more[more < n]
        rng = np.random.default_rng(n)
        stored = source.gather(np.unique(rng.integers(0, n, _QUESTIONS)).astype(np.uint32))
        with np.errstate(over="ignore", invalid="ignore"):
            moved = stored + rng.standard_normal(stored.shape, np.float32) * (0.5 * stored.std(axis=0))
        # Where some rows are so long that nothing is left of the others, they are asked for as they are.
        queries: Vectors = np.where(np.isfinite(moved), moved, stored).astype(np.float32)
        self.queries = queries
        self.lengths = scoring.norms(queries)
        self.k = min(k, n)
        self._source, self._metric, self._norms = source, metric, norms
        self._last = exact.search_block(queries, source, 0, n, None, self.k, metric, norms).distances[:, -1]

    def recall(self, found: Found) -> float:
        """Share of the places among the k nearest that rows as near as that take.  found: [q, m] rows, others than rows below 0"""
        good = 0
        for i, each in enumerate(found):
            rows = np.union1d(each[(each >= 0) & (each < len(self._norms))].astype(np.uint32), self._more)
            hits = exact.search_rows(self.queries[i : i + 1], self._source, rows, self.k, self._metric, self._norms)
            good += int((hits.distances[0, : hits.counts[0]] <= self._last[i]).sum())
        return good / (self.k * len(found))

    def least(self, levels: Iterable[int], search: Callable[[int], Found], target: float, idle: int = 4) -> Reached:
        """The first of ascending levels at which what is found reaches the target.

        search  finds rows for ``queries`` at a level
        idle    after so many levels in a row that bring nothing, the best one is taken
        """
        best = Reached(1, -1.0)
        waited = 0
        for level in levels:
            recall = self.recall(search(level))
            if recall > best.recall:
                best, waited = Reached(level, recall), 0
            else:
                waited += 1
            if best.recall >= target or waited >= idle:
                break
        return best


def doubling(last: int) -> Iterable[int]:
    """1, 2, 3, 4, 6, 8, 12, ... up to and with the last."""
    step = 1
    while step < last:
        yield step
        if step > 1 and 3 * step // 2 < last:
            yield 3 * step // 2
        step *= 2
    yield last
