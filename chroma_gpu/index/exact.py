"""Exact search by brute force on the host: one float32 pass that may only err in favour of a row, then the true distances.

The pass. BLAS scores a block of rows. Summing n products in float32, in any order, with or without FMA, errs by at most
gamma_n * |q| * |x|, where gamma_n = n * u / (1 - n * u) and u = 2**-24 (Higham, Accuracy and Stability of Numerical Algorithms,
section 3.1). From it follows a margin such that |score - true score| <= margin; the margins below also hold the rounding of
norms, of the few operations after the product, of underflow, and of the final distance to float32. A row is dropped only if
score + margin is below the k-th best of score - margin, so that every true neighbour survives, ties included.

The truth. Survivors, usually little more than k, are scored by ``scoring.distances`` and sorted by (distance, row). So the answer
for k = 10 is the beginning of the answer for k = 100, duplicates come in the order of their rows, and every k up to n works.

Very short and very long queries are scaled to length 1 by a power of two, which is exact, so that only a row can overflow. Rows whose norm is extreme, or
far above the others of their block and so would widen everyone's margin, skip the pass and count as survivors.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import DimensionMismatch
from chroma_gpu.index import faiss_library, scoring
from chroma_gpu.index.answers import ranked, settle, stacked
from chroma_gpu.records import Hits, Metric, Rows, Vectors, VectorSource
from chroma_gpu.rowset import RowSet

Norms = npt.NDArray[np.float32]
"""[n] float32: scoring.norms of rows 0 to n. A caller that keeps them spares each search a pass over the vectors."""

_SCORES: Final = 1 << 20
"""Scores held at once: queries of a group times rows of a block."""

_QUERIES: Final = 256
"""Queries that share one matrix product."""

_SMALL: Final = 1 << 20
"""Elements up to which one query is scored row by row, by one thread: 0.1 ms at most. A product on two takes half of that where nothing
else runs, and 5 to 9 ms where a thread has to wait for a core."""

_LARGE: Final = 2.0**60
"""Norm from which a row is extreme: its products could overflow float32."""

FEW: Final = 4
"""Queries up to which one product after the other is faster than one of matrices."""

_NARROW: Final = 16
"""Queries up to which the product is faster with the rows in front."""

IN_PLACE: Final = 1 << 17
"""Coordinates from which scattered rows are read where they lie, by FAISS where an index has loaded it."""

DENSE: Final = 0.75
"""Share of rows that pass the mask, above which all of them are read in their order even for one query."""

SPARSE: Final = 0.25
"""Share of a block's rows that pass the mask, below which they are gathered first. Measured: a gathered row costs 0.13 µs, one
that is only scored 0.03 µs."""


def search_rows(queries: Vectors, source: VectorSource, rows: Rows, k: int, metric: Metric, norms: Norms | None = None) -> Hits:
    """The k nearest of the given rows.

    queries  [q, dim] float32
    rows     [m] uint32, distinct, in any order
    norms    of all rows up to the largest given one
    Cost     few queries, with norms and FAISS: 0.1 ms and ``faiss_library.products`` for each. Otherwise, measured on two cores at
             dim 384: 0.1 ms, 0.2 µs a row for the gather and one query (0.5 µs where the vectors are in no cache), 0.15 µs more
             without norms, and 6 ns a row for each further query
    """
    queries = checked(queries, source.dim)
    if not k:
        return Hits.empty(len(queries))
    if norms is not None and _reads_in_place(len(queries), len(rows), source.dim):
        known = norms[rows]
        even = known.max() <= 8 * known.mean(dtype=np.float64)  # else one row would widen the margin of all
        if even and all(_is_ordinary(query, known, metric) for query in queries):
            return stacked([_in_place(queries[i : i + 1], source, rows, known, k, metric) for i in range(len(queries))], k)
    if len(queries) == 1 and len(rows) <= _rows_in_cache(source.dim):
        vectors = source.gather(rows)
        return _one(queries, source, rows, vectors, scoring.norms(vectors) if norms is None else norms[rows], k, metric)
    hits = []
    for group in _groups(queries):
        scan = _Scan(group, k, metric)
        step = min(_rows_of_a_block(len(group)), _rows_in_cache(source.dim))
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            vectors = source.gather(part)
            scan.take(part, vectors, scoring.norms(vectors) if norms is None else norms[part])
        hits.append(scan.finish(source))
    return stacked(hits, k)


def search_block(
    queries: Vectors,
    source: VectorSource,
    start: int,
    stop: int,
    mask: RowSet | None,
    k: int,
    metric: Metric,
    norms: Norms | None = None,
) -> Hits:
    """The k nearest rows of [start, stop) that are in ``mask``; None means all of them. Rows at and past mask.size are not.

    Cost     measured on two cores at dim 384: 0.1 ms, 40 ns a row for one query, 60 ns more without norms, and 5 ns a row for each
             further query; where a mask passes less than a quarter of a block, as ``search_rows``
    """
    queries = checked(queries, source.dim)
    if mask is None and len(queries) == 1 and 0 < stop - start <= _rows_in_cache(source.dim):
        vectors, ids = source.block(start, stop), np.arange(start, stop, dtype=np.uint32)
        return _one(queries, source, ids, vectors, scoring.norms(vectors) if norms is None else norms[start:stop], k, metric)
    if mask is not None and norms is not None and _reads_in_place(len(queries), stop - start, source.dim):
        passing = mask.rows()
        passing = passing[np.searchsorted(passing, start) : np.searchsorted(passing, stop)]
        if len(passing) < DENSE * (stop - start):
            return search_rows(queries, source, passing, k, metric, norms)
    flags = None if mask is None else mask.flags()[start:stop]
    stop = stop if flags is None else start + len(flags)
    hits = []
    for group in _groups(queries):
        scan = _Scan(group, k, metric)
        step = (
            _rows_of_a_block(len(group)) if norms is not None else min(_rows_of_a_block(len(group)), _rows_in_cache(source.dim))
        )
        for first in range(start, stop, step):
            last = min(first + step, stop)
            if flags is None:
                places = None
            else:
                places = np.flatnonzero(flags[first - start : last - start])
                if not len(places):
                    continue
            ids = np.arange(first, last, dtype=np.uint32) if places is None else (places + first).astype(np.uint32)
            if places is not None and len(places) < SPARSE * (last - first):
                vectors, places = source.gather(ids), None
            else:
                vectors = source.block(first, last)
            known = scoring.norms(vectors if places is None else vectors[places]) if norms is None else norms[ids]
            scan.take(ids, vectors, known, places)
        hits.append(scan.finish(source))
    return stacked(hits, k)


def checked(queries: Vectors, dim: int) -> Vectors:
    """The queries as [q, dim] float32 in C order.  Raises DimensionMismatch."""
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise DimensionMismatch(f"queries of shape {queries.shape} do not fit vectors of dimension {dim}.")
    return np.ascontiguousarray(queries, np.float32)


def narrowed(mask: RowSet | None, rows: int) -> tuple[RowSet | None, int]:
    """(mask, passing): the mask over exactly ``rows`` rows, None if it passes them all, and how many it passes."""
    if mask is None:
        return None, rows
    mask = mask if mask.size == rows else mask.resized(rows)
    passing = len(mask)
    return None if passing == rows else mask, passing


def _reads_in_place(n_queries: int, rows: int, dim: int) -> bool:
    """Whether so many scattered rows are read where they lie; more queries share a copy of them."""
    return n_queries < FEW and rows * dim >= IN_PLACE and faiss_library.is_loaded()


def _in_place(queries: Vectors, source: VectorSource, rows: Rows, norms: Norms, k: int, metric: Metric) -> Hits:
    """One query and many scattered rows, none of them copied but the survivors."""
    if len(rows) > k:
        products = faiss_library.products(queries[0], source.block(0, int(rows.max()) + 1), rows)
        far, margin = _bounded(queries[0], products, norms, metric)
        rows = rows[far <= np.partition(far, k - 1)[k - 1] + 2.002 * margin]
    return settle(queries, source, np.zeros(len(rows), np.intp), rows, k, metric)


def _is_ordinary(query: Vectors, norms: Norms, metric: Metric) -> bool:
    """Whether ``_bounded`` holds for a query and these rows."""
    if not (2.0**-20 < math.sqrt(scoring.square(query)) < 2.0**20 and norms.max() < 2.0**40):
        return False
    return metric is not Metric.COSINE or norms.min() > 2.0**-40 or bool(((norms > 2.0**-40) | (norms == 0)).all())


def _bounded(query: Vectors, products: npt.NDArray[np.float32], norms: Norms, metric: Metric) -> tuple[Norms, float]:
    """(far, margin): for each row a number, smaller for nearer rows, and how far it may be off.

    products  of the query with the rows; overwritten
    """
    length, longest = math.sqrt(scoring.square(query)), float(norms.max())
    gamma = _gamma(len(query))
    far = np.negative(products, out=products)
    if metric is Metric.L2:
        far += norms * norms / 2
        return far, gamma * (length + longest) ** 2
    if metric is Metric.IP:
        return far, gamma * length * longest + 2.0**-22
    np.divide(far, norms, out=far, where=norms > 0)  # the products of zero vectors are 0, and so is their cosine
    return far, 2 * gamma * length


def _one(queries: Vectors, source: VectorSource, rows: Rows, vectors: Vectors, norms: Norms, k: int, metric: Metric) -> Hits:
    """One query and few rows: the same pass in fewer steps, which are most of its cost; ``_Scan`` where it does not suffice."""
    query = queries[0]
    wanted = k + k // 8 + 8
    if len(rows) <= wanted:
        return ranked(np.zeros(len(rows), np.intp), rows, scoring.distances(query, vectors, metric), 1, k)
    if _is_ordinary(query, norms, metric):
        far, margin = _bounded(query, _products(query, vectors), norms, metric)
        nearest = np.argpartition(far, wanted)
        chosen, next_far = nearest[:wanted], float(far[nearest[wanted]])
        if float(np.partition(far[chosen], k - 1)[k - 1]) + 2.002 * margin < next_far:
            found = scoring.distances(query, vectors[chosen], metric)
            return ranked(np.zeros(wanted, np.intp), rows[chosen], found, 1, k)
    scan = _Scan(queries, k, metric)
    scan.take(rows, vectors, norms)
    return scan.finish(source)


def _gamma(dim: int) -> float:
    """Twice the error of a product as a share of both lengths, with what is done with it afterwards."""
    return 2 * (dim + 16) * 2.0**-24


def _products(query: Vectors, vectors: Vectors) -> npt.NDArray[np.float32]:
    products: npt.NDArray[np.float32] = np.vecdot(vectors, query) if vectors.size <= _SMALL else vectors @ query
    return products


class _Scan:
    """The pass: blocks of rows go in, survivors stay.

    A score is larger for nearer rows. With the scaled query q' = q / s it is q'.x for ip, q'.x / |x| for cosine, and
    q'.x - |x|**2 / (2 s) for l2, each an increasing function of the nearness.
    """

    def __init__(self, queries: Vectors, k: int, metric: Metric) -> None:
        self.queries, self.k, self.metric = queries, k, metric
        dim = queries.shape[1]
        wide = queries.astype(np.float64)
        self.lengths = np.sqrt(np.add.reduce(wide * wide, axis=1))  # [q]
        if self.lengths.min() > 2.0**-20 and self.lengths.max() < 2.0**20:
            self.scales, self.scaled = np.ones(len(queries)), queries
        else:
            exponents = np.maximum(np.where(self.lengths > 0, np.frexp(self.lengths)[1], 0), -60)
            self.scales = np.ldexp(1.0, exponents)  # [q]
            self.scaled = np.ldexp(wide, -exponents[:, None]).astype(np.float32)  # [q, dim]
        self.gamma = _gamma(dim)
        self.underflow = dim * 2.0**-124
        self.best = np.full((len(queries), k), -np.inf, np.float32)  # lower bounds of the k best scores; the least comes first
        self.owners: list[npt.NDArray[np.intp]] = []
        self.rows: list[Rows] = []
        self.upper: list[npt.NDArray[np.float32]] = []
        self.waiting: tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]] | None = None

    def take(self, rows: Rows, vectors: Vectors, norms: Norms, passing: npt.NDArray[np.intp] | None = None) -> None:
        """Score a block.  rows, norms: [m]; vectors: [m, dim], or [n, dim] of which only ``passing`` [m] count."""
        if self.metric is Metric.COSINE:
            ordinary = (norms <= _LARGE) & ((norms >= 1 / _LARGE) | (norms == 0))
        else:
            ordinary = norms <= _limit(norms)
        scores = self._product(vectors)  # [q, m]
        if passing is not None:
            scores = scores[:, passing]
        if not ordinary.all():
            self._keep_all(rows[~ordinary])
            scores, rows, norms = scores[:, ordinary], rows[ordinary], norms[ordinary]
        if len(rows):
            self._count_in()
            margins = self._bend(scores, norms)  # [q]
            owners, places = self._survivors(scores, margins)
            found, margin = scores[owners, places], margins[owners]
            self.waiting = owners, found - margin
            self.owners.append(owners)
            self.rows.append(rows[places])
            self.upper.append(found + margin)

    def finish(self, source: VectorSource) -> Hits:
        """The answer, exact."""
        if not self.rows:
            return Hits.empty(len(self.queries), self.k)
        if len(self.rows) == 1 and len(self.rows[0]) <= 2 * self.k:
            return settle(self.queries, source, self.owners[0], self.rows[0], self.k, self.metric)
        self._count_in()
        owners, rows, upper = (np.concatenate(part) for part in (self.owners, self.rows, self.upper))
        alive = upper >= self.best[owners, 0]
        return settle(self.queries, source, owners[alive], rows[alive], self.k, self.metric)

    def _product(self, vectors: Vectors) -> npt.NDArray[np.float32]:
        with np.errstate(all="ignore"):
            if len(self.scaled) > _NARROW:
                return self.scaled @ vectors.T
            if len(self.scaled) > FEW:
                return np.ascontiguousarray((vectors @ self.scaled.T).T)
            return np.stack([_products(query, vectors) for query in self.scaled])

    def _bend(self, scores: npt.NDArray[np.float32], norms: Norms) -> npt.NDArray[np.float32]:
        """Turn products into scores, in place.  Returns [q] float32 margins, widened by the rounding of what is done with them."""
        longest = float(norms.max())
        with np.errstate(over="ignore"):
            if self.metric is Metric.COSINE:
                scores *= np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
                margins = 2 * self.gamma * self.lengths / self.scales + self.underflow * _LARGE
            elif self.metric is Metric.IP:
                margins = (self.gamma * longest * self.lengths + 2.0**-22) / self.scales + self.underflow
            else:
                half = norms * norms / 2
                for i, scale in enumerate(self.scales):
                    scores[i] -= half * np.float32(1 / scale)
                margins = self.gamma * (self.lengths + longest) ** 2 / self.scales + self.underflow
            return np.asarray(1.001 * margins, np.float32)

    def _survivors(
        self, scores: npt.NDArray[np.float32], margins: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """(query, place in the block) of every score that may be among the k best, by query."""
        # A sample gives the first floor, so that the full block is only compared. Where rows come in the order of their nearness
        # a sample says nothing about its block, and the block itself gives the floor.
        n_queries, m = scores.shape
        sample = max(1024, 8 * self.k)
        for width in (min(sample, m), m):
            floor = self.best[:, 0]
            if width > sample or floor[0] == -np.inf:
                floor = _best_of(np.concatenate([self.best, scores[:, :width] - margins[:, None]], axis=1), self.k)[:, 0]
            found = np.flatnonzero(scores >= (floor - margins)[:, None])
            if width == m or len(found) <= n_queries * (sample + m // 32):
                break
        if n_queries == 1:
            return np.zeros(len(found), np.intp), found
        owners, places = np.divmod(found, m)
        return owners, places

    def _count_in(self) -> None:
        """Take the lower bounds of the last block's survivors, which are ordered by query, into the k best."""
        if self.waiting is None:
            return
        (owners, lower), self.waiting = self.waiting, None
        sizes = np.bincount(owners, minlength=len(self.best))
        padded = np.full((len(self.best), self.k + int(sizes.max())), -np.inf, np.float32)
        padded[:, : self.k] = self.best
        padded[owners, self.k + np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)] = lower
        self.best = _best_of(padded, self.k)

    def _keep_all(self, rows: Rows) -> None:
        for owner in range(len(self.queries)):
            self.owners.append(np.full(len(rows), owner, np.intp))
            self.rows.append(rows)
            self.upper.append(np.full(len(rows), np.inf, np.float32))


def _best_of(scores: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.float32]:
    """[q, k]: the k largest of each line of [q, k + m], the least of them first.  Reorders its input."""
    scores.partition(scores.shape[1] - k, axis=1)
    return scores[:, scores.shape[1] - k :].copy()


def _limit(norms: Norms) -> float:
    """The norm above which a row of this block is scored by itself."""
    if norms.max() <= 8 * norms.mean(dtype=np.float64):
        return _LARGE
    middle = float(np.partition(norms, len(norms) // 2)[len(norms) // 2])
    return min(8 * middle if middle > 0 else np.inf, _LARGE)


def _groups(queries: Vectors) -> list[Vectors]:
    return [queries[i : i + _QUERIES] for i in range(0, len(queries), _QUERIES)]


def _rows_of_a_block(n_queries: int) -> int:
    """So that the scores stay in cache and a search has few blocks."""
    return 1 << 16 if n_queries == 1 else max(1024, min(_SCORES // n_queries, 8192))


def _rows_in_cache(dim: int) -> int:
    """Rows that are read twice go through the cache in pieces of 8 MB."""
    return max(1, (1 << 21) // dim)
