"""All pairs of rows of one table that are as near as a threshold: duplicates, near duplicates, the edges of a graph.

Every row against every later one, tile by tile; of a tile, only the pairs that may reach the threshold are kept. No matrix of all
scores is ever there. See README.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import torch
from torch import Tensor

from chroma_gpu.kernels.buffer import CHUNK, Buffer, Chunk
from chroma_gpu.kernels.scan import has_triton, product_error

TILE: Final = 2048
"""Rows of either side of a tile in plain torch: 16 MiB of scores, which a cache may hold."""

PAIRS: Final = 1 << 20
"""Pairs of two parts of the table that there is room for at first."""

Way = Literal["auto", "fused", "split", "plain"]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs of rows, left < right, in no order.

    left, right  [m] int64
    scores       [m] float32
    margins      [m] float32: how far each score may be from the true one at most
    """

    left: Tensor
    right: Tensor
    scores: Tensor
    margins: Tensor


def join(
    buffer: Buffer, threshold: float, *, words: Tensor | None = None, limit: int | None = None, variant: Way = "auto"
) -> Pairs:
    """Every pair of rows whose true score may reach the threshold.

    The score of rows a and b is ``gain_a * gain_b * <a, b>``: their cosine or inner product, by what the gain was made for. Biases
    count for nothing, but a row whose bias is +inf has no pairs. A pair is returned if score + margin >= threshold, so none is
    missing; where score - margin >= threshold too it is certain, and whoever wants the truth of the others scores them in full
    precision. float16 codes of unit vectors have margins of some 1e-3, int8 codes of some 1e-2, float32 vectors of 1e-5.

    words    [ceil(size / 32)] int32: which rows take part, as for ``scan``
    limit    pairs at most; None for as many as there are
    variant  "fused": one Triton kernel multiplies and collects, tensor cores of sm_80 and later, float16 and int8 codes. "split":
             the library's product of a tile, then a Triton kernel. "plain": torch alone, on any device; the reference. "auto":
             what ``tuning.config`` says for the device, "plain" without Triton
    Raises   ValueError for an unknown variant, "fused" for float32 vectors, or a threshold that is no number; OverflowError if
             there are more pairs than ``limit``: a higher threshold has fewer
    Cost     n^2 dim operations, 4 bytes a row and 24 bytes a pair; a copy of up to 131,072 rows where rows are left out. Where two
             parts of the table, 65,536 rows each, have more than PAIRS pairs, these two are multiplied twice
    """
    if variant not in {"auto", "fused", "split", "plain"}:
        raise ValueError(f"there is no variant {variant!r}: it is auto, fused, split or plain")
    if threshold != threshold:  # noqa: PLR0124
        raise ValueError("a threshold must be a number")
    device = buffer.device
    found: list[tuple[Tensor, ...]] = []
    parts = list(_parts(buffer, words))
    if parts:
        tiles = _tiles(buffer, threshold, variant)
        room = PAIRS
        total = 0
        for i, part in enumerate(parts):
            left = _side(part)
            for j in range(i, len(parts)):
                right = left if i == j else _side(parts[j])
                n, columns = tiles.pairs(left, right, i == j, room)
                total += n
                if limit is not None and total > limit:
                    raise OverflowError(
                        f"more than {limit} pairs reach {threshold}: ask for a higher threshold or a higher limit"
                    )
                if n > len(columns[0]):
                    room = n
                    _, columns = tiles.pairs(left, right, i == j, room)
                if n:
                    found.append(tuple(column[:n].clone() for column in columns))
    if not found:
        none, nothing = torch.empty(0, dtype=torch.int64, device=device), torch.empty(0, dtype=torch.float32, device=device)
        return Pairs(none, none, nothing, nothing)
    return Pairs(*map(torch.cat, zip(*found, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Rows that are paired with others.

    vectors  [n, dim] as in the buffer
    gain     [n] float32
    error    [n] float32: how far the decoded vector, gain * vector, is from the true one at most
    weight   [n] float32: the length of the decoded vector
    rows     [n] int64, ascending
    """

    vectors: Tensor
    gain: Tensor
    error: Tensor
    weight: Tensor
    rows: Tensor

    def piece(self, first: int, stop: int) -> Side:
        return Side(*(column[first:stop] for column in (self.vectors, self.gain, self.error, self.weight, self.rows)))

    def __len__(self) -> int:
        return len(self.rows)


class Tiles(Protocol):
    """All pairs of two sides."""

    def pairs(self, left: Side, right: Side, same: bool, room: int) -> tuple[int, tuple[Tensor, ...]]:
        """How many pairs may reach the threshold, and the columns of ``Pairs``: of all, or of ``room`` of them where there are more.

        same  whether both sides are one: each pair once, no row with itself
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Some:
    """Rows of a chunk that take part: a slice of all of them, or which."""

    chunk: Chunk
    weight: Tensor
    rows: slice | Tensor
    n: int


def _parts(buffer: Buffer, words: Tensor | None) -> Iterator[list[_Some]]:
    """The rows that take part, some CHUNK of them at once."""
    part: list[_Some] = []
    for chunk in buffer.chunks:
        some = _some(chunk, words)
        # A chunk that takes part whole is never copied: it stands alone.
        if part and (isinstance(some.rows, slice) or sum(each.n for each in part) + some.n > CHUNK):
            yield part
            part = []
        if not some.n:
            continue
        if isinstance(some.rows, slice):
            yield [some]
        else:
            part.append(some)
    if part:
        yield part


def _some(chunk: Chunk, words: Tensor | None) -> _Some:
    n = len(chunk)
    weight = torch.cat([v.float().norm(dim=1) for v in torch.split(chunk.vectors, 8192)])
    weight = weight if chunk.gain is None else weight * chunk.gain
    # Rounded up, as is every error: what is made of them is a bound.
    weight = weight * (1 + 2.0**-16)
    allowed: Tensor | None = None
    if words is not None:
        rows = torch.arange(chunk.start, chunk.start + n, device=weight.device)
        inside = rows < 32 * len(words)
        at = torch.where(inside, rows, 0)
        allowed = ((words[at >> 5] >> (at & 31).to(torch.int32)) & 1).bool() & inside if len(words) else inside
    if chunk.bias is not None:
        finite = chunk.bias < torch.inf
        allowed = finite if allowed is None else allowed & finite
    if allowed is None:
        return _Some(chunk, weight, slice(0, n), n)
    which = torch.nonzero(allowed).flatten()
    return _Some(chunk, weight, slice(0, n) if len(which) == n else which, len(which))


def _side(part: list[_Some]) -> Side:
    columns = []
    for some in part:
        chunk, rows = some.chunk, some.rows
        of = torch.ones_like(some.weight) if chunk.gain is None else chunk.gain
        error = torch.zeros_like(some.weight) if chunk.error is None else chunk.error * (1 + 2.0**-16)
        ids = torch.arange(chunk.start, chunk.start + len(chunk), device=of.device)
        columns.append((chunk.vectors[rows], of[rows], error[rows], some.weight[rows], ids[rows]))
    return Side(*columns[0]) if len(columns) == 1 else Side(*map(torch.cat, zip(*columns, strict=True)))


def _tiles(buffer: Buffer, threshold: float, variant: Way) -> Tiles:
    if variant == "auto" and not has_triton(buffer.device):
        variant = "plain"
    vectors = buffer.chunks[0].vectors
    share = product_error(vectors.shape[1], buffer.device, vectors.dtype)
    if variant == "plain":
        return PlainTiles(threshold, share)
    from chroma_gpu.kernels import join_triton

    return join_triton.tiles(buffer, threshold, share, variant)


class PlainTiles:
    """Pairs in torch alone: decoded vectors of both sides are multiplied, TILE rows by TILE rows.

    share  the error of a product, of the lengths of its vectors; see ``product_error``
    """

    def __init__(self, threshold: float, share: float) -> None:
        self.threshold, self.share = threshold, share

    def pairs(self, left: Side, right: Side, same: bool, room: int) -> tuple[int, tuple[Tensor, ...]]:
        found = []
        for i in range(0, len(left), TILE):
            one = left.piece(i, i + TILE)
            decoded = _decoded(one)
            for j in range(i if same else 0, len(right), TILE):
                other = right.piece(j, j + TILE)
                scores = decoded @ (decoded if same and i == j else _decoded(other)).T
                most = margins(self.share, *(column.max() for column in (one.error, one.weight, other.error, other.weight)))
                a, b = torch.nonzero(scores >= self.threshold - most, as_tuple=True)
                kept = scores[a, b]
                off = margins(self.share, one.error[a], one.weight[a], other.error[b], other.weight[b])
                sure = ~(kept + off < self.threshold)
                if same and i == j:
                    sure &= a < b
                found.append((one.rows[a[sure]], other.rows[b[sure]], kept[sure], off[sure]))
        columns = tuple(torch.cat(column) for column in zip(*found, strict=True))
        return len(columns[0]), columns


def margins(share: float, error: Tensor, weight: Tensor, other_error: Tensor, other_weight: Tensor) -> Tensor:
    """How far a score may be off: |<a + x, b + y> - <a, b>| for |x|, |y| up to the errors, and the rounding of <a, b>."""
    return error * (other_weight + other_error) + weight * (other_error + share * other_weight)


def _decoded(side: Side) -> Tensor:
    return side.vectors.float() * side.gain[:, None]
