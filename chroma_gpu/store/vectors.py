"""Vectors on disk: one file of rows, only ever appended to."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import ClosedError, CorruptRecord
from chroma_gpu.records import Rows, Vectors, VectorSource
from chroma_gpu.store.disk import disk_error, sync_directory


class VectorLog(VectorSource, Protocol):
    """A vector source that can grow. How many rows are committed is said by the store's tables, not by this."""

    def commit(self, rows: int, dim: int) -> None:
        """Learn that rows [0, rows) of ``dim`` values can be read. News may come late, so fewer than known change nothing."""
        ...

    def append(self, first: int, vectors: Vectors) -> None:
        """Put vectors at rows [first, first + len(vectors)), over what a transaction that failed has left there; durable on return.

        Called by one writer at a time, with ``first`` the committed count.  Raises DiskFull, StoreError
        """
        ...

    def close(self) -> None:
        """Release files and memory. Views that are held stay valid, and keep their memory. Idempotent."""
        ...


class VectorFile:
    """rows x dim float32, little-endian, without a header.

    Bytes past the committed rows belong to a transaction that is running or has failed; nobody reads them, and the next one
    writes over them. The file is read through a map that is made anew when it has grown; an old one lives as long as its views.
    """

    def __init__(self, path: Path) -> None:
        self.dim = 0
        self._rows = 0
        self._path = path
        self._map: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)
        new = not path.exists()
        try:
            self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_error(path, error, error.errno) from error
        if new:
            sync_directory(path.parent)

    def __len__(self) -> int:
        return self._rows

    def block(self, start: int, stop: int) -> Vectors:
        return self._mapped(stop)[start:stop]

    def gather(self, rows: Rows) -> Vectors:
        mapped = self._mapped(int(rows.max()) + 1 if len(rows) else 0)
        return mapped[rows]

    def commit(self, rows: int, dim: int) -> None:
        self.dim = dim
        self._rows = max(self._rows, rows)

    def append(self, first: int, vectors: Vectors) -> None:
        file = self._open()
        self._require(first, vectors.shape[1])
        data = np.ascontiguousarray(vectors, "<f4").data.cast("B")
        at = first * vectors.shape[1] * 4
        try:
            while data:
                written = os.pwrite(file, data, at)
                data, at = data[written:], at + written
            os.fdatasync(file)
        except OSError as error:
            raise disk_error(self._path, error, error.errno) from error

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._map = np.empty((0, 0), np.float32)

    def _mapped(self, rows: int) -> npt.NDArray[np.float32]:
        """At least the first ``rows`` rows, mapped."""
        known = self._map
        if rows <= len(known) and known.shape[1] == self.dim and self._file is not None:
            return known
        file = self._open()
        rows = max(rows, self._rows)
        self._require(rows, self.dim)
        if not rows:
            return np.empty((0, self.dim), np.float32)
        mapped = mmap.mmap(file, rows * self.dim * 4, access=mmap.ACCESS_READ)
        self._map = np.frombuffer(mapped, "<f4").reshape(rows, self.dim)
        return self._map

    def _require(self, rows: int, dim: int) -> None:
        """Reading past the end of a mapped file kills the process, so look before."""
        if os.fstat(self._open()).st_size < rows * dim * 4:
            if rows > self._rows:
                raise IndexError(f"row {rows - 1} of {self._rows} vectors")
            raise CorruptRecord(f"{self._path} ends before row {rows}.", hint="Restore it from a copy.")

    def _open(self) -> int:
        if self._file is None:
            raise ClosedError("the store was closed.")
        return self._file
