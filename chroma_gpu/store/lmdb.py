"""Tables on disk, in LMDB. Everything that has to be known about LMDB is known here.

What it does not do by itself, and this file does: one opening per file and process, growth of the map, locks with a time limit
among threads, slots of dead readers, environments in forked children, errors in our own words. Commits are in LMDB's default
mode, the only one that keeps acknowledged writes through a power cut.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import lmdb

from chroma_gpu.errors import ClosedError, CorruptRecord, FormatError, StoreBusy, StoreError
from chroma_gpu.store.disk import copy_file, disk_error, sync_directory
from chroma_gpu.store.gate import Gate
from chroma_gpu.store.keyvalue import MAX_KEY
from chroma_gpu.store.openings import Openings

T = TypeVar("T")

_SMALLEST_MAP: Final = 1 << 18
_READER_CHECK_SECONDS: Final = 30.0
_QUIET_SECONDS: Final = 1.0


def open_lmdb(path: Path, tables: Iterable[str], *, map_size: int = 1 << 30, lock_timeout: float = 60.0) -> LmdbKeyValue:
    """Open the environment in a directory, or create it.

    tables        the names it will be used with; missing ones are created
    map_size      bytes of address space to begin with; doubles by itself when full
    lock_timeout  seconds a write waits for other threads of this process. Other processes are waited for without limit; the lock
                  of a process that dies is free at once
    Raises   FormatError if the file is not one of ours, StoreError if it cannot be opened
    """
    environment = _ENVIRONMENTS.take(path, map_size)
    try:
        environment.add_tables(tables, lock_timeout)
    except BaseException:
        _ENVIRONMENTS.release(environment, lock_timeout)
        raise
    return LmdbKeyValue(environment, lock_timeout)


def copy_lmdb(source: Path, target: Path) -> None:
    """Put a copy of an environment into a new directory, durably.

    To be called inside ``hold``: with every writer kept out, the file is what the last commit left. LMDB's own copy would wait for
    the very lock that is held. The lock file has no place in a copy.
    """
    target.mkdir(mode=0o700)
    copy_file(source / "data.mdb", target / "data.mdb")
    sync_directory(target)


def inspect_file(path: Path) -> list[str]:
    """Every fault in the structure of an environment's file, without opening it: LMDB itself can end the process on a damaged page.

    To be called while nobody writes.  Cost: about 2 s per GB
    """
    from lmdb.verify import VerifyError, verify

    try:
        return [f"{path}: {finding}" for finding in verify(str(path))]
    except (VerifyError, OSError) as error:
        return [f"{path}: {error}"]


class LmdbKeyValue:
    """One opening of an environment; all openings of one file in a process share the environment."""

    def __init__(self, environment: _Environment, lock_timeout: float) -> None:
        self._environment: _Environment | None = environment
        self._lock_timeout = lock_timeout

    @contextmanager
    def read(self) -> Iterator[LmdbTransaction]:
        environment = self._open()
        txn = environment.begin(False, self._lock_timeout)
        try:
            yield LmdbTransaction(txn, environment.tables)
        except lmdb.Error as error:
            raise environment.translated(error) from error
        finally:
            txn.abort()
            environment.gate.leave()

    def write(self, work: Callable[[LmdbTransaction], T]) -> T:
        environment = self._open()
        with environment.writing(self._lock_timeout):
            return environment.transact(work, self._lock_timeout)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """An open write transaction is the lock that every process respects."""
        environment = self._open()
        with environment.writing(self._lock_timeout):
            txn = LmdbTransaction(environment.begin(True, self._lock_timeout), environment.tables)
            try:
                yield
            finally:
                try:
                    environment.roll_back(txn)
                finally:
                    environment.gate.leave()

    def verify(self) -> list[str]:
        """As ``inspect_file``; no write meanwhile."""
        path = self._open().path
        with self.hold():
            return inspect_file(path)

    def close(self) -> None:
        if self._environment is not None:
            _ENVIRONMENTS.release(self._environment, self._lock_timeout)
            self._environment = None

    def _open(self) -> _Environment:
        if self._environment is None:
            raise ClosedError("the store was closed.")
        return self._environment


class LmdbTransaction:
    """A transaction of LMDB; what it returns are copies, so nothing points into the map."""

    __slots__ = ("_tables", "changed", "txn")

    def __init__(self, txn: Any, tables: dict[str, Any]) -> None:
        self.txn = txn
        self._tables = tables
        self.changed = False

    def get(self, table: str, key: bytes) -> bytes | None:
        return cast("bytes | None", self.txn.get(key, db=self._tables[table]))

    def get_many(self, table: str, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        with self.txn.cursor(self._tables[table]) as cursor:
            return cast("list[tuple[bytes, bytes]]", cursor.getmulti(keys))

    def scan(
        self, table: str, start: bytes = b"", *, stop: bytes | None = None, prefix: bytes = b"", values: bool = True
    ) -> Iterator[tuple[bytes, bytes]]:
        with self.txn.cursor(self._tables[table]) as cursor:
            start = max(start, prefix)
            if not (cursor.set_range(start) if start else cursor.first()):
                return
            items = cursor.iternext() if values else ((key, b"") for key in cursor.iternext(values=False))
            for item in items:
                if (stop is not None and item[0] >= stop) or not item[0].startswith(prefix):
                    return
                yield item

    def last(self, table: str) -> bytes | None:
        with self.txn.cursor(self._tables[table]) as cursor:
            return cursor.key() if cursor.last() else None

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.changed = True
        self.txn.put(key, value, db=self._tables[table])

    def put_many(self, table: str, items: Iterable[tuple[bytes, bytes]]) -> None:
        self.changed = True
        with self.txn.cursor(self._tables[table]) as cursor:
            cursor.putmulti(items)

    def append(self, table: str, items: Iterable[tuple[bytes, bytes]]) -> None:
        self.changed = True
        with self.txn.cursor(self._tables[table]) as cursor:
            consumed, added = cursor.putmulti(items, append=True)
        if consumed != added:
            raise ValueError(f"keys appended to table {table} must ascend and be above its last key")

    def delete(self, table: str, key: bytes) -> bool:
        self.changed = True
        return bool(self.txn.delete(key, db=self._tables[table]))

    def clear(self, table: str) -> None:
        self.changed = True
        self.txn.drop(self._tables[table], delete=False)


class _Environment:
    """The one opening of a file in this process.

    ``gate`` is entered by every transaction and shut while the map is replaced: LMDB would let a transaction read on in memory
    that is gone. ``_writer`` stands before LMDB's own lock, which cannot be waited for with a limit.
    """

    def __init__(self, path: Path, map_size: int) -> None:
        self.path = path
        self.references = 0
        self._map_size = map_size
        self.tables: dict[str, Any] = {}
        self.gate = Gate()
        self._writer = threading.Lock()
        self._lmdb = _open(path, map_size)
        self.identity = _identity(path)
        if self.identity is None:
            self._lmdb.close()
            raise StoreError(f"{path} was moved or removed while it was opened.", hint="Open it again at its new place.")
        self._next_check = 0.0
        self._inherited = False
        self._torn = False
        self._adoption = threading.Lock()

    def add_tables(self, names: Iterable[str], timeout: float) -> None:
        """Open handles. LMDB wants no other transaction of the process at that moment."""
        self._adopt()
        if missing := [name for name in names if name not in self.tables]:
            with self.gate.shut(timeout):
                self._open_tables(missing)

    def begin(self, write: bool, timeout: float) -> Any:
        """Enter the gate and begin a transaction; the caller ends it and leaves the gate."""
        deadline = time.monotonic() + timeout
        while True:
            self._adopt()
            self.gate.enter(timeout)
            try:
                return self._lmdb.begin(write=write)
            except lmdb.Error as error:
                failure = error
                self.gate.leave()
            except BaseException:
                self.gate.leave()
                raise
            self._mend(failure, deadline - time.monotonic())

    @contextmanager
    def writing(self, timeout: float) -> Iterator[None]:
        """Be the only writing thread of this process."""
        self._adopt()
        if self.gate.inside():
            raise RuntimeError("a transaction of this thread is still open; it cannot write now")
        writer = self._writer
        if not writer.acquire(timeout=timeout):
            raise StoreBusy(f"another thread has been writing to {self.path} for {timeout:.1f} s.", hint="Try again.")
        try:
            if time.monotonic() >= self._next_check:
                # Slots of readers that were killed keep old pages from being used again, so that the file grows.
                self._lmdb.reader_check()
                self._next_check = time.monotonic() + _READER_CHECK_SECONDS
            yield
        finally:
            writer.release()

    def transact(self, work: Callable[[LmdbTransaction], T], timeout: float) -> T:
        """Run ``work`` and commit; again after the map grew."""
        while True:
            try:
                txn = LmdbTransaction(self.begin(True, timeout), self.tables)
                try:
                    result = work(txn)
                    txn.txn.commit()
                    return result
                except BaseException:
                    self.roll_back(txn)
                    raise
                finally:
                    self.gate.leave()
            except lmdb.MapFullError:
                self._grow(timeout)
            except lmdb.Error as error:
                raise self.translated(error) from error

    def roll_back(self, txn: LmdbTransaction) -> None:
        """End a write transaction without its changes."""
        if not txn.changed:
            txn.txn.commit()
            return
        # To abort, the binding waits for a moment in which no other thread reads, and that might not come by itself.
        with self.gate.alone(_QUIET_SECONDS):
            txn.txn.abort()

    def close(self, timeout: float) -> None:
        if self._torn:
            return  # closing would end the parent's transactions: LMDB clears their slots in the shared lock file
        with self.gate.shut(timeout):
            self._lmdb.close()

    def inherit(self, torn: bool) -> None:
        """In a forked child: new locks, since the threads that hold the old ones are not here; a new opening at first use."""
        self.gate = Gate()
        self._writer = threading.Lock()
        self._adoption = threading.Lock()
        self._inherited = True
        self._torn = torn

    def translated(self, error: Any) -> Exception:
        """The error of ours that says the same as one of LMDB's."""
        if isinstance(error, lmdb.BadValsizeError):
            return ValueError(f"keys must have 1 to {MAX_KEY} bytes")
        if isinstance(error, lmdb.ReadersFullError):
            return StoreBusy(f"{self.path} has no free place for a reader.", hint="Try again.")
        if isinstance(error, lmdb.InvalidError | lmdb.VersionMismatchError):
            return FormatError(f"{self.path} is not a store of this format ({error}).", hint="Check the path.")
        if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError):
            return CorruptRecord(f"{self.path} is damaged ({error}).", hint="Restore it from a copy.")
        return disk_error(self.path / "data.mdb", error, error.code)

    def _adopt(self) -> None:
        """In a forked child, give up the parent's opening for one of our own."""
        if not self._inherited:
            return
        with self._adoption:
            if self._inherited:
                if self._torn:
                    raise StoreError(
                        f"this process was forked while a transaction on {self.path} was open.",
                        hint="Fork between calls, or start the process with spawn.",
                    )
                self._reopen()
                self._inherited = False

    def _reopen(self) -> None:
        """Close and open again."""
        self._lmdb.close()
        if _identity(self.path) != self.identity:
            raise StoreError(f"{self.path} was moved or removed while it was open.", hint="Open it again at its new place.")
        self._lmdb = _open(self.path, self._map_size)
        names, self.tables = list(self.tables), {}
        self._open_tables(names)

    def _open_tables(self, names: list[str]) -> None:
        """Open handles inside a shut gate. Waits for a writer: py-lmdb drops handles that a reading transaction opened."""
        try:
            with self._lmdb.begin(write=True) as txn:
                found = {name: self._lmdb.open_db(name.encode(), txn=txn) for name in names}
        except lmdb.MapResizedError:
            self._lmdb.set_mapsize(0)
            self._open_tables(names)
        except lmdb.MapFullError:
            self._lmdb.set_mapsize(2 * self._lmdb.info()["map_size"])
            self._open_tables(names)
        except lmdb.Error as error:
            raise self.translated(error) from error
        else:
            self.tables = self.tables | found

    def _mend(self, error: Any, left: float) -> None:
        """Remove what kept a transaction from beginning, in the seconds that are left, or raise."""
        if isinstance(error, lmdb.MapResizedError):
            with self.gate.shut(left):  # another process has grown the file beyond our map
                self._lmdb.set_mapsize(0)
        elif isinstance(error, lmdb.ReadersFullError) and left > 0:
            if not self._lmdb.reader_check():
                time.sleep(0.001)
        elif isinstance(error, lmdb.PanicError) and left > 0:
            with self.gate.shut(left):  # a write of the meta page failed; the file itself is whole
                self._reopen()
        else:
            raise self.translated(error) from error

    def _grow(self, timeout: float) -> None:
        """Double the map."""
        with self.gate.shut(timeout):
            doubled = 2 * self._lmdb.info()["map_size"]
            try:
                self._lmdb.set_mapsize(doubled)
            except lmdb.Error as error:
                self._reopen()
                raise StoreError(
                    f"{self.path} needs a map of {doubled:,} bytes, which this process cannot have.",
                    hint="Raise its limit of address space (ulimit -v).",
                ) from error


def _open(path: Path, map_size: int) -> Any:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be made ({error.strerror}).", hint="Check the path and its permissions.") from error
    new = not (path / "data.mdb").exists()
    size = max(map_size, _SMALLEST_MAP)
    while True:
        try:
            # The 0.9 format, whatever the default of the build or the environment: it is the one that was tested.
            environment = lmdb.open(
                str(path), map_size=size, max_dbs=64, max_readers=1024, mode=0o600, max_spare_txns=0, lib_version=0
            )
            break
        except lmdb.MemoryError as error:
            if size <= _SMALLEST_MAP:
                raise StoreError(f"{path} cannot be mapped into memory.", hint="Raise ulimit -v.") from error
            size //= 2
        except lmdb.InvalidError as error:
            raise FormatError(f"{path} is not a store of this format ({error}).", hint="Check the path.") from error
        except lmdb.Error as error:
            raise StoreError(f"{path} cannot be opened ({error}).") from error
    environment.reader_check()
    if new:
        sync_directory(path)
    elif (path / "data.mdb").stat().st_size < (environment.info()["last_pgno"] + 1) * environment.stat()["psize"] and (
        # A sound file may lack pages at its end, if they are free; reading others would end the process.
        found := _inspect_alone(environment, path)
    ):
        environment.close()
        raise CorruptRecord(f"{path} is damaged ({found[0]}).", hint="Restore it from a copy.")
    return environment


def _inspect_alone(environment: Any, path: Path) -> list[str]:
    """Inspect a file while nobody writes."""
    while True:
        try:
            with environment.begin(write=True):
                return inspect_file(path)
        except lmdb.MapResizedError:
            environment.set_mapsize(0)  # another process has grown the file since it was opened


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = (path / "data.mdb").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


_ENVIRONMENTS: Final = Openings(_Environment, _identity)
