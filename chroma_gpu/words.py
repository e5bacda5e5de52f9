"""What of a text is looked up in an index: the three-byte strings in it, and its words as hashes. Arrays in, arrays out.

A word is a longest run of letters, marks, digits and connectors such as the underscore (Unicode categories L, M, N and Pc), in lower
case. Scripts that put no spaces between words (Han, kana, Bopomofo, Thai, Lao, Khmer, Burmese) are cut differently: every character
of such a run is a word, and every pair of neighbours is one. Accents stay, nothing is stemmed or left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import accumulate
from typing import Any, Final, TypeAlias
from unicodedata import category

import numpy as np
import numpy.typing as npt

from chroma_gpu.roaring import Places

Keys: TypeAlias = npt.NDArray[np.uint64]
"""[n] uint64: three-byte strings as big-endian numbers, or hashes of words, which are below 2**48."""

Counts: TypeAlias = npt.NDArray[np.uint8]
Lengths: TypeAlias = npt.NDArray[np.uint16]

MOST: Final = 255
"""A word that is more often in a text counts as being there this often."""

LONGEST: Final = 65_535
"""A text with more words counts as having this many."""


class Indexing(StrEnum):
    """What is indexed of documents: three-byte strings with runs of letters, and words; the former alone; or nothing."""

    FULL = "full"
    GRAMS = "grams"
    NONE = "none"


@dataclass(frozen=True, slots=True, eq=False)
class Postings:
    """Where each key is: at places[starts[i] : starts[i + 1]] for keys[i].

    keys    [m] uint64, ascending, each once
    starts  [m + 1] int64
    places  [p] uint16, ascending for each key
    counts  [p] uint8: how often it is there, at most MOST; None where nobody counts
    """

    keys: Keys
    starts: npt.NDArray[np.int64]
    places: Places
    counts: Counts | None = None


def grams(texts: Sequence[bytes], places: Places) -> Postings:
    """The three-byte strings of UTF-8 texts; a text has the place that ``places`` gives it, ascending.

    Cost  about 20 ns a byte; at most 24 bytes of memory a byte of text
    """
    parts, owners = _parts(texts, _cut_anywhere)
    at = places[owners]
    slices = [_grams_of(some, at[first : first + len(some)]) for first, some in _slices(parts)]
    if len(slices) == 1:
        return _grouped(slices[0])
    packed = np.sort(np.concatenate(slices), kind="stable")
    return _grouped(packed[_firsts(packed)])


def words(texts: Sequence[bytes], places: Places) -> tuple[Postings, Lengths]:
    """The words of UTF-8 texts by their hashes, and how many each text has, [len(texts)] uint16, at most LONGEST.

    A text of more than 16 MB is read in parts: where it has no space for 64 KB, a word may be cut in two.

    Cost  about 20 ns a byte, ten times that for texts beyond ASCII
    """
    slices, lengths = [], np.zeros(len(texts), np.int64)
    parts, of = _parts(texts, _cut_between_words)
    for first, some in _slices(parts):
        hashes, found_in = _words_of(some)
        owners = of[first : first + len(some)][found_in]
        lengths += np.bincount(owners, minlength=len(texts))
        slices.append(np.sort(hashes << _16 | places[owners]))
    packed = slices[0] if len(slices) == 1 else np.sort(np.concatenate(slices), kind="stable")
    return _grouped(packed, counted=True), np.minimum(lengths, LONGEST).astype(np.uint16)


def hashes(text: str) -> tuple[Keys, npt.NDArray[np.int64]]:
    """The distinct words of one text, as what ``words`` makes of them, and how often each is there."""
    found, _ = _words_of([text.encode(errors="replace")])
    return np.unique(found, return_counts=True)


_16: Final = np.uint64(16)
_SLICE: Final = 16 << 20
"""Bytes of text that are worked on at once."""
_WINDOW: Final = 1 << 16


def _parts(texts: Sequence[bytes], cut: Callable[[bytes], Iterator[bytes]]) -> tuple[Sequence[bytes], npt.NDArray[np.int64]]:
    """The texts, very long ones cut, and which text each is of."""
    if max(map(len, texts), default=0) <= _SLICE:
        return texts, np.arange(len(texts))
    parts = [list(cut(text)) if len(text) > _SLICE else [text] for text in texts]
    return [part for some in parts for part in some], np.repeat(np.arange(len(texts)), list(map(len, parts)))


def _cut_anywhere(text: bytes) -> Iterator[bytes]:
    """Parts that have two bytes in common, so that every three-byte string is in one."""
    for first in range(0, len(text) - 2, _SLICE):
        yield text[first : first + _SLICE + 2]


def _cut_between_words(text: bytes) -> Iterator[bytes]:
    _, in_words = _ascii_tables()
    first = 0
    while len(text) - first > _SLICE:
        stop = first + _SLICE
        window = np.frombuffer(text[max(stop - _WINDOW, first + 1) : stop], np.uint8)
        between = np.flatnonzero((window < 128) & ~in_words[window])
        if len(between):
            stop += int(between[-1]) + 1 - len(window)
        while stop > first + 1 and text[stop] & 0xC0 == 0x80:
            stop -= 1
        yield text[first:stop]
        first = stop
    yield text[first:]


def _slices(texts: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Runs of texts that are not too long together, and where each begins; at least one."""
    ends = list(accumulate(map(len, texts)))
    first = 0
    while True:
        limit = (ends[first - 1] if first else 0) + _SLICE
        stop = len(texts) if not ends or ends[-1] <= limit else max(first + 1, int(np.searchsorted(ends, limit, "right")))
        yield first, texts if stop - first == len(texts) else texts[first:stop]
        first = stop
        if first >= len(texts):
            return


def _grams_of(texts: Sequence[bytes], places: Places) -> Keys:
    """Each (key << 16 | place) once, ascending."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    # Two bytes behind each text keep strings from running over its end.
    data = np.frombuffer(b"\xff\xff".join([*texts, b""]), np.uint8)
    if not len(data):
        return np.empty(0, np.uint64)
    codes = data[:-2].astype(np.uint32) << 16
    codes |= data[1:-1].astype(np.uint32) << 8
    codes |= data[2:]
    packed = codes.astype(np.uint64) << _16
    packed |= np.repeat(places, lengths + 2)[: len(packed)]
    # No UTF-8 text has the byte 0xFF.
    ends = np.cumsum(lengths + 2)
    inside = np.ones(len(packed), np.bool_)
    inside[ends[:-1] - 1] = inside[ends[:-1] - 2] = False
    inside[(ends - 3)[lengths > 0]] = inside[(ends - 4)[lengths > 1]] = False
    packed = packed[inside]
    packed.sort()
    return packed[_firsts(packed)]


def _words_of(texts: Sequence[bytes]) -> tuple[Keys, npt.NDArray[np.int64]]:
    """The hashes of all words, in any order, and which text each is of."""
    plain = [at for at, text in enumerate(texts) if text.isascii()]
    if len(plain) == len(texts):
        return _hashed(*_ascii(texts))
    found = [_hashed(*_ascii([texts[at] for at in plain]))] if plain else []
    beyond = sorted(set(range(len(texts))).difference(plain))
    found += [(part, owners) for part, owners in _beyond([texts[at] for at in beyond])]
    numbers = [np.array(plain, np.int64)] * bool(plain) + [np.array(beyond, np.int64)] * (len(found) - bool(plain))
    return (
        np.concatenate([part for part, _ in found]),
        np.concatenate([number[owners] for number, (_, owners) in zip(numbers, found, strict=True)]),
    )


def _ascii(texts: Sequence[bytes]) -> tuple[Keys, npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """The characters of texts with a space behind each: their values, which belong to words, and where each text ends."""
    values, in_words = _ascii_tables()
    data = np.frombuffer(b" ".join([*texts, b""]), np.uint8)
    return values[data], in_words[data], np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)


def _beyond(texts: Sequence[bytes]) -> Iterator[tuple[Keys, npt.NDArray[np.int64]]]:
    """The hashes of the words of texts beyond ASCII, and which text each is of: words between spaces, characters, pairs."""
    lowered = [text.decode(errors="replace").lower() for text in texts]
    codes = np.frombuffer(" ".join([*lowered, ""]).encode("utf-32-le", "replace"), np.uint32)
    ends = np.cumsum(np.fromiter(map(len, lowered), np.int64, len(lowered)) + 1)
    distinct, at = _distinct(codes)
    sorts = np.fromiter(map(_sort, distinct.tolist()), np.uint8, len(distinct))[at]
    values = _mixed(distinct.astype(np.uint64))[at]
    yield _hashed(values, sorts == _WORD, ends)
    alone = np.flatnonzero(sorts == _UNSPACED)
    yield values[alone] >> _16, np.searchsorted(ends, alone, "right")
    pairs = alone[:-1][np.diff(alone) == 1]
    yield (values[pairs] + values[pairs + 1] * _BASE) >> _16, np.searchsorted(ends, pairs, "right")


def _distinct(codes: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The different characters, and which of them each one is."""
    if len(codes) < _FEW:
        return np.unique(codes, return_inverse=True)
    place = np.zeros(int(codes.max()) + 1, np.int32)
    place[codes] = 1
    distinct = np.flatnonzero(place)
    place[distinct] = np.arange(len(distinct))
    return distinct, place[codes]


def _hashed(values: Keys, in_words: npt.NDArray[np.bool_], ends: npt.NDArray[np.int64]) -> tuple[Keys, npt.NDArray[np.int64]]:
    """The hash of each run of characters in words: the upper 48 bits of sum(value[i] * BASE ** i); and the text it is in."""
    edges = np.flatnonzero(np.diff(in_words, prepend=False, append=False))
    starts, stops = edges[::2], edges[1::2]
    if not len(starts):
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    lengths = stops - starts
    chars = np.flatnonzero(in_words)
    firsts = np.cumsum(lengths) - lengths
    within = np.arange(len(chars)) - np.repeat(firsts, lengths)
    sums = np.add.reduceat(values[chars] * _powers(int(lengths.max()))[within], firsts)
    return sums >> _16, np.searchsorted(ends, starts, "right")


def _grouped(packed: Keys, counted: bool = False) -> Postings:
    """Postings from ascending (key << 16 | place); ``counted``: how often each occurs counts, else each occurs once."""
    counts = None
    if counted:
        firsts = np.flatnonzero(_firsts(packed))
        counts = np.minimum(np.diff(np.append(firsts, len(packed))), MOST).astype(np.uint8)
        packed = packed[firsts]
    keys = packed >> _16
    starts = np.flatnonzero(_firsts(keys))
    return Postings(keys[starts], np.append(starts, len(keys)), packed.astype(np.uint16), counts)


def _firsts(ascending: Keys) -> npt.NDArray[np.bool_]:
    """Where a value differs from the one before it."""
    first = np.ones(len(ascending), np.bool_)
    np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
    return first


_BASE: Final = np.uint64(0x9E3779B97F4A7C15)
_FEW: Final = 4_096
"""Characters up to which sorting them is faster than a table of all there are."""
_BETWEEN, _WORD, _UNSPACED = range(3)
_UNSPACED_RANGES: Final = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),
    (0x3040, 0x312F),  # kana, Bopomofo
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),
)


@cache
def _sort(code: int) -> int:
    """What a character is to words."""
    kind = category(chr(code))
    if kind[0] not in "LMN" and kind != "Pc":
        return _BETWEEN
    return _UNSPACED if any(first <= code <= last for first, last in _UNSPACED_RANGES) else _WORD


@cache
def _ascii_tables() -> tuple[Keys, npt.NDArray[np.bool_]]:
    """[256] each: the value of a character's lower case, and whether it belongs to words."""
    codes = np.arange(256, dtype=np.uint64)
    codes[ord("A") : ord("Z") + 1] += np.uint64(32)
    return _mixed(codes), np.array([code < 128 and _sort(code) == _WORD for code in range(256)])


def _mixed(codes: Keys) -> Keys:
    """A number of 64 bits that look random for each character.  Source: splitmix64, S. Vigna (public domain)."""
    state = (codes + np.uint64(1)) * _BASE
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)


def _powers(n: int) -> Keys:
    """[n] BASE ** i modulo 2**64."""
    powers: Any = np.full(n, _BASE)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)
