"""What becomes of the rows of a job, in the order in which they were read: a queue between reading and committing."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TypeAlias

from chroma_gpu.jobs.rows import BadRow, Cursor, Item


class Outcome(IntEnum):
    """What became of an item. A row of several chunks has the highest of theirs."""

    UNCHANGED = 1
    SKIPPED = 2
    DUPLICATE = 3
    WRITTEN = 4
    DEAD = 5


class Need(StrEnum):
    """What an item still needs."""

    VECTOR = "vector"
    WRITE = "write"
    UPDATE = "update"


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """An item on its way: to be embedded, written with a vector it came with, or given other metadata only.

    contested  an earlier item of the same id was on its way when this one was looked at
    stale      it is the last chunk of a document of which further ones are there from before
    """

    item: Item
    need: Need
    contested: bool = False
    stale: bool = False


@dataclass(slots=True, eq=False)
class Passed:
    """Items that need nothing, one after another; those of one outcome that are whole rows are counted together.

    last   the row of the last one ends with it
    whole  they are rows, not a chunk among others of one
    """

    outcome: Outcome
    after: Cursor
    rows: int = 1
    last: bool = True
    whole: bool = True

    @classmethod
    def of(cls, outcome: Outcome, item: Item) -> Passed:
        """One item."""
        return cls(outcome, item.after, last=item.last, whole=item.last and not item.chunk)


Event: TypeAlias = Pending | Passed | BadRow


def after(event: Event) -> Cursor | None:
    """Where reading goes on after an event; None while its row is not done with and cannot be taken up here."""
    return event.item.after if isinstance(event, Pending) else event.after


def ends_row(event: Event) -> bool:
    """Whether the row of an event is done with after it."""
    if isinstance(event, Passed):
        return event.last
    return event.item.last if isinstance(event, Pending) else event.after is not None


class Events:
    """The queue, and the ids that are in it or in a commit. One thread may add, one take, and one tell of commits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[Event] = deque()
        self._ids: Counter[str] = Counter()
        self.to_embed = 0
        """Items in the queue that wait for a vector."""
        self.settled = 0
        """Rows in the queue that wait for none."""

    def __len__(self) -> int:
        return len(self._queue)

    def on_their_way(self, ids: Iterable[str]) -> list[bool]:
        """Which ids are in the queue or in a commit."""
        with self._lock:
            return [id in self._ids for id in ids]

    def add(self, event: Event) -> None:
        """The next event."""
        with self._lock:
            if isinstance(event, Pending):
                self._ids[event.item.id] += 1
            if _waits(event):
                self.to_embed += 1
                self._queue.append(event)
                return
            self.settled += 1
            last = self._queue[-1] if self._queue else None
            if (
                isinstance(event, Passed)
                and isinstance(last, Passed)
                and last.outcome is event.outcome
                and last.whole
                and event.whole
            ):
                last.after, last.rows = event.after, last.rows + 1
            else:
                self._queue.append(event)

    def take(self, vectors: int) -> list[Event]:
        """The events up to the one that gets the last of so many vectors, and those after it that wait for none.

        The last one is one after which reading can go on.
        """
        taken: list[Event] = []
        whole = wanted = 0
        with self._lock:
            while self._queue and (wanted < vectors or not _waits(self._queue[0])):
                event = self._queue.popleft()
                taken.append(event)
                wanted += _waits(event)
                if after(event) is not None:
                    whole = len(taken)
            self._queue.extendleft(reversed(taken[whole:]))
            del taken[whole:]
            self.to_embed -= wanted
            self.settled -= sum(_rows(event) for event in taken if not _waits(event))
        return taken

    def committed(self, events: Iterable[Event]) -> None:
        """Events that were taken are in the store now."""
        with self._lock:
            for event in events:
                if isinstance(event, Pending):
                    self._ids[event.item.id] -= 1
                    if not self._ids[event.item.id]:
                        del self._ids[event.item.id]


def cut(events: list[Event], most: int) -> Iterator[tuple[list[Event], int, int]]:
    """Events in parts that wait for at most ``most`` vectors each, with the places [start, stop) of those among all vectors."""
    part: list[Event] = []
    start = stop = 0
    for event in events:
        if _waits(event) and stop - start >= most:
            whole = 1 + max(place for place, each in enumerate(part) if after(each) is not None)
            yield part[:whole], start, stop
            part, start = part[whole:], stop
        part.append(event)
        stop += _waits(event)
    if part:
        yield part, start, stop


def _waits(event: Event) -> bool:
    return isinstance(event, Pending) and event.need is Need.VECTOR


def _rows(event: Event) -> int:
    return event.rows if isinstance(event, Passed) else 1
