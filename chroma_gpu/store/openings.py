"""The files this process has open, one opening for each, and what becomes of them when it forks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from chroma_gpu.errors import StoreBusy
from chroma_gpu.store.gate import Gate

Identity: TypeAlias = tuple[int, int]
"""Device and inode of a file."""

_WAIT_SECONDS: Final = 5.0


class Opening(Protocol):
    """What is shared by all who open one file."""

    identity: Identity | None
    references: int
    gate: Gate

    def inherit(self, torn: bool) -> None:
        """Told in a forked child; torn if a transaction was open in the parent at that moment."""
        ...

    def close(self, timeout: float) -> None:
        """Told when the last user is gone.  Raises StoreBusy"""
        ...


AnOpening = TypeVar("AnOpening", bound=Opening)


class Openings(Generic[AnOpening]):
    """The table of openings.

    LMDB's locks belong to the process, not to the opening: a second opening of a file would share the first one's locks, and
    closing it would drop them. So there is one such table in a process, the one piece of state that is shared by all in it.
    """

    def __init__(self, make: Callable[[Path, int], AnOpening], identify: Callable[[Path], Identity | None]) -> None:
        self._make = make
        self._identify = identify
        self._lock = threading.Lock()
        self._open: dict[Identity | None, AnOpening] = {}
        self._hooked = False
        self._held: list[AnOpening] = []
        self._torn: list[AnOpening] = []

    def take(self, path: Path, map_size: int) -> AnOpening:
        """The opening of a directory, made if there is none. Every take is followed by one ``release``."""
        with self._lock:
            if not self._hooked:
                os.register_at_fork(before=self._before_fork, after_in_parent=self._in_parent, after_in_child=self._in_child)
                self._hooked = True
            opening = self._open.get(self._identify(path))
            if opening is None:
                opening = self._make(path.absolute(), map_size)
                self._open[opening.identity] = opening
            opening.references += 1
            return opening

    def release(self, opening: AnOpening, timeout: float) -> None:
        """Give one take back; the last closes the file.  Raises StoreBusy if it is in use for some seconds more"""
        with self._lock:
            if opening.references == 1:
                opening.close(min(timeout, _WAIT_SECONDS))
                del self._open[opening.identity]
            opening.references -= 1

    def _before_fork(self) -> None:
        """Wait, for a short time, until no transaction is open: a child cannot close an environment that has one."""
        deadline = time.monotonic() + _WAIT_SECONDS
        self._lock.acquire()
        for opening in self._open.values():
            try:
                opening.gate.close(deadline - time.monotonic())
                self._held.append(opening)
            except (StoreBusy, RuntimeError):
                self._torn.append(opening)

    def _in_parent(self) -> None:
        for opening in self._held:
            opening.gate.open()
        self._held, self._torn = [], []
        self._lock.release()

    def _in_child(self) -> None:
        for opening in self._held:
            opening.inherit(torn=False)
        for opening in self._torn:
            opening.inherit(torn=True)
        self._held, self._torn = [], []
        self._lock = threading.Lock()
