"""One write transaction on the tables of a store, which keeps the counts, digests and the log of changes true."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from chroma_gpu.records import Rows
from chroma_gpu.store.encoding import (
    CHANGES,
    CHUNK_ROWS,
    DEAD,
    STATE,
    STATE_KEY,
    SUMMED,
    Change,
    encode,
    pack_row,
    pack_seq,
    read_summary,
    row_of,
)
from chroma_gpu.store.keyvalue import Transaction
from chroma_gpu.store.seal import checksum, seal, seal_all, unseal

LOG_ENTRIES: Final = 4096
LOG_BYTES: Final = 64 << 20

_MODULUS: Final = 1 << 64


class Ledger:
    """The tables as a write changes them. Every key is written at most once.

    ``summary`` is the state to be committed: its users set rows, live and dim, the rest is kept here.
    """

    def __init__(self, txn: Transaction) -> None:
        self.txn = txn
        self.summary = read_summary(txn)

    def insert(self, table: str, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Put (key, payload) pairs under new keys."""
        sealed, total = seal_all(pairs)
        self.txn.put_many(table, sealed)
        self._add(table, len(sealed), total)

    def append(self, table: str, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """The same for keys that ascend above the last one of the table."""
        sealed, total = seal_all(pairs)
        self.txn.append(table, sealed)
        self._add(table, len(sealed), total)

    def replace(self, table: str, key: bytes, payload: bytes, old: bytes | None) -> None:
        """Put a payload in place of the sealed value ``old``, or under a new key if that is None."""
        value = seal(key, payload)
        self.txn.put(table, key, value)
        if old is None:
            self._add(table, 1, checksum(value))
        else:
            self._add(table, 0, checksum(value) - checksum(old))

    def replace_many(self, table: str, items: Iterable[tuple[bytes, bytes, bytes | None]]) -> None:
        """``replace`` for many (key, payload, sealed value that it takes the place of, or None); fastest in ascending order."""
        sealed, count, total = [], 0, 0
        for key, payload, old in items:
            value = seal(key, payload)
            total += checksum(value)
            if old is None:
                count += 1
            else:
                total -= checksum(old)
            sealed.append((key, value))
        self.txn.put_many(table, sealed)
        self._add(table, count, total)

    def clear(self, table: str) -> None:
        """Delete every key, readable or not."""
        self.txn.clear(table)
        at = SUMMED.index(table)
        self.summary.counts[at] = self.summary.digests[at] = 0

    def count(self, table: str) -> int:
        """How many keys a table has."""
        return self.summary.counts[SUMMED.index(table)]

    def remove(self, table: str, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Delete keys, given with their sealed values."""
        count = total = 0
        for key, value in items:
            self.txn.delete(table, key)
            count += 1
            total += checksum(value)
        self._add(table, -count, -total)

    def bury(self, rows: Rows) -> None:
        """Mark rows as dead."""
        chunks = rows // CHUNK_ROWS
        for chunk in np.unique(chunks).tolist():
            key = pack_row(chunk)
            old = self.txn.get(DEAD, key)
            bits = np.zeros(CHUNK_ROWS, np.bool_)
            if old is not None:
                bits = np.unpackbits(np.frombuffer(unseal(DEAD, key, old), np.uint8), bitorder="little").view(np.bool_)
            bits[rows[chunks == chunk] % CHUNK_ROWS] = True
            self.replace(DEAD, key, np.packbits(bits, bitorder="little").tobytes(), old)

    def finish(self, change: Change) -> None:
        """Log what the write did and put the new state, last."""
        summary = self.summary
        summary.seq += 1
        payload = encode(change)
        self.append(CHANGES, [(pack_seq(summary.seq), payload)])
        summary.log_bytes += len(payload)
        self._trim()
        self.txn.put(STATE, STATE_KEY, seal(STATE_KEY, encode(summary)))

    def _trim(self) -> None:
        """Forget the oldest changes, many at a time, so that most writes forget none."""
        summary = self.summary
        if summary.seq - summary.log_first < LOG_ENTRIES * 17 // 16 and summary.log_bytes <= LOG_BYTES:
            return
        old = []
        keep = summary.seq + 1 - LOG_ENTRIES
        for key, value in self.txn.scan(CHANGES):
            if row_of(key) >= keep and summary.log_bytes <= LOG_BYTES // 2:
                break
            old.append((key, value))
            summary.log_bytes -= len(unseal(CHANGES, key, value))
            summary.log_first += 1
        self.remove(CHANGES, old)

    def _add(self, table: str, count: int, total: int) -> None:
        at = SUMMED.index(table)
        self.summary.counts[at] += count
        self.summary.digests[at] = (self.summary.digests[at] + total) % _MODULUS
