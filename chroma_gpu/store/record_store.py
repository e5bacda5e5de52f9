"""The store, once for every medium: tables and a log of vectors, on disk or in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final
from zlib import crc32

import numpy as np

from chroma_gpu.errors import CorruptRecord, FormatError, StoreError
from chroma_gpu.records import NO_ROW, Changes, Column, Metadata, Mode, RecordBatch, Rows, Vectors, VectorSource
from chroma_gpu.rowset import RowSet
from chroma_gpu.store import Moved, State, Store, Totals, Written
from chroma_gpu.store.audit import audit, copy_live
from chroma_gpu.store.disk import copy_file, sync_directory
from chroma_gpu.store.encoding import (
    BIRTHS,
    CHANGES,
    CHUNK_ROWS,
    DEAD,
    DOCUMENTS,
    NOTES,
    RECORDS,
    SUMMED,
    TABLES,
    Name,
    Record,
    Summary,
    decode_change,
    decode_name,
    decode_note,
    decode_record,
    find_rows,
    id_key,
    pack_row,
    pack_seq,
    read_summary,
    row_of,
    rows_in,
)
from chroma_gpu.store.inverted import texts, tidy
from chroma_gpu.store.inverted.fold import batches, places_of
from chroma_gpu.store.inverted.reader import InvertedReader, pending
from chroma_gpu.store.keyvalue import KeyValue, Transaction
from chroma_gpu.store.lmdb import copy_lmdb, inspect_file, open_lmdb
from chroma_gpu.store.memory import MemoryKeyValue, MemoryVectors
from chroma_gpu.store.seal import unseal, unseal_all
from chroma_gpu.store.vectors import VectorFile, VectorLog
from chroma_gpu.store.writes import Draft, delete_rows, fold_rest, set_dim, set_ops, write_batch
from chroma_gpu.words import Indexing

_READ_AT_A_TIME: Final = 256


class RecordStore:
    """The records of one collection.

    A write appends its vectors at the committed end of the log, flushes them, and then commits the tables; the commit publishes
    them. The write lock of the tables is the only lock there is. What a crash leaves is at most bytes past the committed end.
    """

    vectors: VectorSource

    def __init__(
        self,
        keyvalue: KeyValue,
        log: VectorLog,
        here: Callable[[], bool] | None = None,
        documents: Indexing = Indexing.FULL,
    ) -> None:
        self.here = here
        """Asked inside each write transaction whether the records are still kept here; if not, the write raises Moved."""
        self.vectors = log
        self._log = log
        self._keyvalue = keyvalue
        self._indexing = documents

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        map_size: int = 1 << 30,
        lock_timeout: float = 60.0,
        here: Callable[[], bool] | None = None,
        documents: Indexing = Indexing.FULL,
    ) -> RecordStore:
        """The store in a directory, which is created if it is missing. ``map_size`` and ``lock_timeout`` as in ``open_lmdb``.

        documents  what is indexed of documents from now on
        Raises   FormatError, StoreError
        """
        tables, vectors = directory / "records", directory / "vectors.f32"
        if not (tables / "data.mdb").exists() and vectors.exists() and vectors.stat().st_size:
            raise FormatError(f"{directory} has vectors but no records.", hint="Restore it from a copy.")
        with ExitStack() as opened:
            keyvalue = open_lmdb(tables, TABLES, map_size=map_size, lock_timeout=lock_timeout)
            opened.callback(keyvalue.close)
            log = VectorFile(vectors)
            opened.callback(log.close)
            store = cls(keyvalue, log, here, documents)
            store.state()
            opened.pop_all()
        return store

    @classmethod
    def inspect(cls, directory: Path) -> list[str]:
        """``verify`` for a directory that may be damaged and that nobody writes: looks at the structure before opening it."""
        if found := inspect_file(directory / "records"):
            return found
        try:
            store = cls.open(directory)
        except StoreError as error:
            return [str(error)]
        try:
            return store.verify()
        finally:
            store.close()

    @staticmethod
    def clone(source: Path, target: Path, state: State) -> None:
        """Put a store's files as they are into a new directory, durably. Rows stay what they are, so indexes of them stay right.

        state   the last committed one; nobody may write to the source meanwhile: hold ``exclusive`` of its store
        Raises  DiskFull, StoreError
        Cost    none where the file system shares blocks (XFS, btrfs); else every byte is read and written once
        """
        target.mkdir(mode=0o700)
        copy_lmdb(source / "records", target / "records")
        copy_file(source / "vectors.f32", target / "vectors.f32", state.rows * (state.dim or 0) * 4)
        sync_directory(target)

    @classmethod
    def in_memory(cls, *, lock_timeout: float = 60.0, documents: Indexing = Indexing.FULL) -> RecordStore:
        """An empty store that goes with the process."""
        return cls(MemoryKeyValue(TABLES, lock_timeout=lock_timeout), MemoryVectors(), documents=documents)

    def state(self) -> State:
        with self._keyvalue.read() as txn:
            summary = read_summary(txn)
        self._publish(summary)
        return State(summary.seq, summary.rows, summary.live, summary.dim, summary.folds, summary.folded)

    def totals(self) -> Totals:
        with self._keyvalue.read() as txn:
            summary = read_summary(txn)
        return Totals(summary.ops, summary.counts[SUMMED.index(DOCUMENTS)])

    def write(self, batch: RecordBatch, mode: Mode) -> Written:
        draft = Draft.of(batch, mode)
        return self._commit(lambda txn: write_batch(txn, self._log, draft, mode, self._indexing))

    def delete(self, rows: Rows, *, seen: int | None = None) -> Written:
        def work(txn: Transaction) -> tuple[Written, Summary]:
            if seen is not None:
                since = _changes(txn, read_summary(txn), seen)
                if since is None or np.isin(since.touched, rows).any():
                    raise KeyError("a record was rewritten after it was chosen")
            return delete_rows(txn, rows)

        return self._commit(work)

    def set_dim(self, dim: int) -> None:
        self._commit(lambda txn: set_dim(txn, dim))

    def set_ops(self, ops: int) -> None:
        self._commit(lambda txn: set_ops(txn, ops))

    def rows_of(self, ids: Sequence[str]) -> Rows:
        keys = [id_key(id_) for id_ in ids]
        with self._keyvalue.read() as txn:
            rows = find_rows(txn, ids, keys)
        return np.fromiter((int(NO_ROW) if row < 0 else row for row in rows), np.uint32, len(rows))

    def read(self, rows: Rows, columns: frozenset[Column]) -> RecordBatch:
        keys = [pack_row(row) for row in rows.tolist()]
        with self._keyvalue.read() as txn:
            summary = read_summary(txn) if Column.VECTOR in columns else None
            values = txn.get_many(RECORDS, keys)
            texts = dict(txn.get_many(DOCUMENTS, keys)) if Column.DOCUMENT in columns else {}
        if len(values) != len(keys):
            live = {key for key, _ in values}
            raise KeyError(f"row {next(row_of(key) for key in keys if key not in live)} is not in the table")
        payloads = [unseal(RECORDS, key, value) for key, value in values]
        full = [decode_record(payload) for payload in payloads] if Column.METADATA in columns else None
        records: Sequence[Record | Name] = full if full is not None else [decode_name(payload) for payload in payloads]
        vectors = documents = None
        if summary is not None:
            self._publish(summary)
            vectors = self._gather(rows, records)
        if Column.DOCUMENT in columns:
            found = {key: unseal(DOCUMENTS, key, value).decode() for key, value in texts.items()}
            documents = [found.get(key) for key in keys]
        return RecordBatch(
            [record.id for record in records],
            vectors,
            documents,
            None if full is None else [record.metadata for record in full],
            [record.uri for record in records] if Column.URI in columns else None,
        )

    def metadatas(self, rows: Rows) -> list[Metadata | None]:
        keys = [pack_row(row) for row in rows.tolist()]
        with self._keyvalue.read() as txn:
            found = {key: decode_record(unseal(RECORDS, key, value)).metadata for key, value in txn.get_many(RECORDS, keys)}
        return [found.get(key) for key in keys]

    def documents(self, rows: Rows) -> Iterator[bytes | None]:
        for start in range(0, len(rows), _READ_AT_A_TIME):
            some = rows[start : start + _READ_AT_A_TIME]
            with self._keyvalue.read() as txn:
                if bool((some[1:] - some[:-1] == 1).all()):  # one after the other they are found faster
                    items = list(txn.scan(DOCUMENTS, pack_row(some[0]), stop=pack_row(some[-1]) + b"\0"))
                else:
                    items = txn.get_many(DOCUMENTS, map(pack_row, some.tolist()))
            texts = unseal_all(items)
            if texts is None:
                texts = [unseal(DOCUMENTS, key, value) for key, value in items]
            if len(items) == len(some):
                yield from texts
            else:
                found = {key: text for (key, _), text in zip(items, texts, strict=True)}
                yield from map(found.get, map(pack_row, some.tolist()))

    def live(self) -> RowSet:
        with self._keyvalue.read() as txn:
            summary = read_summary(txn)
            dead = [(row_of(key), unseal(DEAD, key, value)) for key, value in txn.scan(DEAD)]
        self._publish(summary)
        live = RowSet.full(summary.rows)
        flags = live.bytes()
        for chunk, bits in dead:
            part = flags[chunk * CHUNK_ROWS // 8 :][: CHUNK_ROWS // 8]
            part &= ~np.frombuffer(bits, np.uint8)[: len(part)]
        return live

    def births(self, first: int = 0) -> tuple[Rows, Rows]:
        with self._keyvalue.read() as txn:
            scan = txn.scan(BIRTHS, pack_row(first))
            pairs = [(row_of(key), row_of(unseal(BIRTHS, key, value))) for key, value in scan]
        both = np.array(pairs, np.uint32).reshape(-1, 2)
        return both[:, 0].copy(), both[:, 1].copy()

    def listing(self) -> tuple[int, Rows, list[str]]:
        with self._keyvalue.read() as txn:
            summary = read_summary(txn)
            names = [(row_of(key), decode_name(unseal(RECORDS, key, value)).id) for key, value in txn.scan(RECORDS)]
            born = {row_of(key): row_of(unseal(BIRTHS, key, value)) for key, value in txn.scan(BIRTHS)}
        names.sort(key=lambda pair: born.get(pair[0], pair[0]))
        return summary.seq, np.array([row for row, _ in names], np.uint32), [id_ for _, id_ in names]

    def changes(self, since: int) -> Changes | None:
        with self._keyvalue.read() as txn:
            summary = read_summary(txn)
            found = _changes(txn, summary, since)
        if found is not None:
            self._publish(summary)
        return found

    def note(self, name: str) -> bytes | None:
        key = id_key(name)
        with self._keyvalue.read() as txn:
            value = txn.get(NOTES, key)
        if value is None:
            return None
        found = decode_note(unseal(NOTES, key, value))
        return found.value if found.name == name else None

    def notes(self) -> list[str]:
        with self._keyvalue.read() as txn:
            return sorted(decode_note(unseal(NOTES, key, value)).name for key, value in txn.scan(NOTES))

    def inverted(self, folds: int) -> InvertedReader:
        return InvertedReader(self._keyvalue, folds)

    def pending(self) -> Rows:
        with self._keyvalue.read() as txn:
            return pending(txn)

    def fold(self) -> None:
        self._commit(lambda txn: fold_rest(txn, self._indexing))

    def refold(self) -> None:
        self._commit(lambda txn: fold_rest(txn, self._indexing, anew=True))

    def tidy(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        with self._keyvalue.read() as txn:
            found = tidy.crowded(txn, read_summary(txn).folded, self._indexing)
        if found is None:
            return False
        new: list[texts.Block] = []
        rows = found.rows.tolist()
        for some, documents in batches(rows, self.documents(found.rows)):
            if stopped():
                return False
            new.append(texts.block_of(found.chunk, len(new), places_of(some), documents, self._indexing))
        self._commit(lambda txn: tidy.replace(txn, found, new))
        return True

    def verify(self) -> list[str]:
        return audit(self._keyvalue, self._log)

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep every other writer out, those of other processes too, while the records are copied elsewhere. Reading goes on."""
        return self._keyvalue.hold()

    def copy_live(self, target: Store) -> None:
        copy_live(self, target)

    def close(self) -> None:
        """As the contract says; not while another thread is inside a call."""
        self._keyvalue.close()
        self._log.close()

    def _commit(self, work: Callable[[Transaction], tuple[Written, Summary]]) -> Written:
        def checked(txn: Transaction) -> tuple[Written, Summary]:
            # Inside the transaction nobody else can move the records: a move holds the same lock.
            if self.here is not None and not self.here():
                raise Moved("the records of this collection are kept elsewhere now.", hint="Open them there.")
            return work(txn)

        written, summary = self._keyvalue.write(checked)
        self._publish(summary)
        return written

    def _publish(self, summary: Summary) -> None:
        """Let readers of vectors see what is committed."""
        if summary.dim is not None:
            self._log.commit(summary.rows, summary.dim)

    def _gather(self, rows: Rows, records: Sequence[Record | Name]) -> Vectors:
        if not len(rows):
            return self._log.gather(rows)
        # Rows without gaps are checked and returned where they lie: half of the memory that reading a whole table takes.
        whole = bool((np.diff(rows.astype(np.int64)) == 1).all())
        vectors = self._log.block(int(rows[0]), int(rows[-1]) + 1) if whole else self._log.gather(rows)
        raw, size = vectors.data.cast("B"), vectors.shape[1] * vectors.itemsize
        found = [crc32(raw[start : start + size]) for start in range(0, len(rows) * size, size)]
        for row, record, crc in zip(rows, records, found, strict=True):
            if crc != record.vector:
                raise CorruptRecord(f"the vector of row {row} (id {record.id!r}) is damaged.", hint="Restore it from a copy.")
        return vectors


def _changes(txn: Transaction, summary: Summary, since: int) -> Changes | None:
    if not summary.log_first - 1 <= since <= summary.seq:
        return None
    entries = [decode_change(unseal(CHANGES, *item)) for item in txn.scan(CHANGES, pack_seq(since + 1))]
    if len(entries) != summary.seq - since:
        raise CorruptRecord(f"the log has {len(entries)} changes after {since}, not {summary.seq - since}.")
    first = entries[0].first if entries else summary.rows
    dead = rows_in(b"".join(entry.dead for entry in entries))
    touched = rows_in(b"".join(entry.touched for entry in entries))
    return Changes(summary.seq, first, summary.rows, dead, np.unique(touched))
