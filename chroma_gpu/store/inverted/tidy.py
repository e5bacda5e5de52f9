"""Documents of a full chunk that were taken in bit by bit are taken in as one: a lookup then asks one block instead of many.

What takes time, indexing some 65,536 documents, is done outside of any transaction; the write that puts it in place of the old
blocks finds out whether they are still the same.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Final, TypeAlias

import numpy as np

from chroma_gpu.records import Rows
from chroma_gpu.roaring import CHUNK
from chroma_gpu.store import Written
from chroma_gpu.store.encoding import GRAMS, RECORDS, TEXTS, WORDS, Change, Summary, pack_row, row_of
from chroma_gpu.store.inverted.fold import FIRST_ADDED, chunk_prefix
from chroma_gpu.store.inverted.layout import opened
from chroma_gpu.store.inverted.texts import FLAGS, Block, put
from chroma_gpu.store.keyvalue import Transaction
from chroma_gpu.store.ledger import Ledger
from chroma_gpu.words import Indexing

CROWD: Final = 4
"""Blocks from which on a chunk is worth it, if they are twice as many as it was made of."""

MOST_PAGES: Final = 100_000
"""Pages of three-byte strings, some 2 kB each, past which a chunk is left as it is: its documents are so long that reading them counts."""

Items: TypeAlias = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, eq=False)
class Crowded:
    """A chunk whose documents are in many blocks, the keys and values of these in the table of blocks, and its live rows."""

    chunk: int
    blocks: Items
    rows: Rows


def crowded(txn: Transaction, folded: int, indexing: Indexing) -> Crowded | None:
    """The first crowded chunk of those that are full and were taken in as they would be now.  Cost: one key for each block"""
    for chunk, items in groupby(txn.scan(TEXTS), key=lambda item: int.from_bytes(item[0][:2], "big")):
        if (chunk + 1) * CHUNK > folded:
            return None
        blocks = list(items)
        made_of = bisect_left([int.from_bytes(key[2:], "big") for key, _ in blocks], FIRST_ADDED)
        alike = all(FLAGS[indexing] == flags for flags in _flags(blocks))
        if alike and len(blocks) >= max(CROWD, 2 * made_of) and _pages(txn, chunk) <= MOST_PAGES:
            first = pack_row(chunk * CHUNK)
            keys = [key for key, _ in islice(txn.scan(RECORDS, first, prefix=first[:2], values=False), CHUNK)]
            return Crowded(chunk, blocks, np.fromiter(map(row_of, keys), np.uint32, len(keys)))
    return None


def replace(txn: Transaction, old: Crowded, new: list[Block]) -> tuple[Written, Summary]:
    """Put new blocks in the place of old ones, unless these have changed.  Can be run again after a rollback."""
    ledger = Ledger(txn)
    summary, prefix = ledger.summary, chunk_prefix(old.chunk)
    if list(txn.scan(TEXTS, prefix=prefix)) == old.blocks:
        for table in (TEXTS, GRAMS, WORDS):
            ledger.remove(table, list(txn.scan(table, prefix=prefix)))
        for block in new:
            put(ledger, block)
        summary.folds += 1
        ledger.finish(Change(summary.rows, summary.rows, b"", b""))
    return Written(summary.seq), summary


def _flags(blocks: Items) -> list[int]:
    return [opened(TEXTS, key, value)[0] for key, value in blocks]


def _pages(txn: Transaction, chunk: int) -> int:
    """How many pages of three-byte strings a chunk has, or one more than ``MOST_PAGES``."""
    return sum(1 for _ in islice(txn.scan(GRAMS, prefix=chunk_prefix(chunk), values=False), MOST_PAGES + 1))
