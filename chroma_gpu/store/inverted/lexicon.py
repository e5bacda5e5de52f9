"""The runs of letters in the documents of a block, as they are spelled: a part of a word is looked up in them, and no document is read.

A run is a longest stretch of ASCII letters, digits and underscores and of characters from U+00C0 to U+1FFF (Latin, Greek, Cyrillic,
Hebrew, Arabic, Devanagari, ...) and from U+A000 to U+D7FF (Hangul, ...). Whatever else there is, Han and kana among it, lies between
runs. So a text that consists of such characters is in a document exactly if it is in one of the document's runs. Runs of more than
LONGEST bytes are not kept: it is known which documents have one, and these are candidates.

It is part of table grams, in pages past those of the three-byte strings. Runs of one length that are in equally many documents are a
group. Groups ascend by length, then by count, and runs are numbered in this order; so what cannot contain a text for being shorter is
not read, and where a text was found says in which run. Places are in the order of groups by count, then by length: those of rare runs,
which most are, lie together.

    DIRECTORY   u32 n groups, u32 m pages of runs, n u32 how many runs a group has, n u16 in how many documents each is, less 1, n u8 how
                long they are, m u32 the first run of each page, and the container of the places with a run that was too long
    RUNS + i    runs with a space behind each
    PLACES + i  u16 each: PAGE_PLACES of the places of all runs, one run after the other

All of it little-endian.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu import roaring
from chroma_gpu.roaring import Places
from chroma_gpu.store.encoding import GRAMS
from chroma_gpu.store.inverted.layout import opened, opened_view
from chroma_gpu.store.keyvalue import Transaction

LONGEST: Final = 64
"""Bytes of the longest run that is kept. Longer ones are hashes and data, of which nobody asks for a part."""

DIRECTORY: Final = 0x8000_0000
"""The first page past those of three-byte strings."""
RUNS: Final = DIRECTORY + 1
PLACES: Final = 0xC000_0000

PAGE_RUNS: Final = 16 * 4096 - 64
"""Bytes of runs in a page: with key and seal, sixteen of LMDB's; ..."""
PAGE_PLACES: Final = (4 * 4096 - 64) // 2
"""... and places in one: four."""

_Ints: TypeAlias = npt.NDArray[np.int64]


def is_run(text: bytes) -> bool:
    """Whether a text consists of characters of runs alone; it has at least one."""
    return _RUN.fullmatch(text) is not None


def lexicon(texts: Sequence[bytes], places: Places) -> list[tuple[int, bytes]]:
    """The pages, ascending, of the runs of UTF-8 texts; a text has the place that ``places`` gives it, ascending.

    Cost  about 25 ns a byte; each run of a text takes 16 bytes of memory, each distinct one some 150
    """
    numbers: defaultdict[bytes, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    found: list[int] = []
    ends = []
    for text in texts:
        found += map(numbers.__getitem__, set(runs_of(text)))
        ends.append(len(found))
    at, runs = np.array(found, np.int64), list(numbers)
    owners = places.repeat(np.diff(ends, prepend=0)) if ends else places
    counts, lengths = np.bincount(at, minlength=len(runs)), np.fromiter(map(len, runs), np.int64, len(runs))
    short = lengths <= LONGEST
    too_long = np.unique(owners[~short[at]])
    kept = np.flatnonzero(short)
    ordered = kept[np.lexsort((counts[kept], lengths[kept]))]
    by_count = kept[np.lexsort((lengths[kept], counts[kept]))]
    rank = np.empty(len(runs), np.int64)
    rank[by_count] = np.arange(len(by_count))
    counted = short[at]
    packed = rank[at[counted]] << 16 | owners[counted]
    packed.sort()
    flat = packed.astype("<u2")
    firsts = _cut(np.cumsum(lengths[ordered] + 1))
    groups, often = np.unique(lengths[ordered] << 16 | counts[ordered] - 1, return_counts=True)
    directory = (
        _HEAD.pack(len(groups), len(firsts)),
        often.astype("<u4").tobytes(),
        groups.astype("<u2").tobytes(),
        (groups >> 16).astype(np.uint8).tobytes(),
        np.array(firsts, "<u4").tobytes(),
        roaring.encoded(too_long),
    )
    pages = [(DIRECTORY, b"".join(directory))]
    for page, (first, stop) in enumerate(pairwise([*firsts, len(ordered)])):
        pages.append((RUNS + page, b" ".join([*(runs[number] for number in ordered[first:stop].tolist()), b""])))
    for page, first in enumerate(range(0, len(flat), PAGE_PLACES)):
        pages.append((PLACES + page, flat[first : first + PAGE_PLACES].tobytes()))
    return pages


@dataclass(frozen=True, slots=True, eq=False)
class Lexicon:
    """The runs of one block.

    size      bytes of all runs
    too_long  the places of documents of which not all runs are known
    counts    [n] in how many documents each run of a group is
    lengths   [n] how long it is, and the space behind it
    runs      [n] the first run of a group
    starts    [n + 1] where it is in the bytes of all runs; places: [n] where its first place is
    firsts    [m] the first run of each page
    """

    size: int
    too_long: Places
    _prefix: bytes
    _counts: _Ints
    _lengths: _Ints
    _runs: _Ints
    _starts: _Ints
    _places: _Ints
    _firsts: _Ints

    @classmethod
    def of(cls, txn: Transaction, prefix: bytes) -> Lexicon:
        """That of the block whose keys begin with ``prefix``.  Raises CorruptRecord"""
        key = prefix + _u32(DIRECTORY)
        payload = opened(GRAMS, key, txn.get(GRAMS, key))
        n, m = _HEAD.unpack_from(payload)
        often = np.frombuffer(payload, "<u4", n, _HEAD.size).astype(np.int64)
        counts = np.frombuffer(payload, "<u2", n, _HEAD.size + 4 * n).astype(np.int64) + 1
        lengths = np.frombuffer(payload, np.uint8, n, _HEAD.size + 6 * n).astype(np.int64) + 1
        firsts = np.frombuffer(payload, "<u4", m, _HEAD.size + 7 * n).astype(np.int64)
        ends = np.cumsum(often * lengths)
        by_count = np.argsort(counts, kind="stable")
        places = np.empty(n, np.int64)
        places[by_count] = np.cumsum((often * counts)[by_count])
        return cls(
            int(ends[-1]) if n else 0,
            roaring.decoded(payload[_HEAD.size + 7 * n + 4 * m :]),
            prefix,
            counts,
            lengths,
            np.cumsum(often) - often,
            np.append(0, ends),
            places - often * counts,
            firsts,
        )

    def containing(self, txn: Transaction, text: bytes) -> Places:
        """The places of documents that have a run with a text in it, in any order, some more than once.

        text    one character or more, of which ``is_run`` holds
        Raises  CorruptRecord
        Cost    about 1 ns a byte of the runs that are no shorter, and 5 ns a place
        """
        group = int(np.searchsorted(self._lengths, len(text) + 1))
        if group == len(self._lengths):
            return _NOWHERE
        first = int(np.searchsorted(self._firsts, self._runs[group], "right")) - 1
        pages = self._read(txn, range(RUNS + first, RUNS + len(self._firsts)))
        starts = map(self._start, self._firsts[first:].tolist())
        at = np.concatenate([_found(page, text) + start for page, start in zip(pages, starts, strict=True)])
        groups = np.searchsorted(self._starts, at, "right") - 1
        runs = self._runs[groups] + (at - self._starts[groups]) // self._lengths[groups]
        new = np.diff(runs, prepend=-1) != 0
        return self._places_of(txn, runs[new], groups[new])

    def _start(self, run: int) -> int:
        """Where a run is in the bytes of all of them."""
        group = int(np.searchsorted(self._runs, run, "right")) - 1
        return int(self._starts[group] + (run - self._runs[group]) * self._lengths[group])

    def _places_of(self, txn: Transaction, runs: _Ints, groups: _Ints) -> Places:
        """The places of some runs, one run after the other."""
        if not len(runs):
            return _NOWHERE
        counts = self._counts[groups]
        starts = self._places[groups] + (runs - self._runs[groups]) * counts
        pages, lasts = starts // PAGE_PLACES, (starts + counts - 1) // PAGE_PLACES
        size = int(lasts.max()) + 2
        wanted = np.flatnonzero(np.cumsum(np.bincount(pages, minlength=size) - np.bincount(lasts + 1, minlength=size)))
        data = np.concatenate([np.frombuffer(page, "<u2") for page in self._read(txn, (PLACES + wanted).tolist())])
        # Pages that follow each other in the block do so here, and all but the last of the block are full.
        starts += (np.searchsorted(wanted, pages) - pages) * PAGE_PLACES
        total = int(counts.sum())
        if total * _MANY > len(data):
            edges = np.zeros(len(data) + 1, np.int8)
            edges[starts] = 1
            edges[starts + counts] -= 1
            return np.asarray(data[np.cumsum(edges[:-1], dtype=np.int8).view(np.bool_)])
        found: Places = data[np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(total)]
        return found

    def _read(self, txn: Transaction, pages: Sequence[int]) -> list[memoryview]:
        keys = [self._prefix + _u32(page) for page in pages]
        values = dict(txn.get_many(GRAMS, keys))
        return [opened_view(GRAMS, key, values.get(key)) for key in keys]


_RUN: Final = re.compile(rb"(?:[0-9A-Za-z_]|[\xc3-\xdf][\x80-\xbf]|[\xe0\xe1\xea-\xed][\x80-\xbf]{2})+")
_BETWEEN: Final = re.sub(rb"[^0-9A-Za-z_\x80-\xff]", b" ", bytes(range(256)))
"""What ``bytes.translate`` makes of a text, for ``bytes.split``. Which characters beyond ASCII are in runs shows only then."""

_HEAD: Final = struct.Struct("<II")
_u32: Final = struct.Struct(">I").pack
_COMMON: Final = b"zqjxkvbywgpfmucdlhrsnioate"
"""Letters, the most common last."""
_AT_ONCE: Final = 3
_MANY: Final = 2
"""Places are marked rather than picked one by one if they are more than one of so many."""
_NOWHERE: Final[Places] = np.empty(0, np.uint16)


def runs_of(text: bytes) -> list[bytes]:
    """The runs of a UTF-8 text, one after the other."""
    parts = text.translate(_BETWEEN).split()
    if text.isascii():
        return parts
    return [run for part in parts for run in ((part,) if part.isascii() else _RUN.findall(part))]


def _cut(ends: _Ints) -> list[int]:
    """The first run of each page; ``ends`` are those of the runs with a space behind each."""
    firsts: list[int] = []
    first = 0
    while first < len(ends):
        firsts.append(first)
        limit = (int(ends[first - 1]) if first else 0) + PAGE_RUNS
        first = max(first + 1, int(np.searchsorted(ends, limit, "right")))
    return firsts


def _found(runs: memoryview, text: bytes) -> _Ints:
    """Where a text begins, ascending. Its rarest bytes are looked for in all runs at once, the others where these are."""
    data = np.frombuffer(runs, np.uint8)
    size = len(data) - len(text) + 1
    rarest = sorted(range(len(text)), key=lambda at: _COMMON.find(text[at]))
    same = np.ones(max(size, 0), np.bool_)
    for at in rarest[:_AT_ONCE]:
        same &= data[at : size + at] == text[at]
    found: _Ints = np.flatnonzero(same)
    for at in rarest[_AT_ONCE:]:
        found = found[data[found + at] == text[at]]
    return found
