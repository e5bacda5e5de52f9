"""Block sizes: what each kernel runs with on each architecture, as shipped or as measured on the card, and what is built of it.
And which searches a card was seen to do faster in another way than the usual one.

What ships is chosen so that it fits the registers and the shared memory of the architecture. What a card has measured is kept in a
file and comes first. Nothing here needs a card, but ``measure``.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from chroma_gpu.config import tuning_file

SHARED: Final[Mapping[int, int]] = MappingProxyType(
    {75: 64 << 10, 80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
)
"""Bytes of shared memory that one program may have, by compute capability (CUDA C++ Programming Guide, technical specifications)."""

CAPABILITIES: Final = (75, 80, 86, 89, 90)
"""What every kernel is built for: T4; A100; RTX 30, A10; L4, RTX 40; H100, H200."""

_DIMS: Final = (64, 128, 256, 384, 512, 768, 1024, 1536, 4096)
_BATCHES: Final = (1, 8, 16, 32, 64, 128, 256, 1024)
_BYTES: Final = {"float32": 4, "float16": 2, "int8": 1}
_ROWS: Final = (1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24)
_ANSWERS: Final = (10, 100, 1000)
_FORMAT: Final = 1

PAYS: Final = 0.95
"""Share of the usual way's time below which another way counts as faster: less is noise."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One kernel as it is built and launched in production.

    name              says which, in tests and messages; distinct in a file
    fn                the function under ``@triton.jit``
    signature         Triton's type of every argument that is no constant: "*fp16", "i32", "fp32"
    constexprs        every other argument
    least_capability  the oldest architecture that launches it: 75 for 7.5
    """

    name: str
    fn: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    least_capability: int = 75


@dataclass(frozen=True, slots=True)
class Config:
    """How a kernel cuts its work.

    rows, queries, dims  of a tile; powers of two
    way                  "fma": products by vector units. "dot": by tensor cores. "split": a library's product of a tile, then a
                         kernel that collects
    """

    rows: int
    queries: int
    dims: int
    num_warps: int
    num_stages: int
    way: str = "fma"


def config(kernel: str, capability: int, dtype: str, dim: int, queries: int, table: Table | None = None) -> Config:
    """What a kernel runs with: what is being tried, else what the card has measured, else what ships.

    kernel      "scan", "gather", "product", "join", "quantise", "encode", "predicate"
    capability  of the device, 75 for 7.5; 0 for none (the interpreter)
    dtype       of the rows: "float32", "float16", "int8"
    table       what was measured; by default the file that ``config.tuning_file`` names, read once in a process
    Cost        under 2 µs
    """
    if tried := _TRIED.get().get(kernel):
        return tried
    measured = (_table() if table is None else table).of(kernel, capability, dtype, dim, queries)
    return measured or shipped(kernel, capability, dtype, dim, queries)


@cache
def shipped(kernel: str, capability: int, dtype: str, dim: int, queries: int) -> Config:
    """What a kernel runs with where nothing was measured."""
    width = _power(dim)
    batch = _power(queries)
    if not capability:  # every program costs the interpreter some 40 ms, whatever its size
        dot = kernel in {"product", "join"}
        least = 16 if dot else 1
        return Config(1024, max(least, min(16, batch)), max(least, min(1024, width)), 4, 1, "dot" if dot else "fma")
    turing = capability < 80
    if kernel in {"product", "join"}:
        if turing:
            return Config(128, 32, 64, 4, 1, "split")
        wide = 128 if queries > 64 or kernel == "join" else 64
        dims = min(32 if dtype == "float32" else 64, max(16, width))
        # Two programs share a multiprocessor: one multiplies while the other keeps what is near. Taller tiles spill on what they keep.
        return _fitting(Config(128, wide, dims, 8, 4, "dot"), capability, dtype, programs=2)
    if kernel in {"scan", "gather"}:
        if queries == 1 or turing:
            rows = 64 if dtype == "int8" and queries == 1 else 32
            return Config(rows, min(8, batch), min(128 if queries == 1 else 64, width), 4, 1 if turing else 2, "fma")
        # Reading is what takes long: two programs share a multiprocessor, and lines of 128 bytes are in flight. More warps keep what
        # is done with a tile's scores in registers.
        wide = max(16, min(32, batch))
        dims = min(128 // _BYTES[dtype], max(16, width))
        if dtype == "float32":  # no tensor cores at full precision: more of a tile would spill
            return Config(64, wide, dims, 4 if wide == 16 else 8, 3, "dot")
        return _fitting(Config(128, wide, dims, 8, 4, "dot"), capability, dtype, programs=2)
    return Config(64 if kernel == "encode" else 1024, 1, min(1024, width), 4, 1 if turing else 2)


def candidates(kernel: str, capability: int, dtype: str, dim: int, queries: int) -> Iterator[Config]:
    """What is worth trying, at most a dozen, the shipped one first: other heights, warps and stages, as far as shared memory allows."""
    first = shipped(kernel, capability, dtype, dim, queries)
    yield first
    seen = {first}
    tried = [replace(first, num_stages=stages) for stages in (1, 2, 3, 4, 5) if abs(stages - first.num_stages) == 1]
    for rows in (first.rows // 2, first.rows, 2 * first.rows, 4 * first.rows):
        tried += [replace(first, rows=rows, num_warps=warps) for warps in (4, 8)]
    for each in tried:
        if each not in seen and each.rows >= 16 and _staged(each, capability, dtype) <= SHARED.get(capability, 99 << 10):
            seen.add(each)
            yield each


def measure(
    kernel: str,
    card: str,
    shape: tuple[int, str, int, int],
    run: Callable[[], object],
    seconds: Callable[[Callable[[], object]], float],
    path: Path,
    tries: Iterable[Config] | None = None,
) -> Config:
    """Time every candidate on the card, keep the fastest in the file and return it.

    card     as the driver names it: kept beside the figures. A file is of one machine; cards of one architecture share what it says
    shape    (capability, dtype, dim, queries) as for ``config``
    run      calls the kernel, which asks ``config``
    seconds  times a call; what cannot be built or launched is left out
    Raises   RuntimeError if no candidate runs
    Cost     a compilation of 1 to 3 s for each candidate that the card has not seen
    """
    took: dict[Config, float] = {}
    failed: Exception | None = None
    for each in candidates(kernel, *shape) if tries is None else tries:
        try:
            with trying(kernel, each):
                took[each] = seconds(run)
        except Exception as error:  # Triton raises what it likes: out of resources, errors of ptxas, of its own passes
            failed = error
    if not took:
        raise RuntimeError(f"no candidate of {kernel} ran on {card}") from failed
    best = min(took, key=lambda each: took[each])
    Table.load(path).with_entry(card, kernel, shape, best, took[best]).save(path)
    _table.cache_clear()
    return best


def pays(
    way: str, capability: int, dtype: str, dim: int, queries: int, rows: int, k: int, table: Table | None = None
) -> int | None:
    """After how many searches alike another way than the usual one pays; None where it does not, or where no card has measured it.

    way      "replay": the launches of a search, recorded. "faiss": FAISS's brute force. Nothing ships that takes either
    dtype    of the rows, or what the caller tells apart by it
    rows, k  of the table and of the answer. Past the largest that could be measured, no way pays
    Cost     under 2 µs
    """
    if way in (assumed := _ASSUMED.get()):
        return assumed[way]
    return (_table() if table is None else table).pays(way, capability, dtype, dim, queries, rows, k)


def compare(
    way: str,
    card: str,
    shape: tuple[int, str, int, int, int, int],
    usual: float,
    other: float,
    prepared: float,
    path: Path,
) -> int | None:
    """Keep in the file whether a way pays, and return what ``pays`` then says.

    shape         (capability, dtype, dim, queries, rows, k) as for ``pays``
    usual, other  seconds of one search; prepared: what the other way takes once, which has to be won back
    """
    after = math.ceil(prepared / (usual - other)) if other < PAYS * usual else None
    Table.load(path).with_way(card, way, shape, after, usual, other).save(path)
    _table.cache_clear()
    return after


@contextmanager
def assuming(way: str, after: int | None) -> Iterator[None]:
    """Within, in this thread, ``pays`` answers this for the way."""
    token = _ASSUMED.set({**_ASSUMED.get(), way: after})
    try:
        yield
    finally:
        _ASSUMED.reset(token)


@contextmanager
def trying(kernel: str, tried: Config) -> Iterator[None]:
    """Within, in this thread, ``config`` answers this for the kernel."""
    token = _TRIED.set({**_TRIED.get(), kernel: tried})
    try:
        yield
    finally:
        _TRIED.reset(token)


@dataclass(frozen=True, slots=True)
class Table:
    """What was measured: by card and shape. A file that is not there, of another format or damaged counts as nothing measured."""

    entries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ways: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Table:
        """The table of a file.  A crash of its writer loses nothing: files are replaced whole."""
        try:
            read = json.loads(path.read_text())
            if read["format"] != _FORMAT:
                return cls()
            for entry in read["entries"].values():
                Config(**entry["config"])
            ways = read.get("ways", {})
            if any(type(way["after"]) not in {int, type(None)} for way in ways.values()):
                return cls()
            return cls(read["entries"], ways)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def save(self, path: Path) -> None:
        """Replace the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({"format": _FORMAT, "entries": self.entries, "ways": self.ways}, file, indent=1, sort_keys=True)
        os.replace(file.name, path)

    def with_entry(self, card: str, kernel: str, shape: tuple[int, str, int, int], best: Config, seconds: float) -> Table:
        """The table and one measurement more."""
        key = _key(kernel, *shape)
        entry = {"config": asdict(best), "us": round(seconds * 1e6, 2), "card": card}
        return replace(self, entries={**self.entries, key: entry})

    def of(self, kernel: str, capability: int, dtype: str, dim: int, queries: int) -> Config | None:
        """What was measured for the class of a shape."""
        entry = self.entries.get(_key(kernel, capability, dtype, dim, queries)) if self.entries else None
        return None if entry is None else Config(**entry["config"])

    def with_way(
        self, card: str, way: str, shape: tuple[int, str, int, int, int, int], after: int | None, usual: float, other: float
    ) -> Table:
        """The table and one comparison more.  Raises ValueError for a shape that no class holds"""
        key = _way_key(way, *shape)
        if key is None:
            raise ValueError(f"there is no class for {shape}")
        entry = {"after": after, "us": round(other * 1e6, 2), "usual_us": round(usual * 1e6, 2), "card": card}
        return replace(self, ways={**self.ways, key: entry})

    def pays(self, way: str, capability: int, dtype: str, dim: int, queries: int, rows: int, k: int) -> int | None:
        """As ``tuning.pays``."""
        key = _way_key(way, capability, dtype, dim, queries, rows, k) if self.ways else None
        entry = None if key is None else self.ways.get(key)
        return None if entry is None else entry["after"]


_TRIED: ContextVar[Mapping[str, Config]] = ContextVar("tried", default=MappingProxyType({}))
_ASSUMED: ContextVar[Mapping[str, int | None]] = ContextVar("assumed", default=MappingProxyType({}))


@cache
def _table() -> Table:
    return Table.load(tuning_file())


def _key(kernel: str, capability: int, dtype: str, dim: int, queries: int) -> str:
    """The class of a shape: dimensions and batches are rounded up."""
    of_dim = next((each for each in _DIMS if dim <= each), _DIMS[-1])
    of_batch = next((each for each in _BATCHES if queries <= each), _BATCHES[-1])
    return f"{kernel} sm_{capability} {dtype} {of_dim} {of_batch}"


def _way_key(way: str, capability: int, dtype: str, dim: int, queries: int, rows: int, k: int) -> str | None:
    """The class of a search, rounded up; None past the last one."""
    if dim > _DIMS[-1] or rows > _ROWS[-1] or k > _ANSWERS[-1]:
        return None
    of_rows, of_k = (next(each for each in held if n <= each) for held, n in ((_ROWS, rows), (_ANSWERS, k)))
    return f"{_key(way, capability, dtype, dim, queries)} {of_rows} {of_k}"


def _fitting(wanted: Config, capability: int, dtype: str, programs: int = 1) -> Config:
    """With fewer stages, then fewer dimensions, until the tiles in flight of some programs leave an eighth of the shared memory free."""
    room = SHARED.get(capability, 99 << 10) * 7 // 8 // programs
    while _staged(wanted, capability, dtype) > room:
        if wanted.num_stages > 2:
            wanted = replace(wanted, num_stages=wanted.num_stages - 1)
        elif wanted.dims > 16:
            wanted = replace(wanted, dims=wanted.dims // 2)
        else:
            return replace(wanted, rows=wanted.rows // 2)
    return wanted


def _staged(each: Config, capability: int, dtype: str) -> int:
    """Bytes of shared memory that tiles in flight take where Triton pipelines a loop of products; before Hopper one of them is none."""
    if each.way != "dot":
        return 0
    flying = each.num_stages if capability >= 90 else max(1, each.num_stages - 1)
    return (each.rows * _BYTES[dtype] + each.queries * max(2, _BYTES[dtype])) * each.dims * flying


def _power(number: int) -> int:
    """The least power of two that is not below."""
    return 1 << max(0, number - 1).bit_length()
