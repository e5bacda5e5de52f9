"""Table: one collection's records, searched and written. The only place where store, filter and index meet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np

from chroma_gpu.bytecache import ByteCache
from chroma_gpu.config import Settings
from chroma_gpu.engine import filtering, ranked, transforms
from chroma_gpu.engine.background import Background
from chroma_gpu.engine.device_filters import DeviceFilters
from chroma_gpu.engine.explain import Explanation, explanation
from chroma_gpu.engine.fields import Fields, FieldsView
from chroma_gpu.engine.filtering import Seen
from chroma_gpu.engine.fulltext import FullText, FullTextView
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.engine.nearest import Nearest
from chroma_gpu.engine.planner import Plan
from chroma_gpu.engine.ranked import Question, Ranked, Reading
from chroma_gpu.engine.trace import Trace
from chroma_gpu.engine.transforms import Transforms
from chroma_gpu.engine.view import View
from chroma_gpu.errors import StoreError, UnknownID
from chroma_gpu.filter.expr import Expr, Step
from chroma_gpu.records import NO_ROW, Column, Hits, Metric, Mode, RecordBatch, Rows, Vectors
from chroma_gpu.roaring import CHUNK
from chroma_gpu.rowset import RowSet
from chroma_gpu.store import Moved, Store, Written

T = TypeVar("T")

# How often a read starts again because another writer removed rows under it, before it holds the writers back.
ATTEMPTS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """An answer: hits, their records, and how it was come by.

    records  the distinct hit rows' records; position[r] says where row r is in them
    trace    what it took
    """

    hits: Hits
    records: RecordBatch
    position: dict[int, int]
    plan: Plan
    steps: Sequence[Step]
    trace: Trace


class Table:
    """One collection.  Safe for many threads; other processes may write to the same store at any time.

    ``store`` is the truth. The view (live rows and their order), the metadata in memory and the indexes follow it: each remembers
    what it has seen and catches up at the next call that needs it.
    """

    def __init__(
        self,
        store: Store,
        metric: Metric,
        indexes: Indexes,
        filters: ByteCache | None = None,
        background: Background | None = None,
    ) -> None:
        self._store = store
        self._background = background
        self._full_chunks = 0
        self._closed = False
        self._metric = metric
        self._indexes = indexes
        self.nearest = Nearest(store.vectors, metric, indexes)
        self._lock = threading.RLock()
        self._view = View.nothing()
        self._fields = Fields(filters or ByteCache(Settings().filter_memory))
        self._device_filters = DeviceFilters(indexes)
        self._texts = FullText()

    def write(self, batch: RecordBatch, mode: Mode) -> Written:
        """Add, update or upsert records; durable when it returns, and found by every query that starts later.

        What of the vectors is on a device is offered to the index after the commit, if every record of the batch got a new row.
        Raises DimensionMismatch, Moved and the store's errors; nothing was written then.
        """
        written = self._store.write(batch, mode)
        state = self._store.state()
        if batch.resident and state.dim is not None and written.added + written.replaced == len(batch):
            blocks = [replace(block, first=written.first + block.first) for block in batch.resident]
            self._indexes.offer(blocks, state.rows, state.dim)
        self._indexes.follow(len(self._store.vectors), state.dim)
        if self._background is not None and state.folded // CHUNK != self._full_chunks:
            self._full_chunks = state.folded // CHUNK
            self._background.ask((id(self), "documents"), self._tidy)
        return written

    def delete(self, rows: Rows) -> Written:
        """Remove records; rows that are dead already are skipped. Raises Moved and the store's errors."""
        return self._store.delete(rows)

    def remove(self, expr: Expr | None, *, ids: Sequence[str] | None = None, limit: int | None = None) -> Written:
        """Remove the records of ``fetch``, as they are at one moment.

        While others rewrite them over and over, as they were when they were found. Raises Moved and the store's errors.
        """
        for _ in range(ATTEMPTS):
            try:
                view = self._caught_up()
                rows = self._page(view, expr, ids, limit, 0)
                return self._store.delete(rows, seen=None if expr is None else view.seq)
            except KeyError:
                continue
        return self._store.delete(self.rows(expr, ids=ids, limit=limit))

    def search(
        self,
        queries: Vectors,
        k: int,
        expr: Expr | None,
        columns: frozenset[Column],
        *,
        ids: Sequence[str] | None = None,
        transformed: Transforms | None = None,
    ) -> Found:
        """The k nearest records of each query among those that satisfy ``expr`` and are among ``ids``, with the asked columns.

        queries  [q, dim] float32
        transformed  what else rules records out, and changes their distances: see ``transforms.search``
        Raises   DimensionMismatch, UnknownID
        """

        def attempt() -> Found:
            trace = Trace()
            view = self._caught_up()
            view.check_dim(queries.shape[1])
            trace.seen(view)
            candidates, steps = self._candidates(view, expr, ids, all_known=True)
            trace.filtered(expr, candidates, steps)
            if transformed is None:
                hits, plan = self._nearest(view, queries, k, candidates)
                trace.searched("#embedding", plan, hits)
            else:
                hits, plan = transforms.search(transformed, queries, k, candidates, self._reading(view), self._metric, trace)
            rows = np.unique(hits.rows[hits.rows != NO_ROW])
            records = self._store.read(rows, columns)
            self._check_still(view, expr)
            trace.done("records")
            return Found(hits, records, {int(row): at for at, row in enumerate(rows)}, plan, steps, trace)

        return self._steady(attempt)

    def rank(self, questions: Sequence[Question]) -> list[Ranked]:
        """The answers of ranked searches; see ``Question``. All see one committed state, and share what they have in common.

        Raises   DimensionMismatch, InvalidArgumentError
        Cost     ``ranked.answers``
        """

        def attempt() -> list[Ranked]:
            trace = Trace()
            view = self._caught_up()
            trace.seen(view)
            found = ranked.answers(questions, self._reading(view), trace)
            self._check_still(view, *(question.expr for question in questions))
            return found

        return self._steady(attempt)

    def explained(self, answer: Found | Ranked, embedding: float = 0.0) -> Explanation:
        """How an answer of this table was come by; of several ranked searches that were asked at once, all together.

        embedding  seconds that it took before to make the vectors
        """
        return explanation(answer.trace, str(self._indexes.calibration), self.nearest.checked(), embedding=embedding)

    def fetch(
        self,
        expr: Expr | None,
        columns: frozenset[Column],
        *,
        ids: Sequence[str] | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> RecordBatch:
        """The records that satisfy ``expr`` and are among ``ids``, in insertion order, ``limit`` of them after the first ``offset``."""

        def attempt() -> RecordBatch:
            view = self._caught_up()
            records = self._store.read(self._page(view, expr, ids, limit, offset), columns)
            self._check_still(view, expr)
            return records

        return self._steady(attempt)

    def rows(self, expr: Expr | None, *, ids: Sequence[str] | None = None, limit: int | None = None, offset: int = 0) -> Rows:
        """The rows of ``fetch``."""

        def attempt() -> Rows:
            view = self._caught_up()
            rows = self._page(view, expr, ids, limit, offset)
            self._check_still(view, expr)
            return rows

        return self._steady(attempt)

    def count(self) -> int:
        """How many records there are."""
        return self._store.state().live

    def dim(self) -> int | None:
        """Length of the vectors; None before the first one."""
        return self._store.state().dim

    def version(self) -> int:
        """How many records were ever added, changed or removed; a compaction does not count."""
        return self._store.totals().ops

    def fields(self) -> dict[str, set[str]]:
        """The metadata fields that rows have, each with the types of its values: a ``Kind``, or "sparse" for sparse vectors.

        What rows had that died since the last compaction, or were rewritten of late, may be among them.
        Cost  that of catching up, as for a filter
        """
        view = self._steady(lambda: self._caught_up_fields(self._caught_up()))
        found: dict[str, set[str]] = {}
        for column in view.columns.statistics():
            found.setdefault(column.field, set()).add("sparse" if column.kind is None else str(column.kind))
        return found

    def note(self, name: str) -> bytes | None:
        """What a job has kept under this name beside the records (``RecordBatch.note``); None for nothing."""
        return self._store.note(name)

    def occupancy(self) -> tuple[int, int]:
        """(rows, dead): how many rows were given, and how many of them hold nothing any more."""
        state = self._store.state()
        return state.rows, state.rows - state.live

    def wait_indexed(self, progress: Callable[[int, int], object] | None = None) -> None:
        """Return when every committed row is in every index this table keeps. Raises what an index build raised.

        progress  called with (done, total) after each slice of rows, for one index after the other
        """
        state = self._store.state()
        self._indexes.build(state.rows, state.dim, progress)
        with suppress(Moved):  # a folder that a fork shares is not written: its documents stay in the blocks they are in
            while self._store.tidy():
                pass

    def indexed(self) -> dict[str, int]:
        """How many of the first rows each index holds."""
        return {choice.spec.kind: choice.rows for choice in self._indexes.choices()}

    def indexing_status(self) -> dict[str, Any]:
        """How many records were ever added, changed or removed, and how many of these are still to be taken into an index."""
        state, total = self._store.state(), self._store.totals().ops
        self._indexes.follow(state.rows, state.dim)
        late = min(self._indexes.late(state.rows), total)
        return {
            "num_indexed_ops": total - late,
            "num_unindexed_ops": late,
            "total_ops": total,
            "op_indexing_progress": (total - late) / total if total else 1.0,
        }

    def undocumented(self) -> int:
        """How many records have no document."""
        state = self._store.state()
        return state.live - self._store.totals().documents

    def close(self) -> None:
        """Stop following the store, which stays open. Idempotent."""
        self._closed = True
        if self._background is not None:
            self._background.drain((id(self), "documents"))
        self._device_filters.close()
        self._indexes.close()
        self._fields.close()

    def _tidy(self) -> None:
        """In the background. Answers are right without it, and ``wait_indexed`` raises what goes wrong."""
        with suppress(StoreError):
            while self._store.tidy(lambda: self._closed):
                pass

    def _reading(self, view: View) -> Reading:
        fields = cache(lambda: self._caught_up_fields(view))

        def candidates(expr: Expr | None, ids: Sequence[str] | None) -> tuple[RowSet, Sequence[Step]]:
            return self._candidates(view, expr, ids, None if expr is None else fields())

        texts = cache(lambda: self._caught_up_texts(view))
        return Reading(view, self._store, fields, candidates, partial(self._nearest, view), texts)

    def _page(self, view: View, expr: Expr | None, ids: Sequence[str] | None, limit: int | None, offset: int) -> Rows:
        within, seen = self._within(view, ids)
        if expr is None:
            return view.page(within, offset, limit)
        fields = self._caught_up_fields(view)
        return filtering.page(expr, within, view, fields, seen, offset, limit, self._device_filters)[0]

    def _check_still(self, view: View, *exprs: Expr | None) -> None:
        """Raises KeyError if records were rewritten in place since: what passes, and what was read of it, may be of several states."""
        if all(expr is None for expr in exprs) or self._store.state().seq == view.seq:
            return
        changes = self._store.changes(view.seq)
        if changes is None or (changes.touched < view.live.size).any():
            raise KeyError("records were rewritten after the view was taken")

    def _candidates(
        self,
        view: View,
        expr: Expr | None,
        ids: Sequence[str] | None,
        fields: FieldsView | None = None,
        *,
        all_known: bool = False,
    ) -> tuple[RowSet, Sequence[Step]]:
        """What passes, and how that was found. ``all_known``: raises UnknownID for an id that no record has."""
        within, seen = self._within(view, ids, all_known=all_known)
        if expr is None:
            return within, ()
        return filtering.passing(expr, within, view, fields or self._caught_up_fields(view), seen, self._device_filters)

    def _within(self, view: View, ids: Sequence[str] | None, *, all_known: bool = False) -> tuple[RowSet, Seen]:
        """The records with some ids."""
        within, seen = view.live, Seen(self._store, view.live.size)
        if ids is not None:
            rows = seen.rows_of(ids)
            if all_known:
                _check_ids(ids, rows)
            within = within & RowSet.of(rows[rows != NO_ROW], within.size)
        return within, seen

    def _nearest(self, view: View, queries: Vectors, k: int, candidates: RowSet) -> tuple[Hits, Plan]:
        return self.nearest.search(queries, k, candidates, view.count if candidates is view.live else len(candidates))

    def _caught_up(self) -> View:
        """The view of the last committed state."""
        state = self._store.state()
        if state.seq == self._view.seq:
            return self._view
        with self._lock:
            self._view = self._view.caught_up(self._store, state)
            self._indexes.follow(self._view.live.size, state.dim)
            return self._view

    def _caught_up_fields(self, view: View) -> FieldsView:
        """The metadata, which knows at least what the view knows."""
        return self._fields.caught_up(self._store, view.seq, view.live.size)

    def _caught_up_texts(self, view: View) -> FullTextView:
        """The words of documents, which know at least what the view knows. Raises KeyError if the index went on."""
        with self._lock:
            return self._texts.caught_up(self._store, view)

    def _steady(self, attempt: Callable[[], T]) -> T:
        """Run a read again while rows die, move or are rewritten between finding and fetching them; in the end without writers."""
        for _ in range(ATTEMPTS):
            try:
                return attempt()
            except KeyError:
                continue
        with self._store.exclusive():
            return attempt()


def _check_ids(ids: Sequence[str], rows: Rows) -> None:
    unknown = [ids[at] for at in np.flatnonzero(rows == NO_ROW).tolist()]
    if unknown:
        named = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise UnknownID(f"Error executing plan: Internal error: Error finding id {named}", hint="Ask `get` which of them exist.")
