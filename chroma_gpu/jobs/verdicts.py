"""A batch of a job's events, and what becomes of each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from chroma_gpu.jobs.events import Event, Need, Outcome, Passed, Pending, ends_row
from chroma_gpu.jobs.rows import BadRow, Item, Stage
from chroma_gpu.records import DeviceBlock, Vectors


@dataclass(slots=True, eq=False)
class Batch:
    """Events to be committed at once.

    vectors   [n, dim] float32 of those that waited for one, in their order
    failed    place among the vectors -> why there is none
    resident  what devices have of ``vectors``
    counts    what the model has done until now in this run, by fields of Report
    """

    events: list[Event]
    vectors: Vectors | None = None
    failed: Mapping[int, Exception] = field(default_factory=dict)
    resident: Sequence[DeviceBlock] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


class Verdicts:
    """The outcome of each event of a batch, by its place; items are WRITTEN until something else is found.

    dim  numbers of a vector; None while there was none
    """

    def __init__(self, batch: Batch, dim: int | None) -> None:
        self.batch = batch
        # Vectors have no columns where every text has failed.
        self.dim = dim if batch.vectors is None else batch.vectors.shape[1] or dim
        self.outcomes: list[Outcome] = []
        self._why: dict[int, BadRow] = {}
        self._at: dict[int, int] = {}
        for place, event in enumerate(batch.events):
            if isinstance(event, BadRow):
                self.outcomes.append(Outcome.DEAD)
                self._why[place] = event
            elif isinstance(event, Passed):
                self.outcomes.append(event.outcome)
            else:
                self.outcomes.append(Outcome.WRITTEN)
                self._check(place, event)

    def written(self, *, contested: bool = False) -> list[int]:
        """The places of the items that are to be written with a vector; only those of contested ids, if asked."""
        return [
            place
            for place, event in self._pending()
            if event.need is not Need.UPDATE and (event.contested or not contested)
        ]  # fmt: skip

    def updated(self) -> list[int]:
        """The places of the items that get other metadata only."""
        return [place for place, event in self._pending() if event.need is Need.UPDATE]

    def shortened(self) -> list[Item]:
        """The last chunks of documents of which further chunks are there from before."""
        return [event.item for _, event in self._pending() if event.stale]

    def item(self, place: int) -> Item:
        """The item of an event that has one. Raises TypeError."""
        event = self.batch.events[place]
        if not isinstance(event, Pending):
            raise TypeError(f"{type(event).__name__} has no item")
        return event.item

    def vectors_of(self, places: Sequence[int]) -> Vectors:
        """[len(places), dim] float32 of some items; the batch's own array where that is the same."""
        block = self.batch.vectors
        at = [self._at.get(place, -1) for place in places]
        if block is not None and at == list(range(len(block))):
            return block
        if block is not None and -1 not in at:
            return block[at]
        given = [
            self.item(place).vector if one < 0 or block is None else block[one] for one, place in zip(at, places, strict=True)
        ]
        return np.stack([np.asarray(each, np.float32) for each in given])

    def settle(self, place: int, outcome: Outcome) -> None:
        """An item has another outcome."""
        self.outcomes[place] = outcome

    def bury(self, place: int, stage: Stage, error: str, message: str) -> None:
        """An item is a bad row."""
        item = self.item(place)
        self.outcomes[place] = Outcome.DEAD
        self._why[place] = BadRow(
            item.row.source, item.row.number, item.after, stage, error, message, item.id, item.row.fields
        )  # fmt: skip

    def bad(self, *, told: bool) -> list[BadRow]:
        """The bad rows, in order; of those with several bad chunks the first one.

        told  the row whose chunks go on here was among those of an earlier batch
        """
        found = []
        for place, event in enumerate(self.batch.events):
            if place in self._why and not told:
                found.append(self._why[place])
                told = True
            told = told and not ends_row(event)
        return found

    def replaced(self) -> set[int]:
        """The places of chunks that go with the document that they were of: it is there once more, and shorter."""
        gone: set[int] = set()
        if not any(event.stale for _, event in self._pending()):
            return gone
        ends: dict[str, int] = {}
        for place, event in reversed(self._pending()):
            item = event.item
            document = str((item.metadata or {}).get("document_id"))
            if item.chunk > ends.get(document, item.chunk):
                gone.add(place)
            if event.stale:
                ends[document] = min(item.chunk, ends.get(document, item.chunk))
        return gone

    def cut(self) -> BadRow | None:
        """The first bad row, and from now on nothing of it and of what comes after it; None if there is none."""
        if not self._why:
            return None
        first = min(self._why)
        failure = self._why[first]
        del self.batch.events[first:], self.outcomes[first:]
        self._why.clear()
        return failure

    def _check(self, place: int, event: Pending) -> None:
        if event.need is Need.VECTOR:
            self._at[place] = at = len(self._at)
            if (error := self.batch.failed.get(at)) is not None:
                self.bury(place, Stage.EMBED, type(error).__name__, str(error))
        elif event.need is Need.WRITE and event.item.vector is not None:
            length = len(event.item.vector)
            self.dim = self.dim or length
            if length != self.dim:
                self.bury(
                    place, Stage.STORE, "DimensionMismatch", f"a vector of {length} numbers, where the others have {self.dim}"
                )

    def _pending(self) -> list[tuple[int, Pending]]:
        """The items that are to be written in some way."""
        together = enumerate(zip(self.outcomes, self.batch.events, strict=True))
        return [
            (place, event) for place, (outcome, event) in together if outcome is Outcome.WRITTEN and isinstance(event, Pending)
        ]  # fmt: skip
