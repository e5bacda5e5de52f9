"""The seam below the store: ordered tables of bytes with transactions. LMDB on disk, sorted dictionaries in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeVar

T = TypeVar("T")

MAX_KEY: Final = 511
"""Keys have 1 to this many bytes."""


class Transaction(Protocol):
    """One snapshot of every table, and in a write the changes on top of it. Used by one thread, and only until it ends.

    What it returns are copies. Raises KeyError for a table that was not named when the environment was opened, ValueError when a
    key to be put is empty or longer than MAX_KEY.
    """

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        ...

    def get_many(self, table: str, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """(key, value) of those keys that exist, in the order of ``keys``. Much faster than ``get`` in a loop."""
        ...

    def scan(
        self, table: str, start: bytes = b"", *, stop: bytes | None = None, prefix: bytes = b"", values: bool = True
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) for start <= key < stop that begin with ``prefix``, ascending; without ``values`` each value is b"".

        The table must not be written while it is scanned.
        """
        ...

    def last(self, table: str) -> bytes | None:
        """The largest key, or None in an empty table."""
        ...

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set the value of a key. Set it at most once in one transaction: twice is right, but leaves waste in an LMDB file."""
        ...

    def put_many(self, table: str, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set many; fastest in ascending order."""
        ...

    def append(self, table: str, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set new keys that ascend and are above the last one. Fills pages to the brim.  Raises ValueError if they are not."""
        ...

    def delete(self, table: str, key: bytes) -> bool:
        """Remove a key; whether it was there."""
        ...

    def clear(self, table: str) -> None:
        """Remove every key of a table."""
        ...


class KeyValue(Protocol):
    """An environment of named tables. Safe for many threads; one writer at a time, readers never wait for it."""

    def read(self) -> AbstractContextManager[Transaction]:
        """A snapshot for reading, for a short time: an open one keeps old pages alive and holds back the growth of the map."""
        ...

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` in a write transaction and commit; what ``work`` returns. An exception in it rolls back.

        ``work`` may be run again from the start, so it must not change anything outside the transaction that a second run would
        not repeat. Durable when this returns; a ``work`` that changes nothing costs no commit.
        Raises   DiskFull, StoreBusy after the lock timeout; RuntimeError inside ``read`` or ``write`` of the same thread
        """
        ...

    def hold(self) -> AbstractContextManager[None]:
        """Keep every other writer out, those of other processes too, without writing. Reading goes on.  Raises as ``write``"""
        ...

    def verify(self) -> list[str]:
        """Every fault found in the structure below the tables. Writers wait meanwhile. Empty is sound."""
        ...

    def close(self) -> None:
        """Release files and memory. Idempotent; later calls of other methods raise ClosedError."""
        ...
