"""Reading everything: to prove that a store is sound, and to copy what is live."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final
from zlib import crc32

import numpy as np

from chroma_gpu.errors import CorruptRecord, InvalidArgumentError, StoreBusy, StoreError
from chroma_gpu.records import Column, Mode, Note, RecordBatch, Rows
from chroma_gpu.store import Store
from chroma_gpu.store.encoding import (
    BIRTHS,
    CHANGES,
    CHUNK_ROWS,
    DEAD,
    DOCUMENTS,
    IDS,
    INVERTED,
    MALFORMED,
    NOTES,
    RECORDS,
    SUMMED,
    Summary,
    decode_change,
    decode_note,
    decode_record,
    id_key,
    id_payload,
    read_summary,
    row_of,
)
from chroma_gpu.store.inverted.layout import REPAIR, opened
from chroma_gpu.store.inverted.verify import findings as index_findings
from chroma_gpu.store.keyvalue import KeyValue, Transaction
from chroma_gpu.store.seal import checksum, unseal
from chroma_gpu.store.vectors import VectorLog

_MOST_FINDINGS: Final = 1000
_COPIED_BYTES: Final = 32 << 20
_MOST_COPIED_ROWS: Final = 8192


def audit(keyvalue: KeyValue, vectors: VectorLog) -> list[str]:
    """Every inconsistency, the first thousand of them.  Cost: everything is read, in one snapshot; memory for a few bytes per row."""
    found = keyvalue.verify()
    if found:
        return [*found, "the tables were not read: walking through a damaged structure can end the process"]
    try:
        with keyvalue.read() as txn:
            found += islice(_Audit(txn, read_summary(txn), vectors).findings(), _MOST_FINDINGS)
    except StoreError as error:
        found.append(str(error))
    return found


def copy_live(source: Store, target: Store) -> None:
    """Write the live records of a store to an empty one, in insertion order, some megabytes at a time, and the notes.

    Raises   InvalidArgumentError if the target is not empty; StoreBusy if the source is written meanwhile: the copy is of no use then
    """
    if target.state().rows:
        raise InvalidArgumentError("the store to copy to is not empty.")
    state = source.state()
    if state.dim is not None:
        # The length stays fixed also when nothing is left to be copied.
        target.set_dim(state.dim)
    rows, columns = _insertion_order(source), frozenset(Column)
    start, count = 0, 64
    while start < len(rows):
        try:
            batch = source.read(rows[start : start + count], columns)
        except KeyError as error:
            raise _changed() from error
        target.write(batch, Mode.ADD)
        start += len(batch)
        count = min(max(count * _COPIED_BYTES // max(_size(batch), 1), 1), 4 * count, _MOST_COPIED_ROWS)
    for name in source.notes():
        target.write(RecordBatch([], note=Note(name, source.note(name))), Mode.ADD)
    target.fold()
    target.set_ops(source.totals().ops)
    if source.state().seq != state.seq:
        raise _changed()


def _insertion_order(source: Store) -> Rows:
    rows = source.live().rows()
    order = np.arange(source.state().rows, dtype=np.uint32)
    moved, births = source.births()
    order[moved] = births
    sorted_rows: Rows = rows[np.argsort(order[rows], kind="stable")]
    return sorted_rows


def _size(batch: RecordBatch) -> int:
    """Roughly the bytes of a batch."""
    vectors = 0 if batch.vectors is None else batch.vectors.nbytes
    return vectors + sum(len(document or "") for document in batch.documents or ())


def _changed() -> StoreBusy:
    return StoreBusy("the store was written while it was copied.", hint="Copy again, with writers held back.")


class _Audit:
    """One pass over every table; what a key has to agree with elsewhere is looked up on the way."""

    def __init__(self, txn: Transaction, summary: Summary, vectors: VectorLog) -> None:
        self._txn = txn
        self._summary = summary
        self._vectors = vectors
        self._live = np.zeros(summary.rows, np.bool_)
        self._dead = np.zeros(-(-summary.rows // CHUNK_ROWS) * CHUNK_ROWS, np.bool_)
        self._log_bytes = 0
        self._readable = True

    def findings(self) -> Iterator[str]:
        yield from self._vector_file()
        checks = dict.fromkeys(SUMMED, self._nothing)
        checks |= {RECORDS: self._record, DOCUMENTS: self._document, BIRTHS: self._birth, DEAD: self._bits, CHANGES: self._change}
        checks[NOTES] = self._note
        derived_sound = True
        for at, table in enumerate(SUMMED):
            check, advice = checks[table], f". {REPAIR}" if table in INVERTED else ""
            count = total = 0
            for key, value in self._txn.scan(table):
                count += 1
                total += checksum(value)
                try:
                    payload = opened(table, key, value) if advice else unseal(table, key, value)
                    yield from (f"table {table}: {finding}" for finding in check(key, payload))
                except CorruptRecord as error:
                    derived_sound = derived_sound and not advice
                    yield str(error)
                except (StoreError, *MALFORMED) as error:
                    derived_sound = False
                    yield f"table {table}: the value of {key!r} cannot be read ({error}). Restore it from a copy."
            if count != self._summary.counts[at]:
                yield f"table {table} has {count} keys, not {self._summary.counts[at]}{advice}"
            if total % (1 << 64) != self._summary.digests[at]:
                yield f"the digest of table {table} does not match: a write was lost{advice}"
        yield from self._totals()
        if derived_sound:
            yield from index_findings(self._txn, self._summary, self._live)

    def _vector_file(self) -> Iterator[str]:
        if self._summary.dim is not None:
            self._vectors.commit(self._summary.rows, self._summary.dim)
            try:
                self._vectors.block(0, self._summary.rows)
            except CorruptRecord as error:
                self._readable = False
                yield str(error)

    def _nothing(self, key: bytes, payload: bytes) -> Iterator[str]:
        yield from ()

    def _record(self, key: bytes, payload: bytes) -> Iterator[str]:
        row, record = row_of(key), decode_record(payload)
        if row >= self._summary.rows:
            yield f"row {row} is not below {self._summary.rows}"
            return
        self._live[row] = True
        name = id_key(record.id)
        found = self._txn.get(IDS, name)
        if found is None or unseal(IDS, name, found) != id_payload(name, record.id, row):
            yield f"row {row} is of id {record.id!r}, but the id table does not lead to it"
        if self._readable and crc32(self._vectors.block(row, row + 1).data) != record.vector:
            yield f"the vector of row {row} (id {record.id!r}) is damaged"

    def _document(self, key: bytes, payload: bytes) -> Iterator[str]:
        payload.decode()
        yield from self._owned(key, payload)

    def _owned(self, key: bytes, payload: bytes) -> Iterator[str]:
        if row_of(key) >= self._summary.rows or not self._live[row_of(key)]:
            yield f"row {row_of(key)} has no record"

    def _birth(self, key: bytes, payload: bytes) -> Iterator[str]:
        yield from self._owned(key, payload)
        if row_of(payload) >= row_of(key):
            yield f"row {row_of(key)} was not born before itself"

    def _bits(self, key: bytes, payload: bytes) -> Iterator[str]:
        bits = np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little")
        start = row_of(key) * CHUNK_ROWS
        if start >= len(self._dead) or len(bits) != CHUNK_ROWS:
            yield f"chunk {row_of(key)} is none of this table's"
        else:
            self._dead[start : start + CHUNK_ROWS] = bits

    def _change(self, key: bytes, payload: bytes) -> Iterator[str]:
        self._log_bytes += len(payload)
        if not decode_change(payload).first <= decode_change(payload).stop <= self._summary.rows:
            yield f"change {row_of(key)} is of rows that do not exist"

    def _note(self, key: bytes, payload: bytes) -> Iterator[str]:
        name = decode_note(payload).name
        if id_key(name) != key:
            yield f"the note {name!r} is under the key of another one"

    def _totals(self) -> Iterator[str]:
        summary = self._summary
        counts = dict(zip(SUMMED, summary.counts, strict=True))
        for table in (IDS, RECORDS):
            if counts[table] != summary.live:
                yield f"{summary.live} records are live, but table {table} has {counts[table]} keys"
        wrong = np.flatnonzero(self._live == self._dead[: summary.rows])
        if len(wrong):
            yield f"{len(wrong)} rows are both live and dead or neither, the first is row {wrong[0]}"
        if self._dead[summary.rows :].any():
            yield "rows are marked dead that do not exist"
        if (counts[CHANGES], self._log_bytes) != (summary.seq + 1 - summary.log_first, summary.log_bytes):
            yield f"the log of changes does not reach from {summary.log_first} to {summary.seq}"
