"""The numbers of one field and type as the inverted index keeps them: conditions by the ranks of values, chunk by chunk.

A chunk's distinct values are sorted, so a range is two binary searches in them, and one comparison of 16-bit ranks for its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu.filter.column import Bounds, Flags, held_numbers, interval
from chroma_gpu.records import Rows
from chroma_gpu.roaring import CHUNK, WORDS, Places
from chroma_gpu.rowset import RowSet
from chroma_gpu.values import Kind, NumberBlock, Scalar


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """The scalar ints, or floats, of one field in rows [0, size)."""

    kind: Kind
    size: int
    _blocks: Mapping[int, _Block]

    @classmethod
    def of(cls, kind: Kind, size: int, blocks: Sequence[NumberBlock]) -> Self:
        """From the blocks of an index."""
        return cls(kind, size, {block.chunk: _Block.of(block) for block in blocks})

    def replaced(self, new: Self, chunks: Sequence[int]) -> Self:
        """Others with the blocks that these have outside of some chunks, which are shared."""
        stay = {chunk: block for chunk, block in self._blocks.items() if chunk not in chunks}
        return replace(new, _blocks=stay | {**new._blocks})

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(block.nbytes for block in self._blocks.values())

    def among(self, values: Sequence[Scalar], within: RowSet | None = None) -> RowSet:
        """The rows whose number equals one of some values, of any type; ``within`` as in ``all_between``."""
        held = sorted(set(held_numbers(self.kind, values)))
        if len(held) == 1:
            return all_between([(self, [(held[0], held[0], True, True)])], within)
        wanted = _OneOf(np.array(held, np.int64 if self.kind is Kind.INT else np.float64))
        return _found([(self, wanted)], within) if held else RowSet.empty(self.size)

    def fill(self, numbers: npt.NDArray[np.float64]) -> None:
        """Put the numbers to the places of their rows in numbers [>= size], as floats."""
        for chunk, block in self._blocks.items():
            block.fill(numbers[chunk * CHUNK :])

    def range(self, bounds: Sequence[Bounds]) -> _Range | None:
        """The values between all of some bounds; None if no value can be."""
        both = [interval(self.kind, *each) for each in bounds]
        known = [each for each in both if each is not None]
        stops = [stop for _, stop in known if stop is not None]
        return None if len(known) < len(both) else _Range(max(start for start, _ in known), min(stops, default=None))

    @property
    def blocks(self) -> Mapping[int, _Block]:
        """The blocks by their chunks."""
        return self._blocks


def all_between(columns: Sequence[tuple[Numbers, Sequence[Bounds]]], within: RowSet | None = None) -> RowSet:
    """The rows of which every column, one or more of one size, has a number between all of its bounds.

    within  if given, only what is found of these rows must be right, and rows in chunks without any of them are not found
    Cost    some 15 µs a chunk that holds values on both sides of a bound, 10 µs for each further column; of few rows 5 and 3 µs
    """
    parts = []
    for numbers, bounds in columns:
        values = numbers.range(bounds)
        if values is None:
            return RowSet.empty(numbers.size)
        parts.append((numbers, values))
    return _found(parts, within)


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """One chunk's numbers, ready to be asked.

    first, last  the smallest and the largest value, as Python's numbers
    ranks        uint8 where that is enough, by place; with gaps, places that have no number have the rank len(values)
    places       where few places of the chunk have numbers: ranks are of these
    """

    values: npt.NDArray[Any]
    first: int | float
    last: int | float
    ranks: npt.NDArray[Any]
    places: Places | None
    gaps: bool

    @classmethod
    def of(cls, block: NumberBlock) -> Self:
        ranks, places, gaps = block.ranks, block.places, False
        if places is not None and len(places) * _DENSE >= CHUNK:
            # Gaps leave a rank free: there are fewer values than places.
            ranks = np.full(int(places[-1]) + 1, len(block.values), np.uint16)
            ranks[places] = block.ranks
            gaps, places = len(ranks) > len(block.ranks), None
        if len(block.values) + gaps <= _BYTE:
            ranks = ranks.astype(np.uint8)
        first, last = block.values[[0, -1]].tolist()
        return cls(block.values, first, last, ranks, places, gaps)

    @property
    def full(self) -> bool:
        """Whether every place up to the last one has a number."""
        return self.places is None and not self.gaps

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.ranks.nbytes + (0 if self.places is None else self.places.nbytes) + _OBJECTS

    def flags(self, passing: _Ranks, room: Flags, numbers: npt.NDArray[np.uint16]) -> Flags:
        """[up to CHUNK] bool: which places pass. It lies in room, or not; numbers is room too."""
        flags = _passed(self, passing, self.ranks, room, numbers)
        if self.places is None:
            return flags
        spread = np.zeros(CHUNK, np.bool_)
        spread[self.places[flags]] = True
        return spread

    def fill(self, numbers: npt.NDArray[np.float64]) -> None:
        """Put the numbers to their places, as floats."""
        if self.places is not None:
            numbers[self.places] = self.values[self.ranks]
        elif self.gaps:
            at = np.flatnonzero(self.ranks < len(self.values))
            numbers[at] = self.values[self.ranks[at]]
        else:
            numbers[: len(self.ranks)] = self.values[self.ranks]

    def passed(self, passing: _Ranks, places: npt.NDArray[np.intp]) -> Flags:
        """[len(places)] bool: which of some places, which ascend, pass."""
        at, known = places, None
        if self.places is not None:
            at = np.minimum(np.searchsorted(self.places, places), len(self.places) - 1)
            known = self.places[at] == places
        elif places[-1] >= len(self.ranks):
            known = places < len(self.ranks)
            at = np.where(known, places, 0)
        held = self.ranks[at]
        flags = (held >= passing[0]) & (held < passing[1]) if isinstance(passing, tuple) else passing[held]
        return flags if known is None else known & flags


_Ranks: TypeAlias = tuple[int, int] | Flags
"""The ranks that pass: from, to; or one flag for each rank."""


@dataclass(frozen=True, slots=True, eq=False)
class _Range:
    """Values in [start, stop); no stop is past all."""

    start: Any
    stop: Any

    def ranks(self, block: _Block) -> _Ranks | None:
        """The ranks of a block that pass; None if none does."""
        if block.last < self.start or (self.stop is not None and block.first >= self.stop):
            return None
        if block.first >= self.start and (self.stop is None or block.last < self.stop):
            return 0, len(block.values)
        low = int(block.values.searchsorted(self.start)) if block.first < self.start else 0
        high = len(block.values) if self.stop is None or block.last < self.stop else int(block.values.searchsorted(self.stop))
        return (low, high) if low < high else None


@dataclass(frozen=True, slots=True, eq=False)
class _OneOf:
    """Some values, ascending, in the type of the column."""

    values: npt.NDArray[Any]

    def ranks(self, block: _Block) -> _Ranks | None:
        """As ``_Range.ranks``."""
        at = block.values.searchsorted(self.values)
        at = at[block.values[np.minimum(at, len(block.values) - 1)] == self.values]
        if not len(at):
            return None
        passed = np.zeros(len(block.values) + 1, np.bool_)
        passed[at] = True
        return passed


_DENSE: Final = 8
"""From one place in so many on, a chunk's ranks are kept by place."""
_FEW: Final = 4096
"""Up to so many rows are looked at one by one."""
_BYTE: Final = 256
_OBJECTS: Final = 600
"""Bytes of a block's objects themselves."""


def _found(parts: Sequence[tuple[Numbers, _Range | _OneOf]], within: RowSet | None) -> RowSet:
    """The rows that pass every one of some conditions."""
    size = parts[0][0].size
    if within is not None and len(within) <= _FEW:
        return RowSet.of(_found_among(parts, within.rows()), size)
    words = np.zeros(-(-size // CHUNK) * WORDS, np.uint64)
    bits = words.view(np.uint8)
    # For all chunks: making it anew would cost as much as using it.
    rooms, room = np.empty((2, CHUNK), np.bool_), np.empty(CHUNK, np.uint16)
    for chunk in range(len(words) // WORDS) if within is None else _chunks(within):
        asked = _asked(parts, chunk)
        if asked is None:
            continue
        flags, n = None, CHUNK
        for block, passing in asked:
            if block.full and isinstance(passing, tuple) and passing[1] - passing[0] == len(block.values):
                n = min(n, len(block.ranks))  # every place passes up to the last one
            elif flags is None:
                flags = block.flags(passing, rooms[0], room)
            else:
                flags = _both(flags, block.flags(passing, rooms[1], room))
        packed = np.packbits(np.ones(n, np.bool_) if flags is None else flags[:n], bitorder="little")
        start = chunk * (CHUNK // 8)
        bits[start : start + len(packed)] = packed
    return RowSet(words[: (size + 63) // 64], size)


def _found_among(parts: Sequence[tuple[Numbers, _Range | _OneOf]], rows: Rows) -> Rows:
    """Those of some rows, which ascend, that pass every one of some conditions."""
    places = (rows & (CHUNK - 1)).astype(np.intp)
    passed = np.zeros(len(rows), np.bool_)
    chunks = range(int(rows[0]) // CHUNK, int(rows[-1]) // CHUNK + 1) if len(rows) else range(0)
    stops = np.searchsorted(rows, [(chunk + 1) * CHUNK for chunk in chunks]).tolist()
    for chunk, start, stop in zip(chunks, [0, *stops], stops, strict=False):
        asked = _asked(parts, chunk) if start < stop else None
        if asked is None:
            continue
        flags = None
        for block, passing in asked:
            more = block.passed(passing, places[start:stop])
            flags = more if flags is None else flags & more
        passed[start:stop] = flags
    return rows[passed]


def _asked(parts: Sequence[tuple[Numbers, _Range | _OneOf]], chunk: int) -> list[tuple[_Block, _Ranks]] | None:
    """The blocks of a chunk, and the ranks that pass in each; None if there is a condition that no row of the chunk passes."""
    asked = []
    for numbers, condition in parts:
        block = numbers.blocks.get(chunk)
        passing = None if block is None else condition.ranks(block)
        if block is None or passing is None:
            return None
        asked.append((block, passing))
    return asked


def _both(left: Flags, right: Flags) -> Flags:
    """Where both pass; left is overwritten."""
    n = min(len(left), len(right))
    return np.logical_and(left[:n], right[:n], out=left[:n])


def _passed(block: _Block, passing: _Ranks, ranks: npt.NDArray[Any], room: Flags, numbers: npt.NDArray[np.uint16]) -> Flags:
    """[len(ranks)] bool: which ranks pass."""
    room, number = room[: len(ranks)], ranks.dtype.type
    if not isinstance(passing, tuple):
        # No rank is past the flags, so nothing is clipped; looking whether one is would take longer.
        np.take(passing, ranks, out=room, mode="clip")
        return room
    low, high = passing
    if high - low == 1:
        np.equal(ranks, number(low), out=room)
    elif high == len(block.values) and not block.gaps:
        np.greater_equal(ranks, number(low), out=room)
    else:
        if low:  # the difference wraps, so that smaller ones are large
            ranks = np.subtract(ranks, number(low), out=numbers.view(number)[: len(ranks)])
        np.less(ranks, number(high - low), out=room)
    return room


def _chunks(within: RowSet) -> list[int]:
    """The chunks that have any of the rows."""
    whole = len(within.words) // WORDS
    held = np.append(within.words[: whole * WORDS].reshape(whole, WORDS).any(axis=1), within.words[whole * WORDS :].any())
    return np.flatnonzero(held).tolist()
