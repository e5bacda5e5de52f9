"""Who holds how much of each device's memory, and who lets go when another needs it. One ledger for a process."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from chroma_gpu import device as devices


class NoRoom(Exception):
    """The budget of a device does not hold what is asked for, whoever lets go."""


class Holder(Protocol):
    """Somebody who holds memory of a device."""

    def release(self) -> None:
        """Let go of it, at once and for good.

        Called in any thread, which may hold the locks of another holder: so it waits for nothing that waits for the ledger.
        """
        ...


@dataclass(slots=True)
class _Held:
    nbytes: int
    searched: int


class Ledger:
    """The books of all devices. Holders that are garbage are forgotten by themselves.  Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._books: dict[str, WeakKeyDictionary[Holder, _Held]] = {}
        self._budgets: dict[tuple[str, str], int] = {}
        self._clock = 0

    def budget(self, device: str, limit: str) -> int:
        """Bytes that all holders together may have of a device, by a limit as ``Settings.vram_limit`` has it.

        A share is one of the memory that was free when this was first asked for.
        """
        with self._lock:
            if (device, limit) not in self._budgets:
                self._budgets[device, limit] = devices.memory_limit(limit, device)
            return self._budgets[device, limit]

    def free(self, device: str, budget: int, searched_before: int | None = None) -> int:
        """Bytes of a budget that nobody holds; with ``searched_before`` what is held by others that were last searched earlier is free too."""
        with self._lock:
            kept = (held.nbytes for held in self._book(device).values() if not (searched_before or 0) > held.searched)
            return budget - sum(kept)

    def reserve(
        self, holder: Holder, device: str, nbytes: int, budget: int, searched_before: int | None = None, *, spare: bool = False
    ) -> None:
        """Write down that a holder is about to take more of a device. Those who were not searched for longest let go if they must.

        searched_before  only those who were last searched before this moment have to; None for everyone
        spare            what the holder has can be done without: it goes before all others, counts as free, and only its like make room
        Raises           NoRoom; nobody has let go then
        """
        if spare:
            searched_before = 0
        with self._lock:
            book = self._book(device)
            missing = sum(held.nbytes for held in book.values()) + nbytes - budget
            leaving = []
            if missing > 0:
                others = [(held, other) for other, held in book.items() if other is not holder]
                for held, other in sorted(others, key=lambda each: each[0].searched):
                    if missing > 0 and held.nbytes and (searched_before is None or held.searched < searched_before):
                        leaving.append(other)
                        missing -= held.nbytes
            if missing > 0:
                raise NoRoom(f"{nbytes:,} bytes more do not fit on {device}, of which {budget:,} may be held")
            for other in leaving:
                del book[other]
            book.setdefault(holder, _Held(0, -1 if spare else self._clock)).nbytes += nbytes
        for other in leaving:
            other.release()

    def give_back(self, holder: Holder, nbytes: int | None = None) -> None:
        """Write down that a holder has let go of some bytes, or of everything."""
        with self._lock:
            for book in self._books.values():
                if holder in book and nbytes is not None:
                    book[holder].nbytes -= nbytes
                elif holder in book:
                    del book[holder]

    def searched(self, *holders: Holder) -> int:
        """A moment, later than all before; the holders were searched at it."""
        with self._lock:
            self._clock += 1
            for book in self._books.values():
                for holder in holders:
                    if holder in book:
                        book[holder].searched = self._clock
            return self._clock

    def held(self) -> dict[str, int]:
        """Bytes that are held of each device."""
        with self._lock:
            return {device: sum(held.nbytes for held in book.values()) for device, book in self._books.items() if book}

    def _book(self, device: str) -> WeakKeyDictionary[Holder, _Held]:
        return self._books.setdefault(device, WeakKeyDictionary())


LEDGER: Final = Ledger()
"""The one of this process."""
