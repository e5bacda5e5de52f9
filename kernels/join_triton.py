"""``join`` in Triton: a kernel that multiplies and collects, and one that collects what a library multiplied. See README.md."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from chroma_gpu.kernels.buffer import Buffer
from chroma_gpu.kernels.join import Side, Tiles, Way, margins
from chroma_gpu.kernels.launch import launch
from chroma_gpu.kernels.product_triton import SCORES, capability_of, slots
from chroma_gpu.kernels.tuning import Config, Variant, config, shipped

SLICE: Final = 16
"""Columns of a tile that are looked through at once for what to keep."""

GROUP: Final = 16
"""Tiles of the left side that are gone through together, so that what they share stays in the caches."""

COLLECTED: Final = 128
"""Left rows of a program that collects from a tile of the library's product; it takes SLICE right ones."""

MOST: Final = (1 << 31) - (1 << 16)
"""Pairs of two parts of a table: each has a place of 32 bits, and the last slice before they run over takes some more."""

_SLICE = tl.constexpr(SLICE)
_GROUP = tl.constexpr(GROUP)


def tiles(buffer: Buffer, threshold: float, share: float, variant: Way) -> Tiles:
    """All pairs of two sides on a device that Triton serves.  Raises ValueError if float32 vectors shall be multiplied here"""
    vectors = buffer.chunks[0].vectors
    capability = capability_of(buffer.device)
    how = config("join", capability, str(vectors.dtype).removeprefix("torch."), vectors.shape[1], 1024)
    whole = vectors.dtype == torch.float32
    if variant == "fused" and whole:
        raise ValueError('float32 vectors have no tensor cores that keep their precision: use "split"')
    if variant == "fused" or (variant == "auto" and how.way == "dot" and not whole):
        return FusedTiles(threshold, share, how)
    return SplitTiles(threshold, share, capability)


class _Room:
    """Where pairs go."""

    def __init__(self, room: int, device: torch.device) -> None:
        if room > MOST:
            raise OverflowError(f"{room} pairs of two parts of a table are more than {MOST}: ask for a higher threshold")
        self.count = torch.zeros(1, dtype=torch.int64, device=device)
        self.filled = torch.zeros(1, dtype=torch.int32, device=device)
        self.columns = (
            *(torch.empty(room, dtype=torch.int64, device=device) for _ in range(2)),
            *(torch.empty(room, dtype=torch.float32, device=device) for _ in range(2)),
        )

    def found(self) -> tuple[int, tuple[Tensor, ...]]:
        return int(self.count), self.columns


class FusedTiles:
    """Pairs that are collected where they are multiplied; one launch for two sides."""

    def __init__(self, threshold: float, share: float, how: Config) -> None:
        self.threshold, self.share, self.how = threshold, share, how

    def pairs(self, left: Side, right: Side, same: bool, room: int) -> tuple[int, tuple[Tensor, ...]]:
        how, device, stride = self.how, left.rows.device, left.vectors.stride(0)
        made = _Room(room, device)
        taken = torch.zeros(slots(device), dtype=torch.int32, device=device)
        tall, wide = -(-len(left) // how.rows), -(-len(right) // how.queries)
        aligned = all(not (side.vectors.data_ptr() % 16 or stride * side.vectors.itemsize % 16) for side in (left, right))
        launch(
            join_kernel,
            (tall * wide, 1, 1),
            left.vectors,
            right.vectors,
            *_columns(left, tall * how.rows),
            *_columns(right, wide * how.queries),
            made.count,
            made.filled,
            *made.columns,
            self._least(left, right),
            torch.empty(len(taken) * how.rows * how.queries, dtype=torch.float32, device=device),
            taken,
            self.threshold,
            self.share,
            len(left),
            len(right),
            room,
            tall,
            wide,
            len(taken),
            num_warps=how.num_warps,
            num_stages=how.num_stages,
            SAME=same,
            STRIDE=stride,
            RIGHT_STRIDE=right.vectors.stride(0),
            ALIGNED=aligned,
            SUM=tl.int32 if left.vectors.dtype == torch.int8 else tl.float32,
            ROWS=how.rows,
            COLUMNS=how.queries,
            DIMS=how.dims,
            STEPS=-(-left.vectors.shape[1] // how.dims),
            DIM=left.vectors.shape[1],
        )
        return made.found()

    def _least(self, left: Side, right: Side) -> Tensor:
        """[1]: what every score that may reach the threshold reaches, with the largest of all margins."""
        most = margins(self.share, *(column.max() for column in (left.error, left.weight, right.error, right.weight)))
        least = self.threshold - most
        return (least - 2.0**-16 * (most + least.abs())).view(1)


class SplitTiles:
    """Pairs whose scores a library writes to where the caches hold them; what collects reads them there."""

    def __init__(self, threshold: float, share: float, capability: int) -> None:
        self.threshold, self.share = threshold, share
        self.width = 8 * SLICE * 32
        self.height = max(COLLECTED, SCORES[80 if capability >= 80 else 75] // self.width)

    def pairs(self, left: Side, right: Side, same: bool, room: int) -> tuple[int, tuple[Tensor, ...]]:
        made = _Room(room, left.rows.device)
        for j in range(0, len(right), self.width):
            other = right.piece(j, j + self.width)
            for i in range(0, min(len(left), j + self.width) if same else len(left), self.height):
                one = left.piece(i, i + self.height)
                self._collect(one, other, same, made)
        return made.found()

    def _collect(self, one: Side, other: Side, same: bool, made: _Room) -> None:
        if one.vectors.is_cuda and one.vectors.dtype != torch.float32:
            products: Tensor = torch.mm(one.vectors.half(), other.vectors.half().T, out_dtype=torch.float32)
        else:
            products = one.vectors.float() @ other.vectors.float().T
        n, m = products.shape
        launch(
            collect_pairs_kernel,
            (-(-n // COLLECTED), -(-m // SLICE), 1),
            products,
            *_columns(one),
            *_columns(other),
            made.count,
            made.filled,
            *made.columns,
            self.threshold,
            self.share,
            n,
            m,
            len(made.columns[0]),
            num_warps=4,
            num_stages=1,
            SAME=same,
            ROWS=COLLECTED,
        )


def _columns(side: Side, n: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The columns of a side; the gains, zero after the last, for n rows."""
    return pad(side.gain, (0, max(0, n - len(side)))), side.error, side.weight, side.rows


@triton.jit(do_not_specialize=["threshold", "share", "n", "m", "room", "tall", "breadth", "n_slots"])
def join_kernel(
    vectors,  # [n, STRIDE]
    others,  # [m, RIGHT_STRIDE]
    gain,  # [tall * ROWS] float32, zero after the n-th; the next two [n] float32; rows [n] int64
    error,
    weight,
    rows,
    other_gain,  # [breadth * COLUMNS] float32
    other_error,
    other_weight,
    other_rows,
    count,  # [1] int64: how many pairs there are
    filled,  # [1] int32: how many places are taken
    lefts,  # [room] int64
    rights,
    scores,  # [room] float32
    margins,
    least,  # [1] float32: a score below, and its margin, are below the threshold
    scratch,  # [n_slots, ROWS, COLUMNS] float32
    taken,  # [n_slots] int32: 1 while a program uses that part of ``scratch``
    threshold,
    share,
    n,
    m,
    room,
    tall,
    breadth,
    n_slots,
    SAME: tl.constexpr,
    STRIDE: tl.constexpr,
    RIGHT_STRIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    SUM: tl.constexpr,  # the type that products are summed in
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DIMS: tl.constexpr,
    STEPS: tl.constexpr,
    DIM: tl.constexpr,
):
    """Score a tile of pairs; where both sides are one, only a tile that has pairs of a row and a later one."""
    program = tl.program_id(0)
    band = program // (_GROUP * breadth)
    height = tl.minimum(tall - band * _GROUP, _GROUP)
    i = band * _GROUP + (program % (_GROUP * breadth)) % height
    j = (program % (_GROUP * breadth)) // height
    if SAME and (j + 1) * COLUMNS <= i * ROWS:
        return
    line = tl.arange(0, ROWS)
    own_column = tl.arange(0, COLUMNS)
    column = tl.arange(0, DIMS)
    if ALIGNED:
        vectors = tl.multiple_of(vectors, 16)
        others = tl.multiple_of(others, 16)
    x = vectors + tl.minimum(i * ROWS + line, n - 1).to(tl.int64)[:, None] * STRIDE + column[None, :]
    y = others + tl.minimum(j * COLUMNS + own_column, m - 1).to(tl.int64)[None, :] * RIGHT_STRIDE + column[:, None]
    acc = tl.zeros([ROWS, COLUMNS], SUM)
    for s in range(0, STEPS):
        if DIM % DIMS == 0:
            a = tl.load(x)
            b = tl.load(y)
        else:
            a = tl.load(x, mask=column[None, :] < DIM - s * DIMS, other=0)
            b = tl.load(y, mask=column[:, None] < DIM - s * DIMS, other=0)
        acc = tl.dot(a, b, acc, out_dtype=SUM)
        x += DIMS
        y += DIMS
    # Most tiles have nothing to keep, and this is all that is done.
    best = tl.max(acc.to(tl.float32) * tl.load(gain + i * ROWS + line)[:, None], 0)
    best *= tl.load(other_gain + j * COLUMNS + own_column)
    reached = best >= tl.load(least)
    slices = tl.reduce_or(tl.where(reached, 1 << (own_column // _SLICE), 0), 0)
    if slices != 0:
        # Part of a tile cannot be taken out of registers: the columns in question go through memory.
        slot = program % n_slots
        while tl.atomic_cas(taken + slot, 0, 1) != 0:
            slot = (slot + 1) % n_slots
        dump = scratch + slot.to(tl.int64) * (ROWS * COLUMNS)
        wanted = ((slices >> (own_column // _SLICE)) & 1) != 0
        tl.store(dump + line[:, None] * COLUMNS + own_column[None, :], acc.to(tl.float32), mask=wanted[None, :])
        tl.debug_barrier()
        for part in range(0, COLUMNS // _SLICE):
            if ((slices >> part) & 1) != 0:
                some = part * _SLICE + tl.arange(0, _SLICE)
                lane = tl.arange(0, ROWS)
                raw = tl.load(dump + lane[:, None] * COLUMNS + some[None, :], cache_modifier=".cg")
                _keep_pairs(
                    raw, gain, error, weight, rows, other_gain, other_error, other_weight, other_rows,
                    count, filled, lefts, rights, scores, margins, threshold, share, n, m, room,
                    i * ROWS + lane, j * COLUMNS + some, SAME, ROWS,
                )  # fmt: skip
        tl.debug_barrier()
        tl.atomic_xchg(taken + slot, 0)


@triton.jit(do_not_specialize=["threshold", "share", "n", "m", "room"])
def collect_pairs_kernel(
    products,  # [n, m] float32
    gain, error, weight, rows, other_gain, other_error, other_weight, other_rows,  # of the tile; see join_kernel
    count, filled, lefts, rights, scores, margins, threshold, share, n, m, room,
    SAME: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Keep what may reach the threshold, of products that lie in memory."""
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    other = tl.program_id(1) * _SLICE + tl.arange(0, _SLICE)
    inside = (place < n)[:, None] & (other < m)[None, :]
    raw = tl.load(products + place.to(tl.int64)[:, None] * m + other[None, :], mask=inside, other=0.0)
    _keep_pairs(
        raw, gain, error, weight, rows, other_gain, other_error, other_weight, other_rows,
        count, filled, lefts, rights, scores, margins, threshold, share, n, m, room, place, other, SAME, ROWS,
    )  # fmt: skip


@triton.jit
def _keep_pairs(
    raw, gain, error, weight, rows, other_gain, other_error, other_weight, other_rows,
    count, filled, lefts, rights, scores, margins, threshold, share, n, m, room, place, other, SAME: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Append the pairs of a tile of SLICE columns that may reach the threshold."""
    inside = (place < n)[:, None] & (other < m)[None, :]
    place = tl.minimum(place, n - 1)
    other = tl.minimum(other, m - 1)
    value, margin = _scored_pair(raw, gain, error, weight, other_gain, other_error, other_weight, place, other, share)
    left = tl.load(rows + place)
    right = tl.load(other_rows + other)
    kept = inside & (value + margin >= threshold)
    if SAME:
        kept = kept & (left[:, None] < right[None, :])
    total = tl.sum(tl.sum(kept.to(tl.int32), 1), 0)
    if total != 0:  # noqa: SIM102 (the language has no short circuit)
        # Where there is no room left, pairs are counted, not one by one.
        if tl.atomic_add(count, total.to(tl.int64), sem="relaxed") < room:
            to = tl.atomic_add(filled + tl.zeros(kept.shape, tl.int32), 1, mask=kept, sem="relaxed")
            kept = kept & (to < room)
            tl.store(lefts + to, tl.broadcast_to(left[:, None], kept.shape), mask=kept)
            tl.store(rights + to, tl.broadcast_to(right[None, :], kept.shape), mask=kept)
            tl.store(scores + to, value, mask=kept)
            tl.store(margins + to, margin, mask=kept)


@triton.jit
def _scored_pair(acc, gain, error, weight, other_gain, other_error, other_weight, place, other, share):
    """Scores and margins of products; see ``join.margins``."""
    value = acc * tl.load(gain + place)[:, None] * tl.load(other_gain + other)[None, :]
    wide = tl.load(other_weight + other)
    off = tl.load(other_error + other)
    margin = tl.load(error + place)[:, None] * (wide + off)[None, :]
    margin += tl.load(weight + place)[:, None] * (off + share * wide)[None, :]
    return value, margin


def _variants() -> Iterator[Variant]:
    columns = {"gain": "*fp32", "error": "*fp32", "weight": "*fp32", "rows": "*i64"}
    signature: dict[str, str] = columns | {f"other_{name}": kind for name, kind in columns.items()}
    signature |= {"count": "*i64", "filled": "*i32", "lefts": "*i64", "rights": "*i64", "scores": "*fp32", "margins": "*fp32"}
    signature |= {"threshold": "fp32", "share": "fp32", "n": "i32", "m": "i32", "room": "i32"}
    more = {"least": "*fp32", "scratch": "*fp32", "taken": "*i32", "tall": "i32", "breadth": "i32", "n_slots": "i32"}
    seen: set[tuple[str, Config]] = set()
    for capability in (80, 86, 90):
        for dtype, kind in (("float16", "*fp16"), ("int8", "*i8")):
            how = shipped("join", capability, dtype, 384, 1024)
            for same in (True, False) if (dtype, how) not in seen else ():
                constants: dict[str, Any] = {"SAME": same, "STRIDE": 384, "RIGHT_STRIDE": 384, "ALIGNED": True, "DIM": 384}
                constants |= {
                    "SUM": tl.int32 if dtype == "int8" else tl.float32,
                    "ROWS": how.rows,
                    "COLUMNS": how.queries,
                    "DIMS": how.dims,
                }
                name = f"join {dtype} {how.rows}x{how.queries}x{how.dims} {how.num_stages} stages" + " same" * same
                yield Variant(
                    name,
                    join_kernel,
                    {"vectors": kind, "others": kind} | signature | more,
                    constants | {"STEPS": -(-384 // how.dims)},
                    how.num_warps,
                    how.num_stages,
                    capability,
                )
            seen.add((dtype, how))
    yield Variant(
        "collect pairs", collect_pairs_kernel, {"products": "*fp32"} | signature, {"SAME": True, "ROWS": COLLECTED}, 4, 1
    )


VARIANTS: Final[tuple[Variant, ...]] = tuple(_variants())
