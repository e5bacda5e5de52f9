"""Segments: files of remembered vectors that are only ever appended to, and removed whole."""

from __future__ import annotations

import os
import struct
import weakref
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Self
from zlib import crc32

import numpy as np
import numpy.typing as npt

from chroma_gpu.records import Vectors

Keys = npt.NDArray[np.uint64]
"""[n, 2]: the 16 bytes that stand for each text."""

FORMAT: Final = 1
STEPS: Final = 16
"""A file grows in so many steps, so that the bound on all files is looked at that often and not with each vector."""

UNFINISHED: Final = ".tmp"
"""How the name of a file ends that is being made."""

_MAGIC: Final = b"cgpuvecs"
_HEAD: Final = struct.Struct("<8sIIQ16sH")
_COUNT: Final = struct.Struct("<Q")
_HEADER: Final = 512
_COUNT_AT: Final = _HEADER - _COUNT.size
_SEALED: Final = _COUNT_AT - 4
_LONGEST_NAME: Final = _SEALED - _HEAD.size
_ENTRY: Final = 24
_SPAN: Final = 4 << 20
_WASTE: Final = 6


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself.

    digest    of the fingerprint of the model
    name      the beginning of that fingerprint, for people
    capacity  how many vectors the file has room for
    """

    digest: bytes
    name: str
    dim: int
    capacity: int

    @property
    def empty_size(self) -> int:
        """Bytes of the file without vectors."""
        return _HEADER + _ENTRY * self.capacity

    def encoded(self) -> bytes:
        """As it begins a file."""
        name = self.name.encode(errors="replace")[:_LONGEST_NAME]
        head = _HEAD.pack(_MAGIC, FORMAT, self.dim, self.capacity, self.digest, len(name)) + name
        head = head.ljust(_SEALED, b"\0")
        return head + crc32(head).to_bytes(4, "little")

    @classmethod
    def read(cls, fd: int) -> Self | None:
        """The header of an open file; None for another format, or none at all."""
        found = os.pread(fd, _COUNT_AT, 0)
        if len(found) != _COUNT_AT or crc32(found[:_SEALED]).to_bytes(4, "little") != found[_SEALED:]:
            return None
        magic, version, dim, capacity, digest, length = _HEAD.unpack_from(found)
        if (magic, version) != (_MAGIC, FORMAT) or not dim or not capacity:
            return None
        return cls(digest, found[_HEAD.size : _HEAD.size + length].decode(errors="replace"), dim, capacity)


class Segment:
    """One file: a header, room for ``capacity`` keys with checksums, and the vectors behind them.

    It is read and written by calls, not mapped: a full disk, and a file that another program has cut, are errors and misses then, and
    not the end of the process; and what was read is no part of the process's memory. The checksum of a vector begins with its key, so
    what is torn, or was written twice at once, is not taken for what it is not.
    """

    def __init__(self, path: Path, fd: int, header: Header) -> None:
        self.path = path
        self.capacity = header.capacity
        self.dim = header.dim
        self._fd = fd
        self._first = header.empty_size
        self._size = 4 * header.dim
        weakref.finalize(self, os.close, fd)

    @classmethod
    def open(cls, path: Path, digest: bytes, dim: int) -> Self | None:
        """The file of a model; None if it is not one.  Raises OSError"""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            header = Header.read(fd)
        except OSError:
            os.close(fd)
            raise
        if header is None or (header.digest, header.dim) != (digest, dim):
            os.close(fd)
            return None
        return cls(path, fd, header)

    @classmethod
    def create(cls, path: Path, header: Header) -> Self:
        """A new file without vectors, at this path all at once.  Raises OSError"""
        temporary = path.with_suffix(UNFINISHED)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        made = cls(path, fd, header)
        try:
            _write(fd, memoryview(header.encoded() + _COUNT.pack(0)), 0)
            os.ftruncate(fd, made._first)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return made

    @staticmethod
    def fitting(size: int, dim: int) -> int:
        """How many vectors a file of so many bytes has room for."""
        return max(0, (size - _HEADER) // (_ENTRY + 4 * dim))

    def count(self) -> int:
        """How many vectors are there."""
        found = os.pread(self._fd, _COUNT.size, _COUNT_AT)
        return min(_COUNT.unpack(found)[0], self.capacity) if len(found) == _COUNT.size else 0

    def identity(self) -> int:
        """Which file this is, whatever is at its path by now."""
        return os.fstat(self._fd).st_ino

    def used(self) -> None:
        """Note for all processes that the file was of use just now."""
        os.utime(self._fd)

    def growth(self, count: int) -> tuple[int, int]:
        """(the size that the file has to get to hold ``count`` vectors, and how much more that is than it has)."""
        step = -(-self.capacity // STEPS)
        wanted = self._first + min(-(-count // step) * step, self.capacity) * self._size
        now = os.fstat(self._fd).st_size
        return max(wanted, now), max(wanted - now, 0)

    def append(self, first: int, keys: Keys, vectors: Vectors, size: int) -> None:
        """Put vectors [m, dim] behind the first so many; ``size`` as ``growth`` has it. The caller holds the lock of all writers.

        Raises OSError; what is there by then is not counted, and written over by the next.
        """
        if os.fstat(self._fd).st_size < size:
            os.ftruncate(self._fd, size)
        crcs = _checksums(keys, vectors)
        entries = np.concatenate([keys, crcs.astype(np.uint64)[:, None]], axis=1)
        _write(self._fd, vectors.data.cast("B"), self._first + first * self._size)
        _write(self._fd, entries.data.cast("B"), _HEADER + first * _ENTRY)
        _write(self._fd, memoryview(_COUNT.pack(first + len(keys))), _COUNT_AT)

    def keys(self, first: int, stop: int) -> Keys:
        """The keys at some places."""
        return self._entries(first, stop)[:, :2]

    def read(self, places: npt.NDArray[np.int64], wanted: Keys) -> tuple[npt.NDArray[np.bool_], Vectors]:
        """Which of the places, at least one, hold the vectors of the wanted keys, unharmed, [n] bool; and those of all places.

        Cost    one read for places that are near to each other, else one for each vector
        """
        vectors = np.empty((len(places), self.dim), np.float32)
        if (np.diff(places) == 1).all():
            entries = self._entries(int(places[0]), int(places[-1]) + 1)
            self._read_vectors(int(places[0]), vectors)
        else:
            entries = self._gather(places, vectors)
        good = (entries[:, :2] == wanted).all(axis=1)
        good &= _checksums(wanted, vectors) == entries[:, 2]
        return good, vectors

    def _gather(self, places: npt.NDArray[np.int64], vectors: Vectors) -> Keys:
        """The entries of places that are anywhere; fills their vectors."""
        order = np.argsort(places, kind="stable")
        ascending = places[order]
        entries = np.empty((len(places), 3), np.uint64)
        apart = max(1, _SPAN // self._size)
        cuts = np.flatnonzero(np.diff(ascending // apart)) + 1
        for start, stop in pairwise([0, *cuts.tolist(), len(places)]):
            low, high = int(ascending[start]), int(ascending[stop - 1]) + 1
            here, at = order[start:stop], ascending[start:stop] - low
            entries[here] = self._entries(low, high)[at]
            if high - low <= _WASTE * (stop - start):
                span = np.empty((high - low, self.dim), np.float32)
                self._read_vectors(low, span)
                vectors[here] = span[at]
            else:
                raw, size = vectors.data.cast("B"), self._size
                for to, place in zip(here.tolist(), ascending[start:stop].tolist(), strict=True):
                    _read(self._fd, raw[to * size : to * size + size], self._first + place * size)
        return entries

    def _read_vectors(self, first: int, into: Vectors) -> None:
        _read(self._fd, into.data.cast("B"), self._first + first * self._size)

    def _entries(self, first: int, stop: int) -> Keys:
        """[stop - first, 3]: keys and checksums; zeros for what is not there."""
        entries = np.empty((stop - first, 3), np.uint64)
        if stop > first:
            _read(self._fd, entries.data.cast("B"), _HEADER + first * _ENTRY)
        return entries


def _checksums(keys: Keys, vectors: Vectors) -> npt.NDArray[np.uint32]:
    """[n]: crc32 of each vector, begun with a part of its key."""
    raw, size = np.ascontiguousarray(vectors).data.cast("B"), vectors.shape[1] * 4
    begun = (keys[:, 1] & np.uint64(0xFFFFFFFF)).tolist()
    return np.fromiter((crc32(raw[at * size : at * size + size], begin) for at, begin in enumerate(begun)), np.uint32, len(keys))


def _write(fd: int, data: memoryview, at: int) -> None:
    while len(data):
        written = os.pwrite(fd, data, at)
        data, at = data[written:], at + written


def _read(fd: int, into: memoryview, at: int) -> None:
    """Fill a buffer; with zeros where the file does not go so far."""
    while len(into) and (got := os.preadv(fd, [into], at)):
        into, at = into[got:], at + got
    if len(into):
        into[:] = bytes(len(into))
