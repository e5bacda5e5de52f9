"""From rows that may be among the nearest to answers: their true distances, in order, cut at k, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from chroma_gpu.index import scoring
from chroma_gpu.records import NO_ROW, Hits, Metric, Rows, Vectors, VectorSource


def merge(left: Hits, right: Hits, k: int) -> Hits:
    """The k nearest of two answers to the same queries over disjoint sets of rows.

    The result is exact if both are; its guard is the one that needed most work.
    """
    parts = [_flat(left), _flat(right)]
    owners, rows, found = (np.concatenate([part[i] for part in parts]) for i in range(3))
    both = (left, right)
    return ranked(owners, rows, found, len(left.counts), k, exact=left.exact and right.exact, guard=worst_guard(both))


def stacked(hits: Sequence[Hits], k: int) -> Hits:
    """The answers to several groups of queries as one; exact if all are, with the guard that needed most work."""
    if len(hits) == 1:
        return hits[0]
    if not hits:
        return Hits.empty(0, k)
    return Hits(
        np.concatenate([h.rows for h in hits]),
        np.concatenate([h.distances for h in hits]),
        np.concatenate([h.counts for h in hits]),
        exact=all(h.exact for h in hits),
        guard=worst_guard(hits),
    )


def settle(queries: Vectors, source: VectorSource, owners: npt.NDArray[np.intp], rows: Rows, k: int, metric: Metric) -> Hits:
    """The k nearest rows of each query among its survivors, by their true distances.

    queries  [q, dim] float32
    owners   [m] intp: the query that each survivor belongs to
    rows     [m] uint32: the survivor; distinct for each query
    Returns  Hits marked exact: the caller vouches that every true neighbour survived
    """
    found = np.empty(len(rows), np.float32)
    step = max(1, (1 << 20) // source.dim)
    for start in range(0, len(rows), step):
        few = slice(start, start + step)
        query = queries[0] if len(queries) == 1 else queries[owners[few]]
        found[few] = scoring.distances(query, source.gather(rows[few]), metric)
    return ranked(owners, rows, found, len(queries), k)


def ranked(
    owners: npt.NDArray[np.intp],
    rows: Rows,
    found: npt.NDArray[np.float32],
    n_queries: int,
    k: int,
    *,
    exact: bool = True,
    guard: str | None = None,
) -> Hits:
    """Hits from (query, row, distance) triples: sorted by (distance, row) and cut at k for each query."""
    if n_queries == 1:
        order = np.lexsort((rows, found))[:k]
        hits = Hits.empty(1, k)
        hits.rows[0, : len(order)] = rows[order]
        hits.distances[0, : len(order)] = found[order]
        hits.counts[0] = len(order)
        return replace(hits, exact=exact, guard=guard) if guard is not None or not exact else hits
    order = np.lexsort((rows, found, owners))
    owners = owners[order]
    sizes = np.bincount(owners, minlength=n_queries)
    place = np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    inside = place < k
    order, owners, place = order[inside], owners[inside], place[inside]
    out_rows = np.full((n_queries, k), NO_ROW, np.uint32)
    out_found = np.full((n_queries, k), np.inf, np.float32)
    out_rows[owners, place] = rows[order]
    out_found[owners, place] = found[order]
    return Hits(out_rows, out_found, np.minimum(sizes, k).astype(np.int32), exact=exact, guard=guard)


def summed(rows: Rows, products: npt.NDArray[np.float64], size: int) -> tuple[Rows, npt.NDArray[np.float64]]:
    """The distinct rows, ascending, and the sum of the products of each, added up one after the other."""
    sums: npt.NDArray[np.float64]
    if 16 * len(rows) < size:
        found, places = np.unique(rows, return_inverse=True)
        sums = np.bincount(places, products, len(found)).astype(np.float64, copy=False)
        return found, sums
    hit = np.zeros(size, np.bool_)
    hit[rows] = True
    whole = np.flatnonzero(hit)
    sums = np.bincount(rows, products, size)[whole].astype(np.float64, copy=False)
    return whole.astype(np.uint32), sums


def worst_guard(hits: Sequence[Hits]) -> str | None:
    """The guard that needed most work; None if no answer was guarded."""
    order = ("passed", "widened", "exact")
    return max((h.guard for h in hits if h.guard is not None), key=order.index, default=None)


def _flat(hits: Hits) -> tuple[npt.NDArray[np.intp], Rows, npt.NDArray[np.float32]]:
    """(query, row, distance) of every filled place."""
    filled = np.arange(hits.rows.shape[1]) < hits.counts[:, None]
    return np.nonzero(filled)[0], hits.rows[filled], hits.distances[filled]
