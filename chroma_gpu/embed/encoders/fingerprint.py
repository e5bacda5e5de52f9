"""What the vectors of a model depend on besides text and prompt, as one short name."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from chroma_gpu.embed.encoders.layout import Dense, Layout

VERSION: Final = 1
"""Of the way from a text to its vector: raised when that changes vectors by more than rounding."""

_READ: Final = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja"})
"""The files of a model that are read: weights, configuration, tokenizer."""

_HASHES: Final[dict[tuple[object, ...], str]] = {}
"""Of files, by what tells one state of one file from another."""

_LOCK: Final = threading.Lock()


def fingerprint(layout: Layout, *more: object) -> str:
    """The name of a model in one state of its files.

    more     what else a vector depends on: type, lengths, arguments. By ``repr``
    Returns  64 hexadecimal digits. The same on every machine, device and path
    Raises   OSError for a file that cannot be read
    Cost     the first time for a file in a process, reading it: some 0.5 to 2 GB/s
    """
    steps = [step.activation if isinstance(step, Dense) else "normalise" for step in layout.steps]
    told = (VERSION, layout.pooling, layout.include_prompt, steps, layout.max_tokens, layout.lower_case, layout.unusual, more)
    return of_files(model_files(layout), told)


def model_files(layout: Layout) -> list[Path]:
    """The files that a model is loaded from.  Raises OSError"""
    dense = [step.folder for step in layout.steps if isinstance(step, Dense)]
    folders = [layout.directory, *dense]
    if layout.unusual is not None:  # sentence-transformers looks where it likes
        folders += sorted(path for path in layout.directory.iterdir() if path.is_dir() and path not in dense)
    return [path for folder in folders for path in files(folder)]


def of_files(paths: Iterable[Path], told: object = None) -> str:
    """The name of these files, in this order, and of what else is told. Their folders do not matter.  Raises OSError"""
    whole = hashlib.sha256(repr(told).encode())
    for path in paths:
        whole.update(f"\n{path.name} {_hash(path)}".encode())
    return whole.hexdigest()


def files(folder: Path) -> list[Path]:
    """The files of a model in a folder, by name; not those of other kinds, such as a page about it."""
    return sorted(path for path in folder.iterdir() if path.suffix in _READ and path.is_file())


class Loaded:
    """The files of a model in the state in which it was loaded: made before that, since a model that is in memory does not change with
    its files. Without paths, and where one cannot be read, there is no name.
    """

    def __init__(self, paths: Callable[[], Iterable[Path]]) -> None:
        self.paths = paths
        self._states = self._now()

    def named(self, name: Callable[[], str]) -> str | None:
        """A name that is made from the files; None if they are not those any more that the model was loaded from."""
        try:
            found = name() if self._states else None
        except OSError:
            return None
        return found if self._now() == self._states else None

    def _now(self) -> list[tuple[object, ...]]:
        try:
            return [_state(path) for path in self.paths()]
        except OSError:
            return []


def _state(path: Path) -> tuple[object, ...]:
    """What tells one state of one file from another.  Raises OSError"""
    real = path.resolve(strict=True)
    state = real.stat()
    return real, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _hash(path: Path) -> str:
    key = _state(path)
    with _LOCK:
        found = _HASHES.get(key)
    if found is None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        with _LOCK:
            _HASHES[key] = found
    return found
