"""Engines shared by the clients of one process: two clients on one path, or two in memory, see the same data."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import ClassVar

from chroma_gpu.api.backend import Backend
from chroma_gpu.api.embedded import Embedded
from chroma_gpu.config import Settings
from chroma_gpu.errors import AuthorizationError, ClosedError

IN_MEMORY = "ephemeral"


class SharedEngines:
    """Counts who uses which engine; the last one to let go closes it."""

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _engines: ClassVar[dict[str, tuple[Embedded, int, int]]] = {}
    _hooked: ClassVar[bool] = False

    @classmethod
    def take(cls, path: str | Path | None, settings: Settings) -> tuple[str, Embedded]:
        """The engine of a path, or of memory for None, and the identity to ``release``.

        Raises ValueError if it is open with different settings, and what opening raises.
        """
        identity = IN_MEMORY if path is None else str(Path(path).expanduser().resolve())
        with cls._lock:
            if not cls._hooked:
                os.register_at_fork(after_in_child=cls._in_child)
                cls._hooked = True
            engine, users, pid = cls._engines.get(identity, (None, 0, 0))
            if engine is not None and path is None and pid != os.getpid():
                engine = None  # memory of a forked parent is not ours to share
            if engine is None:
                engine, users = (Embedded.in_memory(settings) if path is None else Embedded.at(Path(identity), settings)), 0
            elif _behaviour(engine.settings) != _behaviour(settings):
                raise ValueError(f"An instance of Chroma already exists for {identity} with different settings")
            cls._engines[identity] = (engine, users + 1, os.getpid())
        return identity, engine

    @classmethod
    def release(cls, identity: str, engine: Embedded) -> None:
        """Undo one ``take``."""
        with cls._lock:
            held, users, pid = cls._engines.get(identity, (None, 0, 0))
            if held is not engine:
                return  # forgotten by ``clear``
            if users > 1:
                cls._engines[identity] = (engine, users - 1, pid)
                return
            del cls._engines[identity]
        engine.close()

    @classmethod
    def _in_child(cls) -> None:
        """In a forked child: locks that other threads of the parent hold would never be free."""
        cls._lock = threading.Lock()
        for engine, _, _ in cls._engines.values():
            engine.after_fork()

    @classmethod
    def clear(cls) -> None:
        """Close and forget every engine of the process; their clients can do nothing any more."""
        with cls._lock:
            engines = [engine for engine, _, _ in cls._engines.values()]
            cls._engines.clear()
        for engine in engines:
            engine.close()


class System:
    """The engine that settings name, held open from ``start`` to ``stop``. Every client has one; ``Client.from_system`` takes one.

    The engine itself is closed when the last that holds it stops.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._held: tuple[str, Embedded] | None = None
        self._server: Backend | None = None
        self._running = False
        self._stopping = threading.Lock()

    @property
    def engine(self) -> Backend:
        """The engine, also after ``stop``, when it may be closed. Raises ClosedError if it was never started."""
        if self._server is not None:
            return self._server
        if self._held is None:
            raise ClosedError("The system was not started.", hint="Call start() first.")
        return self._held[1]

    def start(self) -> None:
        """Take hold of the engine. Idempotent. Raises ValueError if it is open with different settings, and what opening raises."""
        if not self._running and is_remote(self.settings):
            from chroma_gpu.api.remote import Server

            self._server, self._running = Server(self.settings), True
        elif not self._running:
            path = self.settings.persist_directory if self.settings.is_persistent else None
            self._held = SharedEngines.take(path, self.settings)
            self._running = True

    def stop(self) -> None:
        """Let go of the engine. Idempotent, also among threads."""
        with self._stopping:
            running, self._running = self._running, False
        if self._server is not None:
            self._server.close()
        elif self._held is not None and running:
            SharedEngines.release(*self._held)

    def reset_state(self) -> None:
        """Remove everything in the engine. Raises AuthorizationError unless ``Settings(allow_reset=True)``."""
        if not self.settings.allow_reset:
            raise AuthorizationError("Reset is disabled by config")
        self.engine.reset()


def is_remote(settings: Settings) -> bool:
    """Whether settings ask for a server, by Chroma's names for what speaks with one."""
    return str(settings.chroma_api_impl).rpartition(".")[2] in ("FastAPI", "AsyncFastAPI")


class SharedSystemClient:
    """A client whose engine is shared within the process."""

    @staticmethod
    def clear_system_cache() -> None:
        """Close and forget every engine of this process, as tests do between cases."""
        SharedEngines.clear()


def _behaviour(settings: Settings) -> dict[str, object]:
    """What must be equal among clients of one engine: all but how its path is spelled."""
    return {key: value for key, value in vars(settings).items() if key != "persist_directory"}
