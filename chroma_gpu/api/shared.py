"""Engines shared by the clients of one process: two clients on one path, or two in memory, see the same data."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import ClassVar

from chroma_gpu.config import Settings
from chroma_gpu.engine.engine import Engine

IN_MEMORY = "ephemeral"


class SharedEngines:
    """Counts who uses which engine; the last one to let go closes it."""

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _engines: ClassVar[dict[str, tuple[Engine, int, int]]] = {}
    _hooked: ClassVar[bool] = False

    @classmethod
    def take(cls, path: str | Path | None, settings: Settings) -> tuple[str, Engine]:
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
                engine, users = (Engine.in_memory(settings) if path is None else Engine.at(Path(identity), settings)), 0
            elif _behaviour(engine.settings) != _behaviour(settings):
                raise ValueError(f"An instance of Chroma already exists for {identity} with different settings")
            cls._engines[identity] = (engine, users + 1, os.getpid())
        return identity, engine

    @classmethod
    def release(cls, identity: str, engine: Engine) -> None:
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


def _behaviour(settings: Settings) -> dict[str, object]:
    """What must be equal among clients of one engine: all but how its path is spelled."""
    return {key: value for key, value in vars(settings).items() if key != "persist_directory"}
