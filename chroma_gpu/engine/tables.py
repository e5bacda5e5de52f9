"""Tables: the open tables of an engine, opened as they are needed, shared between threads, and closed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from chroma_gpu.bytecache import ByteCache
from chroma_gpu.config import Settings
from chroma_gpu.engine.background import Background
from chroma_gpu.engine.catalog import Catalog, Entry
from chroma_gpu.engine.folders import Folders
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.engine.table import Table
from chroma_gpu.errors import NotFoundError, StoreError
from chroma_gpu.store.record_store import RecordStore

# Tables kept open at once; past it the least recently used is closed. Each holds a few file descriptors and its indexes.
OPEN_TABLES: Final = 64


@dataclass(slots=True, eq=False)
class OpenTable:
    """An open table and who uses it. A stale one is closed when its last user is done."""

    entry: Entry
    store: RecordStore
    table: Table
    users: int = 0
    stale: bool = False


class Tables:
    """The tables that are open, one for each collection; forks that share a folder have a table each.

    entry  the catalog's entry of a collection; what it raises ends a ``take``
    """

    def __init__(
        self, entry: Callable[[UUID], Entry], catalog: Catalog, folders: Folders, settings: Settings, background: Background
    ) -> None:
        self._entry = entry
        self._catalog = catalog
        self._folders = folders
        self._settings = settings
        self._background = background
        self._lock = threading.Lock()
        self._open: OrderedDict[UUID, OpenTable] = OrderedDict()
        self._filters = ByteCache(settings.filter_memory)

    def take(self, collection: UUID) -> OpenTable:
        """The open table of a collection, opened if it must be. Every take is followed by one give_back."""
        while True:
            try:
                entry = self._entry(collection)
            except NotFoundError:
                self.retire(collection)  # another process removed it, and its disk is free only when nobody has it open
                raise
            held = self._taken(entry) or self._opened(entry)
            if held is not None:
                return held

    def give_back(self, held: OpenTable) -> None:
        with self._lock:
            held.users -= 1
            unused = held.stale and not held.users
        if unused:
            self._close(held)

    def retire(self, collection: UUID) -> None:
        """Take a table out of use; it is closed now, or when its last user is done."""
        with self._lock:
            held = self._open.pop(collection, None)
            if held is None:
                return
            held.stale = True
            unused = not held.users
        if unused:
            self._close(held)

    def retire_all(self) -> None:
        """The same for every table."""
        for collection in list(self._open):
            self.retire(collection)

    def discard(self, folders: Iterable[str], *, alone: bool = False) -> None:
        """Remove those folders that no entry names. ``alone`` says that this is known, which saves reading all entries."""
        named = set() if alone else self._catalog.folders()
        for folder in folders:
            if folder not in named:
                self._folders.discard(folder)

    def after_fork(self) -> None:
        """In a forked child: forget the lock and the open tables of the parent. What they hold is not closed: it is the parent's."""
        self._lock = threading.Lock()
        self._open = OrderedDict()
        self._filters = ByteCache(self._settings.filter_memory)

    def _taken(self, entry: Entry) -> OpenTable | None:
        """The table that is open, unless it is of another folder or has other parameters."""
        with self._lock:
            held = self._open.get(entry.id)
            if held is not None and (held.entry.folder, held.entry.params) == (entry.folder, entry.params):
                held.users += 1
                self._open.move_to_end(entry.id)
                return held
        if held is not None:
            self.retire(entry.id)
        return None

    def _opened(self, entry: Entry) -> OpenTable | None:
        """A table opened now; None if the collection moved while it was: then this folder must not come back to life."""
        try:
            store = self._folders.open(entry.folder, lambda: self._is_current(entry, writing=True))
        except (StoreError, OSError):  # the folder may be removed while it is opened
            if self._is_current(entry):
                raise
            return None
        if not self._is_current(entry):
            self._folders.close(store)
            self.discard([entry.folder])
            return None
        checkpoints = self._folders.checkpoints(entry.folder)
        indexes = Indexes(store.vectors, entry.metric, entry.params, self._settings, self._background, checkpoints)
        new = OpenTable(entry, store, Table(store, entry.metric, indexes, self._filters, self._background))
        held: OpenTable | None
        with self._lock:
            held = self._open.setdefault(entry.id, new)
            if held.entry.folder == entry.folder:
                held.users += 1
            else:
                held = None
            crowd = len(self._open) - OPEN_TABLES if self._folders.holds_files else 0
            idle = [each for each, other in self._open.items() if not other.users][: max(crowd, 0)]
        if held is not new:
            self._close(new)
        for each in idle:
            self.retire(each)
        return held

    def _is_current(self, entry: Entry, *, writing: bool = False) -> bool:
        """Whether the catalog still names the folder of an entry, and if asked, lets it be written."""
        now = self._catalog.entry(entry.id)
        return now is not None and now.folder == entry.folder and not (writing and now.shared)

    def _close(self, held: OpenTable) -> None:
        held.table.close()
        self._folders.close(held.store)
