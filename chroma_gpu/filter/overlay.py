"""Overlay: the metadata of those rows that the inverted index does not answer for, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chroma_gpu.filter.columns import Columns, ColumnView
from chroma_gpu.records import Rows, SparseVector
from chroma_gpu.rowset import RowSet


@dataclass(frozen=True, slots=True, eq=False)
class OverlayView:
    """The overlay at one moment.

    rows     [n] uint32: the row behind each place of the columns
    stale    the rows below ``first`` among them, as a set of that size; None if there is none
    columns  the metadata of places [0, n)
    sparse   the fields under which rows have sparse vectors
    """

    rows: Rows
    stale: RowSet | None
    columns: ColumnView
    sparse: frozenset[str]

    def spread(self, places: RowSet, size: int) -> RowSet:
        """The rows behind some places, in a set of another size."""
        return RowSet.of(self.rows[places.rows()], size)


class Overlay:
    """Rows from ``first`` on, without gaps, and those before it that were rewritten. One writer at a time; readers take a ``snapshot``."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._n = 0
        self._late = 0
        self._rows = np.empty(0, np.uint32)
        self._places = np.empty(0, np.uint32)  # of rows from first on
        self._early: dict[int, int] = {}  # of the others
        self._columns = Columns()
        self._stale: RowSet | None = None
        self._sparse: dict[str, set[int]] = {}

    def take(self, rows: Rows, metadatas: Sequence[Mapping[str, Any] | None]) -> None:
        """Know rows by this metadata from now on. New rows from ``first`` on follow those that are here, without gaps.

        Raises  ValueError if they do not
        Cost    O(len(rows)); for rows that were here, a copy of the columns that change
        """
        places = self._places_of(rows)
        known = np.flatnonzero(places >= 0)
        if len(known):
            self._columns.rewrite(places[known].astype(np.uint32), [metadatas[at] for at in known.tolist()])
        if len(known) < len(rows):
            new = np.flatnonzero(places < 0)
            self._add(rows[new], [metadatas[at] for at in new.tolist()])
        for row, metadata in zip(rows.tolist(), metadatas, strict=True):
            for having in self._sparse.values():
                having.discard(row)
            for field, value in (metadata or {}).items():
                if isinstance(value, SparseVector):
                    self._sparse.setdefault(field, set()).add(row)

    def snapshot(self) -> OverlayView:
        """The overlay as it is now, untouched by later changes."""
        if self._stale is None and self._early:
            self._stale = RowSet.of(np.fromiter(self._early, np.uint32, len(self._early)), self._first)
        sparse = frozenset(field for field, rows in self._sparse.items() if rows)
        return OverlayView(self._rows[: self._n], self._stale, self._columns.snapshot(), sparse)

    def having_sparse(self, field: str) -> Rows:
        """The rows with a sparse vector under a field, ascending."""
        return np.array(sorted(self._sparse.get(field, ())), np.uint32)

    def _places_of(self, rows: Rows) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Where rows are; -1 for those that are not here."""
        places = np.full(len(rows), -1, np.int64)
        late = rows >= self._first
        known = np.flatnonzero(late & (rows < self._first + self._late))
        places[known] = self._places[rows[known] - self._first]
        for at in np.flatnonzero(~late).tolist():
            places[at] = self._early.get(int(rows[at]), -1)
        return places

    def _add(self, rows: Rows, metadatas: Sequence[Mapping[str, Any] | None]) -> None:
        late = rows[rows >= self._first]
        start, stop = self._first + self._late, self._first + self._late + len(late)
        if not np.array_equal(late, np.arange(start, stop, dtype=np.uint32)):
            raise ValueError(f"rows from {start} on must follow without gaps")
        places = np.arange(self._n, self._n + len(rows), dtype=np.uint32)
        self._rows = _put(self._rows, self._n, rows)
        self._places = _put(self._places, self._late, places[rows >= self._first])
        early = np.flatnonzero(rows < self._first).tolist()
        if early:
            self._early.update((int(rows[at]), int(places[at])) for at in early)
            self._stale = None
        self._columns.append(self._n, metadatas)
        self._n += len(rows)
        self._late += len(late)


def _put(buffer: Rows, n: int, more: Rows) -> Rows:
    """A buffer with more behind its first n places; another one, with room for a quarter more, if it was full."""
    stop = n + len(more)
    if stop > len(buffer):
        grown = np.empty(stop + stop // 4, buffer.dtype)
        grown[:n] = buffer[:n]
        buffer = grown
    buffer[n:stop] = more
    return buffer
