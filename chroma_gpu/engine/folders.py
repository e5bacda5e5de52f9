"""Folders: where the records of collections are kept, on disk or in memory, and how one becomes another."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from chroma_gpu.config import Settings
from chroma_gpu.engine.directory import Directory
from chroma_gpu.store.encoding import TABLES
from chroma_gpu.store.memory import MemoryKeyValue, MemoryVectors
from chroma_gpu.store.record_store import RecordStore
from chroma_gpu.words import Indexing


class Folders(Protocol):
    """The folders of one engine, by name. A folder may be open many times at once, for several collections that share it."""

    holds_files: bool
    """Whether an open folder costs file descriptors, and has room for checkpoints."""

    def open(self, folder: str, here: Callable[[], bool] | None = None) -> RecordStore:
        """The store in a folder, made if it is missing; its writes ask ``here``. Every open is followed by one ``close``."""
        ...

    def close(self, store: RecordStore) -> None:
        """Let go of an open store. What it holds stays."""
        ...

    def checkpoints(self, folder: str) -> Path | None:
        """Where checkpoints of indexes go; None if nowhere."""
        ...

    def clone(self, store: RecordStore, folder: str, new: str) -> None:
        """Make ``new`` out of ``folder`` with its rows as they are. ``store`` is of ``folder``, and held ``exclusive``."""
        ...

    def copy_live(self, store: RecordStore, new: str) -> None:
        """Make ``new`` out of the live records of a store that is held ``exclusive``."""
        ...

    def discard(self, folder: str) -> None:
        """Remove a folder, if it is there."""
        ...

    def maintenance(self) -> AbstractContextManager[object]:
        """Hold the right to make and remove folders, among threads and processes."""
        ...

    def claim(self, folder: str) -> AbstractContextManager[bool]:
        """Hold the right to fill one folder, among threads and processes; gives whether it could be had."""
        ...

    def after_fork(self) -> None:
        """In a forked child: forget the locks of the parent."""
        ...

    def close_all(self) -> None:
        """Forget what memory held."""
        ...


class DiskFolders:
    """Folders below ``collections/`` of a data directory."""

    holds_files = True

    def __init__(self, directory: Directory, settings: Settings) -> None:
        self._directory = directory
        self._settings = settings
        self.maintenance = directory.maintenance
        self.after_fork = directory.after_fork

    def open(self, folder: str, here: Callable[[], bool] | None = None) -> RecordStore:
        path = self._directory.folder(folder)
        path.mkdir(mode=0o700, exist_ok=True)
        settings = self._settings
        documents = Indexing(settings.document_index)
        return RecordStore.open(
            path, map_size=settings.map_size, lock_timeout=settings.lock_timeout, here=here, documents=documents
        )

    def close(self, store: RecordStore) -> None:
        store.close()

    def checkpoints(self, folder: str) -> Path | None:
        return self._directory.folder(folder) / "index"

    def clone(self, store: RecordStore, folder: str, new: str) -> None:
        source, target = self._directory.folder(folder), self._directory.folder(new)
        self.discard(new)
        RecordStore.clone(source, target, store.state())
        # Checkpoints may change or vanish meanwhile. One that comes over torn is told by its checksum; then the index is built anew.
        try:
            shutil.copytree(
                source / "index", target / "index", ignore=shutil.ignore_patterns("*.tmp"), copy_function=shutil.copyfile
            )
        except OSError:
            shutil.rmtree(target / "index", ignore_errors=True)

    def copy_live(self, store: RecordStore, new: str) -> None:
        self.discard(new)
        target = self.open(new)
        try:
            store.copy_live(target)
        finally:
            target.close()

    def discard(self, folder: str) -> None:
        shutil.rmtree(self._directory.folder(folder), ignore_errors=True)

    def claim(self, folder: str) -> AbstractContextManager[bool]:
        path = self._directory.folder(folder)
        path.mkdir(mode=0o700, exist_ok=True)
        return self._directory.locked(path / "rebuild.lock", wait=False)

    def close_all(self) -> None:
        """Nothing is held."""


class MemoryFolders:
    """Folders that go with the process."""

    holds_files = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held: dict[str, tuple[MemoryKeyValue, MemoryVectors]] = {}
        self._claimed: set[str] = set()
        self._claims = threading.Lock()
        self._lock = threading.Lock()

    def open(self, folder: str, here: Callable[[], bool] | None = None) -> RecordStore:
        # One call on the dict: two threads that open a folder get the same one.
        keyvalue, vectors = self._held.setdefault(folder, (MemoryKeyValue(TABLES), MemoryVectors()))
        return RecordStore(keyvalue, vectors, here, Indexing(self._settings.document_index))

    def close(self, store: RecordStore) -> None:
        """The tables are not the store's alone."""

    def checkpoints(self, folder: str) -> Path | None:
        return None

    def clone(self, store: RecordStore, folder: str, new: str) -> None:
        keyvalue, vectors = self._held[folder]
        self._held[new] = keyvalue.clone(), vectors.clone(store.state().rows)

    def copy_live(self, store: RecordStore, new: str) -> None:
        self.discard(new)
        store.copy_live(self.open(new))

    def discard(self, folder: str) -> None:
        self._held.pop(folder, None)

    @contextmanager
    def maintenance(self) -> Iterator[None]:
        with self._lock:
            yield

    @contextmanager
    def claim(self, folder: str) -> Iterator[bool]:
        with self._claims:
            mine = folder not in self._claimed
            self._claimed.add(folder)
        try:
            yield mine
        finally:
            if mine:
                self._claimed.discard(folder)

    def after_fork(self) -> None:
        self._lock, self._claims, self._claimed = threading.Lock(), threading.Lock(), set()

    def close_all(self) -> None:
        self._held.clear()
