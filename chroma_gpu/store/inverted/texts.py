"""Documents in the inverted index: which rows may contain a text, and which rows have a word.

    texts  chunk u16, block u16            -> u8 whether it has grams (1), words (2) and a lexicon (4), container of the places that the
                                              block took in
    grams  chunk u16, block u16, page u32  -> three-byte strings and the places of the texts that have them, see pages; past them the
                                              runs of letters, see lexicon
    words  chunk u16, block u16, page u32  -> hashes of words, the places and how often each is there

A block is one taking in of some rows of a chunk and never changes. Where blocks of a chunk have a place in common, the last one
counts. Page 0 of a block is its directory: the first key of each further page as u64. The page LENGTHS of words has the lengths of the
texts in words, as u16 in the order of places. Integers are big-endian in keys, little-endian in payloads.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu import roaring, words
from chroma_gpu.errors import CorruptRecord
from chroma_gpu.records import Rows
from chroma_gpu.roaring import CHUNK, Places
from chroma_gpu.rowset import RowSet
from chroma_gpu.store.encoding import GRAMS, TEXTS, WORDS
from chroma_gpu.store.inverted.layout import REPAIR, opened
from chroma_gpu.store.inverted.lexicon import Lexicon, is_run, lexicon
from chroma_gpu.store.inverted.pages import Entry, cut, find
from chroma_gpu.store.keyvalue import Transaction
from chroma_gpu.store.ledger import Ledger
from chroma_gpu.words import Counts, Indexing, Keys, Lengths, Postings

LENGTHS: Final = 0xFFFFFFFF


Block: TypeAlias = Sequence[tuple[str, list[tuple[bytes, bytes]]]]
"""Tables, and what is put into each of them: keys, ascending, and payloads."""


def block_of(chunk: int, block: int, places: Places, texts: Sequence[bytes | None], indexing: Indexing = Indexing.FULL) -> Block:
    """The block of the texts of some rows of a chunk; None for a row without one.

    block   above every other block of the chunk
    places  [len(texts)] uint16, ascending
    Cost    about 110 ns a byte of text, two thirds without words
    """
    have = [at for at, text in enumerate(texts) if text is not None]
    there = [text for text in texts if text is not None]
    at = places if len(there) == len(places) else places[have]
    flags = FLAGS[indexing]
    tables = [(TEXTS, [(_block_key(chunk, block), bytes([flags]) + roaring.encoded(places))])]
    if flags & _GRAMS:
        pages = _pages(chunk, block, words.grams(there, at), _WIDTHS[GRAMS])
        tables.append((GRAMS, pages + [(_page_key(chunk, block, page), payload) for page, payload in lexicon(there, at)]))
    if flags & _WORDS:
        postings, counted = words.words(there, at)
        lengths = np.zeros(len(places), "<u2")
        lengths[have] = counted
        own = (_page_key(chunk, block, LENGTHS), lengths.tobytes())
        tables.append((WORDS, [*_pages(chunk, block, postings, _WIDTHS[WORDS]), own]))
    return tables


def put(ledger: Ledger, block: Block) -> None:
    """Take a block in."""
    for table, pairs in block:
        last = ledger.txn.last(table)
        (ledger.append if last is None or last < pairs[0][0] else ledger.insert)(table, pairs)


def containing(txn: Transaction, rows: int, grams: Sequence[bytes]) -> RowSet:
    """The rows below ``rows`` whose text may have every one of some three-byte strings, and those of which that is not known.

    Where the first strings leave few texts of a block, the others are not asked: reading these texts costs less.
    Cost  some 30 µs a block, less where a string is missing
    """
    wanted = _wanted(grams)
    found = RowSet.full(-(-rows // CHUNK) * CHUNK).words
    for chunk, block, flags, container in _blocks(txn):
        part = found[chunk * roaring.WORDS : (chunk + 1) * roaring.WORDS]
        if len(part):
            if not flags & _GRAMS:
                roaring.mark(container, part)
                continue
            part &= ~_bitmap(container)
            _mark(_with_all(txn, chunk, block, wanted) if wanted else roaring.decoded(container), part)
    return RowSet(found, len(found) * 64).resized(rows)


def containing_text(txn: Transaction, rows: int, text: bytes) -> tuple[RowSet, RowSet]:
    """The rows below ``rows`` of which it is known that a text of one byte or more is in theirs, and these with those that may have it.

    Of a text of three bytes, all is known. Where its three-byte strings leave many texts of a block, the runs of letters decide if it
    is one itself; there the two are equal but for texts with very long runs.

    Cost  some 30 µs a block, and where runs are looked at 1 ns for each byte of them: less than reading the texts would cost
    """
    grams = _wanted([text[at : at + _GRAM] for at in range(len(text) - _GRAM + 1)])
    grams = grams[:: -(-len(grams) // _MOST_GRAMS) or 1]
    in_run = is_run(text)
    may = RowSet.full(-(-rows // CHUNK) * CHUNK).words
    have = np.zeros_like(may)
    for chunk, block, flags, container in _blocks(txn):
        lower, upper = (words[chunk * roaring.WORDS : (chunk + 1) * roaring.WORDS] for words in (have, may))
        if not len(upper):
            continue
        others = ~_bitmap(container)
        lower &= others
        if not flags & _GRAMS:
            roaring.mark(container, upper)
            continue
        upper &= others
        has_runs = in_run and bool(flags & _LEXICON)
        hits = _with_all(txn, chunk, block, grams[:_AT_ONCE] if has_runs else grams) if grams else roaring.decoded(container)
        if len(text) == _GRAM:
            _mark(hits, lower)
        elif has_runs and len(hits) > _FEW:
            runs = Lexicon.of(txn, _block_key(chunk, block)) if len(hits) > _FEW_TEXTS else None
            if runs is not None and len(hits) > _FEW_TEXTS + runs.size // _TEXT:
                _mark(runs.containing(txn, text), lower)
                hits = np.intersect1d(hits, runs.too_long, assume_unique=True)
            elif len(grams) > _AT_ONCE:
                hits = _with_all(txn, chunk, block, grams[_AT_ONCE:], hits)
        _mark(hits, upper)
    may |= have
    return _rowset(have).resized(rows), _rowset(may).resized(rows)


def taken(txn: Transaction, rows: int) -> RowSet:
    """The rows below ``rows`` that some block has, whatever it has taken in of them."""
    found = np.zeros(-(-rows // CHUNK) * roaring.WORDS, np.uint64)
    for chunk, _, _, container in _blocks(txn):
        if chunk * CHUNK < rows:
            roaring.mark(container, found[chunk * roaring.WORDS : (chunk + 1) * roaring.WORDS])
    return RowSet(found, len(found) * 64).resized(rows)


def word_postings(txn: Transaction, rows: int, hashes: Keys) -> list[tuple[Rows, Counts]]:
    """For each word the rows below ``rows`` that have it, ascending, and how often each has it.

    hashes  [n] uint64, ascending, as ``words.hashes`` gives them
    Cost    some 20 µs a block, and 3 bytes a posting are read
    """
    found: list[list[tuple[Rows, Counts]]] = [[] for _ in hashes]
    wanted: list[int] = hashes.tolist()
    for chunk, block, flags, places, superseded in _latest(txn):
        if not flags & _WORDS or not len(places) or chunk * CHUNK >= rows:
            continue
        for at, entry in _found(txn, WORDS, chunk, block, wanted, _page(txn, WORDS, chunk, block, 0)):
            some = entry.places()
            counts = np.ones(len(some), np.uint8) if entry.counts is None else entry.counts
            counting = slice(None) if superseded is None else ~superseded[some]
            found[at].append((some[counting].astype(np.uint32) + np.uint32(chunk * CHUNK), counts[counting]))
    return [_together(parts, rows) for parts in found]


def lengths(txn: Transaction, rows: int) -> tuple[Lengths, RowSet]:
    """[rows] uint16: how many words each row has, 0 where it has none or they were not taken in; and the rows of the latter sort.

    Cost  2 bytes a row are read
    """
    found = np.zeros(-(-rows // CHUNK) * CHUNK, np.uint16)
    unknown = np.ones(len(found), np.bool_)
    for chunk, block, flags, container in _blocks(txn):
        if chunk * CHUNK >= rows:
            break
        at = roaring.decoded(container) + np.int64(chunk * CHUNK)
        unknown[at] = not flags & _WORDS
        if flags & _WORDS:
            found[at] = np.frombuffer(_page(txn, WORDS, chunk, block, LENGTHS), "<u2")
        else:
            found[at] = 0
    return found[:rows].copy(), RowSet.where(unknown[:rows])


_GRAMS, _WORDS, _LEXICON = 1, 2, 4
_AT_ONCE: Final = 2
"""Strings that are looked up in a block at once, ..."""
_FEW: Final = 8
"""... and the texts that are read rather than looked up any further."""

_FEW_TEXTS: Final = 64
"""Texts that are read rather than runs looked at, and ..."""
_TEXT: Final = 2048
"""... bytes of runs that are looked at in the time of reading one text."""

_MANY: Final = 1_024
"""Places that are faster marked by a pass over all flags."""

_GRAM: Final = 3
_MOST_GRAMS: Final = 8
"""Strings that are looked up for one text, spread over it."""

FLAGS: Final = {Indexing.FULL: _GRAMS | _LEXICON | _WORDS, Indexing.GRAMS: _GRAMS | _LEXICON, Indexing.NONE: 0}

_block_key: Final = struct.Struct(">HH").pack
_page_key: Final = struct.Struct(">HHI").pack
_WIDTHS: Final = {GRAMS: 4, WORDS: 8}


def _pages(chunk: int, block: int, postings: Postings, width: int) -> list[tuple[bytes, bytes]]:
    """The directory and the pages of a block."""
    firsts, pages = cut(postings, width)
    payloads = (firsts.astype("<u8").tobytes(), *pages)
    return [(_page_key(chunk, block, page), payload) for page, payload in enumerate(payloads)]


def _blocks(txn: Transaction) -> Iterator[tuple[int, int, int, bytes]]:
    """(chunk, block, flags, container of its places), ascending."""
    for key, value in txn.scan(TEXTS):
        payload = opened(TEXTS, key, value)
        yield int.from_bytes(key[:2], "big"), int.from_bytes(key[2:], "big"), payload[0], payload[1:]


def _latest(txn: Transaction) -> list[tuple[int, int, int, Places, npt.NDArray[np.bool_] | None]]:
    """(chunk, block, flags, places, which places of the chunk later blocks have; None if none of this block's)."""
    found = []
    seen, above = np.zeros(0, np.bool_), -1
    for chunk, block, flags, container in reversed(list(_blocks(txn))):
        places = roaring.decoded(container)
        if chunk != above:
            seen, above = np.zeros(CHUNK, np.bool_), chunk
        superseded = seen.copy() if seen[places].any() else None
        seen[places] = True
        found.append((chunk, block, flags, places, superseded))
    return found[::-1]


def _rowset(bits: roaring.Words) -> RowSet:
    return RowSet(bits, len(bits) * 64)


def _mark(places: Places, bits: roaring.Words) -> None:
    """Set the bits of some places, in any order."""
    if len(places) > _MANY:
        flags = np.zeros(CHUNK, np.bool_)
        flags[places] = True
        bits |= np.packbits(flags, bitorder="little").view(np.uint64)
    else:
        np.bitwise_or.at(bits, places >> 6, np.uint64(1) << (places & 63).astype(np.uint64))


def _bitmap(container: bytes) -> roaring.Words:
    bits = np.zeros(roaring.WORDS, np.uint64)
    roaring.mark(container, bits)
    return bits


def _wanted(grams: Sequence[bytes]) -> list[int]:
    """The keys of three-byte strings, in the order in which they are looked up."""
    wanted = list(dict.fromkeys(int.from_bytes(gram, "big") for gram in grams))
    wanted[1:] = wanted[:0:-1]  # the first and the last have least in common
    return wanted


def _with_all(txn: Transaction, chunk: int, block: int, wanted: list[int], hits: Places | None = None) -> Places:
    """The places of a block, or of some of them, that have every key, or, once they are few, some more."""
    directory = _page(txn, GRAMS, chunk, block, 0)
    for first in range(0, len(wanted), _AT_ONCE):
        part = sorted(wanted[first : first + _AT_ONCE])
        entries = [entry for _, entry in _found(txn, GRAMS, chunk, block, part, directory)]
        if len(entries) < len(part):
            return _NOWHERE
        for entry in sorted(entries, key=lambda entry: entry.size):
            hits = entry.places() if hits is None else entry.among(hits)
            if not len(hits):
                return _NOWHERE
        if hits is not None and len(hits) <= _FEW:
            break
    return _NOWHERE if hits is None else hits


def _found(
    txn: Transaction, table: str, chunk: int, block: int, wanted: list[int], directory: bytes
) -> Iterator[tuple[int, Entry]]:
    """(which of the wanted keys, its postings) for those that a block has, ascending."""
    firsts = memoryview(directory).cast("Q")
    pages = [bisect_right(firsts, each) for each in wanted]
    values = dict(txn.get_many(table, [_page_key(chunk, block, page) for page in sorted(set(pages) - {0})]))
    open_page, payload = 0, b""
    for at, (each, page) in enumerate(zip(wanted, pages, strict=True)):
        if page == 0:
            continue
        if page != open_page:
            key = _page_key(chunk, block, page)
            open_page, payload = page, _opened(table, key, values.get(key))
        found = find(payload, each, _WIDTHS[table])
        if found is not None:
            yield at, found


def _page(txn: Transaction, table: str, chunk: int, block: int, page: int) -> bytes:
    key = _page_key(chunk, block, page)
    return _opened(table, key, txn.get(table, key))


def _opened(table: str, key: bytes, value: bytes | None) -> bytes:
    """The payload of a page that must be there.  Raises CorruptRecord"""
    if value is None:
        raise CorruptRecord(f"the value of {key!r} in table {table} is missing.", hint=REPAIR)
    return opened(table, key, value)


def _together(parts: list[tuple[Rows, Counts]], rows: int) -> tuple[Rows, Counts]:
    """The postings of all blocks, ascending, those below ``rows``."""
    if not parts:
        return np.empty(0, np.uint32), np.empty(0, np.uint8)
    found, counts = np.concatenate([some for some, _ in parts]), np.concatenate([each for _, each in parts])
    if bool((found[1:] < found[:-1]).any()):
        order = np.argsort(found)
        found, counts = found[order], counts[order]
    end = int(np.searchsorted(found, rows))
    return found[:end], counts[:end]


_NOWHERE: Final[Places] = np.empty(0, np.uint16)
