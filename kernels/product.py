"""``scan`` for large batches: products by tensor cores, tile after tile, and of each tile only what may count is kept.

The steps, the same for every way of multiplying: a sample gives each query a floor; the tiles are gone through in parts, each some
eight times as long as what went before; what reaches the floor is appended to the list of its query; after each part the lists raise
the floors and are cut at them. A list that runs over costs another pass over its part, never an answer. See README.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import torch
from torch import Tensor

from chroma_gpu.kernels.buffer import Buffer, Chunk
from chroma_gpu.kernels.scan import SCORES, Survivors, has_triton

GROWTH: Final = 8
"""How many times as many tiles a part ends with as the one before."""

SAMPLE: Final = (1024, 8192)
"""Rows of the sample at least, and at most where k is small."""

DENSE: Final = 0.5
"""Share of rows that pass a mask, from which on rows are masked where they lie instead of being listed first."""

SPOTS: Final = 16
"""Places of the table that a sample is taken from where each costs launches."""

LISTS: Final = {"cpu": 1 << 28, "cuda": 1 << 30}
"""Bytes of lists at once: with more queries than that is enough for, some wait."""

TOGETHER: Final = 1 << 14
"""Queries at once, whatever their lists take: kernels count the numbers of all of them in 32 bits."""

Way = Literal["auto", "fused", "split", "plain"]


def product(
    queries: Tensor,
    buffer: Buffer,
    k: int,
    slack: Tensor,
    words: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    passing: int | None = None,
    variant: Way = "auto",
) -> Survivors:
    """What ``scan`` returns, at a cost per query that falls with their number.

    Arguments, result and meaning are those of ``scan``. float16 queries are multiplied as they are, float32 ones to float32
    accuracy, by two float16 numbers each where codes are float16 or int8; ``product_error`` covers both.

    variant  "fused": one Triton kernel multiplies and collects, tensor cores of sm_80 and later, float16 and int8 codes. "split":
             the library's product of a tile, then a Triton kernel that collects. "plain": torch alone, on any device; the
             reference. "auto": what ``tuning.config`` says for the device, "plain" without Triton
    Raises   ValueError for a k below 1, an unknown variant, or "fused" for float32 vectors
    Cost     2 q n dim operations for the n rows that are allowed (twice that for float32 queries of codes), n (dim itemsize + 12)
             bytes read, q * (64 k + 2048) list entries of 16 bytes. The host waits once for each part and at the end
    """
    if k < 1:
        raise ValueError("k must be at least 1")
    if variant not in {"auto", "fused", "split", "plain"}:
        raise ValueError(f"there is no variant {variant!r}: it is auto, fused, split or plain")
    if not all(map(len, buffer.chunks)):
        buffer = Buffer.of([chunk for chunk in buffer.chunks if len(chunk)])
    choice = _chosen(buffer, words, passing) if len(queries) and len(buffer) else None
    if choice is None:
        empty = torch.empty(0, dtype=torch.int64, device=buffer.device)
        return Survivors(empty, empty, torch.empty(0, dtype=torch.float32, device=buffer.device))
    capacity = min(64 * k + 2048, choice.most)
    together = min(max(64, LISTS.get(buffer.device.type, 1 << 28) // (20 * capacity)), TOGETHER)
    parts = []
    for first in range(0, len(queries), together):
        some = slice(first, first + together)
        tiles = _tiles(queries[some], buffer, choice, None if lengths is None else lengths[some], variant)
        found = _survivors(tiles, min(k, choice.most + 1), slack[some], capacity)
        parts.append((found.owners + first if first else found.owners, found.rows, found.scores))
    return Survivors(*parts[0]) if len(parts) == 1 else Survivors(*map(torch.cat, zip(*parts, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Which rows may be found: all, those whose bit is set, or listed ones.

    most   how many at most
    words  bits to look at
    home   [m] int32: the number of the chunk of each listed row, ascending
    at     [m] int32: where it lies in the chunk
    """

    most: int
    words: Tensor | None = None
    home: Tensor | None = None
    at: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Tiles step * j: every j in [first, stop), or of the j that no multiple of GROWTH is the first-th to the stop-th."""

    first: int
    stop: int
    step: int
    skip: bool

    def numbers(self) -> Iterator[int]:
        for i in range(self.first, self.stop):
            yield self.step * (i + (i // (GROWTH - 1) + 1 if self.skip else 0))

    def halves(self) -> tuple[Part, Part]:
        middle = (self.first + self.stop) // 2
        return Part(self.first, middle, self.step, self.skip), Part(middle, self.stop, self.step, self.skip)


@dataclass(slots=True, eq=False)
class Lists:
    """What was kept for each query so far; entries past ``counts`` mean nothing, ``counts`` past the capacity were not kept.

    counts   [q] int32
    scores   [q, capacity] float32
    margins  [q, capacity] float32, length * error, or None for 0
    rows     [q, capacity] int64
    """

    counts: Tensor
    scores: Tensor
    margins: Tensor | None
    rows: Tensor

    @classmethod
    def empty(cls, n_queries: int, capacity: int, margins: bool, device: torch.device) -> Lists:
        shape = (n_queries, capacity)
        return cls(
            torch.zeros(n_queries, dtype=torch.int32, device=device),
            torch.empty(shape, dtype=torch.float32, device=device),
            torch.empty(shape, dtype=torch.float32, device=device) if margins else None,
            torch.empty(shape, dtype=torch.int64, device=device),
        )

    @property
    def capacity(self) -> int:
        return self.scores.shape[1]

    def append(self, owners: Tensor, rows: Tensor, scores: Tensor, margins: Tensor | None) -> None:
        """Add entries, which are ordered by owner."""
        sizes = torch.bincount(owners, minlength=len(self.counts))
        to = self.counts[owners] + torch.arange(len(owners), device=owners.device) - (sizes.cumsum(0) - sizes)[owners]
        fits = to < self.capacity
        owners, to = owners[fits], to[fits]
        self.rows[owners, to] = rows[fits]
        self.scores[owners, to] = scores[fits]
        if self.margins is not None and margins is not None:
            self.margins[owners, to] = margins[fits]
        self.counts += sizes.to(torch.int32)

    def floors(self, k: int, longest: int) -> Tensor:
        """[q]: the k-th best lower end of each list, -inf where it has fewer.  longest: no list is longer"""
        longest = min(longest, self.capacity)
        if longest < k:
            return self.scores.new_full((len(self.scores),), -torch.inf)
        lowest = self.scores[:, :longest] if self.margins is None else self.scores[:, :longest] - self.margins[:, :longest]
        lowest = torch.where(self._held(longest), lowest, -torch.inf)
        return torch.topk(lowest, k, dim=1).values[:, -1]

    def cut(self, floors: Tensor, longest: int, capacity: int) -> Lists:
        """Lists of what reaches the floors, with room for ``capacity`` entries."""
        longest = min(longest, self.capacity)
        highest = self.scores[:, :longest] if self.margins is None else self.scores[:, :longest] + self.margins[:, :longest]
        kept = self._held(longest) & ~(highest < floors[:, None])
        places = kept.cumsum(1, dtype=torch.int32)
        fresh = Lists.empty(len(self.counts), capacity + 1, self.margins is not None, self.counts.device)
        to = torch.where(kept, places - 1, capacity).long()  # what is not kept meets in a column that is cut off
        fresh.scores.scatter_(1, to, self.scores[:, :longest])
        fresh.rows.scatter_(1, to, self.rows[:, :longest])
        if self.margins is not None and fresh.margins is not None:
            fresh.margins.scatter_(1, to, self.margins[:, :longest])
        margins = None if fresh.margins is None else fresh.margins[:, :capacity].contiguous()
        counts = places[:, -1].contiguous() if longest else fresh.counts
        return Lists(counts, fresh.scores[:, :capacity].contiguous(), margins, fresh.rows[:, :capacity].contiguous())

    def _held(self, longest: int) -> Tensor:
        return torch.arange(longest, device=self.counts.device) < self.counts[:, None]


class Tiles(Protocol):
    """The rows that may be found, in tiles.

    count    how many tiles
    height   rows of a tile at most
    margins  whether rows have errors
    """

    count: int
    height: int
    margins: bool

    def sample(self, size: int) -> Tensor:
        """[q, about size]: lower ends of the scores of some rows, -inf where a row is none."""
        ...

    def collect(self, part: Part, floors: Tensor, lists: Lists) -> None:
        """Append every row of the tiles whose upper end reaches the floor of a query."""
        ...


def _chosen(buffer: Buffer, words: Tensor | None, passing: int | None) -> Choice | None:
    """The rows that may be found; None if there are none."""
    if words is None:
        return Choice(len(buffer))
    if passing is None:
        passing = _set_bits(words)
    if passing >= DENSE * len(buffer):
        return Choice(len(buffer), words)
    bits = (words[:, None] >> torch.arange(32, dtype=torch.int32, device=words.device)) & 1
    rows = torch.nonzero(bits.flatten()).flatten()
    starts = buffer.places[:, 4].contiguous()
    home = torch.searchsorted(starts, rows, right=True) - 1
    at = rows - starts[home]
    inside = (home >= 0) & (at < buffer.places[:, 5][home])
    home, at = home[inside].to(torch.int32), at[inside].to(torch.int32)
    return Choice(len(at), None, home, at) if len(at) else None


def _set_bits(words: Tensor) -> int:
    """How many bits are set in all words together."""
    bytes_ = words.contiguous().view(torch.uint8)
    table = torch.tensor([n.bit_count() for n in range(256)], device=words.device)
    return int(table[bytes_.long()].sum())


def _tiles(queries: Tensor, buffer: Buffer, choice: Choice, lengths: Tensor | None, variant: Way) -> Tiles:
    if variant == "auto" and not has_triton(buffer.device):
        variant = "plain"
    if variant == "plain":
        return PlainTiles(queries.float(), buffer, choice, lengths, SCORES.get(buffer.device.type, 1 << 24))
    from chroma_gpu.kernels import product_triton

    return product_triton.tiles(queries, buffer, choice, lengths, variant)


def _survivors(tiles: Tiles, k: int, slack: Tensor, capacity: int) -> Survivors:
    rows = tiles.count * tiles.height
    size = max(SAMPLE[0], 8 * k, min(SAMPLE[1], rows // 64))
    floors = slack.new_full((len(slack),), -torch.inf)
    if rows > 4 * size:
        lowest = tiles.sample(size)
        if lowest.shape[1] >= k:
            floors = torch.topk(lowest, k, dim=1).values[:, -1]
    lists = Lists.empty(len(slack), capacity, tiles.margins, slack.device)
    for part in _parts(tiles.count, tiles.height, size):
        floors, lists = _collected(tiles, part, k, slack, floors, lists)
    kept = torch.arange(lists.capacity, device=slack.device) < lists.counts[:, None]
    owners, places = torch.nonzero(kept, as_tuple=True)
    return Survivors(owners, lists.rows[owners, places], lists.scores[owners, places])


def _parts(count: int, height: int, size: int) -> list[Part]:
    """All tiles, in parts that are spread over the table: the first some 4 to 32 times the sample, each next GROWTH times as long."""
    step = 1
    while count >= 2 * GROWTH * step and count * height > 4 * GROWTH * step * size:
        step *= GROWTH
    parts = [Part(0, -(-count // step), step, False)]
    while step > 1:
        step //= GROWTH
        numbers = -(-count // step)
        parts.append(Part(0, numbers - -(-numbers // GROWTH), step, True))
    return parts


def _collected(tiles: Tiles, part: Part, k: int, slack: Tensor, floors: Tensor, lists: Lists) -> tuple[Tensor, Lists]:
    """The floors and the lists after a part."""
    if part.first >= part.stop:
        return floors, lists
    before = lists.counts.clone()
    # A bound that is no number, as of a floor and a slack that are infinite, would keep nothing: it has to keep everything.
    tiles.collect(part, (floors - slack).nan_to_num(-torch.inf, torch.inf, -torch.inf), lists)
    longest = int(lists.counts.max())
    # Of a list that ran over, what was kept still is a subset of the rows: its k-th best is a floor.
    floors = torch.maximum(floors, lists.floors(k, longest))
    if longest <= lists.capacity:
        return floors, lists.cut(floors - slack, longest, lists.capacity)
    lists.counts = before
    fits = longest * len(slack) * 20 <= LISTS.get(slack.device.type, 1 << 28)
    if part.stop - part.first > 1 and not fits:
        lists = lists.cut(floors - slack, lists.capacity, lists.capacity)
        for half in part.halves():
            floors, lists = _collected(tiles, half, k, slack, floors, lists)
        return floors, lists
    # With floors no lower than they were, no list can get longer than it was counted.
    return _collected(tiles, part, k, slack, floors, lists.cut(floors - slack, lists.capacity, longest))


class PlainTiles:
    """Tiles in torch alone: pieces of chunks, or listed rows of one chunk copied together."""

    def __init__(self, queries: Tensor, buffer: Buffer, choice: Choice, lengths: Tensor | None, limit: int) -> None:
        self.queries, self.lengths, self.words = queries, lengths, choice.words
        self.height = max(1, limit // (32 * len(queries))) * 32
        self.pieces = list(_pieces(buffer, choice, self.height))
        self.count = len(self.pieces)
        self.margins = buffer.chunks[0].error is not None

    def sample(self, size: int) -> Tensor:
        spots = min(SPOTS, self.count)
        share = -(-size // spots)
        lowest = []
        for number in range(spots):
            chunk, rows = self.pieces[number * self.count // spots]
            if isinstance(rows, slice):
                rows = slice(rows.start, rows.stop, max(1, (rows.stop - rows.start) // share))
            else:
                rows = rows[:: max(1, len(rows) // share)]
            scores, margins = self.scored(chunk, rows)
            lowest.append(self._masked(scores if margins is None else scores - margins, chunk, rows))
        return torch.cat(lowest, dim=1)

    def collect(self, part: Part, floors: Tensor, lists: Lists) -> None:
        for number in part.numbers():
            chunk, rows = self.pieces[number]
            scores, margins = self.scored(chunk, rows)
            passed = ~((scores if margins is None else scores + margins) < floors[:, None])
            if self.words is not None:
                passed &= _bits(self.words, numbers(chunk, rows))
            owners, places = torch.nonzero(passed, as_tuple=True)
            kept = None if margins is None else margins.expand_as(scores)[owners, places]
            lists.append(owners, numbers(chunk, rows)[places], scores[owners, places], kept)

    def scored(self, chunk: Chunk, rows: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """[q, n], [q or 1, n]: the scores of some rows of a chunk and, where there are errors, how far each may be off."""
        scores = self.products(chunk.vectors[rows])
        if self.lengths is not None:
            scores *= self.lengths[:, None]
        if chunk.gain is not None:
            scores *= chunk.gain[rows]
        if chunk.bias is not None:
            scores -= chunk.bias[rows]
        if chunk.error is None:
            return scores, None
        return scores, chunk.error[rows][None] if self.lengths is None else self.lengths[:, None] * chunk.error[rows]

    def products(self, vectors: Tensor) -> Tensor:
        """[q, n] float32."""
        return self.queries @ vectors.float().T

    def _masked(self, lowest: Tensor, chunk: Chunk, rows: slice | Tensor) -> Tensor:
        return lowest if self.words is None else lowest.masked_fill_(~_bits(self.words, numbers(chunk, rows)), -torch.inf)


def numbers(chunk: Chunk, rows: slice | Tensor) -> Tensor:
    """[n] int64: what some rows of a chunk are called in the table."""
    if isinstance(rows, slice):
        return torch.arange(chunk.start + rows.start, chunk.start + rows.stop, rows.step or 1, device=chunk.vectors.device)
    return chunk.start + rows.long()


def _pieces(buffer: Buffer, choice: Choice, height: int) -> Iterator[tuple[Chunk, slice | Tensor]]:
    """(chunk, its rows): what is scored at once."""
    if choice.home is None or choice.at is None:
        for chunk in buffer.chunks:
            for first in range(0, len(chunk), height):
                yield chunk, slice(first, min(first + height, len(chunk)))
        return
    counting = torch.arange(len(buffer.chunks) + 1, dtype=torch.int32, device=choice.home.device)
    ends = torch.searchsorted(choice.home, counting).tolist()
    for number, chunk in enumerate(buffer.chunks):
        for first in range(ends[number], ends[number + 1], height):
            yield chunk, choice.at[first : min(first + height, ends[number + 1])]


def _bits(words: Tensor, rows: Tensor) -> Tensor:
    """[n] bool: whether the bits of rows are set."""
    inside = rows < 32 * len(words)
    at = torch.where(inside, rows, 0)
    if not len(words):
        return inside
    return ((words[at >> 5] >> (at & 31).to(torch.int32)) & 1).bool() & inside
