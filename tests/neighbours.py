"""The truth that every search is compared with, and how two answers are compared."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from chroma_gpu.records import NO_ROW, Hits, Metric, Rows, Vectors
from chroma_gpu.rowset import RowSet


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """Vectors [n, dim] in memory, as a VectorSource."""

    vectors: Vectors

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.vectors)

    def block(self, start: int, stop: int) -> Vectors:
        view = self.vectors[start:stop]
        view.flags.writeable = False
        return view

    def gather(self, rows: Rows) -> Vectors:
        return self.vectors[rows]


def brute_force(queries: Vectors, vectors: Vectors, k: int, metric: Metric, mask: RowSet | None = None) -> Hits:
    """The k nearest rows by the definition, one query at a time in float64: slow, and easy to believe."""
    hits = Hits.empty(len(queries), k)
    allowed = np.arange(len(vectors)) if mask is None else mask.resized(len(vectors)).rows().astype(np.intp)
    wide = vectors[allowed].astype(np.float64)
    for i, query in enumerate(queries.astype(np.float64)):
        with np.errstate(over="ignore"):
            found = _distances(query, wide, metric).astype(np.float32)
        best = np.lexsort((allowed, found))[:k]
        hits.counts[i] = len(best)
        hits.rows[i, : len(best)] = allowed[best]
        hits.distances[i, : len(best)] = found[best]
    return hits


def _distances(query: npt.NDArray[np.float64], vectors: npt.NDArray[np.float64], metric: Metric) -> npt.NDArray[np.float64]:
    if metric is Metric.L2:
        return ((vectors - query) ** 2).sum(axis=1)
    product = (vectors * query).sum(axis=1)
    if metric is Metric.IP:
        return 1 - product
    lengths = np.sqrt((vectors**2).sum(axis=1) * (query**2).sum())
    cosine = np.zeros(len(vectors))
    np.divide(product, lengths, out=cosine, where=lengths > 0)
    return np.clip(1 - cosine, 0, 2)


def assert_same_neighbours(got: Hits, want: Hits, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    """Fail unless both answers hold the same rows, compared by groups of equal distance.

    Distances must agree place by place within the tolerances. Rows whose wanted distances are within the tolerances of each other
    form a group and may come in any order; the last group may be cut anywhere, so only its distances count. Both answers must be
    well formed.
    """
    assert_well_formed(got)
    assert_well_formed(want)
    np.testing.assert_array_equal(got.counts, want.counts)
    for i, count in enumerate(want.counts):
        distances = want.distances[i, :count]
        np.testing.assert_allclose(got.distances[i, :count], distances, rtol, atol, err_msg=f"distances of query {i}")
        with np.errstate(invalid="ignore"):
            wide = np.flatnonzero(np.diff(distances) > 2 * (atol + rtol * np.abs(distances[1:]))) + 1
        groups = [0, *wide.tolist()]
        for start, stop in pairwise(groups):
            same = set(got.rows[i, start:stop].tolist()) == set(want.rows[i, start:stop].tolist())
            assert same, f"query {i}, places {start} to {stop}: {got.rows[i, start:stop]} instead of {want.rows[i, start:stop]}"


def assert_identical(got: Hits, want: Hits) -> None:
    """Fail unless both answers hold the same rows and distances in the same places, bit for bit."""
    assert_well_formed(got)
    np.testing.assert_array_equal(got.counts, want.counts)
    np.testing.assert_array_equal(got.distances, want.distances)
    np.testing.assert_array_equal(got.rows, want.rows)


def assert_well_formed(hits: Hits) -> None:
    """Fail unless shapes, types, order, padding and uniqueness are what ``Hits`` promises."""
    q, k = hits.rows.shape
    assert (hits.distances.shape, hits.counts.shape) == ((q, k), (q,))
    assert (hits.rows.dtype, hits.distances.dtype, hits.counts.dtype) == (np.uint32, np.float32, np.int32)
    for i, count in enumerate(hits.counts):
        rows, distances = hits.rows[i], hits.distances[i]
        assert (rows[:count] != NO_ROW).all(), f"query {i} has a place without a row"
        assert (rows[count:] == NO_ROW).all(), f"query {i} has more rows than it counts"
        assert np.isposinf(distances[count:]).all()
        assert len(set(rows[:count].tolist())) == count, f"query {i} has a row twice"
        order = np.lexsort((rows[:count], distances[:count]))
        assert (order == np.arange(count)).all(), f"query {i} is not in the order of (distance, row)"


def recall(got: Hits, want: Hits) -> float:
    """The share of wanted rows that were found; a row at the distance of the last wanted one counts as wanted."""
    found = total = 0
    for i, count in enumerate(want.counts):
        if count:
            good = got.distances[i, : got.counts[i]] <= want.distances[i, count - 1]
            found += min(int(good.sum()), int(count))
            total += int(count)
    return found / total if total else 1.0
