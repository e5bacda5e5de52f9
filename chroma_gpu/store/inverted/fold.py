"""Taking rows into the inverted index, inside a write."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

import numpy as np

from chroma_gpu.records import Metadata
from chroma_gpu.roaring import CHUNK, Places
from chroma_gpu.store.encoding import DOCUMENTS, GRAMS, INVERTED, PENDING, RECORDS, TEXTS, WORDS, Summary, pack_row, row_of
from chroma_gpu.store.inverted import texts
from chroma_gpu.store.inverted.layout import chunks_of, opened
from chroma_gpu.store.inverted.metadata import Fields, Metadatas, put_values, values_of
from chroma_gpu.store.keyvalue import Transaction
from chroma_gpu.store.ledger import Ledger
from chroma_gpu.store.seal import unseal
from chroma_gpu.words import Indexing

FOLD_ROWS: Final = 4096
"""A write that finds this many rows outside of the index takes them in."""

MOST_BLOCKS: Final = 64
"""A chunk whose documents are in this many blocks is crowded, if they are twice as many as it was made of."""

_TEXT_BYTES: Final = 64 << 20
"""Documents that are indexed at once."""

FIRST_ADDED: Final = 1 << 15
"""Blocks of all documents of a chunk have numbers below this, those that were added since from this on."""

chunk_prefix: Final = struct.Struct(">H").pack


def due(summary: Summary, pending: int) -> bool:
    """Whether a write should fold, with so many rows pending."""
    return summary.rows - summary.folded + pending >= FOLD_ROWS


def fold(ledger: Ledger, indexing: Indexing = Indexing.FULL) -> None:
    """Take in the rows from ``folded`` on, and again those that were rewritten since they were taken in.

    Raises  CorruptRecord; the write does not happen then
    Cost    each record and document of these rows is read once; each key of the index that has to do with them is written once,
            and the blocks of numbers of their chunks. At most one chunk has its documents indexed anew, when its blocks have become
            too many. Nothing depends on the size of the table
    """
    summary, txn = ledger.summary, ledger.txn
    pending = list(txn.scan(PENDING))
    changed = {chunk: list(items) for chunk, items in groupby(pending, key=lambda item: row_of(item[0]) // CHUNK)}
    chunks = chunks_of(summary.rows)
    fresh = range(summary.folded // CHUNK, chunks) if summary.folded < summary.rows else ()
    fields = Fields(ledger)
    blocks = {chunk: _blocks(ledger, chunk) for chunk in sorted({*changed, *fresh})}
    # One at a time, so that no write has to pay for many.
    crowded = max(filter(lambda chunk: _is_crowded(blocks[chunk]), blocks), key=lambda chunk: len(blocks[chunk]), default=None)
    for chunk, there in blocks.items():
        rows = _fold_chunk(ledger, fields, chunk, changed.get(chunk, []))
        _fold_texts(ledger, chunk, rows, there, indexing, anew=chunk == crowded)
    fields.put()
    ledger.remove(PENDING, pending)
    summary.folded = summary.rows
    summary.folds += 1
    summary.changed += [0] * (chunks - len(summary.changed))
    for chunk in blocks:
        summary.changed[chunk] = summary.folds


def fold_anew(ledger: Ledger, indexing: Indexing = Indexing.FULL) -> None:
    """Drop the index, whatever is in it, and make it from the records.  Cost: every record and document is read"""
    for table in INVERTED:
        ledger.clear(table)
    ledger.summary.folded, ledger.summary.changed = 0, []
    fold(ledger, indexing)


def _fold_chunk(ledger: Ledger, fields: Fields, chunk: int, pending: list[tuple[bytes, bytes]]) -> list[int]:
    """Take in the metadata of the live rows of a chunk that are pending or new: which they are, ascending."""
    txn, summary = ledger.txn, ledger.summary
    start = max(summary.folded, chunk * CHUNK)
    stop = min(summary.rows, (chunk + 1) * CHUNK)
    read = Metadatas()
    known = {key: unseal(RECORDS, key, value) for key, value in txn.get_many(RECORDS, [key for key, _ in pending])}
    again = [
        (key, read.decoded(opened(PENDING, key, value)), read.of_record(known[key])) for key, value in pending if key in known
    ]
    rows = [row_of(key) for key, _, _ in again]
    before, now = _differences([old for _, old, _ in again], [new for _, _, new in again])
    if start < stop:
        for key, value in txn.scan(RECORDS, pack_row(start), stop=_end(stop)):
            rows.append(row_of(key))
            now.append(read.of_record(unseal(RECORDS, key, value)))
    places = places_of(rows)
    added = values_of(fields, chunk, places, now, read.sparse)
    removed = values_of(fields, chunk, places[: len(before)], before, read.sparse)
    put_values(ledger, fields, chunk, max(start - chunk * CHUNK, 0), added, removed)
    return rows


def _differences(
    before: list[Metadata | None], now: list[Metadata | None]
) -> tuple[list[Metadata | None], list[Metadata | None]]:
    """The same without what stayed."""
    gone: list[Metadata | None] = []
    new: list[Metadata | None] = []
    for old, given in zip(before, now, strict=True):
        had, has = old or {}, given or {}
        stay = {name for name, value in had.items() if name in has and _same(value, has[name])}
        gone.append({name: value for name, value in had.items() if name not in stay})
        new.append({name: value for name, value in has.items() if name not in stay})
    return gone, new


def _same(old: object, new: object) -> bool:
    """Whether two values are equal and of one type; True is not 1."""
    if type(old) is not type(new) or old != new:
        return False
    return not (isinstance(old, list) and isinstance(new, list)) or list(map(type, old)) == list(map(type, new))


def _blocks(ledger: Ledger, chunk: int) -> list[int]:
    """The numbers of the blocks of documents of a chunk, ascending."""
    return [int.from_bytes(key[-2:], "big") for key, _ in ledger.txn.scan(TEXTS, prefix=chunk_prefix(chunk), values=False)]


def _is_crowded(blocks: list[int]) -> bool:
    # Long documents are in many blocks however they are indexed.
    return len(blocks) >= max(MOST_BLOCKS, 2 * bisect_left(blocks, FIRST_ADDED))


def _fold_texts(ledger: Ledger, chunk: int, rows: list[int], blocks: list[int], indexing: Indexing, *, anew: bool) -> None:
    """Index the documents of some rows in new blocks of their chunk, or all documents of the chunk anew."""
    block = max(blocks[-1] + 1, FIRST_ADDED) if blocks and not anew else 0
    if anew:
        for table in (TEXTS, GRAMS, WORDS):
            ledger.remove(table, list(ledger.txn.scan(table, prefix=chunk_prefix(chunk))))
        start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, ledger.summary.rows)
        rows = [row_of(key) for key, _ in ledger.txn.scan(RECORDS, pack_row(start), stop=_end(stop), values=False)]
    for some, documents in batches(rows, _documents(ledger.txn, rows)):
        texts.put(ledger, texts.block_of(chunk, block, places_of(some), documents, indexing))
        block += 1


def batches(rows: Iterable[int], documents: Iterable[bytes | None]) -> Iterator[tuple[list[int], list[bytes | None]]]:
    """Rows with their documents, None for those without one, some megabytes at a time and one document more."""
    some: list[int] = []
    texts: list[bytes | None] = []
    size = 0
    for row, document in zip(rows, documents, strict=True):
        some.append(row)
        texts.append(document)
        size += len(document or b"")
        if size >= _TEXT_BYTES:
            yield some, texts
            some, texts, size = [], [], 0
    if some:
        yield some, texts


def _documents(txn: Transaction, rows: Iterable[int]) -> Iterator[bytes | None]:
    """One by one, however long they are."""
    for row in rows:
        key = pack_row(row)
        value = txn.get(DOCUMENTS, key)
        yield None if value is None else unseal(DOCUMENTS, key, value)


def places_of(rows: Sequence[int]) -> Places:
    """The places of rows of one chunk."""
    return np.array(rows, np.uint32).astype(np.uint16)


def _end(row: int) -> bytes | None:
    """The key past the rows below ``row``."""
    return pack_row(row) if row <= 0xFFFFFFFF else None
