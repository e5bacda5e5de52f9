"""A gate that many threads are inside of, or that one thread keeps shut."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chroma_gpu.errors import StoreBusy


class Gate:
    """Counts the threads inside; ``shut`` waits until there is none and lets none in. Every wait is bounded.

    A thread that is inside may enter again, also while another waits to shut: otherwise the two would wait for each other. Only
    one thread at a time may be ``alone``, which the writer's lock sees to.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside: dict[int, int] = {}
        self._keeper: int | None = None
        self._alone: int | None = None

    def inside(self) -> bool:
        """Whether the calling thread is inside."""
        return threading.get_ident() in self._inside

    def enter(self, timeout: float) -> None:
        """Go in.  Raises StoreBusy if the gate stays shut for ``timeout`` seconds."""
        me = threading.get_ident()
        with self._changed:
            depth = self._inside.get(me, 0)
            if not depth and self._closed_to(me):
                self._wait(lambda: not self._closed_to(me), timeout)
            self._inside[me] = depth + 1

    def leave(self) -> None:
        """Go out, once for each ``enter``."""
        me = threading.get_ident()
        with self._changed:
            depth = self._inside[me] - 1
            if depth:
                self._inside[me] = depth
            else:
                del self._inside[me]
                if self._keeper is not None or self._alone is not None:
                    self._changed.notify_all()

    @contextmanager
    def alone(self, timeout: float) -> Iterator[None]:
        """From inside, keep others from coming in, and wait for at most ``timeout`` seconds until they have gone."""
        me = threading.get_ident()
        with self._changed:
            self._alone = me
            self._changed.wait_for(lambda: self._inside.keys() == {me}, timeout)
        try:
            yield
        finally:
            with self._changed:
                self._alone = None
                self._changed.notify_all()

    @contextmanager
    def shut(self, timeout: float) -> Iterator[None]:
        """Alone with what the gate guards.

        Raises   StoreBusy if others stay inside for ``timeout`` seconds; RuntimeError for a thread that is inside itself
        """
        self.close(timeout)
        try:
            yield
        finally:
            self.open()

    def close(self, timeout: float) -> None:
        """Shut the gate until ``open``; as ``shut``."""
        deadline = time.monotonic() + timeout
        me = threading.get_ident()
        with self._changed:
            if me in self._inside:
                raise RuntimeError("a transaction of this thread is still open")
            self._wait(lambda: self._keeper is None, timeout)
            self._keeper = me
            try:
                self._wait(lambda: not self._inside, deadline - time.monotonic())
            except StoreBusy:
                self._keeper = None
                self._changed.notify_all()
                raise

    def open(self) -> None:
        """Let others in again."""
        with self._changed:
            self._keeper = None
            self._changed.notify_all()

    def _closed_to(self, thread: int) -> bool:
        return self._keeper not in {None, thread} or self._alone not in {None, thread}

    def _wait(self, until: Callable[[], bool], timeout: float) -> None:
        if not self._changed.wait_for(until, max(timeout, 0.0)):
            raise StoreBusy(
                f"other transactions of this process did not end within {timeout:.1f} s.", hint="Keep read transactions short."
            )
