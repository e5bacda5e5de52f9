"""The rows of one chunk that have something in common, in as few bytes as they need.

The containers of Roaring bitmaps (https://github.com/RoaringBitmap/RoaringFormatSpec): an array, a bitmap or runs, whichever is
smallest, behind one byte that says which. A chunk has CHUNK rows; a place is a row's position in its chunk.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
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


def few(places: Sequence[int]) -> bytes:
    """A container of some places that are not worth asking what would be smallest."""
    return _ARRAY + struct.pack(f"<{len(places)}H", *places)


def extended(container: bytes, places: Places) -> bytes:
    """A container with further places, all of them past its last one."""
    kind, body = container[:1], memoryview(container)[1:]
    if kind == _ARRAY and len(body) + 2 * len(places) <= _SMALL:
        return container + places.astype("<u2", copy=False).tobytes()
    if kind == _BITMAP:
        # It has too many runs to be kept as runs, and further places do not lessen them.
        return _BITMAP + (np.frombuffer(body, "<u8") | _bits(places)).tobytes()
    if kind == _RUNS:
        runs, more = np.frombuffer(body, "<u2").reshape(-1, 2), _runs(places, _run_starts(places))
        if int(runs[-1, 0]) + int(runs[-1, 1]) + 1 == int(places[0]):
            joined = np.array([[runs[-1, 0], runs[-1, 1] + more[0, 1] + 1]], "<u2")
            runs, more = runs[:-1], np.concatenate((joined, more[1:]))
        runs = np.concatenate((runs, more))
        if 4 * len(runs) < min(2 * (len(runs) + int(runs[:, 1].sum(dtype=np.int64))), CHUNK // 8):
            return _RUNS + runs.tobytes()
    return encoded(np.concatenate((decoded(container), places)))


def changed(container: bytes, removed: Iterable[int], added: Iterable[int]) -> bytes | None:
    """A container without some places, and then with others; None if nothing is left."""
    if container[:1] == _ARRAY and len(container) <= _SMALL:
        few = sorted({*decoded(container).tolist()}.difference(removed).union(added))
        return encoded(np.array(few, np.uint16)) if few else None
    words = np.zeros(WORDS, np.uint64)
    mark(container, words)
    words &= ~_bits(np.fromiter(removed, np.uint16))
    words |= _bits(np.fromiter(added, np.uint16))
    if _is_bitmap(words):
        return _BITMAP + words.tobytes()
    places = _places(words)
    return encoded(places) if len(places) else None


def decoded(container: bytes) -> Places:
    """The places of a container."""
    kind, body = container[:1], memoryview(container)[1:]
    if kind == _ARRAY:
        return np.frombuffer(body, "<u2")
    if kind == _RUNS:
        starts, lengths = np.frombuffer(body, "<u2").reshape(-1, 2).astype(np.int64).T
        firsts = np.repeat(starts - np.concatenate(([0], np.cumsum(lengths + 1)[:-1])), lengths + 1)
        return (firsts + np.arange(len(firsts))).astype(np.uint16)
    return _places(np.frombuffer(body, "<u8"))


def mark(container: bytes, words: Words) -> None:
    """Set the bits of a container's places; the others stay."""
    kind, body = container[:1], memoryview(container)[1:]
    if kind == _BITMAP:
        words |= np.frombuffer(body, "<u8")
    elif kind == _RUNS:
        runs = np.frombuffer(body, "<u2").reshape(-1, 2)
        if len(runs) < _FEW:
            for start, length in runs.tolist():
                _mark_run(words, start, start + length + 1)
        else:
            words |= _run_bits(runs.astype(np.intp))
    else:
        places = decoded(container)
        if len(places) < _FEW:
            for place in places.tolist():
                words[place >> 6] |= np.uint64(1 << (place & 63))
        else:
            words |= _bits(places)


def mark_all(containers: Iterable[bytes], words: Words) -> None:
    """``mark`` for many.  Cost: one pass for all arrays together"""
    arrays = []
    for container in containers:
        if container[:1] == _ARRAY:
            arrays.append(container[1:])
        else:
            mark(container, words)
    if arrays:
        mark(_ARRAY + b"".join(arrays), words)


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


def _places(words: Words) -> Places:
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little").view(np.bool_)).astype(np.uint16)


def _is_bitmap(words: Words) -> bool:
    """Whether no other container is smaller than a bitmap."""
    starts = words & ~(words << np.uint64(1))
    starts[1:] &= ~(words[:-1] >> np.uint64(63))
    runs, n = int(np.bitwise_count(starts).sum(dtype=np.int64)), int(np.bitwise_count(words).sum(dtype=np.int64))
    return min(2 * n, 4 * runs) >= CHUNK // 8 and 2 * n > CHUNK // 8


def _bits(places: Places) -> Words:
    flags = np.zeros(CHUNK, np.bool_)
    flags[places.astype(np.intp)] = True
    return np.packbits(flags, bitorder="little").view(np.uint64)


def _run_bits(runs: npt.NDArray[np.intp]) -> Words:
    """Set the bits where a run begins and where one has ended; then each bit is the parity of those up to it."""
    edges = np.zeros(CHUNK + 1, np.bool_)
    edges[runs[:, 0]] = True
    edges[runs[:, 0] + runs[:, 1] + 1] = True
    words = np.packbits(edges[:CHUNK], bitorder="little").view(np.uint64)
    for shift in (1, 2, 4, 8, 16, 32):
        words ^= words << np.uint64(shift)
    odd = np.bitwise_xor.accumulate(words >> np.uint64(63))
    words[1:] ^= np.uint64(0) - odd[:-1]
    return words


def _mark_run(words: Words, start: int, stop: int) -> None:
    first, last = start >> 6, (stop - 1) >> 6
    head, tail = (1 << 64) - (1 << (start & 63)), (1 << (((stop - 1) & 63) + 1)) - 1
    if first == last:
        words[first] |= np.uint64(head & tail)
        return
    words[first] |= np.uint64(head)
    words[first + 1 : last] = np.uint64(0xFFFFFFFFFFFFFFFF)
    words[last] |= np.uint64(tail)
