"""The rows of one chunk that have something in common, in as few bytes as they need.

The containers of Roaring bitmaps (https://github.com/RoaringBitmap/RoaringFormatSpec): an array, a bitmap or runs, whichever is
smallest, behind one byte that says which. A chunk has CHUNK rows; a place is a row's position in its chunk.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

CHUNK: Final = 1 << 16
"""Rows of a chunk."""

WORDS: Final = CHUNK // 64
"""64-bit words of a chunk's bitmap."""

Places: TypeAlias = npt.NDArray[np.uint16]
"""[n] uint16: strictly ascending positions in a chunk."""

Words: TypeAlias = npt.NDArray[np.uint64]
"""[WORDS] uint64: the bitmap of a chunk, little-endian as in RowSet."""


def encoded(places: Places) -> bytes:
    """The smallest container."""
    n = len(places)
    if n == 1:
        return _ARRAY + places.tobytes()
    starts = _run_starts(places)
    if 4 * len(starts) < min(2 * n, CHUNK // 8):
        return _RUNS + _runs(places, starts).tobytes()
    if 2 * n <= CHUNK // 8:
        return _ARRAY + places.astype("<u2", copy=False).tobytes()
    return _BITMAP + _bits(places).tobytes()


def extended(container: bytes, places: Places) -> bytes:
    """A container with further places, all of them past its last one."""
    if container[:1] == _ARRAY and len(container) - 1 + 2 * len(places) <= _SMALL:
        return container + places.tobytes()
    return encoded(np.concatenate((decoded(container), places)))


def decoded(container: bytes) -> Places:
    """The places of a container."""
    kind, body = container[:1], memoryview(container)[1:]
    if kind == _ARRAY:
        return np.frombuffer(body, "<u2")
    if kind == _RUNS:
        starts, lengths = np.frombuffer(body, "<u2").reshape(-1, 2).astype(np.int64).T
        firsts = np.repeat(starts - np.concatenate(([0], np.cumsum(lengths + 1)[:-1])), lengths + 1)
        return (firsts + np.arange(len(firsts))).astype(np.uint16)
    return np.flatnonzero(np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")).astype(np.uint16)


def mark(container: bytes, words: Words) -> None:
    """Set the bits of a container's places; the others stay."""
    kind, body = container[:1], memoryview(container)[1:]
    if kind == _BITMAP:
        words |= np.frombuffer(body, "<u8")
    elif kind == _RUNS and len(body) == 4:
        start, length = np.frombuffer(body, "<u2").tolist()
        _mark_run(words, start, start + length + 1)
    else:
        places = decoded(container)
        if len(places) < _FEW:
            for place in places.tolist():
                words[place >> 6] |= np.uint64(1 << (place & 63))
        else:
            words |= _bits(places)


def count(container: bytes) -> int:
    """How many places a container has."""
    kind, body = container[:1], memoryview(container)[1:]
    if kind == _ARRAY:
        return len(body) // 2
    if kind == _RUNS:
        lengths = np.frombuffer(body, "<u2")[1::2]
        return int(lengths.sum(dtype=np.int64)) + len(lengths)
    return int(np.bitwise_count(np.frombuffer(body, "<u8")).sum(dtype=np.int64))


_ARRAY: Final = b"a"
_RUNS: Final = b"r"
_BITMAP: Final = b"b"
_SMALL: Final = 512
"""Bytes up to which an array is extended without asking whether runs would be smaller."""
_FEW: Final = 8


def _run_starts(places: Places) -> npt.NDArray[np.intp]:
    return np.concatenate(([0], np.flatnonzero(np.diff(places.astype(np.int32)) != 1) + 1))[: len(places)]


def _runs(places: Places, starts: npt.NDArray[np.intp]) -> npt.NDArray[np.uint16]:
    """[runs, 2]: where each begins, and how many places follow its first."""
    lengths = np.diff(np.append(starts, len(places))) - 1
    return np.stack((places[starts], lengths.astype(np.uint16)), axis=1).astype("<u2", copy=False)


def _bits(places: Places) -> Words:
    flags = np.zeros(CHUNK, np.bool_)
    flags[places] = True
    return np.packbits(flags, bitorder="little").view(np.uint64)


def _mark_run(words: Words, start: int, stop: int) -> None:
    first, last = start >> 6, (stop - 1) >> 6
    head, tail = (1 << 64) - (1 << (start & 63)), (1 << (((stop - 1) & 63) + 1)) - 1
    if first == last:
        words[first] |= np.uint64(head & tail)
        return
    words[first] |= np.uint64(head)
    words[first + 1 : last] = np.uint64(0xFFFFFFFFFFFFFFFF)
    words[last] |= np.uint64(tail)
