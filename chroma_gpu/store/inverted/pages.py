"""Postings as pages: keys that ascend, each with the places that have it and, for words, how often each has it.

    page     u16 n, n keys of u32 or u64, n forms of u8, n - 1 ends of u16, and the postings of each key one after the other
    form     how its places are written, with COUNTED added where not all counts are 1: then u16 n - 1 and n counts of u8 come first
    GAPS     the distance of each place to the one before it (of the first to 0) in bytes: 255 is added to what follows it
    PLAIN    u16 each
    BITMAP   u16 where it begins, in bytes of 8 places, and a bit for each place from there to the last

All of it little-endian. Whatever form is the shortest is taken.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu.roaring import Places
from chroma_gpu.words import Counts, Keys, Postings

PAGE: Final = 1_950
"""Bytes of a page that has more than one key: with key and seal, two of them fit into one of LMDB's."""


def cut(postings: Postings, width: int) -> tuple[Keys, list[bytes]]:
    """The first key of each page, and the pages.  width: 4 or 8, the bytes of a key"""
    keys, n = postings.keys.astype(f"<u{width}"), len(postings.keys)
    forms, written = _written(postings)
    sizes = np.fromiter(map(len, written), np.int64, n) + (width + 3)
    ends: list[int] = np.cumsum(sizes).tolist()
    firsts, pages, first = [], [], 0
    while first < n:
        stop = max(first + 1, bisect_right(ends, (ends[first - 1] if first else 0) + PAGE - 2, first))
        lengths = np.cumsum(sizes[first:stop] - (width + 3)).astype("<u2")
        head = (
            _u16.pack(stop - first),
            keys[first:stop].tobytes(),
            forms[first:stop].tobytes(),
            lengths[:-1].tobytes(),
        )
        pages.append(b"".join((*head, *written[first:stop])))
        firsts.append(first)
        first = stop
    return postings.keys[firsts], pages


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """The postings of one key, as they are written.

    counts  how often each place has the key; None if once
    """

    form: int
    data: memoryview
    counts: Counts | None

    @property
    def size(self) -> int:
        """About how many places there are, or more."""
        return len(self.data) * _PLACES[self.form] // 2

    def places(self) -> Places:
        """All of them, ascending."""
        if self.form == _PLAIN:
            return np.frombuffer(self.data, "<u2")
        if self.form == _BITMAP:
            bits = np.unpackbits(np.frombuffer(self.data, np.uint8, offset=2), bitorder="little")
            return (np.flatnonzero(bits.view(np.bool_)) + self._first_byte() * 8).astype(np.uint16)
        steps = np.frombuffer(self.data, np.uint8)
        ends: npt.NDArray[np.uint32] = np.cumsum(steps, dtype=np.uint32)[steps != _STEP]
        return ends.astype(np.uint16)

    def among(self, places: Places) -> Places:
        """Which of some places, one or more, have the key."""
        if self.form == _BITMAP:
            data = np.frombuffer(self.data, np.uint8, offset=2)
            at = (places >> 3).astype(np.int64) - self._first_byte()
            inside = (at >= 0) & (at < len(data))
            have = inside & (data[np.where(inside, at, 0)] >> (places & 7) & 1).astype(np.bool_)
        else:
            own = self.places()
            have = own[np.minimum(np.searchsorted(own, places), len(own) - 1)] == places
        found: Places = places[have]
        return found

    def _first_byte(self) -> int:
        return int.from_bytes(self.data[:2], "little")


def find(page: bytes, key: int, width: int) -> Entry | None:
    """The postings of a key; None if the page has it not."""
    (n,) = _u16.unpack_from(page)
    view = memoryview(page)
    forms, ends = 2 + n * width, 2 + n * (width + 1)
    keys = view[2:forms].cast("Q" if width == 8 else "I")
    at = bisect_left(keys, key)
    if at == n or keys[at] != key:
        return None
    body = ends + 2 * (n - 1)
    first = body + (_u16.unpack_from(page, ends + 2 * at - 2)[0] if at else 0)
    stop = body + _u16.unpack_from(page, ends + 2 * at)[0] if at < n - 1 else len(page)
    form = page[forms + at]
    counts = None
    if form & _COUNTED:
        size = _u16.unpack_from(page, first)[0] + 1
        counts = np.frombuffer(page, np.uint8, size, first + 2)
        first += 2 + size
    return Entry(form & ~_COUNTED, view[first:stop], counts)


_GAPS, _PLAIN, _BITMAP = range(3)
_COUNTED: Final = 4
_PLACES: Final = (2, 1, 16)
"""Places that two bytes of each form may hold."""
_STEP: Final = 255

_u16: Final = struct.Struct("<H")

_Ints: TypeAlias = npt.NDArray[np.int64]


def _written(postings: Postings) -> tuple[npt.NDArray[np.uint8], list[bytes]]:
    """The form of each key's places, and its postings as bytes."""
    starts, places = postings.starts, postings.places.astype("<u2", copy=False)
    firsts, lasts = places[starts[:-1]].astype(np.int64), places[starts[1:] - 1].astype(np.int64)
    gaps, ends = _gaps(starts, places, firsts)
    n = np.diff(starts)
    forms = np.argmin((np.diff(ends), 2 * n, lasts // 8 - firsts // 8 + 3), axis=0).astype(np.uint8)
    plain = places.tobytes()
    gap_ends: list[int] = ends.tolist()
    place_ends: list[int] = starts.tolist()
    written = []
    for at, form in enumerate(forms.tolist()):
        if form == _GAPS:
            written.append(gaps[gap_ends[at] : gap_ends[at + 1]])
        elif form == _PLAIN:
            written.append(plain[2 * place_ends[at] : 2 * place_ends[at + 1]])
        else:
            written.append(_bitmap(places[place_ends[at] : place_ends[at + 1]], int(firsts[at]), int(lasts[at])))
    if postings.counts is not None:
        counts = postings.counts.tobytes()
        for at in np.flatnonzero(np.maximum.reduceat(postings.counts, starts[:-1]) > 1).tolist() if len(n) else ():
            forms[at] |= _COUNTED
            size = _u16.pack(place_ends[at + 1] - place_ends[at] - 1)
            written[at] = b"".join((size, counts[place_ends[at] : place_ends[at + 1]], written[at]))
    return forms, written


def _gaps(starts: _Ints, places: Places, firsts: _Ints) -> tuple[bytes, _Ints]:
    """All gaps as bytes, and where those of each key begin and end."""
    gaps = places.copy()
    gaps[1:] -= places[:-1]
    gaps[starts[:-1]] = firsts
    steps = gaps // np.uint16(_STEP)
    if not steps.any():
        return gaps.astype(np.uint8).tobytes(), starts
    ends = np.cumsum(steps, dtype=np.int64) + np.arange(1, len(gaps) + 1)
    data = np.full(int(ends[-1]), _STEP, np.uint8)
    data[ends - 1] = gaps - steps * np.uint16(_STEP)
    return data.tobytes(), np.append(0, ends)[starts]


def _bitmap(places: Places, first: int, last: int) -> bytes:
    flags = np.zeros((last // 8 - first // 8 + 1) * 8, np.bool_)
    flags[places - np.uint16(first // 8 * 8)] = True
    return _u16.pack(first // 8) + np.packbits(flags, bitorder="little").tobytes()
