"""One thread that does derived work: taking committed rows into indexes, saving checkpoints."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable


class Background:
    """Runs jobs one after the other, outside the caller's thread.

    A job is named by a key; asking again for a key that still waits changes nothing. A job handles its own failures: it knows
    where they belong. The thread starts at the first job, is a daemon, and is started again in a forked child.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._condition = threading.Condition()
        self._waiting: OrderedDict[Hashable, Callable[[], None]] = OrderedDict()
        self._running: Hashable | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def ask(self, key: Hashable, job: Callable[[], None]) -> None:
        """Run ``job`` soon, unless a job of this key waits already. Does nothing after ``close``."""
        self._after_fork()
        with self._condition:
            if self._closed or key in self._waiting:
                return
            self._waiting[key] = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="chroma-gpu-background", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def drain(self, key: Hashable) -> None:
        """Return when no job of this key waits or runs; one that waits is dropped."""
        self._after_fork()
        with self._condition:
            self._waiting.pop(key, None)
            if self._thread is not threading.current_thread():
                while self._running == key:
                    self._condition.wait()

    def close(self) -> None:
        """Drop what waits and return when the running job has ended. Idempotent."""
        self._after_fork()
        with self._condition:
            self._closed = True
            self._waiting.clear()
            self._condition.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._running = None
                self._condition.notify_all()
                while not self._waiting:
                    if self._closed:
                        return
                    self._condition.wait()
                key, job = self._waiting.popitem(last=False)
                self._running = key
            job()

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            self.__init__()  # type: ignore[misc]  # the parent's thread and lock do not exist here
