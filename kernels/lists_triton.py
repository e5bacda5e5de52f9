"""The Triton kernels around ``score``: list what a mask allows, halve queries, find the k-th best, prune lists, close ranks.

Loops whose bounds are known on the device alone are written with ``while``: the interpreter cannot count with them otherwise.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from chroma_gpu.kernels.launch import launch
from chroma_gpu.kernels.tuning import Variant

LOW: Final = 2.0**-11
"""What the second half of a query counts, against the first."""

ENTIRE: Final = 2.0**10
"""What halved queries are multiplied by."""

_LOW: tl.constexpr = tl.constexpr(LOW)
_ENTIRE: tl.constexpr = tl.constexpr(ENTIRE)


@triton.jit(do_not_specialize=["origin", "n_words", "most", "chunk_tiles"])
def compact(
    places, words, listed, counted, origin, n_words, most, chunk_tiles, ROWS: tl.constexpr,
):  # fmt: skip
    """Append the rows whose bit is set, less origin, to a list: in order within each tile of ROWS rows, tiles as they come."""
    tile = tl.program_id(0)
    line = places + (tile // chunk_tiles).to(tl.int64) * 6
    start = tl.load(line + 4)
    place = (tile % chunk_tiles) * ROWS + tl.arange(0, ROWS)
    row = start + place
    inside = (place < tl.load(line + 5)) & ((row >> 5) < n_words)
    word = tl.load(words + (row >> 5), mask=inside, other=0)
    bit = tl.where(inside, (word >> (place & 31)) & 1, 0)
    total = tl.sum(bit, axis=0)
    if total > 0:
        at = tl.atomic_add(counted, total, sem="relaxed") + tl.cumsum(bit, axis=0) - 1
        tl.store(listed + at, (row - origin).to(listed.dtype.element_ty), mask=(bit != 0) & (at < most))


@triton.jit
def halve(queries, halves, DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Cut float32 queries into two float16 numbers each: lines 2 i and 2 i + 1, scaled so that neither is subnormal."""
    at = tl.arange(0, BLOCK)
    line = tl.program_id(0).to(tl.int64)
    value = tl.load(queries + line * DIM + at, mask=at < DIM, other=0.0) * _ENTIRE
    high = value.to(tl.float16)
    low = ((value - high.to(tl.float32)) / _LOW).to(tl.float16)
    to = halves + 2 * line * WIDTH + at
    tl.store(to, high, mask=at < WIDTH)
    tl.store(to + WIDTH, low, mask=at < WIDTH)


@triton.jit(do_not_specialize=["n", "k"])
def floor_of(scores, slack, floors, n, k, BLOCK: tl.constexpr):
    """floors[i] = the k-th largest of scores[i, :n] - slack[i]."""
    line = tl.program_id(0).to(tl.int64)
    tl.store(floors + line, _kth(scores + line * n, n, k, 1, False, BLOCK) - tl.load(slack + line))


@triton.jit(do_not_specialize=["count_stride", "capacity", "k"])
def prune(found, counts, count_stride, capacity, slack, k, floors, rows, scores, owners, state, BLOCK: tl.constexpr):
    """Of each list, what reaches its own k-th best lower end less the slack; state [2, q] says what was found and what is kept.

    counts  how many were found: more than capacity if some did not fit; None for capacity. floors gets the floor that was used
    """
    owner = tl.program_id(0)
    line = owner.to(tl.int64) * capacity
    total = capacity
    if counts is not None:
        total = tl.load(counts + owner * count_stride).to(tl.int32)
    held = tl.minimum(total, capacity)
    lists = found + line * 4
    floor = _kth(lists.to(tl.pointer_type(tl.float32)), held, k, 4, True, BLOCK) - tl.load(slack + owner)
    tl.store(floors + owner, floor)
    written = 0
    at = 0
    while at < held:
        spot = at + tl.arange(0, BLOCK)
        inside = spot < held
        entry = lists + spot.to(tl.int64) * 4
        low = tl.load(entry, mask=inside, other=-1).to(tl.int64) & 0xFFFFFFFF
        high = tl.load(entry + 1, mask=inside, other=-1).to(tl.int64)
        value = tl.load(entry + 2, mask=inside, other=0).to(tl.float32, bitcast=True)
        margin = tl.load(entry + 3, mask=inside, other=0).to(tl.float32, bitcast=True)
        keep = ((high >= 0) & ((value + margin < floor) == 0)).to(tl.int32)
        to = line + written + tl.cumsum(keep, axis=0) - 1
        tl.store(rows + to, (high << 32) | low, mask=keep != 0)
        tl.store(scores + to, value, mask=keep != 0)
        tl.store(owners + to, tl.full([BLOCK], 0, tl.int64) + owner, mask=keep != 0)
        written += tl.sum(keep, axis=0)
        at += BLOCK
    tl.store(state + owner, total)
    tl.store(state + tl.num_programs(0) + owner, written)


@triton.jit(do_not_specialize=["capacity"])
def pack(kept_rows, kept_scores, owners, rows, scores, state, capacity, QUERIES: tl.constexpr, BLOCK: tl.constexpr):
    """Put the lists one after the other."""
    owner = tl.program_id(0)
    n_queries = tl.num_programs(0)
    each = tl.arange(0, QUERIES)
    kept = tl.load(state + n_queries + each, mask=each < owner, other=0)
    start = tl.sum(kept.to(tl.int64), axis=0)
    line = owner.to(tl.int64) * capacity
    n = tl.load(state + n_queries + owner)
    at = 0
    while at < n:
        spot = at + tl.arange(0, BLOCK)
        inside = spot < n
        tl.store(owners + start + spot, tl.full([BLOCK], 0, tl.int64) + owner, mask=inside)
        tl.store(rows + start + spot, tl.load(kept_rows + line + spot, mask=inside, other=0), mask=inside)
        tl.store(scores + start + spot, tl.load(kept_scores + line + spot, mask=inside, other=0.0), mask=inside)
        at += BLOCK


@triton.jit
def _kth(values, n, k, STRIDE: tl.constexpr, LISTS: tl.constexpr, BLOCK: tl.constexpr):
    """The k-th largest of n numbers, -inf where there are fewer: bit by bit from the top, among numbers ordered as integers."""
    low = tl.full([], -(1 << 31), tl.int64)
    if n <= BLOCK:
        keys = _keys(values, 0, n, STRIDE, LISTS, BLOCK)
        for bit in range(32):
            trial = low + (tl.full([], 1, tl.int64) << (31 - bit))
            count = tl.sum((keys >= trial.to(tl.int32)).to(tl.int32), axis=0)
            low = tl.where(count >= k, trial, low)
    else:
        for bit in range(32):
            trial = low + (tl.full([], 1, tl.int64) << (31 - bit))
            count = 0
            at = 0
            while at < n:
                count += tl.sum((_keys(values, at, n, STRIDE, LISTS, BLOCK) >= trial.to(tl.int32)).to(tl.int32), axis=0)
                at += BLOCK
            low = tl.where(count >= k, trial, low)
    key = low.to(tl.int32)
    value = (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return tl.where(n < k, float("-inf"), value)


@triton.jit
def _keys(values, at, n, STRIDE: tl.constexpr, LISTS: tl.constexpr, BLOCK: tl.constexpr):
    """[BLOCK] int32 in the order of the numbers; past the end the least integer, which is no number's. Of lists the lower ends."""
    spot = at + tl.arange(0, BLOCK)
    inside = spot < n
    at_values = values + spot.to(tl.int64) * STRIDE
    if LISTS:
        value = tl.load(at_values + 2, mask=inside, other=0.0)
        value -= tl.load(at_values + 3, mask=inside, other=0.0)
    else:
        value = tl.load(at_values, mask=inside, other=0.0)
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(inside, bits ^ ((bits >> 31) & 0x7FFFFFFF), -(1 << 31))


def power(number: int) -> int:
    """The least power of two that is not below."""
    return 1 << max(0, number - 1).bit_length()


def tried(device: torch.device) -> None:
    """Start a kernel there and wait for it.  Raises whatever keeps kernels from being built or started"""
    rows = torch.full((1,), -1, dtype=torch.int32, device=device)
    places = torch.tensor([[0, 0, 0, 0, 0, 1]], device=device)
    launch(compact, (1, 1, 1), places, rows.abs(), rows, torch.zeros_like(rows), 0, 1, 1, 1, num_warps=4, ROWS=32)
    if rows.tolist() != [0]:
        raise RuntimeError("a kernel did not do what it should")


VARIANTS: Final = (
    Variant(
        "compact",
        compact,
        {
            "places": "*i64",
            "words": "*i32",
            "listed": "*i32",
            "counted": "*i32",
            **dict.fromkeys(("origin", "n_words", "most", "chunk_tiles"), "i32"),
        },
        {"ROWS": 4096},
    ),
    Variant("halve", halve, {"queries": "*fp32", "halves": "*fp16"}, {"DIM": 384, "WIDTH": 384, "BLOCK": 512}, 2),
    *(
        Variant(
            f"floor_of {block}",
            floor_of,
            {"scores": "*fp32", "slack": "*fp32", "floors": "*fp32", "n": "i32", "k": "i32"},
            {"BLOCK": block},
            warps,
        )
        for block, warps in ((4096, 16), (32768, 32))
    ),
    *(
        Variant(
            f"prune {block}{' counted' if counted else ''}",
            prune,
            {
                "found": "*i32",
                "count_stride": "i32",
                "capacity": "i32",
                "slack": "*fp32",
                "k": "i32",
                "floors": "*fp32",
                "rows": "*i64",
                "scores": "*fp32",
                "owners": "*i64",
                "state": "*i32",
                **({"counts": "*i32"} if counted else {}),
            },
            {"BLOCK": block, **({} if counted else {"counts": None})},
            block // 256,
        )
        for block, counted in ((4096, True), (4096, False))
    ),
    Variant(
        "pack",
        pack,
        {
            "kept_rows": "*i64",
            "kept_scores": "*fp32",
            "owners": "*i64",
            "rows": "*i64",
            "scores": "*fp32",
            "state": "*i32",
            "capacity": "i32",
        },
        {"QUERIES": 64, "BLOCK": 1024},
    ),
)
