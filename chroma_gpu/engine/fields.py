"""The metadata of a table in memory: typed columns to filter by and sparse vectors to search, from one reading of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from chroma_gpu.filter.columns import Columns, ColumnView
from chroma_gpu.index.sparse import SparseIndex, SparseView
from chroma_gpu.records import Metadata, SparseVector
from chroma_gpu.store import Store

# Rows whose metadata is read at once. A sparse vector takes several kilobytes until it is in its index.
SLICE: Final = 4_096


@dataclass(frozen=True, slots=True, eq=False)
class FieldsView:
    """The metadata at one moment: the columns, and the sparse vectors of each key that has or had some."""

    columns: ColumnView
    sparse: Mapping[str, SparseView]


class Fields:
    """Follows a store. One thread at a time; what it returns is safe for many."""

    def __init__(self) -> None:
        self._columns = Columns()
        self._sparse: dict[str, SparseIndex] = {}
        self._seq = 0

    def caught_up(self, store: Store, seq: int, size: int) -> FieldsView:
        """The metadata as of sequence number ``seq``, where the table had ``size`` rows, or later.

        Cost  reads the metadata of the rows that were appended or rewritten since the last call
        """
        if self._seq != seq:
            self._follow(store, seq, size)
        return FieldsView(self._columns.snapshot(), {field: index.snapshot() for field, index in self._sparse.items()})

    def _follow(self, store: Store, seq: int, size: int) -> None:
        changes = store.changes(self._seq) if self._seq else None
        self._seq = 0  # what fails half way starts anew at the next call
        touched = np.empty(0, np.uint32)
        if changes is None:
            self._columns, self._sparse = Columns(), {}
        else:
            touched, seq, size = changes.touched[changes.touched < changes.first], changes.seq, changes.stop
        for first in range(self._columns.size, size, SLICE):
            rows = np.arange(first, min(first + SLICE, size), dtype=np.uint32)
            metadatas = store.metadatas(rows)
            for field, (places, vectors) in _sparse_vectors(metadatas).items():
                self._sparse.setdefault(field, SparseIndex()).append(rows[places], vectors)
            self._columns.append(first, metadatas)
        if len(touched):
            metadatas = store.metadatas(touched)
            given = _sparse_vectors(metadatas)
            for field in self._sparse.keys() | given.keys():
                places, vectors = given.get(field, ([], []))
                self._sparse.setdefault(field, SparseIndex()).rewrite(touched, touched[places], vectors)
            self._columns.rewrite(touched, metadatas)
        self._seq = seq


def _sparse_vectors(metadatas: Sequence[Metadata | None]) -> dict[str, tuple[list[int], list[SparseVector]]]:
    """The sparse vectors of a batch by key: their places in the batch, and they themselves."""
    by_field: dict[str, tuple[list[int], list[SparseVector]]] = {}
    for place, metadata in enumerate(metadatas):
        for field, value in (metadata or {}).items():
            if isinstance(value, SparseVector):
                places, vectors = by_field.setdefault(field, ([], []))
                places.append(place)
                vectors.append(value)
    return by_field
