"""RowSet: a set of rows as a bitmap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.records import Rows


@dataclass(frozen=True, slots=True, eq=False)
class RowSet:
    """A set of rows below ``size``: bit r of ``words`` (little-endian) says whether row r is in it.

    words  [ceil(size / 64)] uint64; bits at and past ``size`` are 0. Kernels read the same memory as int32 words, FAISS as bytes.
    """

    words: npt.NDArray[np.uint64]
    size: int

    @classmethod
    def empty(cls, size: int) -> RowSet:
        """No row of [0, size)."""
        return cls(np.zeros((size + 63) // 64, np.uint64), size)

    @classmethod
    def full(cls, size: int) -> RowSet:
        """Every row of [0, size)."""
        words = np.full((size + 63) // 64, np.uint64(0xFFFFFFFFFFFFFFFF))
        return cls(_cut(words, size), size)

    @classmethod
    def of(cls, rows: Rows, size: int) -> RowSet:
        """The given rows, each below size, in any order.  Cost: size / 64, and O(n log n) for n few rows"""
        if len(rows) * _SPARSE > size:
            flags = np.zeros(size, np.bool_)
            flags[rows] = True
            return cls.where(flags)
        found = cls.empty(size)
        if len(rows):
            if rows.max() >= size:
                raise IndexError(f"row {rows.max()} is not below {size}")
            if not (rows[1:] > rows[:-1]).all():
                rows = np.sort(rows)
                rows = rows[np.append(True, rows[1:] != rows[:-1])]
            # Each bit is set once, so adding is as good as "or", and several times as fast in numpy.
            np.add.at(found.bytes(), rows >> 3, np.left_shift(np.uint8(1), (rows & 7).astype(np.uint8)))
        return found

    @classmethod
    def where(cls, flags: npt.NDArray[np.bool_]) -> RowSet:
        """The rows r with flags[r]; flags [size] bool."""
        size = len(flags)
        packed = np.zeros((size + 63) // 64 * 8, np.uint8)
        packed[: (size + 7) // 8] = np.packbits(flags, bitorder="little")
        return cls(packed.view(np.uint64), size)

    def __and__(self, other: RowSet) -> RowSet:
        self._same_size(other)
        return RowSet(self.words & other.words, self.size)

    def __or__(self, other: RowSet) -> RowSet:
        self._same_size(other)
        return RowSet(self.words | other.words, self.size)

    def __sub__(self, other: RowSet) -> RowSet:
        self._same_size(other)
        inverse = ~other.words
        return RowSet(np.bitwise_and(self.words, inverse, out=inverse), self.size)

    def __invert__(self) -> RowSet:
        return RowSet(_cut(~self.words, self.size), self.size)

    def __contains__(self, row: int) -> bool:
        return row < self.size and bool((int(self.words[row >> 6]) >> (row & 63)) & 1)

    def __len__(self) -> int:
        """How many rows are in the set."""
        return int(np.bitwise_count(self.words).sum(dtype=np.uint32))

    def __bool__(self) -> bool:
        return bool(np.count_nonzero(self.words))

    def rows(self) -> Rows:
        """[len(self)] uint32, ascending."""
        at = np.flatnonzero(self.words != 0)
        if 2 * len(at) > len(self.words):
            return np.flatnonzero(self.flags()).astype(np.uint32)
        return _rows(at, self.words[at])

    def between(self, start: int, stop: int | None) -> Rows:
        """``rows()[start:stop]`` for start and stop from 0 on.  Cost: size / 64, and that of the rows returned"""
        at = np.flatnonzero(self.words != 0)
        held = np.cumsum(np.bitwise_count(self.words[at]), dtype=np.int64)
        first = int(np.searchsorted(held, start, "right"))
        last = len(at) if stop is None else int(np.searchsorted(held, stop)) + 1
        skipped = start - (int(held[first - 1]) if first else 0)
        found = _rows(at[first:last], self.words[at[first:last]])
        return found[skipped:] if stop is None else found[skipped : skipped + max(stop - start, 0)]

    def flags(self) -> npt.NDArray[np.bool_]:
        """[size] bool."""
        return np.unpackbits(self.bytes(), count=self.size, bitorder="little").view(np.bool_)

    def bytes(self) -> npt.NDArray[np.uint8]:
        """The bitmap as [8 * len(words)] uint8, without a copy."""
        return self.words.view(np.uint8)

    def resized(self, size: int) -> RowSet:
        """The same rows in a set of another size, itself if that is its own; rows at and past it are dropped."""
        if size == self.size:
            return self
        words = np.zeros((size + 63) // 64, np.uint64)
        n = min(len(words), len(self.words))
        words[:n] = self.words[:n]
        return RowSet(_cut(words, size) if n == len(words) else words, size)

    def _same_size(self, other: RowSet) -> None:
        if self.size != other.size:
            raise ValueError(f"row sets of {self.size} and {other.size} rows cannot be combined")


_SPARSE: Final = 64
"""Below one row in so many, marking rows one by one is faster than a pass over flags."""


def _cut(words: npt.NDArray[np.uint64], size: int) -> npt.NDArray[np.uint64]:
    """Words with the bits at and past size, all in the last one, set to 0."""
    if size % 64:
        words[-1] &= np.uint64((1 << (size % 64)) - 1)
    return words


def _rows(at: npt.NDArray[np.intp], words: npt.NDArray[np.uint64]) -> Rows:
    """The rows of some words, given with their positions."""
    bits = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little").view(np.bool_))
    rows: Rows = ((at[bits >> 6] << 6) + (bits & 63)).astype(np.uint32)
    return rows
