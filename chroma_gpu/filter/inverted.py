"""What evaluation asks of an inverted index. The store keeps one; tests make their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from chroma_gpu.records import Rows
from chroma_gpu.roaring import Postings
from chroma_gpu.rowset import RowSet
from chroma_gpu.values import ColumnStatistics, Kind, NumberBlock, Scalar


class Inverted(Protocol):
    """An inverted index of the rows [0, rows), as of one moment. Row sets it returns have size ``rows``.

    It knows nothing of rows that died: the caller masks them. Rows in ``pending`` were rewritten since they were taken in, and it
    answers for what they were; the caller masks them too and looks at their records.
    Every method raises KeyError if the index has gone on since, so that a read starts again with a new one.
    """

    rows: int
    pending: Rows
    """[n] uint32, ascending, below ``rows``."""
    changed: Sequence[int]
    """For each chunk of rows a number that is another one after every change of the metadata in it."""

    def statistics(self) -> Sequence[ColumnStatistics]:
        """Every column there is.  Cost: one key for each field"""
        ...

    def among(
        self, field: str, kind: Kind, array: bool, values: Sequence[Scalar], chunks: Sequence[int] | None = None
    ) -> Postings:
        """The rows with one of some values of this very kind: strings, bools, and elements of arrays of every kind. Not for scalar numbers.

        chunks  only the rows in some chunks, ascending; None for all
        Cost    one key for each value and chunk of rows
        """
        ...

    def having(self, field: str, kind: Kind | None, array: bool, chunks: Sequence[int] | None = None) -> Postings:
        """The rows with a value of this kind; None for sparse vectors.  Cost: one key for each chunk"""
        ...

    def numbers(self, field: str, kind: Kind, chunks: Sequence[int] | None = None) -> Sequence[NumberBlock]:
        """The scalar ints or floats of a field, by ascending chunk.  Cost: up to 10 bytes a value are read"""
        ...

    def values(self, field: str, kind: Kind, chunks: Sequence[int], most: int) -> Sequence[tuple[int, bytes, bytes]] | None:
        """Every scalar string or bool in some chunks, ascending: (chunk, what ``value_keys`` has for it, the container of its rows).

        None if there are more than ``most``.  Cost: one key for each value and chunk
        """
        ...

    def value_keys(self, kind: Kind, values: Sequence[Scalar]) -> Sequence[bytes]:
        """What stands for each of some values of this very kind: equal for equal ones."""
        ...

    def containing(self, grams: Sequence[bytes]) -> RowSet:
        """The rows whose document may contain every one of some three-byte strings, and those whose document was not indexed.

        A superset of those that do.  Cost: one key for each gram and block of texts
        """
        ...

    def containing_text(self, text: bytes) -> tuple[RowSet, RowSet]:
        """The rows whose document has a UTF-8 text of one byte or more, as far as that is known; and these with those that may have it."""
        ...
