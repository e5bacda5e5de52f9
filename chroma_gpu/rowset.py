"""RowSet: a set of rows as a bitmap."""

from __future__ import annotations

from dataclasses import dataclass

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
        if size % 64:
            words[-1] = np.uint64((1 << (size % 64)) - 1)
        return cls(words, size)

    @classmethod
    def of(cls, rows: Rows, size: int) -> RowSet:
        """The given rows, each below size, in any order."""
        flags = np.zeros(size, np.bool_)
        flags[rows] = True
        return cls.where(flags)

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
        return RowSet(self.words & ~other.words, self.size)

    def __invert__(self) -> RowSet:
        return RowSet.full(self.size) - self

    def __contains__(self, row: int) -> bool:
        return row < self.size and bool((int(self.words[row >> 6]) >> (row & 63)) & 1)

    def __len__(self) -> int:
        """How many rows are in the set."""
        return int(np.bitwise_count(self.words).sum())

    def __bool__(self) -> bool:
        return bool(self.words.any())

    def rows(self) -> Rows:
        """[len(self)] uint32, ascending."""
        return np.flatnonzero(self.flags()).astype(np.uint32)

    def flags(self) -> npt.NDArray[np.bool_]:
        """[size] bool."""
        return np.unpackbits(self.bytes(), count=self.size, bitorder="little").view(np.bool_)

    def bytes(self) -> npt.NDArray[np.uint8]:
        """The bitmap as [8 * len(words)] uint8, without a copy."""
        return self.words.view(np.uint8)

    def resized(self, size: int) -> RowSet:
        """The same rows in a set of another size; rows at and past it are dropped."""
        words = np.zeros((size + 63) // 64, np.uint64)
        n = min(len(words), len(self.words))
        words[:n] = self.words[:n]
        if size % 64 and n == len(words):
            words[-1] &= np.uint64((1 << (size % 64)) - 1)
        return RowSet(words, size)

    def _same_size(self, other: RowSet) -> None:
        if self.size != other.size:
            raise ValueError(f"row sets of {self.size} and {other.size} rows cannot be combined")
