"""Metadata as typed, sparse columns in memory, so that a condition on all rows is one vectorised pass.

Columns are derived from the records of the store and can be rebuilt from them at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import and_
from typing import Any

import numpy as np
import numpy.typing as npt

from chroma_gpu.filter.column import Bounds, Column, Flags
from chroma_gpu.records import Rows
from chroma_gpu.rowset import RowSet
from chroma_gpu.values import ColumnStatistics, ColumnType, Kind, Scalar, stored, typed


class ColumnView:
    """The metadata of rows [0, size) at one moment: for every field and type the rows that have a value, and the values.

    What it returns covers [0, size), rows that left the table included; the caller masks them.
    Cost  a condition is one pass over the values of its field and, for its bitmap, over size bits
    """

    def __init__(self, size: int, fields: Mapping[str, Mapping[ColumnType, Column]]) -> None:
        self._size = size
        self._fields = fields

    @property
    def size(self) -> int:
        """How many rows are covered."""
        return self._size

    def equal(self, field: str, value: Scalar) -> RowSet:
        """The rows whose scalar equals value: bool and bool, str and str, numbers and numbers. An array equals nothing."""
        return self.among(field, (value,))

    def among(self, field: str, values: Sequence[Scalar]) -> RowSet:
        """The rows whose scalar equals one of values."""
        return self._where((column, column.among(values)) for column in self._of(field) if not column.array)

    def between(
        self,
        field: str,
        low: int | float | None,
        high: int | float | None,
        *,
        include_low: bool = True,
        include_high: bool = True,
    ) -> RowSet:
        """The rows whose int or float lies between two bounds; None is no bound."""
        return self._where(
            (column, column.between(low, high, include_low, include_high)) for column in self._of(field) if not column.array
        )

    def between_all(self, conditions: Sequence[tuple[str, Bounds]]) -> RowSet:
        """The rows of which every one of some fields has an int or float between its bounds; at least one."""
        found = [self.between(field, low, high, include_low=a, include_high=b) for field, (low, high, a, b) in conditions]
        return reduce(and_, found)

    def containing(self, field: str, value: Scalar) -> RowSet:
        """The rows whose array has an element of value's very type that equals it. A scalar contains nothing."""
        known = stored(value)
        column = self._fields.get(field, {}).get((known[0], True)) if known else None
        return self._where([(column, column.among([known[1]]))] if known and column else [])

    def has(self, field: str) -> RowSet:
        """The rows that have a value of any type."""
        return self._where((column, np.ones(column.n, np.bool_)) for column in self._of(field))

    def count(self, field: str) -> int:
        """How many values a condition on this field looks at."""
        return sum(column.n for column in self._of(field))

    def numbers(self, field: str) -> npt.NDArray[np.float64]:
        """[size] float64: the int or float of each row, NaN where there is none."""
        found = np.full(self._size, np.nan)
        for column in self._of(field):
            if column.kind in (Kind.INT, Kind.FLOAT) and not column.array:
                column.fill(found)
        return found

    def statistics(self) -> list[ColumnStatistics]:
        """Every column with its counts."""
        return [
            ColumnStatistics(field, column.kind, column.array, column.n) for field in self._fields for column in self._of(field)
        ]

    def restricted(self, within: RowSet) -> ColumnView:
        """A view whose answers need only be right for some rows."""
        return self

    def documents_with(self, grams: Sequence[bytes]) -> RowSet:
        """A superset of the rows whose document has all of some three-byte strings: every row, columns know of no document."""
        return RowSet.full(self._size)

    def documents_containing(self, text: bytes) -> tuple[RowSet, RowSet]:
        """The rows whose document is known to have a text, none; and those that may have it, all."""
        return RowSet.empty(self._size), RowSet.full(self._size)

    @property
    def indexed(self) -> int:
        """How many rows the inverted index answers for: none."""
        return 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory held, room for growth included: 12 per int or float, 8 per str, 5 per bool; each different str once."""
        return sum(column.nbytes for field in self._fields for column in self._of(field))

    def _of(self, field: str) -> Iterable[Column]:
        return self._fields.get(field, {}).values()

    def _where(self, passed: Iterable[tuple[Column, Flags]]) -> RowSet:
        hits = np.zeros(self._size, np.bool_)
        for column, flags in passed:
            column.mark(hits, flags)
        return RowSet.where(hits)


class Columns(ColumnView):
    """The columns of a table as it grows. One writer at a time; whoever reads beside it reads a ``snapshot``."""

    def __init__(self) -> None:
        super().__init__(0, {})

    def snapshot(self) -> ColumnView:
        """The columns as they are now, untouched by later changes.  Cost: none; memory is shared."""
        return ColumnView(self._size, self._fields)

    def append(self, first_row: int, metadatas: Sequence[Mapping[str, Any] | None]) -> None:
        """Take in rows [first_row, first_row + n). Rows between ``size`` and first_row have no metadata.

        Raises   ValueError if first_row is below ``size``
        Cost     amortised O(n), and O(fields)
        """
        if first_row < self._size:
            raise ValueError(f"rows from {first_row} on cannot be appended, {self._size} rows are here")
        rows = np.arange(first_row, first_row + len(metadatas), dtype=np.uint32)
        fields = {field: dict(columns) for field, columns in self._fields.items()}
        for field, kind, array, places, values in typed(metadatas):
            columns = fields.setdefault(field, {})
            column = columns.get((kind, array)) or Column.empty(kind, array)
            columns[kind, array] = column.appended(rows[places], values)
        self._size, self._fields = first_row + len(metadatas), fields

    def rewrite(self, rows: Rows, metadatas: Sequence[Mapping[str, Any] | None]) -> None:
        """Give rows other metadata; None leaves them without.

        rows     [n] uint32 below ``size``, each once, in any order
        Raises   ValueError
        Cost     O(n log size) for each column, and a copy of those that change
        """
        if len(rows) != len(metadatas):
            raise ValueError(f"{len(rows)} rows cannot take {len(metadatas)} metadatas")
        order = np.argsort(rows)
        targets = rows[order]
        if len(targets) and (int(targets[-1]) >= self._size or bool((targets[1:] == targets[:-1]).any())):
            raise ValueError(f"rows to rewrite must differ and be below {self._size}")
        new: dict[str, dict[ColumnType, tuple[Rows, list[Any]]]] = {field: {} for field in self._fields}
        for field, kind, array, places, values in typed([metadatas[at] for at in order]):
            new.setdefault(field, {})[kind, array] = (targets[places], values)
        fields = {}
        for field, given in new.items():
            columns = dict(self._fields.get(field, {}))
            for kind, array in columns.keys() | given.keys():
                column = columns.get((kind, array)) or Column.empty(kind, array)
                columns[kind, array] = column.rewritten(targets, *given.get((kind, array), (targets[:0], [])))
            fields[field] = {key: column for key, column in columns.items() if column.n}
        self._fields = {field: columns for field, columns in fields.items() if columns}
