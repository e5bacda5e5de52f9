"""The rows of one chunk that have something in common, in as few bytes as they need.

The containers of Roaring bitmaps (https://github.com/RoaringBitmap/RoaringFormatSpec), an array, a bitmap or runs, behind one byte
that says which: an array or runs, whichever are smaller, as long as they fit into a page of LMDB, beyond that a bitmap, which is read
faster. A chunk has CHUNK rows; a place is a row's position in its chunk.
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

Postings: TypeAlias = Sequence[tuple[int, bytes]]
"""Rows as containers with their chunks, which ascend; a chunk may have several, or none."""


def encoded(places: Places) -> bytes:
    """The container of some places."""
    n = len(places)
    if n == 1:
        return _ARRAY + places.tobytes()
    starts = _run_starts(places)
    if 4 * len(starts) < 2 * n and 4 * len(starts) <= _LARGEST:
        return _RUNS + _runs(places, starts).tobytes()
    if 2 * n <= _LARGEST:
        return _ARRAY + places.astype("<u2", copy=False).tobytes()
    return _BITMAP + _bits(places).tobytes()


def few(places: Sequence[int]) -> bytes:
    """An array of so few places that it is not worth asking whether runs would be smaller."""
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
        if 4 * len(runs) < 2 * (len(runs) + int(runs[:, 1].sum(dtype=np.int64))) and 4 * len(runs) <= _LARGEST:
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
        # Words of a copy lie where they are read fastest; behind the first byte they do not.
        words |= np.frombuffer(container[1:], np.uint64)
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


def union(postings: Postings, chunks: int) -> Words:
    """[chunks * WORDS] uint64: the bitmap of rows of so many chunks.

    Cost  2 µs a bitmap; 15 µs for all arrays together, and 2 ns a place where no chunk is there twice, else up to 8
    """
    words = np.zeros(chunks * WORDS, np.uint64)
    arrays = [container[1:] for _, container in postings if container.startswith(_ARRAY)]
    if len(arrays) < len(postings):
        for chunk, container in postings:
            if not container.startswith(_ARRAY):
                mark(container, words[chunk * WORDS : (chunk + 1) * WORDS])
    if arrays:
        firsts = np.array([chunk * CHUNK for chunk, container in postings if container.startswith(_ARRAY)], np.uint32)
        rows = np.repeat(firsts, [len(array) // 2 for array in arrays]) + np.frombuffer(b"".join(arrays), "<u2")
        # Where each bit is set once, adding is as good as "or", and four times as fast in numpy.
        once = len({chunk for chunk, _ in postings}) == len(postings)
        if len(rows) <= (_SCATTERED if once else _SCATTERED // 4):
            mark_in = np.add if once else np.bitwise_or
            mark_in.at(words.view(np.uint8), rows >> 3, np.left_shift(np.uint8(1), (rows & 7).astype(np.uint8)))
        else:
            _mark_rows(rows, words)
    return words


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
_LARGEST: Final = 4074
"""Bytes of the largest array and of the most runs: with its kind and the seal of a stored value it fills a page of LMDB."""
_FEW: Final = 8
_SCATTERED: Final = 1 << 16
"""Up to so many places are marked one by one."""
_AT_ONCE: Final = 4


def _run_starts(places: Places) -> npt.NDArray[np.intp]:
    return np.concatenate(([0], np.flatnonzero(np.diff(places.astype(np.int32)) != 1) + 1))[: len(places)]


def _runs(places: Places, starts: npt.NDArray[np.intp]) -> npt.NDArray[np.uint16]:
    """[runs, 2]: where each begins, and how many places follow its first."""
    lengths = np.diff(np.append(starts, len(places))) - 1
    return np.stack((places[starts], lengths.astype(np.uint16)), axis=1).astype("<u2", copy=False)


def _places(words: Words) -> Places:
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little").view(np.bool_)).astype(np.uint16)


def _is_bitmap(words: Words) -> bool:
    """Whether neither an array nor runs are small enough."""
    starts = words & ~(words << np.uint64(1))
    starts[1:] &= ~(words[:-1] >> np.uint64(63))
    runs, n = int(np.bitwise_count(starts).sum(dtype=np.int64)), int(np.bitwise_count(words).sum(dtype=np.int64))
    return min(2 * n, 4 * runs) > _LARGEST


def _mark_rows(rows: npt.NDArray[np.uint32], words: Words) -> None:
    """Set the bits of rows whose chunks ascend; some chunks at a time, so that the flags stay in a cache."""
    size = min(len(words) * 64, _AT_ONCE * CHUNK)
    flags = np.empty(size, np.bool_)
    starts = range(0, len(words) * 64, size)
    for start, some in zip(starts, np.split(rows, np.searchsorted(rows, starts[1:])), strict=True):
        if len(some):
            flags[:] = False
            flags[some - np.uint32(start)] = True
            here = words[start // 64 : (start + size) // 64]
            here |= np.packbits(flags, bitorder="little").view(np.uint64)[: len(here)]


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
