"""Reading ahead of embedding: rows become items, and it is decided of each what it needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import compress, islice
from time import monotonic
from typing import Any, Final

from chroma_gpu.api.models.Collection import Collection
from chroma_gpu.jobs.dedupe import Dedupe
from chroma_gpu.jobs.events import Event, Events, Need, Outcome, Passed, Pending
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.rows import BadRow, Cursor, Item, Row, Stage
from chroma_gpu.records import Metadata

GROUP: Final = 1_024
"""Items that are looked up in the collection at once."""


class Intake:
    """Rows in, texts out; everything that happens to a row on the way is in ``events``, in order.

    rows     from ``start`` on
    mapped   a row as an item
    chunked  an item in pieces
    """

    def __init__(
        self,
        rows: Iterator[Row | BadRow],
        mapped: Callable[[Row], Item | BadRow],
        chunked: Callable[[Item], Iterable[Item | BadRow]],
        *,
        collection: Collection,
        options: EmbedOptions,
        dedupe: Dedupe,
        events: Events,
        start: Cursor,
        stop: threading.Event,
    ) -> None:
        self._collection, self._options, self._dedupe, self._events = collection, options, dedupe, events
        self._stop, self._skip = stop, start.chunks
        self._shortened: set[str] = set()
        """Documents of which this run removes chunks: what is there of them when one comes again may be gone when that is committed."""
        self._made = self._items(rows, mapped, chunked)
        self.ended = False
        """Whether there are no more rows."""

    def texts(self, due: Callable[[], bool]) -> Iterator[str]:
        """The texts that are to be embedded, until there are no more rows, the job is stopped, or a commit is due.

        due  asked now and then
        """
        while not self._stop.is_set():
            group = self._group(due)
            if not group:
                self.ended = not self._stop.is_set()
                return
            for event in self._decided(group):
                self._events.add(event)
                if isinstance(event, Pending) and event.need is Need.VECTOR:
                    yield event.item.text or ""
            if due():
                return

    def _group(self, due: Callable[[], bool]) -> list[Item | BadRow]:
        """The next items; fewer where they come slowly, so that none waits for long."""
        group: list[Item | BadRow] = []
        for made in self._made:
            group.append(made)
            if len(group) >= GROUP or self._stop.is_set() or due():
                break
        return group

    def _items(
        self,
        rows: Iterator[Row | BadRow],
        mapped: Callable[[Row], Item | BadRow],
        chunked: Callable[[Item], Iterable[Item | BadRow]],
    ) -> Iterator[Item | BadRow]:
        for row in rows:
            item = mapped(row) if isinstance(row, Row) else row
            if isinstance(item, Item) and item.vector is None:
                pieces = chunked(item)
                yield from islice(pieces, self._skip and self._done_with(list(pieces)), None)
            else:
                yield item
            self._skip = 0

    def _done_with(self, pieces: Sequence[Item | BadRow]) -> int:
        """How many chunks of the first row are done with.

        None, if the last of them is not there: the run before may have made room for a shorter text of this id, and not have written it.
        """
        last = pieces[min(self._skip, len(pieces)) - 1]
        if isinstance(last, Item) and not self._collection.get(ids=[last.id], include=[])["ids"]:
            return 0
        return self._skip

    def _decided(self, group: Sequence[Item | BadRow]) -> Iterator[Event]:
        """What each needs, in order."""
        items = [each for each in group if isinstance(each, Item)]
        events = {id(item): event for item, event in zip(items, self._looked_up(items), strict=True)}
        fresh = [item for item in items if self._new(events[id(item)])]
        for item, kept in zip(fresh, self._dedupe.texts(fresh), strict=True):
            if not kept:
                events[id(item)] = Passed.of(Outcome.DUPLICATE, item)
        for each in group:
            yield events[id(each)] if isinstance(each, Item) else each

    def _new(self, event: Event) -> bool:
        """Whether an event brings a text that will be there: of several rows of one id, it is only known later which one is taken."""
        if not isinstance(event, Pending) or event.need is not Need.VECTOR:
            return False
        return self._options.on_conflict == "upsert" or not event.contested

    def _looked_up(self, items: Sequence[Item]) -> Iterator[Event]:
        if not items:
            return
        # What is on its way is asked first: a commit that ends in between is seen by one of the two.
        wanted = list(
            dict.fromkeys([*(item.id for item in items), *(next_id for item in items if (next_id := chunk_after(item)))])
        )
        waiting = set(compress(wanted, self._events.on_their_way(wanted)))
        found: Any = self._collection.get(ids=wanted, include=["documents", "metadatas", "uris"])
        columns = zip(found["ids"], found["documents"], found["metadatas"], found["uris"], strict=True)
        there = {each: (text, metadata, uri) for each, text, metadata, uri in columns}
        seen: set[str] = set()
        for item in items:
            need = Need.VECTOR if item.vector is None else Need.WRITE
            if item.id in waiting or item.id in seen or item.id.rpartition("#")[0] in self._shortened:
                event: Event = Pending(item, need, contested=True)
            elif item.id in there:
                event = self._met(item, need, *there[item.id])
            else:
                event = Pending(item, need)
            behind = chunk_after(item)
            unchanged = isinstance(event, Passed) and event.outcome is Outcome.UNCHANGED
            if (isinstance(event, Pending) or unchanged) and (behind in there or behind in waiting or behind in seen):
                event = replace(event, stale=True) if isinstance(event, Pending) else Pending(item, Need.UPDATE, stale=True)
                self._shortened.add(item.id.rpartition("#")[0])
            yield event
            seen.add(item.id)

    def _met(self, item: Item, need: Need, text: str | None, metadata: Metadata | None, uri: str | None) -> Event:
        """What an item needs whose id is there, with a text, metadata and uri."""
        if self._options.on_conflict == "skip":
            return Passed.of(Outcome.SKIPPED, item)
        if self._options.on_conflict == "error":
            said = f"the id {item.id!r} is there already"
            row = item.row
            return BadRow(row.source, row.number, item.after, Stage.STORE, "IDAlreadyExistsError", said, item.id, row.fields)
        if need is Need.WRITE or text != item.text:
            return Pending(item, need)
        there = metadata or {}
        same = all(each in there and _same(there[each], value) for each, value in (item.metadata or {}).items())
        if same and item.uri in (None, uri):
            return Passed.of(Outcome.UNCHANGED, item)
        return Pending(item, Need.UPDATE)


def _same(there: Any, value: Any) -> bool:
    """Whether two values of metadata are one, which 1, 1.0 and True are not."""
    if isinstance(there, list) and isinstance(value, list) and there and value:
        return type(there[0]) is type(value[0]) and there == value
    return type(there) is type(value) and bool(there == value)


def chunk_after(item: Item) -> str | None:
    """The id of the chunk behind the last one of a document: of a document that got shorter it may be there. None for other items."""
    if not item.last or not item.metadata or item.id != f"{item.metadata.get('document_id')}#{item.chunk}":
        return None
    return f"{item.metadata['document_id']}#{item.chunk + 1}"


def due_after(events: Events, options: EmbedOptions, last: Callable[[], float]) -> Callable[[], bool]:
    """Whether what waits for no vector must be committed: there is much of it, or something waits since ``last`` for too long."""

    def due() -> bool:
        if events.settled >= options.checkpoint_every:
            return True
        return len(events) > 0 and monotonic() - last() > options.checkpoint_seconds

    return due
