"""``scan`` in Triton: sample, threshold, collect; the host waits once, at the end. See README.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, NamedTuple

import torch
from torch import Tensor

from chroma_gpu.kernels import buffer as chunks
from chroma_gpu.kernels.buffer import Buffer
from chroma_gpu.kernels.collect_triton import ALL, COLLECT, EACH, EVERY, GROUP, LISTED, MASKED, SAMPLE, TYPES, cut, score
from chroma_gpu.kernels.launch import launch
from chroma_gpu.kernels.lists_triton import compact, floor_of, halve, pack, power, prune
from chroma_gpu.kernels.replays import replayed, worth
from chroma_gpu.kernels.scan import Survivors
from chroma_gpu.kernels.tuning import Config, Variant

DENSE: Final = 0.7
"""Share of rows that pass a mask, from which on rows are skipped where they lie instead of being listed first."""

SMALL: Final = 4096
"""Rows up to which every score is written and no sample is taken."""

ENTRIES: Final = 1 << 22
"""(query, row) pairs that there is room for at first, of all queries that are answered at once: 150 MiB."""

CROWD: Final = 1 << 26
"""Pairs that lists which ran over may have room for, of several queries."""

LARGE: Final = 64
"""Queries from which on products are worth their own kernels; on cards before sm_80, whose tensor cores Triton cannot use, a sixteenth
of it."""

LINE: Final = 4096
"""Rows of a mask that one program lists."""

TOGETHER: Final = 4096
"""Queries that are answered at once at most, and lists of their own a quarter of it: kernels hold a number of each in registers."""

WAVES: Final = 64
"""Programs for each processor of the card at most: so many that no processor is idle long at the end."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Which rows are to be scored.

    kind     ALL, MASKED, LISTED or EACH
    most     upper bound of how many, for one query
    words    of the mask, for MASKED
    listed   for LISTED and EACH: rows less base
    counted  [1] int32: how many are listed, where the host does not know
    base     what is added to every listed row
    bounds   [2, q + 1] int64 for EACH, see ``collect_triton.score``, made for tiles of ``rows`` rows
    tiles    for EACH: how many in all
    sizes    [q] int64 for EACH: how many rows are listed
    """

    kind: int
    most: int
    words: Tensor | None = None
    listed: Tensor | None = None
    counted: Tensor | None = None
    base: int = 0
    bounds: Tensor | None = None
    tiles: int = 0
    sizes: Tensor | None = None


def scan(
    queries: Tensor,
    buffer: Buffer,
    k: int,
    slack: Tensor,
    words: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    passing: int | None = None,
) -> Survivors:
    """As ``scan.scan``."""
    if len(queries) > (LARGE if _capability(buffer.device) >= 80 else LARGE // 16) and buffer.device.type == "cuda":
        from chroma_gpu.kernels.product import product

        return product(queries, buffer, k, slack, words, lengths=lengths, passing=passing)
    most = len(buffer) if passing is None else min(passing, len(buffer))
    if not most:
        return nothing(buffer.device)
    if words is None:
        source = Source(ALL, len(buffer))
    elif passing is not None and passing >= DENSE * len(buffer):
        source = Source(MASKED, len(buffer), words=words)
    else:
        source = listed(buffer, words, most)
    return answered(queries, buffer, k, slack, lengths, source, "scan")


def listed(buffer: Buffer, words: Tensor, most: int) -> Source:
    """The rows whose bit is set, as a list that stays on the device.  most: upper bound of how many"""
    origin, last = buffer.chunks[0].start, buffer.chunks[-1]
    narrow = last.start + len(last) - origin < 1 << 31
    rows = torch.empty(most, dtype=torch.int32 if narrow else torch.int64, device=buffer.device)
    counted = torch.zeros(1, dtype=torch.int32, device=buffer.device)
    tiles = -(-buffer.span // LINE)
    grid = (tiles * len(buffer.chunks), 1, 1)
    launch(compact, grid, buffer.places, words, rows, counted, origin, len(words), most, tiles, num_warps=4, ROWS=LINE)
    return Source(LISTED, most, listed=rows, counted=counted, base=origin)


def answered(
    queries: Tensor, buffer: Buffer, k: int, slack: Tensor, lengths: Tensor | None, source: Source, kernel: str
) -> Survivors:
    """Whoever of a source that is the same for all queries may be among the k best of each."""
    together = planned(k, source.most, buffer, source.kind, tuned(kernel, buffer, len(queries)), len(queries)).together

    def some(part: slice) -> Survivors:
        own = None if lengths is None else lengths[part]
        return survivors(queries[part], buffer, k, slack[part], own, source, kernel)

    return in_turns(len(queries), together, some)


def in_turns(n_queries: int, together: int, answer: Callable[[slice], Survivors]) -> Survivors:
    """The answers for so many queries at a time, or fewer where their lists are too long, as one."""
    parts: list[Survivors] = []
    first = 0
    while first < n_queries:
        stop = min(first + together, n_queries)
        try:
            part = answer(slice(first, stop))
        except Crowded:
            together = (stop - first) // 2
            continue
        parts.append(replace(part, owners=part.owners + first) if first else part)
        first = stop
    if len(parts) == 1:
        return parts[0]
    return Survivors(*(torch.cat([getattr(part, each) for part in parts]) for each in ("owners", "rows", "scores")))


class Crowded(Exception):
    """The survivors of several queries do not fit at once."""


def survivors(
    queries: Tensor, buffer: Buffer, k: int, slack: Tensor, lengths: Tensor | None, source: Source, kernel: str
) -> Survivors:
    """Whoever of the source may be among the k best, for all queries at once.

    The steps: a floor from a sample, everything at the floor or above appended, the list cut at its own k-th best. What did not fit
    is collected again, from the k-th best of what did.

    Raises  Crowded for several queries with more than ``CROWD`` survivors in all
    """
    each = source.kind == EACH
    how = tuned(kernel, buffer, 1 if each else len(queries), queries.dtype)
    if each:
        how = replace(how, way="fma")  # there is one query for a tile
    plan = planned(k, source.most, buffer, source.kind, how, len(queries))

    def begun(queries: Tensor, slack: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        run = _Run(queries, buffer, k, slack, lengths, source, how, plan)
        floors = None if plan.every else run.floors()
        lists = run.pruned(run.collected(floors, plan.capacity), plan.capacity)
        return lists if floors is None else (*lists, floors)

    n, dim = queries.shape
    device, inputs = buffer.device, (queries, slack) if lengths is None else (queries, slack, lengths)
    rows = name(buffer.chunks[0].vectors)
    after = worth(_capability(device), rows, dim, n, len(buffer), k, plan.capacity) if source.kind == ALL else None
    with replayed(buffer, (n, dim, queries.dtype, lengths is None, k, how), after, begun, inputs) as outputs:
        lists, floors = _Lists(*(made := outputs or begun(*inputs))[:7]), None if plan.every else made[7]
        found, kept = lists.state.tolist()  # waits for the device
        if floors is None or max(found) <= plan.capacity:
            return _packed(lists, kept, plan.capacity, copied=outputs is not None)
        # The k-th best of what fitted may be a better floor than the sample's. If that does not help, they really are so many.
        floors = torch.maximum(floors, lists.floors)
    del made, outputs  # the first lists need not lie beside the next
    run, capacity = _Run(queries, buffer, k, slack, lengths, source, how, plan), plan.capacity
    while True:
        lists = run.pruned(run.collected(floors, capacity), capacity)
        found, kept = lists.state.tolist()
        if max(found) <= capacity:
            return _packed(lists, kept, capacity)
        floors, capacity = torch.maximum(floors, lists.floors), max(found)
        if n > 1 and n * capacity > CROWD:
            raise Crowded


def tuned(kernel: str, buffer: Buffer, n_queries: int, dtype: torch.dtype = torch.float32) -> Config:
    """How a kernel cuts its work, for the rows of a buffer and queries of a type."""
    vectors = buffer.chunks[0].vectors
    width = buffer.stride if buffer.aligned else vectors.shape[1]
    return cut(kernel, _capability(buffer.device), name(vectors), width, buffer.aligned, n_queries, dtype)


def name(vectors: Tensor) -> str:
    """The type of codes as the tuning calls it."""
    return str(vectors.dtype).removeprefix("torch.")


def nothing(device: torch.device) -> Survivors:
    """No survivors."""
    empty = torch.zeros(0, dtype=torch.int64, device=device)
    return Survivors(empty, empty, torch.zeros(0, device=device))


@dataclass(frozen=True, slots=True)
class Plan:
    """every: whether all scores are written, without floors; capacity: of the list of a query; samples: tiles of the sample, of a
    query; together: queries that are answered at once."""

    every: bool
    capacity: int
    samples: int
    together: int


def planned(k: int, most: int, buffer: Buffer, kind: int, how: Config, n_queries: int) -> Plan:
    """What suits the k best of at most so many rows of a kind of source."""
    together = TOGETHER // 4 - 1 if kind == EACH else TOGETHER  # - 1: lists have one end more than there are of them
    spaced = len(buffer.chunks) * -(-buffer.span // how.rows) * how.rows  # places of ALL and MASKED, some of them empty
    if most <= max(SMALL, 4 * k):
        capacity = spaced if kind in (ALL, MASKED) else most
        if capacity <= 4 * most + SMALL:
            return Plan(True, capacity, 0, max(1, min(together, ENTRIES // capacity)))
    # A row more in the sample costs reading it, one less more survivors of every query.
    shared = 1 if kind == EACH else max(4, n_queries) // 4
    sample = min(max(4 * math.isqrt(most * k * shared), 2 * GROUP * k, SMALL // 2), most)
    samples = -(-sample // how.rows)
    capacity = min(most, power(max(4096, 4 * k * most // sample)))
    return Plan(False, capacity, samples, max(1, min(together, ENTRIES // capacity)))


class _Lists(NamedTuple):
    """found [q, capacity, 4] and counts [q] as ``collect_triton.score`` leaves them, the others [q, capacity] as ``prune`` does;
    floors [q] and state [2, q] of that step."""

    found: Tensor
    counts: Tensor
    rows: Tensor
    scores: Tensor
    owners: Tensor
    floors: Tensor
    state: Tensor


class _Run:
    """One answer: the launches and what they share."""

    def __init__(
        self,
        queries: Tensor,
        buffer: Buffer,
        k: int,
        slack: Tensor,
        lengths: Tensor | None,
        source: Source,
        how: Config,
        plan: Plan,
    ) -> None:
        self.buffer, self.k, self.slack, self.lengths = buffer, k, slack, lengths
        self.source, self.how, self.plan = source, how, plan
        self.n_queries, self.dim = queries.shape
        self.device = buffer.device
        first = buffer.chunks[0]
        self.split = how.way == "dot" and queries.dtype == torch.float32 and first.vectors.dtype != torch.float32
        self.queries = _halved(queries) if self.split else queries.contiguous()
        if how.way == "dot" and first.vectors.dtype == torch.float32:
            self.queries = self.queries.float()
        self.batch = 1 if source.kind == EACH else how.queries
        self.chunk_tiles = -(-buffer.span // how.rows)
        width = buffer.stride if buffer.aligned else self.dim
        steps = (len(buffer.chunks) - 1).bit_length()
        self.constants = {
            "CODES": TYPES[name(first.vectors)],
            "DIM": self.dim,
            "WIDTH": width,
            "ROW_BYTES": buffer.stride * first.vectors.itemsize,
            "QUERY_STRIDE": self.queries.shape[1],
            "ALIGNED": buffer.aligned,
            "GAIN": first.gain is not None,
            "BIAS": first.bias is not None,
            "ERROR": first.error is not None,
            "STEPS": -1 if buffer.even else steps,
            "SHIFT": chunks.CHUNK.bit_length() - 1,  # as it was for ``Buffer.even``
            "OWNERS": power(self.n_queries + 1) if source.kind == EACH else 1,
            "ROWS": how.rows,
            "BATCH": self.batch,
            "DEPTH": how.dims,
            "DOT": how.way == "dot",
            "SPLIT": self.split,
        }

    def floors(self) -> Tensor:
        """[q]: the k-th best lower end of a sample, less the slack."""
        n = self.plan.samples * (self.how.rows // GROUP)
        best = torch.empty(self.n_queries, n, device=self.device)
        programs = self.plan.samples * (self.n_queries if self.source.kind == EACH else 1)
        self._score(SAMPLE, programs, None, None, best, None, n)
        floors = torch.empty(self.n_queries, device=self.device)
        block = min(power(n), 1 << 15)
        launch(floor_of, (self.n_queries, 1, 1), best, self.slack, floors, n, self.k, num_warps=_warps(block), BLOCK=block)
        return floors

    def collected(self, floors: Tensor | None, capacity: int) -> _Lists:
        """Everything at the floor or above; everything where there is no floor."""
        n, device = self.n_queries, self.device
        lists = _Lists(
            torch.empty(n, capacity, 4, dtype=torch.int32, device=device),
            torch.zeros(n, dtype=torch.int32, device=device),
            torch.empty(n, capacity, dtype=torch.int64, device=device),
            torch.empty(n, capacity, device=device),
            torch.empty(n, capacity, dtype=torch.int64, device=device),
            torch.empty(n, device=device),
            torch.empty(2, n, dtype=torch.int32, device=device),
        )
        mode = EVERY if floors is None else COLLECT
        self._score(mode, self._programs(), floors, lists.found, None, lists.counts, capacity)
        return lists

    def pruned(self, lists: _Lists, capacity: int) -> _Lists:
        """The lists; how many were found for each query, and how many of these are kept, is in their state once the device is there."""
        counts, stride = self._counts(lists)
        block = min(power(max(capacity, 16)), 4096)
        launch(
            prune,
            (self.n_queries, 1, 1),
            lists.found,
            counts,
            stride,
            capacity,
            self.slack,
            self.k,
            lists.floors,
            lists.rows,
            lists.scores,
            lists.owners,
            lists.state,
            num_warps=_warps(block),
            BLOCK=block,
        )
        return lists

    def _score(
        self,
        mode: int,
        programs: int,
        floors: Tensor | None,
        found: Tensor | None,
        best: Tensor | None,
        counts: Tensor | None,
        capacity: int,
    ) -> None:
        source, how = self.source, self.how
        launch(
            score,
            (programs, -(-self.n_queries // self.batch), 1) if source.kind != EACH else (programs, 1, 1),
            self.buffer.places,
            self.queries,
            self.lengths,
            floors,
            source.words,
            source.listed,
            source.counted,
            source.bounds,
            found,
            best,
            counts,
            source.base,
            self.buffer.chunks[0].start,
            len(self.buffer.chunks),
            0 if source.words is None else len(source.words),
            source.most,
            self._tiles(),
            self.n_queries,
            self.plan.samples,
            self.chunk_tiles,
            capacity,
            num_warps=how.num_warps,
            num_stages=how.num_stages,
            SOURCE=source.kind,
            MODE=mode,
            **self.constants,
        )

    def _tiles(self) -> int:
        if self.source.kind == EACH:
            return self.source.tiles
        if self.source.kind == LISTED:
            return -(-self.source.most // self.how.rows)
        return len(self.buffer.chunks) * self.chunk_tiles

    def _programs(self) -> int:
        return min(self._tiles(), WAVES * _processors(self.device))

    def _counts(self, lists: _Lists) -> tuple[Tensor | None, int]:
        """How many entries each list has, and the step from one query's number to the next; None for as many as there is room."""
        if not self.plan.every:
            return lists.counts, 1
        if self.source.kind == EACH:
            return self.source.sizes, 1
        return self.source.counted, 0


def _packed(lists: _Lists, kept: list[int], capacity: int, *, copied: bool = False) -> Survivors:
    """The lists as one.  copied: they will be overwritten"""
    n, total, device = len(kept), sum(kept), lists.rows.device
    if n == 1:
        parts = (lists.owners[0, :total], lists.rows[0, :total], lists.scores[0, :total])
        return Survivors(*(part.clone() for part in parts)) if copied else Survivors(*parts)
    owners, rows = (torch.empty(total, dtype=torch.int64, device=device) for _ in range(2))
    scores = torch.empty(total, device=device)
    block = min(power(max(*kept, 16)), 1024)
    given = (lists.rows, lists.scores, owners, rows, scores, lists.state, capacity)
    launch(pack, (n, 1, 1), *given, num_warps=_warps(block), QUERIES=power(n), BLOCK=block)
    return Survivors(owners, rows, scores)


def _halved(queries: Tensor) -> Tensor:
    """[2 q, width] float16: lines 2 i and 2 i + 1 together are query i."""
    n, dim = queries.shape
    width = -(-dim // 8) * 8  # 16 bytes
    halves = torch.empty(2 * n, width, dtype=torch.float16, device=queries.device)
    block = power(width)
    launch(halve, (n, 1, 1), queries.contiguous(), halves, num_warps=_warps(block), DIM=dim, WIDTH=width, BLOCK=block)
    return halves


def _warps(block: int) -> int:
    """For a program that has so many numbers at once."""
    return max(1, min(32, block // 256))


@cache
def _capability(device: torch.device) -> int:
    """75 for 7.5; 0 for the interpreter."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


VARIANTS: Final[tuple[Variant, ...]] = ()
"""Nothing here is a kernel: see ``collect_triton`` and ``lists_triton``."""
