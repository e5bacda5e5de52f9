"""The metadata of a table at one moment: the store's inverted index, what that does not know yet, and sparse vectors once asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from chroma_gpu.bytecache import ByteCache, Section
from chroma_gpu.filter.overlay import Overlay
from chroma_gpu.filter.view import IndexedView, KeptIndex
from chroma_gpu.index.sparse import SparseIndex, SparseView
from chroma_gpu.records import Changes, Metadata, Rows, SparseVector
from chroma_gpu.store import State, Store

# Rows whose metadata is read at once. A sparse vector takes several kilobytes until it is in its index.
SLICE: Final = 4_096


@dataclass(frozen=True, slots=True, eq=False)
class FieldsView:
    """The metadata at one moment.

    columns  what filters ask
    sparse   the sparse vectors under a field, of this moment or a later one; None if no row has or had one. Raises KeyError
    answers  keeps what was found at this moment
    """

    columns: IndexedView
    sparse: Callable[[str], SparseView | None]
    answers: Section


class Fields:
    """Follows a store.  Safe for many threads.

    Of the rows that the inverted index answers for nothing is read; the others, some thousands at most unless the store is of an
    old version, are kept here. A row is in the overlay if it may differ from what the index knows of it; one row too many does no harm.
    """

    def __init__(self, cache: ByteCache) -> None:
        self._cache = cache
        self._lock = threading.RLock()
        self._answers = cache.section()
        self._lasting = cache.section()
        self._index: KeptIndex | None = None
        self._folds = -1
        self._overlay = Overlay(0)
        self._sparse: dict[str, SparseIndex] = {}
        self._seq = 0
        self._view: FieldsView | None = None

    def caught_up(self, store: Store, seq: int, size: int) -> FieldsView:
        """The metadata as of sequence number ``seq``, where the table had ``size`` rows, or later.

        Raises  KeyError if the inverted index went on meanwhile: then catch up with a later one
        Cost    the metadata of the rows that were appended or rewritten since the last call is read; after a change of the inverted
                index, that of the rows it does not know, and one key for each field. What filters ask is read again only of chunks of
                rows in which it has changed
        """
        with self._lock:
            view = self._view
            # A table that read its live rows anew may have more of them than its sequence number says.
            if view is None or self._seq != seq or view.columns.size < size or self._index is None or self._index.gone:
                self._view = None  # what fails half way starts anew at the next call
                view = self._view = self._followed(store, size)
            return view

    def close(self) -> None:
        """Give the memory back. What it returned goes on answering."""
        with self._lock:
            self._answers.drop()
            self._lasting.drop()
            if self._index is not None:
                self._index.drop()

    def _followed(self, store: Store, size: int) -> FieldsView:
        since, self._seq = self._seq, 0
        changes = store.changes(since) if since else None
        if changes is None:
            self._sparse = {}
        state = store.state()
        if changes is None or self._index is None or self._index.gone or state.folds != self._folds:
            if changes is not None and self._sparse:
                for rows, metadatas in _read(store, _changed(changes)):
                    self._take_sparse(rows, metadatas)
            self._index, self._overlay = self._opened(store, state)
            self._seq = state.seq if changes is None or not self._sparse else changes.seq
        else:
            for rows, metadatas in _read(store, _changed(changes)):
                self._overlay.take(rows, metadatas)
                self._take_sparse(rows, metadatas)
            self._seq = changes.seq
        self._answers = self._answers.successor()
        overlay = self._overlay.snapshot()
        covered = max(size, self._index.rows, 0 if not len(overlay.rows) else int(overlay.rows.max()) + 1)
        return FieldsView(
            IndexedView(covered, self._index, overlay), lambda field: self._sparse_view(store, field), self._answers
        )  # fmt: skip

    def _opened(self, store: Store, state: State) -> tuple[KeptIndex, Overlay]:
        """The inverted index of a state, and the rows that it does not answer for."""
        if self._index is not None:
            self._index.drop()
        inverted = store.inverted(state.folds)
        index = KeptIndex(inverted, self._cache.section(), self._lasting)
        overlay = Overlay(inverted.rows)
        late = np.arange(inverted.rows, max(state.rows, inverted.rows), dtype=np.uint32)
        for rows, metadatas in _read(store, np.concatenate((inverted.pending, late))):
            overlay.take(rows, metadatas)
        self._folds = state.folds
        return index, overlay

    def _sparse_view(self, store: Store, field: str) -> SparseView | None:
        with self._lock:
            if self._view is None or self._index is None:
                raise KeyError("the metadata could not be followed meanwhile")
            if field not in self._sparse:
                late = self._overlay.having_sparse(field)
                indexed = (None, False) in self._index.columns.get(field, ())
                if not indexed and not len(late):
                    return None
                rows = late
                if indexed:
                    having = self._index.having(field, None, False)
                    stale = self._overlay.snapshot().stale
                    rows = np.union1d((having if stale is None else having - stale).rows(), late)
                made = SparseIndex()
                for some, metadatas in _read(store, rows):
                    places, vectors = _vectors(field, metadatas)
                    made.append(some[places], vectors)
                self._sparse[field] = made
            return self._sparse[field].snapshot()

    def _take_sparse(self, rows: Rows, metadatas: Sequence[Metadata | None]) -> None:
        for field, index in self._sparse.items():
            places, vectors = _vectors(field, metadatas)
            having, known = rows[places], int(np.searchsorted(rows[places], index.size))
            index.rewrite(rows[rows < index.size], having[:known], vectors[:known])
            index.append(having[known:], vectors[known:])


def _changed(changes: Changes) -> Rows:
    """The rows that were rewritten or appended, ascending."""
    early = changes.touched[changes.touched < changes.first]
    return np.concatenate((early, np.arange(changes.first, changes.stop, dtype=np.uint32)))


def _read(store: Store, rows: Rows) -> Iterator[tuple[Rows, Sequence[Metadata | None]]]:
    """Rows with their metadata, some at a time."""
    for start in range(0, len(rows), SLICE):
        some = rows[start : start + SLICE]
        yield some, store.metadatas(some)


def _vectors(field: str, metadatas: Sequence[Metadata | None]) -> tuple[list[int], list[SparseVector]]:
    """The sparse vectors under a field: their places, and they themselves."""
    found = [(at, (metadata or {}).get(field)) for at, metadata in enumerate(metadatas)]
    return (
        [at for at, value in found if isinstance(value, SparseVector)],
        [value for _, value in found if isinstance(value, SparseVector)],
    )
