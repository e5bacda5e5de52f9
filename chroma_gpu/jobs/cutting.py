"""Where a text is cut so that every piece fits and, if it can be, ends where the text itself does."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from chroma_gpu.jobs.sentences import Gap

_JOINER: Final = "\u200d"
_MARKS: Final = 16
"""Characters that are looked at for the beginning of one that is made of several."""


class Reach(Protocol):
    """How much of a text fits into a piece, and into an overlap."""

    def end(self, start: int, less: int) -> int:
        """How far a piece can reach that begins at ``start``, with ``less`` of the unit left free; at least one character."""
        ...

    def over(self, start: int, stop: int) -> int:
        """By how much a piece is too large by itself; 0 or less where it fits."""
        ...

    def back(self, stop: int) -> int:
        """Where the overlap begins that ends at ``stop``."""
        ...


@dataclass(frozen=True, slots=True)
class Characters:
    """Counts characters."""

    size: int
    overlap: int

    def end(self, start: int, less: int) -> int:
        """As in ``Reach``."""
        return start + self.size - less

    def over(self, start: int, stop: int) -> int:
        """As in ``Reach``."""
        return stop - start - self.size

    def back(self, stop: int) -> int:
        """As in ``Reach``."""
        return stop - self.overlap


@dataclass(frozen=True, slots=True, eq=False)
class Gaps:
    """The places of one kind at which a text may be cut, in order.

    ends, starts  where what stands before ends, and where what stands behind starts
    half          taken only if at least half of what fits stands before
    """

    ends: list[int]
    starts: list[int]
    half: bool = False

    @classmethod
    def of(cls, gaps: Iterable[Gap], *, half: bool = False) -> Gaps:
        """From (end, start) pairs."""
        listed = list(gaps)
        return cls([end for end, _ in listed], [start for _, start in listed], half)


def cuts(text: str, start: int, stop: int, reach: Reach, kinds: Sequence[Gaps], steps: Gaps) -> Iterator[Gap]:
    """The pieces (start, stop) of text[start:stop], which begins and ends with no white space.

    kinds   where it may be cut, the best places first; a piece ends at the last place that fits of the first kind that has one
    steps   where an overlap may begin
    Cost    a few binary searches for each piece
    """
    at = floor = behind = start
    while True:
        found = _end(text, at, floor, stop, reach, kinds)
        if found is None:
            at = floor = behind
            continue
        end, behind = found
        yield at, end
        if end == stop:
            return
        at, floor = _again(at, end, behind, reach, steps), end


def _end(text: str, at: int, floor: int, stop: int, reach: Reach, kinds: Sequence[Gaps]) -> Gap | None:
    """Where the piece that begins at ``at`` ends, and what is behind it begins; None if only the overlap up to ``floor`` fits."""
    less, most = 0, stop
    while True:
        limit = min(reach.end(at, less), most)
        gap = (stop, stop) if limit >= stop else _last(at, floor, limit, kinds)
        if gap is None:
            if floor > at:
                return None
            limit = _between_characters(text, at, limit)
            gap = limit, limit
        over = reach.over(at, gap[0])
        if over <= 0 or gap[0] - at <= 1:
            return gap
        less, most = less + over, gap[0] - 1


def _last(at: int, floor: int, limit: int, kinds: Sequence[Gaps]) -> Gap | None:
    for gaps in kinds:
        place = bisect_right(gaps.ends, limit) - 1
        if place >= 0 and gaps.ends[place] > floor and not (gaps.half and 2 * (gaps.ends[place] - at) < limit - at):
            return gaps.ends[place], gaps.starts[place]
    return None


def _between_characters(text: str, at: int, limit: int) -> int:
    """``limit``, or a little before, so that no mark is cut from its letter and no joined sign is cut."""
    for place in range(limit, max(at, limit - _MARKS), -1):
        behind = text[place]
        if not (unicodedata.combining(behind) or unicodedata.category(behind) == "Mn" or _JOINER in (behind, text[place - 1])):
            return place
    return limit


def _again(at: int, end: int, behind: int, reach: Reach, steps: Gaps) -> int:
    """Where the next piece begins: as far back as the overlap goes, behind where this one began."""
    earliest = max(reach.back(end), at + 1)
    place = bisect_left(steps.starts, earliest)
    return steps.starts[place] if place < len(steps.starts) and steps.starts[place] < end else behind
