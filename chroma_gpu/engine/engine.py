"""Engine: one data directory, or one memory, with its catalog and its open tables."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

from chroma_gpu.config import Settings
from chroma_gpu.engine import planner
from chroma_gpu.engine.background import Background
from chroma_gpu.engine.catalog import TABLES, Catalog, Entry, folders_of, next_folder
from chroma_gpu.engine.directory import Directory
from chroma_gpu.engine.folders import DiskFolders, Folders, MemoryFolders
from chroma_gpu.engine.indexes import devices_of
from chroma_gpu.engine.rebuild import Rebuilds, Rebuilt, VectorsOf
from chroma_gpu.engine.repair import Repair, repaired
from chroma_gpu.engine.table import Table
from chroma_gpu.engine.tables import OpenTable, Tables
from chroma_gpu.errors import ClosedError, NotFoundError
from chroma_gpu.filter.expr import Expr
from chroma_gpu.index import has_faiss
from chroma_gpu.records import Mode, RecordBatch
from chroma_gpu.store import Moved, Written
from chroma_gpu.store.keyvalue import KeyValue
from chroma_gpu.store.lmdb import open_lmdb
from chroma_gpu.store.memory import MemoryKeyValue

# A table is compacted by itself when more rows than this, and a quarter of all, are dead.
DEAD_ROWS: Final = 4_096


class Engine:
    """Opens tables as they are needed, shares them between clients and threads, and closes them.

    Several processes may have one directory open. Each call reads the catalog, so it sees collections that others made, renamed,
    compacted or dropped.

    A fork names the folder of its source, and both are marked as shared in the same transaction of the catalog; that happens under
    the write lock of the folder. What is written to a folder asks inside its transaction, under the same lock, whether the catalog
    names the folder for this collection and does not mark it as shared. So a write is committed before the fork and is in both, or
    it is refused and moves its collection to a folder of its own first. Hence: **a folder that two collections name is not written,
    and one that is written is named by one**. The mark goes only together with the folder, or in a transaction that has seen that
    nobody else names it; a fork made at the same time comes before, and is seen, or after, and sets the mark again. A folder that
    no entry names is never named again: names are not used twice, and a fork takes its folder from an entry. So it can be removed.
    """

    def __init__(self, keyvalue: KeyValue, settings: Settings, folders: Folders) -> None:
        self.settings = settings
        self.catalog = Catalog(keyvalue)
        self.failures: dict[UUID, Exception] = {}
        """What the last compaction in the background raised, by collection."""
        self._keyvalue = keyvalue
        self._folders = folders
        self._background = Background()
        self._tables = Tables(self.entry, self.catalog, folders, settings, self._background)
        self._rebuilds = Rebuilds(self.catalog, folders, self._tables)
        self._closing = threading.Lock()
        self._closed = False

    @classmethod
    def at(cls, path: Path, settings: Settings) -> Self:
        """Open or create a directory.

        Raises FormatError if it holds something else, StoreError if it cannot be written.
        """
        directory = Directory.open(path)
        keyvalue = open_lmdb(directory.catalog, TABLES, lock_timeout=settings.lock_timeout)
        engine = cls(keyvalue, settings, DiskFolders(directory, settings))
        directory.sweep(engine.catalog.folders)
        return engine

    @classmethod
    def in_memory(cls, settings: Settings) -> Self:
        """Nothing on disk; gone when closed."""
        return cls(MemoryKeyValue(TABLES), settings, MemoryFolders(settings))

    @contextmanager
    def table(self, collection: UUID, *, rebuilt: int | None = None) -> Iterator[Table]:
        """The table of a collection, kept open while it is used.

        rebuilt  ``Entry.rebuilt`` of when the caller's vectors were made
        Raises NotFoundError, ClosedError, Rebuilt if they were made anew since then, and the store's errors on opening.
        """
        held = self._tables.take(collection)
        try:
            if rebuilt not in (None, held.entry.rebuilt):
                raise Rebuilt(f"Collection [{held.entry.name}] got other vectors meanwhile.", hint="Embed again.")
            yield held.table
        finally:
            self._tables.give_back(held)

    def entry(self, collection: UUID) -> Entry:
        """The catalog's entry. Raises NotFoundError, ClosedError."""
        self.require_open()
        entry = self.catalog.entry(collection)
        if entry is None:
            raise NotFoundError(f"Collection [{collection}] does not exist.")
        return entry

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices on which indexes keep vectors; none where they work on the CPU.  Raises DeviceError"""
        devices = devices_of(self.settings)
        flat = "flat" in planner.wanted(self.settings, 0, faiss=has_faiss(), gpu=devices != ("cpu",))
        return devices if flat and devices != ("cpu",) else ()

    def write(self, collection: UUID, batch: RecordBatch, mode: Mode, *, rebuilt: int | None = None) -> Written:
        """``Table.write``, also when the collection moves to another folder meanwhile; ``rebuilt`` as in ``table``."""
        while True:
            try:
                with self.table(collection, rebuilt=rebuilt) as table:
                    written = table.write(batch, mode)
                    self._compact_soon(collection, table)
                    return written
            except Moved:
                self._unshare(collection)

    def delete(self, collection: UUID, expr: Expr | None, ids: list[str] | None, limit: int | None) -> Written:
        """Remove the records that satisfy ``expr`` and are among ``ids``, ``limit`` of them at most, in insertion order."""
        while True:
            try:
                with self.table(collection) as table:
                    written = table.remove(expr, ids=ids, limit=limit)
                    self._compact_soon(collection, table)
                    return written
            except Moved:
                self._unshare(collection)

    def fork(self, collection: UUID, name: str) -> Entry:
        """A new collection with the records of another, and everything else it has but its name.

        Both read one folder from now on. The first that is written moves to a copy of it, rows as they are.
        Raises NotFoundError, AlreadyExistsError, StoreBusy; nothing was made then
        Cost   one transaction of the catalog, whatever the size; a copy of the folder at the first write to either
        A crash leaves the fork, or nothing; one during the copy leaves both as they were.
        """
        while True:
            held = self._tables.take(collection)
            try:
                with held.store.exclusive():
                    made = self.catalog.fork(collection, name, held.entry.folder)
            finally:
                self._tables.give_back(held)
            if made is not None:
                return made

    def fork_count(self, collection: UUID) -> int:
        """How many forks there are of a collection, or of what it is a fork of in the end; those that were removed are none.

        Raises NotFoundError, ClosedError
        """
        self.require_open()
        return self.catalog.forks(collection)

    def drop(self, entries: list[Entry]) -> None:
        """Close the tables of collections that left the catalog and give their disk back, but for what forks still read."""
        for entry in entries:
            self._tables.retire(entry.id)
        folders = [folder for entry in entries for folder in folders_of(entry)]
        self._tables.discard(folders, alone=not any(entry.shared for entry in entries))

    def compact(self, collection: UUID) -> None:
        """Write the live records to a new folder, in insertion order, and give the old folder's disk back.

        Readers go on meanwhile, writers wait. Other processes find the new folder at their next call.
        Cost: reads and writes every live record once; needs that much free disk.
        A crash on the way leaves the old folder in force; the next opening removes what was begun.
        """
        with self._folders.maintenance():
            self._move(collection, lambda held, new: self._folders.copy_live(held.store, new))

    def repair(self, collection: UUID, *, check: bool = False) -> Repair:
        """Verify a collection, and make anew what is derived from its records, unless these are damaged or ``check`` says only to look.

        Raises   NotFoundError, StoreBusy, DiskFull
        Cost     everything is read twice. Readers go on meanwhile, writers wait while the index is made
        A crash leaves the old index.
        """
        while True:
            held = self._tables.take(collection)
            try:
                return repaired(held.store, self._folders.checkpoints(held.entry.folder), check=check)
            except Moved:
                pass  # a fork reads the same folder
            finally:
                self._tables.give_back(held)
            self._unshare(collection)

    def rebuild(
        self,
        collection: UUID,
        vectors_of: VectorsOf,
        key: str,
        changes: Callable[[Entry], Mapping[str, Any]],
        *,
        batch_size: int,
        progress: Callable[[int, int], object] | None = None,
    ) -> Entry:
        """Give every record another vector, while readers and writers go on; all at once, at the end.

        key      says what makes the vectors. An unfinished rebuild with the same key is gone on with, one with another is begun anew
        changes  given the entry as it is at the end, the fields of it that change at the same moment
        progress  called with (done, total)
        Raises   NotFoundError, StoreBusy if another one of this collection runs, and what ``vectors_of`` raises: then the
                 collection is as it was, and what was made is kept for the next call, until ``abandon`` or ``drop``
        Cost     one vector per record; needs the disk of a second copy. Writers wait at the end, while what changed last is brought
                 over: the ids of all records are read then
        A crash loses at most the batch in flight.
        """
        return self._rebuilds.run(collection, vectors_of, key, changes, batch_size=batch_size, progress=progress)

    def abandon(self, collection: UUID) -> bool:
        """Give an unfinished rebuild's disk back; whether there was one. Raises NotFoundError, StoreBusy if it is running."""
        return self._rebuilds.abandon(collection)

    def reset(self) -> None:
        """Remove every tenant, database and collection but the defaults, and their files."""
        self.require_open()
        self.drop(self.catalog.clear())

    def require_open(self) -> None:
        """Raises ClosedError."""
        if self._closed:
            raise ClosedError("The client was closed.", hint="Make a new one to go on.")

    def after_fork(self) -> None:
        """In a forked child: forget the lock and the open tables of the parent; tables are opened anew when they are used.

        What they hold is not closed: it is the parent's. The background starts itself anew.
        """
        self._closing = threading.Lock()
        self._tables.after_fork()
        self._folders.after_fork()

    def close(self) -> None:
        """Close every table and the catalog. Idempotent; what memory held is gone."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._tables.retire_all()
        self._background.close()
        self._folders.close_all()
        self._keyvalue.close()

    # ---- folders

    def _unshare(self, collection: UUID) -> None:
        """See that a collection has a folder that only it names: its own already, or a copy with the rows as they are."""
        if not self.entry(collection).shared:
            return
        with self._folders.maintenance():
            if not self.catalog.unshare(collection):
                self._move(collection, lambda held, new: self._folders.clone(held.store, held.entry.folder, new))

    def _move(self, collection: UUID, make: Callable[[OpenTable, str], None]) -> None:
        """Let ``make`` fill a new folder, which nobody knows of before the catalog names it. Under ``maintenance``."""
        held = self._tables.take(collection)
        try:
            with held.store.exclusive():
                entry = self.entry(collection)
                if entry.folder != held.entry.folder:
                    return  # another process was faster
                new = next_folder(entry)
                try:
                    make(held, new)
                    self.catalog.change(collection, folder=new)
                except BaseException as error:
                    self._tables.discard([new])  # unless the change was committed
                    if isinstance(error, Exception):
                        self.entry(collection)  # who removes a collection takes its files away under the copy
                    raise
        finally:
            self._tables.give_back(held)
        self._tables.retire(collection)
        self._tables.discard([held.entry.folder])

    # ---- compaction

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
