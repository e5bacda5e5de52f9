"""The cache of embeddings: vectors of texts that a model has embedded before, for all collections of a data directory.

A model has files of its own, named after its fingerprint (``embed/memory/segments.py``). A text is known by a digest of itself and the
fingerprint; the texts are not kept. Which digest is where is held in memory, 16 bytes a vector, and follows what other processes append.
All files together stay below a limit: where more is needed, the file that was of no use for longest goes, of whatever model.

Nothing here is the only copy of anything: a crash, a full disk, processes that write at once and files that are cut or changed cost
vectors that are made again; a wrong one is never given.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.embed.memory.segments import UNFINISHED, Header, Keys, Segment
from chroma_gpu.records import Vectors

SEGMENTS: Final = 8
"""The limit is for so many full files, so that the least recently used eighth goes at a time."""

_ENDING: Final = ".vectors"
_LOCK: Final = "lock"
_WAIT_SECONDS: Final = 0.5
_TOUCHED_SECONDS: Final = 60.0
_SETTLED_NANOSECONDS: Final = 1_000_000_000
_RECENT: Final = 4_096
_OPEN_MODELS: Final = 16


@dataclass(frozen=True, slots=True)
class ModelUse:
    """What the cache holds of one model.

    name       the beginning of its fingerprint
    entries    vectors, some of which may be there twice
    bytes      on disk
    last_used  seconds since the epoch; may be a minute behind
    """

    name: str
    dim: int
    entries: int
    bytes: int
    last_used: float


class EmbeddingCache:
    """What is remembered below a directory, which is made when there is something to keep. For any number of threads and processes.

    limit   bytes that all files together may have
    An OSError, of a full disk for one, switches it off in this process with one RuntimeWarning; embedding goes on.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory = directory
        self.limit = limit
        self.off = False
        self._models: OrderedDict[tuple[str, int], RememberedVectors] = OrderedDict()
        self._opening = threading.Lock()

    def of(self, fingerprint: str, dim: int) -> RememberedVectors:
        """What is remembered of one model."""
        with self._opening:
            found = self._models.get((fingerprint, dim))
            if found is None:
                found = self._models[fingerprint, dim] = RememberedVectors(self, fingerprint, dim)
            self._models.move_to_end((fingerprint, dim))
            while len(self._models) > _OPEN_MODELS:
                self._models.popitem(last=False)  # its files are closed when nobody uses it any more
            return found

    def dim_of(self, fingerprint: str) -> int | None:
        """How long the vectors are that are remembered of a model; None if there are none."""
        if self.off:
            return None
        digest = digest_of(fingerprint)
        try:
            found = [header_of(path) for path in reversed(self.files(digest))]
        except OSError as error:
            self.switch_off(error)
            return None
        return next((header.dim for header in found if header is not None and header.digest == digest), None)

    def models(self) -> list[ModelUse]:
        """What is there, the model that was used last first.  Raises OSError"""
        found: dict[tuple[bytes, int], ModelUse] = {}
        for path in self.files():
            header = header_of(path)
            stat = _stat(path)
            if header is None or stat is None or (segment := _opened(path, header.digest, header.dim)) is None:
                continue  # of another form, or removed in between
            old = found.get((header.digest, header.dim), ModelUse(header.name, header.dim, 0, 0, 0.0))
            found[header.digest, header.dim] = ModelUse(
                header.name,
                header.dim,
                old.entries + segment.count(),
                old.bytes + stat.st_blocks * 512,
                max(old.last_used, stat.st_mtime),
            )
        return sorted(found.values(), key=lambda use: -use.last_used)

    def prune(self, limit: int) -> int:
        """Remove what was of no use for longest until all files have at most ``limit`` bytes; how many bytes that gave back.

        Raises OSError
        """
        if not self.directory.exists():
            return 0
        with self.locked(wait=60.0) as held:
            if not held:
                raise TimeoutError(f"{self.directory} is being written by another process.")
            before = self._used()
            self.make_room(0, None, limit)
            return before - self._used()

    def _used(self) -> int:
        """Bytes on disk."""
        return sum(stat.st_blocks * 512 for path in self.files() if (stat := _stat(path)) is not None)

    def clear(self) -> None:
        """Forget everything.  Raises OSError"""
        self.prune(0)

    def files(self, digest: bytes | None = None) -> list[Path]:
        """The files of all models, or of one, oldest first; none where there is no directory."""
        begin = "" if digest is None else digest.hex()
        return [self.directory / name for name in self._names(_ENDING) if name.startswith(begin)]

    def close(self) -> None:
        """Close the files that nobody is reading just now. What is asked for later is opened again."""
        with self._opening:
            self._models.clear()

    @contextmanager
    def locked(self, wait: float = _WAIT_SECONDS) -> Iterator[bool]:
        """Be the only writer among threads and processes; gives whether that could be had in time.  Raises OSError"""
        # A descriptor of its own each time, so that it holds among threads too, and after a fork.
        fd = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            end, pause = time.monotonic() + wait, 0.0005
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        yield False
                        return
                    time.sleep(pause)
                    pause = min(2 * pause, 0.02)
            try:
                yield True
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)  # a child that was forked meanwhile has the descriptor too
        finally:
            os.close(fd)

    def make_room(self, needed: int, spared: Path | None, limit: int, user: RememberedVectors | None = None) -> bool:
        """Remove files until ``needed`` bytes more fit below a limit, but not the spared one; whether they do. Under the lock.

        user  who asks, and looks by itself what is there afterwards
        """
        for name in self._names(UNFINISHED):
            (self.directory / name).unlink(missing_ok=True)  # of a process that died
        found = [(stat.st_mtime_ns, stat.st_size, path) for path in self.files() if (stat := _stat(path)) is not None]
        total = sum(size for _, size, _ in found)
        removed: set[str] = set()
        for _, size, path in sorted(found):
            if total + needed <= limit:
                break
            if path != spared:
                path.unlink(missing_ok=True)
                removed.add(path.name.partition("-")[0])
                total -= size
        if removed:
            with self._opening:  # their disk is free only when nobody has them open
                for key, model in list(self._models.items()):
                    if model is not user and digest_of(key[0]).hex() in removed:
                        del self._models[key]
        return total + needed <= limit

    def _names(self, ending: str) -> list[str]:
        """The files that end so, sorted. What is no file was put there by somebody else, and is left alone."""
        try:
            with os.scandir(self.directory) as found:
                return sorted(each.name for each in found if each.name.endswith(ending) and each.is_file(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def switch_off(self, error: OSError) -> None:
        """Do without from now on, and say so once."""
        if not self.off:
            self.off = True
            warnings.warn(
                f"the cache of embeddings in {self.directory} is off for this process: {error.strerror or error}. "
                "Embedding goes on without it. Setting embedding_cache=0 turns it off for good.",
                RuntimeWarning,
                stacklevel=4,
            )


class RememberedVectors:
    """The vectors of one model. Threads may share it."""

    def __init__(self, cache: EmbeddingCache, fingerprint: str, dim: int) -> None:
        self.dim = dim
        self._cache = cache
        self._name = fingerprint
        self._digest = digest_of(fingerprint)
        self._capacity = Segment.fitting(cache.limit // SEGMENTS, dim)
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._segments: dict[int, Segment] = {}
        self._indexed: dict[int, int] = {}
        self._touched: dict[int, float] = {}
        self._next = 0
        self._index = _Index.empty()

    def find(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.bool_], Vectors]:
        """As ``Remembered`` has it.  Cost: 2 to 4 µs a text in large batches at 384 dimensions, less for unknown ones; 0.1 ms for one text"""
        known = np.zeros(len(texts), np.bool_)
        nothing = np.empty((0, self.dim), np.float32)
        if self._cache.off or not len(texts):
            return known, nothing
        try:
            with self._lock:
                self._follow()
                index, segments = self._index, dict(self._segments)
            if not segments:
                return known, nothing
            return self._found(keys_of(texts, self._digest), index, segments)
        except OSError as error:
            self._cache.switch_off(error)
            return known, nothing

    def keep(self, texts: Sequence[str], vectors: Vectors) -> None:
        """As ``Remembered`` has it. Texts that are known already are not kept again, nor is what is NaN or infinite.

        Returns without keeping anything where other processes write for half a second on end.
        Raises  ValueError for vectors of another shape
        Cost    some 4 µs a text in large batches at 384 dimensions; 0.1 ms for one text. A crash of the machine may lose it
        """
        if vectors.shape != (len(texts), self.dim):
            raise ValueError(f"expected {len(texts)} vectors of {self.dim} numbers, got {vectors.shape}")
        if self._cache.off or not len(texts) or not self._capacity:
            return
        vectors = np.ascontiguousarray(vectors, np.float32)
        keys = keys_of(texts, self._digest)
        try:
            self._cache.directory.mkdir(mode=0o700, exist_ok=True)
            with self._cache.locked() as held:
                if held:
                    with self._lock:
                        self._put(keys, vectors)
        except OSError as error:
            self._cache.switch_off(error)

    def _put(self, keys: Keys, vectors: Vectors) -> None:
        """Append what is not known yet. Under both locks."""
        self._follow()
        known, _ = self._found(keys, self._index, self._segments)
        new = ~known & np.isfinite(vectors).all(axis=1)
        if not new.all():
            keys, vectors = keys[new], vectors[new]
        start = 0
        while start < len(keys):
            number = next(reversed(self._segments), None)
            segment = None if number is None else self._segments[number]
            count = 0 if segment is None else segment.count()
            if segment is None or count == segment.capacity or segment.capacity > self._capacity:  # the limit was larger
                if (segment := self._begun()) is None:
                    return
                count = 0
            stop = min(len(keys), start + segment.capacity - count)
            size, more = segment.growth(count + stop - start)
            if more and not self._cache.make_room(more, segment.path, self._cache.limit, self):
                return
            segment.append(count, keys[start:stop], vectors[start:stop], size)
            start = stop
        self._follow()

    def _begun(self) -> Segment | None:
        """A new file; None if there is no room for one."""
        header = Header(self._digest, self._name, self.dim, self._capacity)
        if not self._cache.make_room(header.empty_size, None, self._cache.limit, self):
            return None
        path = self._cache.directory / f"{self._digest.hex()}-{time.time_ns():020d}{_ENDING}"
        self._add(Segment.create(path, header))
        return self._segments[self._next - 1]

    def _found(self, keys: Keys, index: _Index, segments: dict[int, Segment]) -> tuple[npt.NDArray[np.bool_], Vectors]:
        """Which keys are known, and the vectors of those."""
        places = index.places(np.ascontiguousarray(keys[:, 0]))
        hits = np.flatnonzero(places >= 0)
        known = np.zeros(len(keys), np.bool_)
        vectors = np.empty((0, self.dim), np.float32)
        numbers = places[hits] >> 32
        distinct = np.unique(numbers).tolist()
        for number in distinct:
            at = np.flatnonzero(numbers == number)
            good, found = segments[number].read(places[hits[at]] & 0xFFFFFFFF, keys[hits[at]])
            known[hits[at]] = good
            if len(distinct) == 1:
                vectors = found
            else:
                vectors = vectors if len(vectors) else np.empty((len(hits), self.dim), np.float32)
                vectors[at] = found
            if good.any():
                self._touch(number, segments[number])
        return known, vectors if known[hits].all() else vectors[known[hits]]

    def _touch(self, number: int, segment: Segment) -> None:
        now = time.monotonic()
        if now - self._touched.get(number, -_TOUCHED_SECONDS) >= _TOUCHED_SECONDS:
            self._touched[number] = now
            segment.used()

    def _follow(self) -> None:
        """Take in what all processes have made, appended and removed since. Under the lock of this object."""
        stat = _stat(self._cache.directory)
        seen = None if stat is None else (stat.st_ino, stat.st_mtime_ns)
        if seen is None or seen != self._seen or time.time_ns() - seen[1] < _SETTLED_NANOSECONDS:
            self._look()
            self._seen = seen
        for number, segment in self._segments.items():
            first = self._indexed[number]
            if first < segment.capacity and (count := segment.count()) > first:
                places = (np.arange(first, count, dtype=np.int64)) | (number << 32)
                self._index = self._index.plus(segment.keys(first, count)[:, 0], places)
                self._indexed[number] = count

    def _look(self) -> None:
        """Which files there are."""
        there = {path: stat.st_ino for path in self._cache.files(self._digest) if (stat := _stat(path)) is not None}
        gone = [number for number, each in self._segments.items() if there.get(each.path) != each.identity()]
        for number in gone:
            del self._segments[number], self._indexed[number]
        if gone:
            self._index = self._index.without(gone)
        mine = {segment.path for segment in self._segments.values()}
        for path in there:
            if path not in mine:
                try:
                    segment = Segment.open(path, self._digest, self.dim)
                except FileNotFoundError:
                    continue  # another process has removed it in between
                if segment is None:
                    path.unlink(missing_ok=True)  # of another format, or damaged
                else:
                    self._add(segment)

    def _add(self, segment: Segment) -> None:
        self._segments[self._next], self._indexed[self._next] = segment, 0
        self._next += 1


@dataclass(frozen=True, slots=True, eq=False)
class _Index:
    """From the first eight bytes of a key to the place of its vector: two sorted arrays, a large one and one of what came last.

    A place is the number of a file in this process, shifted by 32 bits, and the place in the file. Of equal keys the newest is found.
    """

    tags: npt.NDArray[np.uint64]
    at: npt.NDArray[np.int64]
    recent_tags: npt.NDArray[np.uint64]
    recent_at: npt.NDArray[np.int64]

    @classmethod
    def empty(cls) -> _Index:
        tags, at = np.empty(0, np.uint64), np.empty(0, np.int64)
        return cls(tags, at, tags, at)

    def places(self, tags: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """[n] int64: the place of each, -1 where it is not known."""
        found = np.full(len(tags), -1, np.int64)
        for known, at in ((self.tags, self.at), (self.recent_tags, self.recent_at)):
            if len(known):
                first = np.minimum(np.searchsorted(known, tags), len(known) - 1)
                same = known[first] == tags
                found[same] = at[first[same]]
        return found

    def plus(self, tags: npt.NDArray[np.uint64], at: npt.NDArray[np.int64]) -> _Index:
        """With more, which are newer, the newest last."""
        order = len(tags) - 1 - np.argsort(tags[::-1], kind="stable")
        recent = _merged(self.recent_tags, self.recent_at, tags[order], at[order])
        if len(recent[0]) <= max(_RECENT, len(self.tags) // 16):
            return _Index(self.tags, self.at, *recent)
        nothing = _Index.empty()
        return _Index(*_merged(self.tags, self.at, *recent), nothing.tags, nothing.at)

    def without(self, numbers: list[int]) -> _Index:
        """Without what is in some files."""
        old, recent = (~np.isin(at >> 32, numbers) for at in (self.at, self.recent_at))
        return _Index(self.tags[old], self.at[old], self.recent_tags[recent], self.recent_at[recent])


def _merged(
    tags: npt.NDArray[np.uint64], at: npt.NDArray[np.int64], new_tags: npt.NDArray[np.uint64], new_at: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Two sorted arrays as one, the new before the equal old."""
    where = np.searchsorted(tags, new_tags)
    return np.insert(tags, where, new_tags), np.insert(at, where, new_at)


def digest_of(fingerprint: str) -> bytes:
    """16 bytes that stand for a model."""
    return hashlib.blake2b(fingerprint.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def keys_of(texts: Sequence[str], digest: bytes) -> Keys:
    """[n, 2] uint64: what stands for each text of a model. Any str has one, lone surrogates too."""
    blake = hashlib.blake2b
    keys = [blake(text.encode("utf-8", "surrogatepass"), digest_size=16, salt=digest).digest() for text in texts]
    return np.frombuffer(b"".join(keys), "<u8").reshape(-1, 2)


def header_of(path: Path) -> Header | None:
    """What a file says of itself; None if that is not readable.  Raises OSError"""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return Header.read(fd)
    finally:
        os.close(fd)


def _opened(path: Path, digest: bytes, dim: int) -> Segment | None:
    try:
        return Segment.open(path, digest, dim)
    except FileNotFoundError:
        return None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
