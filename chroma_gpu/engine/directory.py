"""The data directory: its format, its folders, and the lock for work on whole folders."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from chroma_gpu.errors import FormatError, StoreError

FORMAT: Final = 1


class Directory:
    """``format.json``, ``catalog/`` and ``collections/<folder>/`` below one path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.catalog = path / "catalog"
        self._lock = threading.Lock()
        self._locked: set[int] = set()

    @classmethod
    def open(cls, path: Path) -> Directory:
        """Open or create.

        Raises FormatError if the path holds another format or something else, StoreError if it cannot be made.
        """
        path = path.expanduser().resolve()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_format(path)
            (path / "collections").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path} cannot be used as a data directory: {error.strerror}.") from error
        return cls(path)

    def folder(self, name: str) -> Path:
        """Where the collection folder of this name is."""
        return self.path / "collections" / name

    @contextmanager
    def maintenance(self, *, wait: bool = True) -> Iterator[bool]:
        """Hold the right to make and remove whole folders, among threads and processes; gives whether it could be had.

        A dead process holds nothing: the kernel drops its lock.
        """
        lock = self._lock
        if not lock.acquire(blocking=wait):
            yield False
            return
        try:
            with self.locked(self.path / "maintenance.lock", wait=wait) as held:
                yield held
        finally:
            lock.release()

    @contextmanager
    def locked(self, path: Path, *, wait: bool) -> Iterator[bool]:
        """Hold a lock file, made if it is missing, among threads and processes; gives whether it could be had."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._locked.add(descriptor)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            if descriptor in self._locked:
                self._locked.remove(descriptor)
                os.close(descriptor)

    def after_fork(self) -> None:
        """In a forked child: let go of the parent's locks, which would else be held for as long as the child lives."""
        self._lock = threading.Lock()
        for descriptor in self._locked:
            os.close(descriptor)
        self._locked.clear()

    def sweep(self, folders: Callable[[], set[str]]) -> None:
        """Remove folders that no collection has: left by a crash, or by another process that dropped them. Skipped while one compacts."""
        with self.maintenance(wait=False) as held:
            if held:
                there = os.listdir(self.path / "collections")
                known = folders()
                for name in there:
                    if name not in known:
                        shutil.rmtree(self.folder(name), ignore_errors=True)


def _check_format(path: Path) -> None:
    marker = path / "format.json"
    if not marker.exists():
        # Other processes may be making the same directory at this moment.
        ours = ("catalog", "collections", "maintenance.lock")
        others = [each.name for each in path.iterdir() if each.name not in ours and not each.name.startswith("format.")]
        if "chroma.sqlite3" in others:
            raise FormatError(
                f"{path} is a directory of the original Chroma.", hint="Choose another path, and add its records there."
            )
        if others and not (path / "catalog").exists():
            raise FormatError(f"{path} is not empty and not a chroma_gpu directory.", hint="Choose an empty or a new one.")
        temporary = path / f"format.{os.getpid()}.{threading.get_ident()}.tmp"
        temporary.write_text(json.dumps({"format": FORMAT, "written_by": "chroma_gpu"}) + "\n")
        os.replace(temporary, marker)
    try:
        said = json.loads(marker.read_text())["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{marker} cannot be read.", hint='It should say {"format": 1}.') from error
    if said != FORMAT:
        raise FormatError(f"{path} has format {said}; this version reads format {FORMAT}.", hint="Use the version that wrote it.")
