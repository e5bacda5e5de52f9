"""Tables and vectors in memory, with the meaning of those on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from heapq import merge
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from sortedcontainers import SortedDict

from chroma_gpu.errors import ClosedError, StoreBusy
from chroma_gpu.records import Rows, Vectors
from chroma_gpu.store.gate import Gate
from chroma_gpu.store.keyvalue import MAX_KEY

T = TypeVar("T")


class MemoryKeyValue:
    """Sorted dictionaries. A write collects its changes beside them and waits for the readers only to put them in.

    A forked child has a copy of its own, which is whole if no other thread was using it at that moment.
    """

    def __init__(self, tables: Iterable[str], *, lock_timeout: float = 60.0) -> None:
        self._tables: dict[str, Any] | None = {name: SortedDict() for name in tables}
        self._lock_timeout = lock_timeout
        self._writer = threading.Lock()
        self._writing: int | None = None
        self._gate = Gate()

    @contextmanager
    def read(self) -> Iterator[MemoryTransaction]:
        self._gate.enter(self._lock_timeout)
        try:
            yield MemoryTransaction(self._open())
        finally:
            self._gate.leave()

    def write(self, work: Callable[[MemoryTransaction], T]) -> T:
        with self.hold():
            txn = MemoryTransaction(self._open())
            result = work(txn)
            if txn.changes:
                with self._gate.shut(self._lock_timeout):
                    txn.apply()
            return result

    @contextmanager
    def hold(self) -> Iterator[None]:
        me = threading.get_ident()
        if self._gate.inside() or self._writing == me:
            raise RuntimeError("a transaction of this thread is still open; it cannot write now")
        if not self._writer.acquire(timeout=self._lock_timeout):
            raise StoreBusy(f"another thread has been writing for {self._lock_timeout:.1f} s.", hint="Try again.")
        self._writing = me
        try:
            yield
        finally:
            self._writing = None
            self._writer.release()

    def clone(self) -> MemoryKeyValue:
        """The same tables, of their own; inside ``hold``."""
        made = MemoryKeyValue((), lock_timeout=self._lock_timeout)
        made._tables = {name: SortedDict(table) for name, table in self._open().items()}
        return made

    def verify(self) -> list[str]:
        """Nothing lies below the tables."""
        self._open()
        return []

    def close(self) -> None:
        self._tables = None

    def _open(self) -> dict[str, Any]:
        if self._tables is None:
            raise ClosedError("the store was closed.")
        return self._tables


class MemoryTransaction:
    """The tables, and ``changes`` over them: by table the new value of each key, None for one that is deleted."""

    __slots__ = ("_tables", "changes")

    def __init__(self, tables: dict[str, Any]) -> None:
        self._tables = tables
        self.changes: dict[str, dict[bytes, bytes | None]] = {}

    def get(self, table: str, key: bytes) -> bytes | None:
        changed = self.changes.get(table)
        if changed is not None and key in changed:
            return changed[key]
        found: bytes | None = self._tables[table].get(key)
        return found

    def get_many(self, table: str, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        if table in self.changes:
            found = ((key, self.get(table, key)) for key in keys)
        else:
            get = self._tables[table].get
            found = ((key, get(key)) for key in keys)
        return [(key, value) for key, value in found if value is not None]

    def scan(
        self, table: str, start: bytes = b"", *, stop: bytes | None = None, prefix: bytes = b"", values: bool = True
    ) -> Iterator[tuple[bytes, bytes]]:
        for key in self._keys(table, max(start, prefix)):
            if (stop is not None and key >= stop) or not key.startswith(prefix):
                return
            value = self.get(table, key)
            if value is not None:
                yield key, value if values else b""

    def last(self, table: str) -> bytes | None:
        changed = self.changes.get(table, {})
        old = next((key for key in reversed(self._tables[table]) if changed.get(key, b"") is not None), None)
        return max((key for key in (old, *changed) if key is not None and changed.get(key, b"") is not None), default=None)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        if not 1 <= len(key) <= MAX_KEY:
            raise ValueError(f"keys must have 1 to {MAX_KEY} bytes")
        self._changed(table)[key] = value

    def put_many(self, table: str, items: Iterable[tuple[bytes, bytes]]) -> None:
        for key, value in items:
            self.put(table, key, value)

    def append(self, table: str, items: Iterable[tuple[bytes, bytes]]) -> None:
        last = self.last(table) or b""
        for key, value in items:
            if key <= last:
                raise ValueError(f"keys appended to table {table} must ascend and be above its last key")
            last = key
            self.put(table, key, value)

    def delete(self, table: str, key: bytes) -> bool:
        if self.get(table, key) is None:
            return False
        self._changed(table)[key] = None
        return True

    def clear(self, table: str) -> None:
        self._changed(table).update(dict.fromkeys([*self._tables[table], *self.changes[table]]))

    def apply(self) -> None:
        """Put the changes into the tables: all of them, also when Ctrl-C comes in between."""
        try:
            for name, changed in self.changes.items():
                table = self._tables[name]
                for key, value in changed.items():
                    if value is None:
                        table.pop(key, None)
                    else:
                        table[key] = value
        except BaseException:
            for name, changed in self.changes.items():
                # Of a sorted dictionary that was interrupted only the plain one below is sure to be sound.
                whole = {**dict(dict.items(self._tables[name])), **changed}
                self._tables[name] = SortedDict({key: value for key, value in whole.items() if value is not None})
            raise

    def _keys(self, table: str, start: bytes) -> Iterator[bytes]:
        """Keys from ``start`` on, ascending, those that were deleted in this transaction among them."""
        old: Iterator[bytes] = self._tables[table].irange(minimum=start)
        changed = self.changes.get(table)
        if changed is None:
            return old
        known = self._tables[table]
        return merge(old, sorted(key for key in changed if key >= start and key not in known))

    def _changed(self, table: str) -> dict[bytes, bytes | None]:
        if table not in self.changes:
            _ = self._tables[table]
            self.changes[table] = {}
        return self.changes[table]


class MemoryVectors:
    """rows x dim float32 in one array that doubles when it is full, so that an append costs O(its rows) on average."""

    def __init__(self) -> None:
        self.dim = 0
        self._rows = 0
        self._array: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)

    def __len__(self) -> int:
        return self._rows

    def block(self, start: int, stop: int) -> Vectors:
        if stop > len(self._array):
            raise IndexError(f"row {stop - 1} of {self._rows} vectors")
        view = self._array[start:stop]
        view.flags.writeable = False
        return view

    def gather(self, rows: Rows) -> Vectors:
        return self._array[rows]

    def commit(self, rows: int, dim: int) -> None:
        self.dim = dim
        self._rows = max(self._rows, rows)
        if not len(self._array):
            self._array = np.empty((0, dim), np.float32)

    def append(self, first: int, vectors: Vectors) -> None:
        stop = first + len(vectors)
        if stop > len(self._array):
            larger = np.empty((max(stop, 2 * len(self._array), 64), vectors.shape[1]), np.float32)
            if first:
                larger[:first] = self._array[:first]
            self._array = larger
        self._array[first:stop] = vectors

    def clone(self, rows: int) -> MemoryVectors:
        """The first rows, of their own."""
        made = MemoryVectors()
        made.dim, made._rows, made._array = self.dim, rows, self._array[:rows].copy()
        return made

    def close(self) -> None:
        self._array = np.empty((0, 0), np.float32)
