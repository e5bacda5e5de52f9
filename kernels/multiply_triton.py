"""The Triton kernels under ``product``: one that multiplies and collects, one that collects what a library multiplied. See README.md."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import triton
import triton.language as tl

from chroma_gpu.kernels.tuning import Config, Variant, shipped

SLICE: Final = 16
"""Columns of a tile that are looked through at once for what to keep."""

COLLECTED: Final = (128, 16)
"""Rows and queries of a program that collects from such a tile."""

_SLICE = tl.constexpr(SLICE)


@triton.jit(do_not_specialize=["n_words", "n_listed", "capacity", "chunk_tiles", "n_slots", "blocks", "first", "step", "skip"])
def product_kernel(
    queries,  # [blocks * QUERIES, HALVES * steps * DIMS] float16, zero where there is nothing
    places,  # [chunks, 6] int64
    home,  # [n_listed] int32 or None: the chunk of each row
    at,  # [n_listed] int32 or None
    words,  # [n_words] int32 or None
    lengths,  # [blocks * QUERIES] float32 or None
    floors,  # [blocks * QUERIES] float32, +inf where there is no query; None if ``lowest`` is asked for
    counts,
    scores,
    margins,
    rows,
    scratch,  # [n_slots, ROWS, QUERIES] float32
    taken,  # [n_slots] int32: 1 while a program uses that part of ``scratch``
    lowest,  # [blocks * QUERIES, capacity] float32 or None: every lower end, instead of lists
    n_words,
    n_listed,
    capacity,
    chunk_tiles,
    n_slots,
    blocks,
    first,
    step,
    skip,
    CODES: tl.constexpr,
    STRIDE: tl.constexpr,
    HALVES: tl.constexpr,
    ALIGNED: tl.constexpr,
    LISTED: tl.constexpr,
    GAIN: tl.constexpr,
    BIAS: tl.constexpr,
    ERROR: tl.constexpr,
    ROWS: tl.constexpr,
    QUERIES: tl.constexpr,
    DIMS: tl.constexpr,
    STEPS: tl.constexpr,  # DIMS that make a row
):
    """Score a tile for a block of queries: tile (j = i, or the i-th that 8 does not divide) * step, i = first + program // blocks."""
    program = tl.program_id(0)
    block = program % blocks
    i = first + program // blocks
    tile = (i + skip * (i // 7 + 1)) * step
    query = block * QUERIES + tl.arange(0, QUERIES)
    column = tl.arange(0, DIMS)
    line = tl.arange(0, ROWS)
    asked = queries + query[None, :] * (HALVES * STEPS * DIMS) + column[:, None]
    place, inside, own = _lines(places, home, at, n_listed, chunk_tiles, tile, line, LISTED, ROWS)
    vectors = tl.load(own).to(tl.pointer_type(CODES))
    if ALIGNED:
        vectors = tl.multiple_of(vectors, 16)
    x = (vectors + place * STRIDE)[:, None] + column[None, :]
    q = asked
    acc = tl.zeros([ROWS, QUERIES], tl.float32)
    for s in range(0, HALVES * STEPS):
        if STRIDE % DIMS == 0:
            a = tl.load(x)
        else:
            a = tl.load(x, mask=column[None, :] < STRIDE - (s % STEPS) * DIMS, other=0)
        acc = tl.dot(a.to(tl.float16), tl.load(q), acc)
        q += DIMS
        if HALVES == 2:
            x += tl.where(s == STEPS - 1, DIMS - STEPS * DIMS, DIMS)
        else:
            x += DIMS
    value, margin = _scored(acc, own, place, query, lengths, GAIN, BIAS, ERROR)
    if lowest is not None:
        allowed = inside
        if words is not None:
            allowed = _set(words, n_words, tl.load(own + 4) + place, inside)
        to = query.to(tl.int64)[None, :] * capacity + ((i - first) * ROWS + line)[:, None]
        tl.store(lowest + to, tl.where(allowed[:, None], value - margin, float("-inf")))
    else:
        # Most tiles have nothing to keep, and this is all that is done.
        reached = tl.max(value + margin, 0) >= tl.load(floors + query)
        own_column = tl.arange(0, QUERIES)
        slices = tl.reduce_or(tl.where(reached, 1 << (own_column // _SLICE), 0), 0)
        if slices != 0:
            # Part of a tile cannot be taken out of registers: the columns in question go through memory.
            slot = program % n_slots
            while tl.atomic_cas(taken + slot, 0, 1) != 0:
                slot = (slot + 1) % n_slots
            dump = scratch + slot.to(tl.int64) * (ROWS * QUERIES)
            wanted = ((slices >> (own_column // _SLICE)) & 1) != 0
            tl.store(dump + line[:, None] * QUERIES + own_column[None, :], acc, mask=wanted[None, :])
            tl.debug_barrier()
            for part in range(0, QUERIES // _SLICE):
                if ((slices >> part) & 1) != 0:
                    _look_through(
                        dump, places, home, at, words, lengths, floors, counts, scores, margins, rows,
                        n_words, n_listed, capacity, chunk_tiles, tile, block, part,
                        LISTED, GAIN, BIAS, ERROR, ROWS, QUERIES,
                    )  # fmt: skip
            tl.debug_barrier()
            tl.atomic_xchg(taken + slot, 0)


@triton.jit
def _look_through(
    dump, places, home, at, words, lengths, floors, counts, scores, margins, rows,
    n_words, n_listed, capacity, chunk_tiles, tile, block, part,
    LISTED: tl.constexpr, GAIN: tl.constexpr, BIAS: tl.constexpr, ERROR: tl.constexpr, ROWS: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """Append what reaches the floor of some columns of a tile."""
    line = tl.arange(0, ROWS)
    column = part * _SLICE + tl.arange(0, _SLICE)
    query = block * QUERIES + column
    acc = tl.load(dump + line[:, None] * QUERIES + column[None, :], cache_modifier=".cg")
    place, inside, own = _lines(places, home, at, n_listed, chunk_tiles, tile, line, LISTED, ROWS)
    row = tl.load(own + 4) + place
    if words is not None:
        inside = _set(words, n_words, row, inside)
    value, margin = _scored(acc, own, place, query, lengths, GAIN, BIAS, ERROR)
    kept = (value + margin >= tl.load(floors + query)[None, :]) & inside[:, None]
    _append(kept, value, margin, row, query, counts, scores, margins, rows, capacity)


@triton.jit(do_not_specialize=["n_words", "n_rows", "n_queries", "first", "start", "capacity"])
def collect_kernel(
    terms,  # [HALVES * q, n_rows] float32: what is to be added for a product
    at,  # [n_rows] int32 or None: where each row lies in the chunk
    gain,  # columns of the chunk: float32 or None
    bias,
    error,
    words,
    lengths,
    floors,  # [q] float32
    counts,
    scores,
    margins,
    rows,
    n_words,
    n_rows,
    n_queries,
    first,  # where the first row lies in the chunk, without ``at``
    start,  # of the chunk
    capacity,
    HALVES: tl.constexpr,
    ROWS: tl.constexpr,
    QUERIES: tl.constexpr,
):
    """Append what reaches the floor, of products that lie in memory."""
    spot = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    query = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    inside = spot < n_rows
    asked = query < n_queries
    there = inside[:, None] & asked[None, :]
    to = query.to(tl.int64)[None, :] * n_rows + spot[:, None]
    value = tl.load(terms + to, mask=there, other=0.0)
    if HALVES == 2:
        value += tl.load(terms + n_queries * n_rows.to(tl.int64) + to, mask=there, other=0.0)
    place = first + spot
    if at is not None:
        place = tl.load(at + spot, mask=inside, other=0)
    margin = tl.zeros([ROWS, QUERIES], tl.float32)
    if error is not None:
        margin += tl.load(error + place, mask=inside, other=0.0)[:, None]
    if lengths is not None:
        length = tl.load(lengths + query, mask=asked, other=0.0)[None, :]
        value *= length
        margin *= length
    if gain is not None:
        value *= tl.load(gain + place, mask=inside, other=0.0)[:, None]
    if bias is not None:
        value -= tl.load(bias + place, mask=inside, other=0.0)[:, None]
    kept = there & (value + margin >= tl.load(floors + query, mask=asked, other=0.0)[None, :])
    if tl.max(tl.max(kept.to(tl.int32), 1), 0) != 0:
        row = place.to(tl.int64) + start
        if words is not None:
            kept = kept & _set(words, n_words, row, inside)[:, None]
        _append(kept, value, margin, row, query, counts, scores, margins, rows, capacity)


@triton.jit
def _lines(places, home, at, n_listed, chunk_tiles, tile, line, LISTED: tl.constexpr, ROWS: tl.constexpr):
    """Of the rows of a tile: where they lie in their chunks, whether they are real, their lines of ``places``.

    Past the end of a chunk, or of the list, its last row stands again: so nothing is read that is not there.
    """
    if LISTED:
        spot = tile * ROWS + line
        last = tl.minimum(spot, n_listed - 1)
        own = places + tl.load(home + last).to(tl.int64) * 6
        place = tl.load(at + last).to(tl.int64)
        inside = spot < n_listed
    else:
        own = places + (tile // chunk_tiles) * 6
        n = tl.load(own + 5).to(tl.int32)
        spot = (tile % chunk_tiles) * ROWS + line
        place = tl.minimum(spot, n - 1).to(tl.int64)
        inside = spot < n
    return place, inside, own


@triton.jit
def _scored(acc, own, place, query, lengths, GAIN: tl.constexpr, BIAS: tl.constexpr, ERROR: tl.constexpr):
    """Scores and margins of products: [rows, queries] both."""
    value = acc
    margin = 0.0
    if lengths is not None:
        length = tl.load(lengths + query)[None, :]
        value = value * length
    if GAIN:
        value = value * tl.load(tl.load(own + 1).to(tl.pointer_type(tl.float32)) + place)[:, None]
    if BIAS:
        value = value - tl.load(tl.load(own + 2).to(tl.pointer_type(tl.float32)) + place)[:, None]
    if ERROR:
        margin = tl.load(tl.load(own + 3).to(tl.pointer_type(tl.float32)) + place)[:, None]
        if lengths is not None:
            margin = margin * length
    return value, margin


@triton.jit
def _set(words, n_words, row, inside):
    """Whether the bits of rows are set."""
    inside = inside & ((row >> 5) < n_words)
    word = tl.load(words + (row >> 5), mask=inside, other=0)
    return inside & (((word >> (row & 31).to(tl.int32)) & 1) != 0)


@triton.jit
def _append(kept, value, margin, row, query, counts, scores, margins, rows, capacity):
    """Put (row, value, margin) of what is kept at the end of the list of its query. All [rows, queries], in no order."""
    position = tl.atomic_add(tl.broadcast_to((counts + query)[None, :], kept.shape), 1, mask=kept, sem="relaxed")
    kept = kept & (position < capacity)
    to = query.to(tl.int64)[None, :] * capacity + position
    tl.store(scores + to, value, mask=kept)
    tl.store(rows + to, tl.broadcast_to(row[:, None], kept.shape), mask=kept)
    if margins is not None:
        tl.store(margins + to, tl.broadcast_to(margin, kept.shape), mask=kept)


def _fused(codes: str, how: Config, least: int, *, listed: bool = False, sample: bool = False, **flags: Any) -> Variant:
    """The fused kernel as it is launched for 384 dimensions."""
    given = {"GAIN": codes == "int8", "BIAS": False, "ERROR": True, "HALVES": 1, "lengths": False, "words": False}
    given |= {"STRIDE": 384, "ALIGNED": True} | flags
    signature = {"queries": "*fp16", "places": "*i64"}
    optional = {"home": "*i32", "at": "*i32", "words": "*i32", "lengths": "*fp32", "floors": "*fp32", "counts": "*i32"}
    optional |= {"scores": "*fp32", "margins": "*fp32", "rows": "*i64", "scratch": "*fp32", "taken": "*i32", "lowest": "*fp32"}
    absent = {"lowest"} if not sample else {"floors", "counts", "scores", "margins", "rows", "scratch", "taken"}
    absent |= set() if listed else {"home", "at"}
    absent |= {name for name in ("lengths", "words") if not given.pop(name)} | (set() if given["ERROR"] else {"margins"})
    signature |= {name: kind for name, kind in optional.items() if name not in absent}
    numbers = ("n_words", "n_listed", "capacity", "chunk_tiles", "n_slots", "blocks", "first", "step", "skip")
    constants: dict[str, Any] = dict.fromkeys(absent) | given
    constants |= {"CODES": tl.int8 if codes == "int8" else tl.float16, "LISTED": listed}
    constants |= {"ROWS": how.rows, "QUERIES": how.queries, "DIMS": how.dims, "STEPS": -(-given["STRIDE"] // how.dims)}
    name = " ".join(
        ["product", codes, f"{how.rows}x{how.queries}x{how.dims} {how.num_warps} warps {how.num_stages} stages"]
        + ["listed"] * listed + ["sample"] * sample + [f"{key}={value}" for key, value in flags.items()]
    )  # fmt: skip
    signature |= dict.fromkeys(numbers, "i32")
    return Variant(name, product_kernel, signature, constants, how.num_warps, how.num_stages, least)


def _variants() -> Iterator[Variant]:
    for capability in (80, 86, 90):
        for dtype in ("float16", "int8"):
            how = shipped("product", capability, dtype, 384, 1024)
            if any(how == shipped("product", older, dtype, 384, 1024) for older in (80, 86) if older < capability):
                continue
            yield _fused(dtype, how, capability)
            if dtype == "float16":
                yield _fused(dtype, shipped("product", capability, dtype, 384, 64), capability, listed=True, HALVES=2)
                yield _fused(dtype, how, capability, sample=True)
            else:
                yield _fused(dtype, how, capability, words=True, lengths=True, BIAS=True, HALVES=2)
    yield _fused("float16", Config(256, 128, 64, 8, 4, "dot"), 90)
    yield _fused("float16", Config(64, 64, 32, 4, 3, "dot"), 80, STRIDE=100, ALIGNED=False, ERROR=False)
    pointers = {"terms": "*fp32", "gain": "*fp32", "bias": "*fp32", "error": "*fp32", "lengths": "*fp32", "floors": "*fp32"}
    pointers |= {"counts": "*i32", "scores": "*fp32", "margins": "*fp32", "rows": "*i64", "words": "*i32", "at": "*i32"}
    integers = dict.fromkeys(("n_words", "n_rows", "n_queries", "first", "start", "capacity"), "i32") | {"start": "i64"}
    sizes = {"ROWS": COLLECTED[0], "QUERIES": COLLECTED[1]}
    yield Variant("collect", collect_kernel, pointers | integers, sizes | {"HALVES": 2}, 4, 1)
    absent = dict.fromkeys(("gain", "bias", "error", "margins", "lengths", "words", "at"))
    present = {name: kind for name, kind in pointers.items() if name not in absent}
    yield Variant("collect products alone", collect_kernel, present | integers, sizes | {"HALVES": 1} | absent, 4, 1)


VARIANTS: Final[tuple[Variant, ...]] = tuple(_variants())
