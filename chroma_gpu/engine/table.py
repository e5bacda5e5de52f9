"""Table: one collection's records, searched and written. The only place where store, filter and index meet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from chroma_gpu.engine import planner
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.engine.planner import Plan, Way
from chroma_gpu.errors import DimensionMismatch
from chroma_gpu.filter.columns import Columns
from chroma_gpu.filter.expr import Expr, Step, evaluate
from chroma_gpu.index import answers, exact
from chroma_gpu.records import NO_ROW, Column, Hits, Metric, Mode, RecordBatch, Rows, Vectors
from chroma_gpu.rowset import RowSet
from chroma_gpu.store import Store, Written

T = TypeVar("T")

# How often a read starts again because another writer removed rows under it, before it gives up.
ATTEMPTS = 8
# Rows whose metadata is read at once while columns catch up.
SLICE = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One committed state in memory.

    dim     length of the vectors; None before the first one
    live    live rows, of size ``live.size``; count: how many
    births  [live.size] uint32, the row under which each record was first inserted; None where every row is its own birth
    """

    seq: int
    dim: int | None
    live: RowSet
    count: int
    births: Rows | None


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """An answer: hits, their records, and how it was come by.

    records  the distinct hit rows' records; position[r] says where row r is in them
    """

    hits: Hits
    records: RecordBatch
    position: dict[int, int]
    plan: Plan
    steps: Sequence[Step]


class Table:
    """One collection.  Safe for many threads; other processes may write to the same store at any time.

    ``store`` is the truth. The view (live rows and their order), the metadata columns and the indexes follow it: each remembers
    what it has seen and catches up at the next call that needs it.
    """

    def __init__(self, store: Store, metric: Metric, indexes: Indexes) -> None:
        self._store = store
        self._metric = metric
        self._indexes = indexes
        self._lock = threading.RLock()
        self._view = View(0, None, RowSet.empty(0), 0, None)
        self._columns = Columns()
        self._columns_seq = 0

    def write(self, batch: RecordBatch, mode: Mode) -> Written:
        """Add, update or upsert records; durable when it returns, and found by every query that starts later.

        Raises DimensionMismatch, Moved and the store's errors; nothing was written then.
        """
        written = self._store.write(batch, mode)
        self._indexes.follow(len(self._store.vectors), self._store.state().dim)
        return written

    def delete(self, rows: Rows) -> Written:
        """Remove records; rows that are dead already are skipped. Raises Moved and the store's errors."""
        return self._store.delete(rows)

    def search(
        self, queries: Vectors, k: int, expr: Expr | None, columns: frozenset[Column], *, ids: Sequence[str] | None = None
    ) -> Found:
        """The k nearest records of each query among those that satisfy ``expr`` and are among ``ids``, with the asked columns.

        queries  [q, dim] float32
        Raises   DimensionMismatch
        """

        def attempt() -> Found:
            view = self._caught_up()
            if view.dim is not None and queries.shape[1] != view.dim:
                raise DimensionMismatch(f"Collection expecting embedding with dimension of {view.dim}, got {queries.shape[1]}")
            candidates, steps = self._candidates(view, expr, ids)
            n = view.count if candidates is view.live else len(candidates)
            plan = planner.plan(n, view.live.size, k, len(queries), queries.shape[1], self._indexes.choices())
            hits = self._run(plan, queries, candidates)
            rows = np.unique(hits.rows[hits.rows != NO_ROW])
            records = self._store.read(rows, columns)
            return Found(hits, records, {int(row): at for at, row in enumerate(rows)}, plan, steps)

        return self._steady(attempt)

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
        return self._steady(lambda: self._store.read(self.rows(expr, ids=ids, limit=limit, offset=offset), columns))

    def rows(self, expr: Expr | None, *, ids: Sequence[str] | None = None, limit: int | None = None, offset: int = 0) -> Rows:
        """The rows of ``fetch``."""
        view = self._caught_up()
        candidates, _ = self._candidates(view, expr, ids)
        rows = candidates.rows()
        if view.births is not None:
            rows = rows[np.argsort(view.births[rows], kind="stable")]
        return rows[offset:] if limit is None else rows[offset : offset + limit]

    def count(self) -> int:
        """How many records there are."""
        return self._store.state().live

    def dim(self) -> int | None:
        """Length of the vectors; None before the first one."""
        return self._store.state().dim

    def occupancy(self) -> tuple[int, int]:
        """(rows, dead): how many rows were given, and how many of them hold nothing any more."""
        state = self._store.state()
        return state.rows, state.rows - state.live

    def wait_indexed(self) -> None:
        """Return when every committed row is in every index this table keeps. Raises what an index build raised."""
        state = self._store.state()
        self._indexes.build(state.rows, state.dim)

    def indexed(self) -> dict[str, int]:
        """How many of the first rows each index holds."""
        return {choice.spec.kind: choice.rows for choice in self._indexes.choices()}

    def close(self) -> None:
        """Stop following the store, which stays open. Idempotent."""
        self._indexes.close()

    def _candidates(self, view: View, expr: Expr | None, ids: Sequence[str] | None) -> tuple[RowSet, Sequence[Step]]:
        within = view.live
        if ids is not None:
            rows = self._store.rows_of(ids)
            # An id written after the view was taken belongs to the next call; NO_ROW is above every size.
            within = within & RowSet.of(rows[rows < within.size], within.size)
        if expr is None:
            return within, ()
        with self._lock:
            columns = self._columns_caught_up(view).snapshot()
        return evaluate(expr, within, columns, self._store)

    def _run(self, plan: Plan, queries: Vectors, candidates: RowSet) -> Hits:
        source, size = self._store.vectors, candidates.size
        if plan.way is Way.NOTHING:
            return Hits.empty(len(queries))
        if plan.way is Way.GATHER:
            return exact.search_rows(queries, source, candidates.rows(), plan.k, self._metric)
        whole = plan.candidates == size
        if plan.way is Way.SCAN:
            return exact.search_block(queries, source, 0, size, None if whole else candidates, plan.k, self._metric)
        index = self._indexes.get(plan.kind)
        held = min(len(index), size)
        # The index may grow while it is asked; without a mask it would then return rows that this view does not know.
        hits = index.search(queries, plan.k, None if whole and len(index) == size else candidates.resized(held))
        if whole and len(index) != size:
            hits = index.search(queries, plan.k, candidates.resized(held))
        if held < size:
            late = exact.search_block(queries, source, held, size, candidates, plan.k, self._metric)
            hits = answers.merge(hits, late, plan.k)
        return hits

    def _caught_up(self) -> View:
        """The view of the last committed state."""
        state = self._store.state()
        if state.seq == self._view.seq:
            return self._view
        with self._lock:
            old = self._view
            changes = self._store.changes(old.seq) if old.seq else None
            if changes is None:
                # Read after state(), so it may be ahead of state.seq. Applying those changes once more does no harm.
                live = self._store.live()
                births = _births(None, live.size, *self._store.births())
                self._view = View(state.seq, state.dim, live, len(live), births)
            else:
                flags = np.zeros(changes.stop, np.bool_)
                flags[: old.live.size] = old.live.flags()
                flags[changes.first :] = True
                flags[changes.dead] = False
                live = RowSet.where(flags)
                births = _births(old.births, live.size, *self._store.births(changes.first))
                self._view = View(changes.seq, state.dim, live, len(live), births)
            self._indexes.follow(self._view.live.size, state.dim)
            return self._view

    def _columns_caught_up(self, view: View) -> Columns:
        """Columns that know at least what the view knows. Held under the lock: columns change in place."""
        if self._columns_seq == view.seq:
            return self._columns
        changes = self._store.changes(self._columns_seq) if self._columns_seq else None
        if changes is None:
            self._columns = Columns()
            touched, seq, stop = np.empty(0, np.uint32), view.seq, view.live.size
        else:
            touched, seq, stop = changes.touched[changes.touched < changes.first], changes.seq, changes.stop
        for first in range(self._columns.size, stop, SLICE):
            self._columns.append(first, self._store.metadatas(np.arange(first, min(first + SLICE, stop), dtype=np.uint32)))
        if len(touched):
            self._columns.rewrite(touched, self._store.metadatas(touched))
        self._columns_seq = seq
        return self._columns

    def _steady(self, attempt: Callable[[], T]) -> T:
        """Run a read again while rows die between finding and fetching them."""
        for _ in range(ATTEMPTS - 1):
            try:
                return attempt()
            except KeyError:
                continue
        return attempt()


def _births(old: Rows | None, size: int, rows: Rows, births: Rows) -> Rows | None:
    """[size] births: the old ones, every further row its own, but for ``rows``."""
    if old is None and not len(rows):
        return None
    result = np.arange(size, dtype=np.uint32)
    if old is not None:
        result[: len(old)] = old[:size]
    known = rows < size
    result[rows[known]] = births[known]
    return result
