"""What evaluation asks of an inverted index, and the values it answers with. The store keeps one; tests make their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chroma_gpu.records import Rows
from chroma_gpu.roaring import Places
from chroma_gpu.rowset import RowSet
from chroma_gpu.values import Kind, Scalar


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """What is known of one column: how many values it holds.

    kind    of its values; None for sparse vectors
    array   the values are elements of arrays
    """

    field: str
    kind: Kind | None
    array: bool
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class NumberBlock:
    """The ints, or the floats, of one field in one chunk of rows: row chunk * CHUNK + places[i] has values[ranks[i]].

    values  [m] int64 or float64, ascending, each once; the first and the last are the chunk's zone
    ranks   [n] uint16
    places  [n] uint16, strictly ascending; None where they are 0 to n - 1
    """

    chunk: int
    values: npt.NDArray[Any]
    ranks: npt.NDArray[np.uint16]
    places: Places | None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.values.nbytes + self.ranks.nbytes + (0 if self.places is None else self.places.nbytes)


class Inverted(Protocol):
    """An inverted index of the rows [0, rows), as of one moment. Row sets it returns have size ``rows``.

    It knows nothing of rows that died: the caller masks them. Rows in ``pending`` were rewritten since they were taken in, and it
    answers for what they were; the caller masks them too and looks at their records.
    Every method raises KeyError if the index has gone on since, so that a read starts again with a new one.
    """

    rows: int
    pending: Rows
    """[n] uint32, ascending, below ``rows``."""

    def statistics(self) -> Sequence[ColumnStatistics]:
        """Every column there is.  Cost: one key for each field"""
        ...

    def among(self, field: str, kind: Kind, array: bool, values: Sequence[Scalar]) -> RowSet:
        """The rows with one of some values of this very kind: strings, bools, and elements of arrays of every kind. Not for scalar numbers.

        Cost  one key for each value and chunk of rows
        """
        ...

    def having(self, field: str, kind: Kind | None, array: bool) -> RowSet:
        """The rows with a value of this kind; None for sparse vectors.  Cost: one key for each chunk"""
        ...

    def numbers(self, field: str, kind: Kind) -> Sequence[NumberBlock]:
        """The scalar ints or floats of a field, by ascending chunk.  Cost: up to 10 bytes a value are read"""
        ...

    def containing(self, grams: Sequence[bytes]) -> RowSet:
        """The rows whose document may contain every one of some three-byte strings, and those whose document was not indexed.

        A superset of those that do.  Cost: one key for each gram and block of texts
        """
        ...
