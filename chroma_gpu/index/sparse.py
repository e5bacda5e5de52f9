"""The rows whose sparse vectors have the largest inner product with a query: an inverted index, exact.

The postings lie in segments, sorted by index: one for each batch that was taken in, put together as they come so that a segment has
at least twice the postings of the next one. Segments never change, so a reader needs no lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu.index import answers
from chroma_gpu.records import Hits, Rows, SparseVector
from chroma_gpu.rowset import RowSet

Weights: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]


class SparseView:
    """The sparse vectors of the rows below ``size`` at one moment; rows that left the table included, the caller masks them."""

    def __init__(self, size: int, segments: tuple[_Segment, ...]) -> None:
        self._size = size
        self._segments = segments

    @property
    def size(self) -> int:
        """No row at or past it has a vector here."""
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of memory held: 12 a posting, 12 for each index and 4 for each row that a segment has."""
        return sum(segment.nbytes for segment in self._segments)

    def search(self, query: SparseVector, k: int, candidates: RowSet, *, idf: RowSet | None = None) -> Hits:
        """The k candidates whose vectors have the largest inner product with the query; those that share no index are not found.

        idf      weigh each index of the query by its rarity among these rows, see ``idf``: all live ones, whatever the filter is
        Returns  Hits of one query. A distance is 1 - inner product: the products are added up in float64 in the order of indices
                 and the result is rounded once to float32, so it does not depend on how the vectors were taken in. NaN comes last.
        Cost     one pass over the postings of the query's indices, and over ``size`` bits: about 3 ns a posting
        """
        terms, weights = np.array(query.indices, np.uint32), np.array(query.values, np.float64)
        rows, products = [np.empty(0, np.uint32)], [np.empty(0)]
        with np.errstate(over="ignore", invalid="ignore"):
            if idf is not None:
                weights = weights * self.idf(terms, idf)
            for segment, flags in self._masked(candidates):
                for at, some, values in segment.postings(terms):
                    passed = flags[some]
                    rows.append(some[passed])
                    products.append(values[passed] * weights[at])
            found, sums = answers.summed(np.concatenate(rows), np.concatenate(products), self._size)
            distances = (1.0 - sums).astype(np.float32)
        k = min(k, len(found))
        if 0 < k < len(found):
            near = ~(distances > np.partition(distances, k - 1)[k - 1])
            found, distances = found[near], distances[near]
        return answers.ranked(np.zeros(len(found), np.intp), found, distances, 1, k)

    def idf(self, terms: Rows, live: RowSet) -> Weights:
        """[len(terms)] float64: ln((n - df + 0.5) / (df + 0.5) + 1), as BM25 weighs terms.

        n is how many rows are live, whether they have a sparse vector or not; df how many live rows have the index.
        """
        counts = np.zeros(len(terms))
        for segment, flags in self._masked(live):
            for at, some, _ in segment.postings(terms):
                counts[at] += np.count_nonzero(flags[some])
        weights: Weights = np.log1p((len(live) - counts + 0.5) / (counts + 0.5))
        return weights

    def _masked(self, candidates: RowSet) -> Iterator[tuple[_Segment, Flags]]:
        """Each segment with [size] bool: which of its rows count."""
        flags = candidates.resized(self._size).flags()
        for segment in self._segments:
            if not len(segment.gone):
                yield segment, flags
                continue
            remaining = flags.copy()
            remaining[segment.gone] = False
            yield segment, remaining


class SparseIndex(SparseView):
    """The sparse vectors of one metadata field as its table grows. One writer at a time; a reader beside it takes a ``snapshot``."""

    def __init__(self) -> None:
        super().__init__(0, ())

    def snapshot(self) -> SparseView:
        """The index as it is now, untouched by later changes.  Cost: none; memory is shared."""
        return SparseView(self._size, self._segments)

    def append(self, rows: Rows, vectors: Sequence[SparseVector]) -> None:
        """Take in the vectors of new rows: ascending, from ``size`` on; rows between have none.

        Raises   ValueError
        Cost     O(postings), and each posting moves at most log2(all postings) times as segments are put together
        """
        if len(rows) != len(vectors):
            raise ValueError(f"{len(rows)} rows cannot take {len(vectors)} sparse vectors")
        if len(rows) and (int(rows[0]) < self._size or bool((rows[1:] <= rows[:-1]).any())):
            raise ValueError(f"rows must ascend from {self._size} on")
        if len(rows):
            self._size, self._segments = int(rows[-1]) + 1, _with(self._segments, rows, vectors)

    def rewrite(self, targets: Rows, rows: Rows, vectors: Sequence[SparseVector]) -> None:
        """Take what ``targets`` had away, and give ``rows``, which are some of them, other vectors. Both are below the table's size.

        Raises   ValueError
        Cost     O(targets + postings of the new vectors); a segment is copied when a quarter of its rows are gone
        """
        if len(rows) != len(vectors):
            raise ValueError(f"{len(rows)} rows cannot take {len(vectors)} sparse vectors")
        segments = tuple(left for segment in self._segments if len((left := segment.without(targets)).members))
        size = max(self._size, int(rows.max()) + 1) if len(rows) else self._size
        self._size, self._segments = size, _with(segments, rows, vectors)


@dataclass(frozen=True, slots=True, eq=False)
class _Segment:
    """The postings of some rows, by index. A value.

    indices  [m] uint32, ascending: those that occur
    starts   [m + 1] int64: the postings of indices[i] are [starts[i], starts[i + 1])
    rows, values  [p] uint32 and float64: the postings
    members  [r] uint32, ascending: the rows that have postings here
    gone     uint32, ascending: the members whose postings count no more
    """

    indices: Rows
    starts: npt.NDArray[np.int64]
    rows: Rows
    values: Weights
    members: Rows
    gone: Rows

    @classmethod
    def of(cls, indices: Rows, rows: Rows, values: Weights) -> Self:
        """From postings in any order; those of a row and index that come first stay first."""
        order = np.argsort(indices, kind="stable")
        indices = indices[order]
        change = np.ones(len(indices), np.bool_)
        change[1:] = indices[1:] != indices[:-1]
        firsts = np.flatnonzero(change)
        starts = np.append(firsts, len(indices)).astype(np.int64)
        return cls(indices[firsts], starts, rows[order], values[order], np.unique(rows), np.empty(0, np.uint32))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(part.nbytes for part in (self.indices, self.starts, self.rows, self.values, self.members, self.gone))

    def postings(self, terms: Rows) -> Iterator[tuple[int, Rows, Weights]]:
        """(place among the terms, rows, values) of each term that occurs, in the order of terms."""
        places, present = _find(self.indices, terms)
        for at in np.flatnonzero(present).tolist():
            part = slice(self.starts[places[at]], self.starts[places[at] + 1])
            yield at, self.rows[part], self.values[part]

    def without(self, targets: Rows) -> Self:
        """With the targets gone."""
        more = targets[_find(self.members, targets)[1]]
        if not len(more):
            return self
        less = replace(self, gone=np.union1d(self.gone, more))
        return type(self).of(*less.remaining()) if 4 * len(less.gone) > len(less.members) else less

    def remaining(self) -> tuple[Rows, Rows, Weights]:
        """(indices, rows, values) of the postings that count."""
        indices = np.repeat(self.indices, np.diff(self.starts))
        if not len(self.gone):
            return indices, self.rows, self.values
        stays = ~np.isin(self.rows, self.gone)
        return indices[stays], self.rows[stays], self.values[stays]


def _with(segments: tuple[_Segment, ...], rows: Rows, vectors: Sequence[SparseVector]) -> tuple[_Segment, ...]:
    """The segments and one of new vectors, put together until each has twice the postings of the next."""
    lengths = [len(vector.indices) for vector in vectors]
    total = sum(lengths)
    if not total:
        return segments
    indices = np.fromiter(chain.from_iterable(vector.indices for vector in vectors), np.uint32, total)
    values = np.fromiter(chain.from_iterable(vector.values for vector in vectors), np.float64, total)
    last = _Segment.of(indices, np.repeat(rows, lengths), values)
    others = list(segments)
    while others and len(others[-1].rows) < 2 * len(last.rows):
        older, newer = others.pop().remaining(), last.remaining()
        indices, postings = np.concatenate([older[0], newer[0]]), np.concatenate([older[1], newer[1]])
        last = _Segment.of(indices, postings, np.concatenate([older[2], newer[2]]))
    return (*others, last)


def _find(ascending: Rows, wanted: Rows) -> tuple[npt.NDArray[np.intp], Flags]:
    """Where each wanted value is, and whether it is there at all; there is at least one value."""
    places = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return places, ascending[places] == wanted
