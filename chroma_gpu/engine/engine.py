"""Engine: one data directory, or one memory, with its catalog and its open tables."""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from chroma_gpu.config import Settings
from chroma_gpu.engine.background import Background
from chroma_gpu.engine.catalog import TABLES, Catalog, Entry
from chroma_gpu.engine.directory import Directory
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.engine.table import Table
from chroma_gpu.errors import ClosedError, NotFoundError, StoreError
from chroma_gpu.filter.expr import Expr
from chroma_gpu.records import Mode, RecordBatch
from chroma_gpu.store import Moved, Written
from chroma_gpu.store.keyvalue import KeyValue
from chroma_gpu.store.lmdb import open_lmdb
from chroma_gpu.store.memory import MemoryKeyValue
from chroma_gpu.store.record_store import RecordStore

# Tables kept open at once; past it the least recently used is closed. Each holds a few file descriptors and its indexes.
OPEN_TABLES: Final = 64
# A table is compacted by itself when more rows than this, and a quarter of all, are dead.
DEAD_ROWS: Final = 4_096


@dataclass(slots=True, eq=False)
class _Open:
    """An open table and who uses it. A stale one is closed when its last user is done."""

    entry: Entry
    store: RecordStore
    table: Table
    users: int = 0
    stale: bool = False


class Engine:
    """Opens tables as they are needed, shares them between clients and threads, and closes them.

    Several processes may have one directory open. Each call reads the catalog, so it sees collections that others made, renamed,
    compacted or dropped.
    """

    def __init__(self, keyvalue: KeyValue, settings: Settings, directory: Directory | None) -> None:
        self.settings = settings
        self.catalog = Catalog(keyvalue)
        self.failures: dict[UUID, Exception] = {}
        """What the last compaction in the background raised, by collection."""
        self._keyvalue = keyvalue
        self._directory = directory
        self._memory: dict[str, RecordStore] = {}
        self._background = Background()
        self._lock = threading.Lock()
        self._open: OrderedDict[UUID, _Open] = OrderedDict()
        self._closed = False

    @classmethod
    def at(cls, path: Path, settings: Settings) -> Engine:
        """Open or create a directory.

        Raises FormatError if it holds something else, StoreError if it cannot be written.
        """
        directory = Directory.open(path)
        keyvalue = open_lmdb(directory.catalog, TABLES, lock_timeout=settings.lock_timeout)
        engine = cls(keyvalue, settings, directory)
        directory.sweep(engine.catalog.folders)
        return engine

    @classmethod
    def in_memory(cls, settings: Settings) -> Engine:
        """Nothing on disk; gone when closed."""
        return cls(MemoryKeyValue(TABLES), settings, None)

    @contextmanager
    def table(self, collection: UUID) -> Iterator[Table]:
        """The table of a collection, kept open while it is used.

        Raises NotFoundError, ClosedError, and the store's errors on opening.
        """
        held = self._take(collection)
        try:
            yield held.table
        finally:
            self._give_back(held)

    def entry(self, collection: UUID) -> Entry:
        """The catalog's entry. Raises NotFoundError, ClosedError."""
        self.require_open()
        entry = self.catalog.entry(collection)
        if entry is None:
            raise NotFoundError(f"Collection [{collection}] does not exist.")
        return entry

    def write(self, collection: UUID, batch: RecordBatch, mode: Mode) -> Written:
        """``Table.write``, also when the collection moves to another folder meanwhile."""
        while True:
            try:
                with self.table(collection) as table:
                    written = table.write(batch, mode)
                    self._compact_soon(collection, table)
                    return written
            except Moved:
                continue

    def delete(self, collection: UUID, expr: Expr | None, ids: list[str] | None, limit: int | None) -> Written:
        """Remove the records that satisfy ``expr`` and are among ``ids``, ``limit`` of them at most, in insertion order."""
        while True:
            try:
                with self.table(collection) as table:
                    written = table.delete(table.rows(expr, ids=ids, limit=limit))
                    self._compact_soon(collection, table)
                    return written
            except Moved:
                continue

    def drop(self, entries: list[Entry]) -> None:
        """Close the tables of collections that left the catalog and give their disk back."""
        for entry in entries:
            self._retire(entry.id)
            self._discard(entry.folder)

    def compact(self, collection: UUID) -> None:
        """Write the live records to a new folder, in insertion order, and give the old folder's disk back.

        Readers go on meanwhile, writers wait. Other processes find the new folder at their next call.
        Cost: reads and writes every live record once; needs that much free disk.
        A crash on the way leaves the old folder in force; the next opening removes what was begun.
        """
        with self._maintenance():
            held = self._take(collection)
            try:
                with held.store.exclusive():
                    old = self.entry(collection)
                    if old.folder != held.entry.folder:
                        return  # another process was faster
                    new = _next_folder(old)
                    self._discard(new)
                    self._copy(held.store, new)
                    self.catalog.change(collection, folder=new)
            finally:
                self._give_back(held)
            self._retire(collection)
            self._discard(old.folder)

    def reset(self) -> None:
        """Remove every tenant, database and collection but the defaults, and their files."""
        self.require_open()
        for collection in list(self._open):
            self._retire(collection)
        self.catalog.clear()
        for folder in list(self._memory):
            self._discard(folder)
        if self._directory is not None:
            self._directory.sweep(self.catalog.folders)

    def require_open(self) -> None:
        """Raises ClosedError."""
        if self._closed:
            raise ClosedError("The client was closed.", hint="Make a new one to go on.")

    def after_fork(self) -> None:
        """In a forked child: forget the lock and the open tables of the parent; tables are opened anew when they are used.

        What they hold is not closed: it is the parent's. The background starts itself anew.
        """
        self._lock = threading.Lock()
        self._open = OrderedDict()

    def close(self) -> None:
        """Close every table and the catalog. Idempotent; what memory held is gone."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for collection in list(self._open):
            self._retire(collection)
        self._background.close()
        self._memory.clear()
        self._keyvalue.close()

    # ---- open tables

    def _take(self, collection: UUID) -> _Open:
        """The open table of a collection, opened if it must be. Every take is followed by one _give_back."""
        while True:
            entry = self.entry(collection)
            held = self._taken(entry) or self._opened(entry)
            if held is not None:
                return held

    def _taken(self, entry: Entry) -> _Open | None:
        """The table that is open, unless it is of another folder or has other parameters."""
        with self._lock:
            held = self._open.get(entry.id)
            if held is not None and (held.entry.folder, held.entry.params) == (entry.folder, entry.params):
                held.users += 1
                self._open.move_to_end(entry.id)
                return held
        if held is not None:
            self._retire(entry.id)
        return None

    def _opened(self, entry: Entry) -> _Open | None:
        """A table opened now; None if the collection moved while it was: then this folder must not come back to life."""
        try:
            store = self._store(entry)
        except StoreError:
            if self._is_current(entry):
                raise
            return None
        if not self._is_current(entry):
            if self._directory is not None:
                store.close()
            self._discard(entry.folder)
            return None
        folder = self._directory.folder(entry.folder) / "index" if self._directory else None
        indexes = Indexes(store.vectors, entry.metric, entry.params, self.settings, self._background, folder)
        new = _Open(entry, store, Table(store, entry.metric, indexes))
        held: _Open | None
        with self._lock:
            held = self._open.setdefault(entry.id, new)
            if held.entry.folder == entry.folder:
                held.users += 1
            else:
                held = None
            crowd = len(self._open) - OPEN_TABLES if self._directory else 0
            idle = [each for each, other in self._open.items() if not other.users][: max(crowd, 0)]
        if held is not new:
            self._close(new)
        for each in idle:
            self._retire(each)
        return held

    def _is_current(self, entry: Entry) -> bool:
        now = self.catalog.entry(entry.id)
        return now is not None and now.folder == entry.folder

    def _give_back(self, held: _Open) -> None:
        with self._lock:
            held.users -= 1
            unused = held.stale and not held.users
        if unused:
            self._close(held)

    def _retire(self, collection: UUID) -> None:
        """Take a table out of use; it is closed now, or when its last user is done."""
        with self._lock:
            held = self._open.pop(collection, None)
            if held is None:
                return
            held.stale = True
            unused = not held.users
        if unused:
            self._close(held)

    def _close(self, held: _Open) -> None:
        held.table.close()
        if self._directory is not None:
            held.store.close()

    # ---- folders

    def _store(self, entry: Entry) -> RecordStore:
        """The store of an entry. Its writes raise Moved once the catalog names another folder."""
        store = self._open_folder(entry.folder)
        store.here = lambda: self._is_current(entry)
        return store

    def _open_folder(self, folder: str) -> RecordStore:
        if self._directory is None:
            with self._lock:
                return self._memory.setdefault(folder, RecordStore.in_memory())
        settings = self.settings
        path = self._directory.folder(folder)
        path.mkdir(mode=0o700, exist_ok=True)
        return RecordStore.open(path, map_size=settings.map_size, lock_timeout=settings.lock_timeout)

    def _copy(self, store: RecordStore, folder: str) -> None:
        """The live records of a store in a new folder, which nobody else knows of before the catalog names it."""
        target = self._open_folder(folder)
        try:
            store.copy_live(target)
        finally:
            if self._directory is not None:
                target.close()

    def _discard(self, folder: str) -> None:
        self._memory.pop(folder, None)
        if self._directory is not None:
            shutil.rmtree(self._directory.folder(folder), ignore_errors=True)

    @contextmanager
    def _maintenance(self) -> Iterator[None]:
        if self._directory is None:
            yield
        else:
            with self._directory.maintenance():
                yield

    def _compact_soon(self, collection: UUID, table: Table) -> None:
        rows, dead = table.occupancy()
        if dead > DEAD_ROWS and dead > rows // 4 and collection not in self.failures:
            self._background.ask(("compact", collection), lambda: self._compact_quietly(collection))

    def _compact_quietly(self, collection: UUID) -> None:
        """Compaction is a saving, not a duty: a failure is kept in ``failures`` and not tried again by itself."""
        try:
            self.compact(collection)
        except (NotFoundError, ClosedError):
            return
        except Exception as error:
            self.failures[collection] = error


def _next_folder(entry: Entry) -> str:
    """Folders are named <uuid>, <uuid>.1, <uuid>.2 ... by how often the collection was compacted."""
    _, _, number = entry.folder.partition(".")
    return f"{entry.id}.{int(number or 0) + 1}"
