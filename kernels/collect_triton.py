"""The Triton kernel under ``scan`` and ``gather``: score rows, wherever they lie, and keep what reaches the floor.

See README.md for the steps, and for what each costs.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import torch
import triton
import triton.language as tl

from chroma_gpu.kernels.lists_triton import ENTIRE, LOW
from chroma_gpu.kernels.tuning import SHARED, Config, Variant, config

ALL: Final = 0  # every row of every chunk
MASKED: Final = 1  # of these, the rows whose bit is set
LISTED: Final = 2  # listed rows, the same for all queries
EACH: Final = 3  # listed rows, others for each query

EVERY: Final = 0  # write every score where its row stands in the source
SAMPLE: Final = 1  # write the best lower end of every GROUP rows
COLLECT: Final = 2  # append what reaches the floor

GROUP: Final = 16
"""Rows of a sample that give one number."""

_GROUP: tl.constexpr = tl.constexpr(GROUP)
_MASKED: tl.constexpr = tl.constexpr(MASKED)
_LISTED: tl.constexpr = tl.constexpr(LISTED)
_EACH: tl.constexpr = tl.constexpr(EACH)
_EVERY: tl.constexpr = tl.constexpr(EVERY)
_SAMPLE: tl.constexpr = tl.constexpr(SAMPLE)
_LOW: tl.constexpr = tl.constexpr(LOW)
_ENTIRE: tl.constexpr = tl.constexpr(ENTIRE)


# Numbers that change from search to search are not compiled in: 1, and what is divisible by 16, would each be a kernel of its own.
@triton.jit(
    do_not_specialize=[
        "base", "origin", "n_chunks", "n_words", "n_listed", "n_tiles", "n_queries", "n_samples", "chunk_tiles", "capacity"
    ]
)  # fmt: skip
def score(
    places,  # [chunks, 6] int64
    queries,  # [q, QUERY_STRIDE]; where SPLIT, as ``halve`` leaves them
    lengths,  # [q] float32 or None
    floors,  # [q] float32
    words,  # [n_words] int32 or None
    listed,  # rows less base, int32 or int64, or None
    counted,  # [1] int32: how many are listed; None where n_listed says so
    bounds,  # [2, q + 1] int64 where SOURCE is EACH: the first tile of each query, its first position in ``listed``
    found,  # [q, capacity, 4] int32, q * capacity < 2**31: row (low and high half), score, margin; None where MODE is SAMPLE
    best,  # [q, capacity] float32 where MODE is SAMPLE
    counts,  # [q] int32 where MODE is COLLECT
    base,  # what is added to every listed row
    origin,  # the start of the first chunk
    n_chunks,
    n_words,
    n_listed,
    n_tiles,
    n_queries,
    n_samples,  # tiles of the sample (of each query where SOURCE is EACH)
    chunk_tiles,
    capacity,
    SOURCE: tl.constexpr,
    MODE: tl.constexpr,
    CODES: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,  # columns that are loaded: DIM, or the stride if rows are padded with zeros
    ROW_BYTES: tl.constexpr,
    QUERY_STRIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    GAIN: tl.constexpr,
    BIAS: tl.constexpr,
    ERROR: tl.constexpr,
    STEPS: tl.constexpr,  # of the search for the chunk of a row; -1 where SHIFT finds it
    SHIFT: tl.constexpr,
    OWNERS: tl.constexpr,  # a power of two >= q + 1 where SOURCE is EACH
    ROWS: tl.constexpr,
    BATCH: tl.constexpr,
    DEPTH: tl.constexpr,
    DOT: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """A persistent program: scores every tile of ROWS rows whose number is its own modulo the grid, for BATCH queries."""
    lane = tl.arange(0, ROWS)
    program = tl.program_id(0)
    batch = tl.program_id(1)
    if SOURCE == _LISTED:
        if counted is not None:
            n_listed = tl.minimum(tl.load(counted), n_listed)
        n_tiles = tl.cdiv(n_listed, ROWS)
    last = n_tiles
    if MODE == _SAMPLE:
        last = tl.num_programs(0)
    number = program
    while number < last:
        tile = number
        first = batch * BATCH
        within = n_tiles
        stop = n_listed
        begin = tile * 0
        if SOURCE == _EACH:
            each = tl.arange(0, OWNERS)
            if MODE == _SAMPLE:
                first = number // n_samples
                tile = number % n_samples
                begin = tl.load(bounds + first)
            else:
                starts = tl.load(bounds + 1 + each, mask=each < n_queries, other=1 << 62)
                first = tl.sum((starts <= number).to(tl.int32), 0)
                begin = tl.load(bounds + first)
                tile = (number - begin).to(tl.int32)
            within = (tl.load(bounds + first + 1) - begin).to(tl.int32)
            begin = tl.load(bounds + n_queries + 1 + first)
            stop = tl.load(bounds + n_queries + 2 + first)
        slot = tile
        live = tile < within
        if MODE == _SAMPLE and within > n_samples:
            tile = (tile.to(tl.int64) * within // n_samples).to(tl.int32)
        owner = first + tl.arange(0, BATCH)
        asked = owner < n_queries

        # Where the rows of the tile lie.
        if SOURCE >= _LISTED:
            at = begin + tile * ROWS + lane
            valid = (at < stop) & live
            row = tl.load(listed + at, mask=valid, other=0).to(tl.int64) + base
            home = _home(places, tl.where(valid, row, origin), origin, n_chunks, STEPS, SHIFT)
            line = places + home * 6
            place = tl.where(valid, row - tl.load(line + 4), 0)
        else:
            line = places + (tl.where(live, tile, 0) // chunk_tiles).to(tl.int64) * 6
            place = (tile % chunk_tiles).to(tl.int64) * ROWS + lane
            valid = (place < tl.load(line + 5)) & live
            row = tl.load(line + 4) + place
            if SOURCE == _MASKED:
                valid = valid & ((row >> 5) < n_words)
                word = tl.load(words + (row >> 5), mask=valid, other=0)
                valid = valid & (((word >> (row & 31).to(tl.int32)) & 1) != 0)
        vectors = (tl.load(line) + place * ROW_BYTES).to(tl.pointer_type(CODES))
        if ALIGNED:
            vectors = tl.multiple_of(vectors, 16)

        value = _products(vectors, valid, queries, first, n_queries, DIM, WIDTH, QUERY_STRIDE, ROWS, BATCH, DEPTH, DOT, SPLIT)
        margin = tl.zeros([ROWS, BATCH], tl.float32)
        if lengths is not None:
            length = tl.load(lengths + owner, mask=asked, other=0.0)
            value *= length[None, :]
        if GAIN:
            value *= _column(line + 1, place, valid)[:, None]
        if BIAS:
            value -= _column(line + 2, place, valid)[:, None]
        if ERROR:
            margin += _column(line + 3, place, valid)[:, None]
            if lengths is not None:
                margin *= length[None, :]

        line_of = owner * capacity
        if MODE == _EVERY:
            ordinal = (tile * ROWS + lane)[:, None]
            real = valid[:, None] & asked[None, :]
            room = asked[None, :] & (ordinal < capacity)
            where = tl.where(real, row[:, None], -1)
            _write(found, line_of[None, :] + ordinal, where, tl.where(real, value, float("-inf")), margin, room)
        elif MODE == _SAMPLE:
            lowest = tl.where(valid[:, None], value - margin, float("-inf"))
            highest = tl.max(tl.reshape(lowest, (ROWS // _GROUP, _GROUP, BATCH)), axis=1)
            group = slot * (ROWS // _GROUP) + tl.arange(0, ROWS // _GROUP)
            tl.store(best + line_of[None, :] + group[:, None], highest, mask=asked[None, :])
        else:
            floor = tl.load(floors + owner, mask=asked, other=0.0)
            hit = valid[:, None] & asked[None, :] & ((value + margin < floor[None, :]) == 0)
            if tl.max(tl.max(hit.to(tl.int32), axis=1), axis=0) > 0:
                # Added, not broadcast: the interpreter's atomics take what they are given for contiguous.
                into = (counts + owner)[None, :] + tl.zeros([ROWS, BATCH], tl.int32)
                position = tl.atomic_add(into, tl.full([ROWS, BATCH], 1, tl.int32), mask=hit, sem="relaxed")
                room = hit & (position < capacity)
                _write(found, line_of[None, :] + position, row[:, None], value, margin, room)
        number += tl.num_programs(0)


@triton.jit
def _write(found, at, row, value, margin, mask):
    """One line of 16 bytes for each pair: one address, not three."""
    line = found + at.to(tl.int64) * 4
    row = tl.broadcast_to(row, at.shape)
    tl.store(line, row.to(tl.int32), mask=mask)
    tl.store(line + 1, (row >> 32).to(tl.int32), mask=mask)
    tl.store(line + 2, value.to(tl.int32, bitcast=True), mask=mask)
    tl.store(line + 3, margin.to(tl.int32, bitcast=True), mask=mask)


@triton.jit
def _home(places, row, origin, n_chunks, STEPS: tl.constexpr, SHIFT: tl.constexpr):
    """The number of the chunk that holds a row: chunks start evenly, or the last one that starts at the row or before."""
    if STEPS < 0:
        low = (row - origin) >> SHIFT
    else:
        low = row * 0
        high = low + (n_chunks - 1)
        for _ in range(STEPS):
            middle = (low + high + 1) // 2
            past = tl.load(places + middle * 6 + 4) > row
            high = tl.where(past, middle - 1, high)
            low = tl.where(past, low, middle)
    return low


@triton.jit
def _column(line, place, valid):
    """Values of a float32 column of the chunks whose address lies at ``line``."""
    column = (tl.load(line) + place * 4).to(tl.pointer_type(tl.float32))
    return tl.load(column, mask=valid, other=0.0)


@triton.jit
def _products(
    vectors, valid, queries, first, n_queries,
    DIM: tl.constexpr, WIDTH: tl.constexpr, QUERY_STRIDE: tl.constexpr,
    ROWS: tl.constexpr, BATCH: tl.constexpr, DEPTH: tl.constexpr, DOT: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """[ROWS, BATCH] float32: <query, row>."""
    column = tl.arange(0, DEPTH)
    if DOT:
        PARTS: tl.constexpr = 2 if SPLIT else 1  # noqa: N806
        part = first * PARTS + tl.arange(0, BATCH * PARTS)
        acc = tl.zeros([ROWS, BATCH * PARTS], tl.float32)
        for d in range(0, WIDTH, DEPTH):
            x = _row_block(vectors, valid, d + column, WIDTH, DEPTH)
            inside = ((d + column) < DIM)[:, None] & (part < n_queries * PARTS)[None, :]
            q = tl.load(queries + part[None, :].to(tl.int64) * QUERY_STRIDE + (d + column)[:, None], mask=inside, other=0.0)
            acc = tl.dot(x.to(q.dtype), q, acc, input_precision="ieee")
        if SPLIT:
            high, low = tl.split(tl.reshape(acc, (ROWS, BATCH, 2)))
            acc = (high + low * _LOW) / _ENTIRE
    elif BATCH == 1:
        line = queries + first.to(tl.int64) * QUERY_STRIDE
        wide = tl.zeros([ROWS, DEPTH], tl.float32)
        if WIDTH <= 4 * DEPTH:  # all loads of a tile are in flight at once
            for d in tl.static_range(0, WIDTH, DEPTH):
                q = tl.load(line + d + column, mask=d + column < DIM, other=0.0).to(tl.float32)
                wide += _row_block(vectors, valid, d + column, WIDTH, DEPTH).to(tl.float32) * q[None, :]
        else:
            for d in tl.range(0, WIDTH, DEPTH, loop_unroll_factor=2):
                q = tl.load(line + d + column, mask=d + column < DIM, other=0.0).to(tl.float32)
                wide += _row_block(vectors, valid, d + column, WIDTH, DEPTH).to(tl.float32) * q[None, :]
        acc = tl.sum(wide, axis=1)[:, None]
    else:
        acc = tl.zeros([ROWS, BATCH], tl.float32)
        for d in range(0, WIDTH, DEPTH):
            x = _row_block(vectors, valid, d + column, WIDTH, DEPTH).to(tl.float32)
            for b in tl.static_range(BATCH):
                inside = (d + column < DIM) & (first + b < n_queries)
                line = queries + (first + b).to(tl.int64) * QUERY_STRIDE
                q = tl.load(line + d + column, mask=inside, other=0.0).to(tl.float32)
                part = tl.sum(x * q[None, :], axis=1)
                acc += tl.where(tl.arange(0, BATCH)[None, :] == b, part[:, None], 0.0)
    return acc


@triton.jit
def _row_block(vectors, valid, column, WIDTH: tl.constexpr, DEPTH: tl.constexpr):
    """[ROWS, DEPTH]: some columns of all rows; not read again, so the first to leave the caches."""
    inside = valid[:, None]
    if WIDTH % DEPTH != 0:
        inside = inside & (column < WIDTH)[None, :]
    return tl.load(vectors[:, None] + column[None, :], mask=inside, other=0, eviction_policy="evict_first")


TYPES: Final[dict[Any, Any]] = {"float32": tl.float32, "float16": tl.float16, "int8": tl.int8}


def cut(kernel: str, capability: int, codes: str, width: int, aligned: bool, n_queries: int, dtype: torch.dtype) -> Config:
    """What the tuning says, kept within shared memory and registers: it does not know that queries may come in two halves, and that
    rows may begin anywhere, so that each number is a load."""
    found = config(kernel, capability, codes, width, n_queries)
    found = replace(found, rows=max(GROUP, found.rows // (4 if capability and not aligned else 1)))
    dot = found.way == "dot"
    if dot and capability:
        size = {"float32": 4, "float16": 2, "int8": 1}[codes]
        parts = 2 if codes != "float32" and dtype == torch.float32 else 1
        columns = max(16, found.queries) * parts
        per_thread = 16 if codes == "float32" else 64
        if found.rows * columns > per_thread * 32 * found.num_warps:
            found = replace(found, num_warps=8)
        while found.rows * columns > per_thread * 32 * found.num_warps and found.rows > 32:
            found = replace(found, rows=found.rows // 2)
        if codes == "float32":
            found = replace(found, dims=min(found.dims, 32))
        room = SHARED.get(capability, 99 << 10) * 7 // 8
        while (found.rows * size + columns * max(2, size)) * found.dims * found.num_stages > room:
            if found.num_stages > 3:
                found = replace(found, num_stages=found.num_stages - 1)
            else:
                found = replace(found, dims=found.dims // 2)
    return replace(found, dims=_depth(found.dims, width, 16 if dot else 1))


def _depth(most: int, width: int, least: int) -> int:
    """Columns of a row that are loaded at once: of the powers of two from 32 on up to ``most``, the one that wastes least."""
    sizes = [1 << i for i in range(15) if min(32, most) <= 1 << i <= most] or [least]
    return max(least, min(sizes, key=lambda size: (-(-width // size) * size, -size)))


def score_variant(
    title: str,
    how: Config,
    codes: str,
    width: int,
    source: int,
    mode: int,
    *,
    queries: str = "fp32",
    error: bool = True,
    wide: bool = False,
    least: int = 75,
) -> Variant:
    """``score`` as it is launched for rows of so many numbers, for the test that builds what production launches.

    queries  the type of the queries: "fp32" or "fp16".  wide: whether listed rows are int64
    """
    size = {"float32": 4, "float16": 2, "int8": 1}[codes]
    split = how.way == "dot" and queries == "fp32" and codes != "float32"
    given = {
        "places": "*i64",
        "queries": "*fp16" if split else f"*{queries}",
        "lengths": "*fp32",
        "floors": "*fp32" if mode == COLLECT else None,
        "words": "*i32" if source == MASKED else None,
        "listed": None if source < LISTED else "*i64" if wide else "*i32",
        "counted": "*i32" if source == LISTED and not wide else None,
        "bounds": "*i64" if source == EACH else None,
        "found": None if mode == SAMPLE else "*i32",
        "best": "*fp32" if mode == SAMPLE else None,
        "counts": None if mode == SAMPLE else "*i32",
        **dict.fromkeys(("base", "origin", "n_chunks", "n_words", "n_listed", "n_tiles"), "i32"),
        **dict.fromkeys(("n_queries", "n_samples", "chunk_tiles", "capacity"), "i32"),
    }
    constants = {
        **{each: None for each, kind in given.items() if kind is None},
        "SOURCE": source,
        "MODE": mode,
        "CODES": TYPES[codes],
        "DIM": width,
        "WIDTH": width,
        "ROW_BYTES": width * size,
        "QUERY_STRIDE": -(-width // 8) * 8 if split else width,
        "ALIGNED": width * size % 16 == 0,
        "GAIN": codes == "int8",
        "BIAS": True,
        "ERROR": error,
        "STEPS": -1,
        "SHIFT": 16,
        "OWNERS": 128 if source == EACH else 1,
        "ROWS": how.rows,
        "BATCH": 1 if source == EACH else how.queries,
        "DEPTH": how.dims,
        "DOT": how.way == "dot",
        "SPLIT": split,
    }
    signature = {each: kind for each, kind in given.items() if kind is not None}
    return Variant(title, score, signature, constants, how.num_warps, how.num_stages, least)


def _variants() -> Iterator[Variant]:
    """What is launched on Turing, on cards with 100 KiB of shared memory or more, and on Hopper."""
    single = ((codes, width) for codes in ("float16", "int8", "float32") for width in (384, 1024))
    for codes, width in (*single, ("float16", 100)):
        how = cut("scan", 75, codes, width, width != 100, 1, torch.float32)
        for source, mode in ((ALL, COLLECT), (LISTED, COLLECT), (MASKED, COLLECT), (ALL, SAMPLE), (LISTED, EVERY))[
            : 5 if width == 384 else 2
        ]:
            yield score_variant(f"scan {codes} {width} {source} {mode}", how, codes, width, source, mode)
        few = cut("scan", 75, codes, width, width != 100, 4, torch.float32)
        yield score_variant(f"scan {codes} {width} for 4", few, codes, width, ALL, COLLECT)
    for capability in (86, 90):
        for codes, queries in (("float16", "fp32"), ("float16", "fp16"), ("int8", "fp32"), ("float32", "fp32")):
            for n_queries in (8, 32, 64):
                dtype = torch.float32 if queries == "fp32" else torch.float16
                how = cut("scan", capability, codes, 384, True, n_queries, dtype)
                title = f"scan {codes} 384 for {n_queries} {queries} sm_{capability}"
                least = 80 if capability == 86 else capability
                yield score_variant(title, how, codes, 384, ALL, COLLECT, queries=queries, least=least)


VARIANTS: Final = tuple(_variants())
