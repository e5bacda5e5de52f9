"""Which rows lie in a region around a vector, and the nearest rows under a distance of their own: exact, by a cheap pass first.

The pass scores a block of rows in float32 and brackets the final distance of each: the error of a product is bounded as in ``exact``,
and the bounds here are twice as wide as they need be. Only a row whose bracket leaves a question open is scored by
``scoring.distances``, so what is decided is decided by the distances that answers report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu.index import scoring
from chroma_gpu.index.exact import checked
from chroma_gpu.records import Metric, Rows, Vectors, VectorSource
from chroma_gpu.rowset import RowSet

Wide: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]

_ELEMENTS: Final = 1 << 21
"""Elements of a block of vectors: 8 MB, so that it is read twice from a cache."""

_DENSE: Final = 0.4
"""Share of the rows between the first and the last from which all of them are scored: a gathered row costs 2.4 times as much."""

_BRACKETS: Final = 1 << 22
"""Brackets held at once: queries of a group times rows."""


def within(query: Vectors, source: VectorSource, candidates: RowSet, admits: Callable[[Wide], Flags], metric: Metric) -> RowSet:
    """The candidates whose distance to a vector is admitted.

    query    [dim] float32
    admits   says of [n] distances, float32 values as float64, which are; it must not change its mind more than once as they grow
    Raises   DimensionMismatch
    Cost     measured on one core at dim 384: 0.25 µs a candidate, 0.6 µs where few of many rows are; 1.2 µs more near the boundary
    """
    if not candidates:
        return candidates
    query = checked(query[None], source.dim)[0]
    flags = np.zeros(candidates.size, np.bool_)
    for rows, vectors, places in _blocks(source, candidates.rows()):
        low, high = (bound[places] for bound in bracket(query, vectors, metric))
        inside = admits(low)
        open_ = np.flatnonzero(inside != admits(high))
        if len(open_):
            inside[open_] = admits(
                scoring.distances(query, vectors[open_ if isinstance(places, slice) else places[open_]], metric).astype(
                    np.float64
                )
            )
        flags[rows] = inside
    return RowSet.where(flags)


def boosted(distances: npt.NDArray[np.float32], factors: Wide | float, addends: Wide | float) -> npt.NDArray[np.float32]:
    """distances * factors + addends, computed in float64 and rounded once; rising with the distance where factors are above 0."""
    with np.errstate(over="ignore"):
        return np.asarray(distances.astype(np.float64) * factors + addends, np.float64).astype(np.float32)


def nearest_boosted(
    queries: Vectors,
    source: VectorSource,
    rows: Rows,
    k: int,
    metric: Metric,
    factors: Wide,
    addends: Wide,
    farthest: float = math.inf,
) -> list[tuple[Rows, npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Of each query the rows that are among the k nearest under distance * factor + addend, as (rows, distances, boosted distances).

    A few more may come, in no order: all that share the last boosted distance, and some that do not.

    queries  [q, dim] float32
    rows     [m] uint32, distinct, ascending; factors, addends: [m], finite, factors above 0
    farthest  rows at a distance above it are left out
    Raises   DimensionMismatch
    Cost     one pass over the vectors of the rows for each group of queries: 0.3 µs a row and query at dim 384, on one core
    """
    queries = checked(queries, source.dim)
    found = []
    step = max(1, _BRACKETS // max(1, len(rows)))
    for first in range(0, len(queries), step):
        group = queries[first : first + step]
        low, high = np.empty((len(group), len(rows))), np.empty((len(group), len(rows)))
        start = 0
        for part, vectors, places in _blocks(source, rows):
            for i, query in enumerate(group):
                bounds = bracket(query, vectors, metric)
                low[i, start : start + len(part)], high[i, start : start + len(part)] = (bound[places] for bound in bounds)
            start += len(part)
        for i, query in enumerate(group):
            left = _survivors(low[i], high[i], k, factors, addends, farthest)
            found.append(_settled(query, source, rows[left], metric, factors[left], addends[left], farthest))
    return found


def bracket(query: Vectors, vectors: Vectors, metric: Metric) -> tuple[Wide, Wide]:
    """(low, high), [n] float64 each: ``scoring.distances`` of each row lies between them, ends included.

    Rows and queries of extreme length have no bounds: -inf and inf.
    """
    dim, length = len(query), math.sqrt(scoring.square(query))
    norms = scoring.norms(vectors).astype(np.float64)
    if not 2.0**-20 < length < 2.0**20:
        return np.full(len(vectors), -np.inf), np.full(len(vectors), np.inf)
    share = 4 * (dim + 16) * 2.0**-24  # twice the error of a product and of a squared norm, with what is done with them
    with np.errstate(all="ignore"):
        products = (vectors @ query).astype(np.float64)
        if metric is Metric.L2:
            middle = length**2 - 2 * products + norms * norms
            margin = 2 * share * (length + norms) ** 2
        elif metric is Metric.IP:
            middle = 1 - products
            margin = share * length * norms + 2.0**-21
        else:
            middle = 1 - np.divide(products, length * norms, out=np.zeros_like(norms), where=norms > 0)
            margin = np.full(len(norms), 2 * share)
        low, high = middle - margin, middle + margin
    ordinary = (norms < 2.0**40) & ((norms > 2.0**-40) | (norms == 0)) & np.isfinite(middle)
    return np.where(ordinary, low, -np.inf), np.where(ordinary, high, np.inf)


def _blocks(source: VectorSource, rows: Rows) -> Iterator[tuple[Rows, Vectors, slice | npt.NDArray[np.intp]]]:
    """Ascending rows in pieces that stay in cache, as (rows, vectors, places): the vectors of the rows are vectors[places]."""
    step = max(1, _ELEMENTS // max(1, source.dim))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        first, stop = int(part[0]), int(part[-1]) + 1
        if len(part) == stop - first:
            yield part, source.block(first, stop), slice(None)
        elif len(part) >= _DENSE * (stop - first):
            yield part, source.block(first, stop), part.astype(np.intp) - first
        else:
            yield part, source.gather(part), slice(None)


def _survivors(low: Wide, high: Wide, k: int, factors: Wide, addends: Wide, farthest: float) -> npt.NDArray[np.intp]:
    """The places that may be among the k nearest. Compared as float32, as they are in the end, so that no tie is lost."""
    with np.errstate(over="ignore"):
        least, most = ((bound * factors + addends).astype(np.float32) for bound in (low, high))
    most[high > farthest] = np.inf  # may be left out, so nothing is behind it
    last = np.partition(most, k - 1)[k - 1] if k < len(most) else np.float32(np.inf)
    return np.flatnonzero((least <= last) & (low <= farthest))


def _settled(
    query: Vectors, source: VectorSource, rows: Rows, metric: Metric, factors: Wide, addends: Wide, farthest: float
) -> tuple[Rows, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    distances = np.empty(len(rows), np.float32)
    step = max(1, _ELEMENTS // max(1, source.dim))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        distances[part] = scoring.distances(query, source.gather(rows[part]), metric)
    near = distances.astype(np.float64) <= farthest
    rows, distances = rows[near], distances[near]
    return rows, distances, boosted(distances, factors[near], addends[near])
