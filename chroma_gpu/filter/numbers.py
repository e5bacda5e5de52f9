"""The numbers of one field and type as the inverted index keeps them: conditions by the ranks of values, chunk by chunk.

A chunk's distinct values are sorted, so a range is two binary searches in them, and one comparison of 16-bit ranks for its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
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
    _blocks: tuple[_Block, ...]

    @classmethod
    def of(cls, kind: Kind, size: int, blocks: Sequence[NumberBlock]) -> Self:
        """From the blocks of an index, by ascending chunk."""
        return cls(kind, size, tuple(map(_Block.of, blocks)))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(block.nbytes for block in self._blocks)

    def among(self, values: Sequence[Scalar], within: RowSet | None = None) -> RowSet:
        """The rows whose number equals one of some values, of any type; ``within`` as in ``all_between``."""
        held = sorted(set(held_numbers(self.kind, values)))
        if len(held) == 1:
            return all_between([(self, [(held[0], held[0], True, True)])], within)
        wanted = _OneOf(np.array(held, np.int64 if self.kind is Kind.INT else np.float64))
        return _found([(self, wanted)], within) if held else RowSet.empty(self.size)

    def fill(self, numbers: npt.NDArray[np.float64]) -> None:
        """Put the numbers to the places of their rows in numbers [>= size], as floats."""
        for block in self._blocks:
            block.fill(numbers[block.chunk * CHUNK :])

    def passed(self, condition: _Range | _OneOf, rows: Rows) -> Rows:
        """Those of some rows, which ascend, that pass."""
        passed = [rows[:0]]
        for block in self._blocks:
            start, stop = np.searchsorted(rows, (block.chunk * CHUNK, (block.chunk + 1) * CHUNK)).tolist()
            if start < stop:
                some = rows[start:stop]
                passed.append(some[block.passed(condition, (some & (CHUNK - 1)).astype(np.uint16))])
        return np.concatenate(passed)

    def range(self, bounds: Sequence[Bounds]) -> _Range | None:
        """The values between all of some bounds; None if no value can be."""
        both = [interval(self.kind, *each) for each in bounds]
        known = [each for each in both if each is not None]
        stops = [stop for _, stop in known if stop is not None]
        return None if len(known) < len(both) else _Range(max(start for start, _ in known), min(stops, default=None))

    def blocks(self) -> dict[int, _Block]:
        """The blocks by their chunks."""
        return {block.chunk: block for block in self._blocks}


def all_between(columns: Sequence[tuple[Numbers, Sequence[Bounds]]], within: RowSet | None = None) -> RowSet:
    """The rows of which every column, one or more of one size, has a number between all of its bounds.

    within  if given, only what is found of these rows must be right, and rows in chunks without any of them are not found
    Cost    0.2 ns a row and column of those chunks that hold values on both sides of a bound
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

    chunk: int
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
        return cls(block.chunk, block.values, first, last, ranks, places, gaps)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.ranks.nbytes + (0 if self.places is None else self.places.nbytes) + _OBJECTS

    def flags(self, condition: _Range | _OneOf, room: Flags, numbers: npt.NDArray[np.uint16]) -> Flags | None:
        """[up to CHUNK] bool: which places pass, None if none does. It lies in room, or not; numbers is room too."""
        ranks = condition.ranks(self)
        if ranks is None:
            return None
        flags = _passed(self, ranks, self.ranks, room, numbers)
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

    def passed(self, condition: _Range | _OneOf, places: Places) -> Flags:
        """[len(places)] bool: which of some places pass."""
        ranks = condition.ranks(self)
        if ranks is None:
            return np.zeros(len(places), np.bool_)
        known = places < len(self.ranks)
        at: npt.NDArray[Any] = places
        if self.places is not None:
            at = np.minimum(np.searchsorted(self.places, places), len(self.places) - 1)
            known = self.places[at] == places
        held = self.ranks[np.where(known, at, 0)]
        return known & _passed(self, ranks, held, np.empty(len(held), np.bool_), np.empty(len(held), np.uint16))


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
_FEW: Final = 512
"""Up to so many rows are looked at one by one."""
_BYTE: Final = 256
_OBJECTS: Final = 600
"""Bytes of a block's objects themselves."""


def _found(parts: Sequence[tuple[Numbers, _Range | _OneOf]], within: RowSet | None) -> RowSet:
    """The rows that pass every one of some conditions."""
    size = parts[0][0].size
    if within is not None and len(within) <= _FEW:
        return RowSet.of(reduce(lambda rows, part: part[0].passed(part[1], rows), parts, within.rows()), size)
    words = np.zeros(-(-size // CHUNK) * WORDS, np.uint64)
    bits = words.view(np.uint8)
    asked = None if within is None else _chunks(within)
    rooms, room = (
        np.empty((2, CHUNK), np.bool_),
        np.empty(CHUNK, np.uint16),
    )  # for all chunks: making it anew would cost as much as using it
    others = [(numbers.blocks(), condition) for numbers, condition in parts[1:]]
    for chunk, first in parts[0][0].blocks().items():
        if asked is None or (chunk < len(asked) and asked[chunk]):
            flags = first.flags(parts[0][1], rooms[0], room)
            for blocks, condition in others:
                more = blocks[chunk].flags(condition, rooms[1], room) if flags is not None and chunk in blocks else None
                flags = None if flags is None or more is None else _both(flags, more)
            if flags is not None:
                packed = np.packbits(flags, bitorder="little")
                start = chunk * (CHUNK // 8)
                bits[start : start + len(packed)] = packed
    return RowSet(words[: (size + 63) // 64], size)


def _both(left: Flags, right: Flags) -> Flags:
    """Where both pass; left is overwritten."""
    n = min(len(left), len(right))
    return np.logical_and(left[:n], right[:n], out=left[:n])


def _passed(block: _Block, passing: _Ranks, ranks: npt.NDArray[Any], room: Flags, numbers: npt.NDArray[np.uint16]) -> Flags:
    """[len(ranks)] bool: which ranks pass."""
    if not isinstance(passing, tuple):
        flags: Flags = passing[ranks]
        return flags
    low, high = passing
    room, number = room[: len(ranks)], ranks.dtype.type
    if high == len(block.values) and not block.gaps:
        np.greater_equal(ranks, number(low), out=room)
    else:
        if low:  # the difference wraps, so that smaller ones are large
            ranks = np.subtract(ranks, number(low), out=numbers.view(number)[: len(ranks)])
        np.less(ranks, number(high - low), out=room)
    return room


def _chunks(within: RowSet) -> list[bool]:
    """Of each chunk, whether it has any of the rows."""
    whole = len(within.words) // WORDS
    held = np.append(within.words[: whole * WORDS].reshape(whole, WORDS).any(axis=1), within.words[whole * WORDS :].any())
    return [bool(each) for each in held]
