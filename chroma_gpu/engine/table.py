"""Table: one collection's records, searched and written. The only place where store, filter and index meet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from chroma_gpu.engine import planner, ranking
from chroma_gpu.engine.fields import Fields, FieldsView
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.engine.planner import Plan, Way
from chroma_gpu.engine.ranking import Groups, Near, Rank, SparseNear
from chroma_gpu.errors import DimensionMismatch, UnknownID
from chroma_gpu.filter.expr import Expr, Step, evaluate
from chroma_gpu.index import answers, exact
from chroma_gpu.records import NO_ROW, Column, Hits, Metric, Mode, RecordBatch, Rows, Vectors
from chroma_gpu.rowset import RowSet
from chroma_gpu.store import Store, Written

T = TypeVar("T")

# How often a read starts again because another writer removed rows under it, before it holds the writers back.
ATTEMPTS = 8


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


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Records in the order of their scores, and how they were come by.

    scores  [n] float32, ascending, nan last; None where nothing was ranked
    plans   how each search for nearest vectors was answered, inner ones first
    """

    records: RecordBatch
    scores: npt.NDArray[np.float32] | None
    plans: Sequence[Plan]
    steps: Sequence[Step]


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A store as a view of its first ``size`` rows sees it."""

    store: Store
    size: int

    def documents(self, rows: Rows) -> Iterator[bytes | None]:
        return self.store.documents(rows)

    def rows_of(self, ids: Sequence[str]) -> Rows:
        """Raises KeyError if an id has a newer row, so that the read starts again: the view may hold the older one of the same id."""
        rows = self.store.rows_of(ids)
        if ((rows >= self.size) & (rows != NO_ROW)).any():
            raise KeyError("an id was written after the view was taken")
        return rows


class Table:
    """One collection.  Safe for many threads; other processes may write to the same store at any time.

    ``store`` is the truth. The view (live rows and their order), the metadata in memory and the indexes follow it: each remembers
    what it has seen and catches up at the next call that needs it.
    """

    def __init__(self, store: Store, metric: Metric, indexes: Indexes) -> None:
        self._store = store
        self._metric = metric
        self._indexes = indexes
        self._lock = threading.RLock()
        self._view = View(0, None, RowSet.empty(0), 0, None)
        self._fields = Fields()

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
        Raises   DimensionMismatch, UnknownID
        """

        def attempt() -> Found:
            view = self._caught_up()
            _check_dim(view, queries.shape[1])
            candidates, steps = self._candidates(view, expr, ids, all_known=True)
            hits, plan = self._nearest(view, queries, k, candidates)
            rows = np.unique(hits.rows[hits.rows != NO_ROW])
            records = self._store.read(rows, columns)
            return Found(hits, records, {int(row): at for at, row in enumerate(rows)}, plan, steps)

        return self._steady(attempt)

    def rank(
        self,
        rank: Rank | None,
        expr: Expr | None,
        columns: frozenset[Column],
        *,
        ids: Sequence[str] | None = None,
        groups: Groups | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> Ranked:
        """The records that a ranking finds among those that satisfy ``expr`` and are among ``ids``, by (score, row).

        What a ranking finds is said at ``ranking.evaluate``. Without one, all that pass, in insertion order. ``groups`` are cut from
        that order, then ``limit`` records after the first ``offset``.
        Raises   DimensionMismatch, InvalidArgumentError
        Cost     one evaluation of the filter and one search for each leaf; with groups, the metadata of every record found
        """

        def attempt() -> Ranked:
            view = self._caught_up()
            leaves = ranking.leaves(rank)
            for leaf in leaves:
                if isinstance(leaf, Near):
                    _check_dim(view, len(leaf.query))
            sparse = any(isinstance(leaf, SparseNear) for leaf in leaves)
            fields = self._caught_up_fields(view) if sparse or expr is not None else None
            candidates, steps = self._candidates(view, expr, ids, fields)
            plans: list[Plan] = []

            def search(leaf: Near | SparseNear) -> Hits:
                if isinstance(leaf, Near):
                    hits, plan = self._nearest(view, leaf.query[None], leaf.limit, candidates)
                    plans.append(plan)
                    return hits
                index = None if fields is None else fields.sparse.get(leaf.field)
                if index is None:
                    return Hits.empty(1)
                return index.search(leaf.query, leaf.limit, candidates, idf=view.live if leaf.idf else None)

            if rank is None:
                rows, scores = _inserted(view, candidates.rows()), None
            else:
                rows, scores = ranking.ordered(ranking.evaluate(rank, search))
            if groups is not None:
                found = self._store.read(rows, frozenset({Column.METADATA})).metadatas
                stay = ranking.grouped(groups, found or (), scores)
                rows, scores = rows[stay], None if scores is None else scores[stay]
            part = slice(offset, None if limit is None else offset + limit)
            records = self._store.read(rows[part], columns)
            return Ranked(records, None if scores is None else scores[part], plans, steps)

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

        def attempt() -> Rows:
            view = self._caught_up()
            candidates, _ = self._candidates(view, expr, ids)
            rows = _inserted(view, candidates.rows())
            return rows[offset:] if limit is None else rows[offset : offset + limit]

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

        Fields of rows that died since the last compaction may be among them.
        Cost  that of catching up, as for a filter
        """
        view = self._steady(lambda: self._caught_up_fields(self._caught_up()))
        found: dict[str, set[str]] = {}
        for column in view.columns.statistics():
            found.setdefault(column.field, set()).add(str(column.kind))
        for field in view.sparse:
            found.setdefault(field, set()).add("sparse")
        return found

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
        self._indexes.close()

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
        within, seen = view.live, _Seen(self._store, view.live.size)
        if ids is not None:
            rows = seen.rows_of(ids)
            if all_known:
                _check_ids(ids, rows)
            within = within & RowSet.of(rows[rows != NO_ROW], within.size)
        if expr is None:
            return within, ()
        return evaluate(expr, within, (fields or self._caught_up_fields(view)).columns, seen)

    def _nearest(self, view: View, queries: Vectors, k: int, candidates: RowSet) -> tuple[Hits, Plan]:
        n = view.count if candidates is view.live else len(candidates)
        plan = planner.plan(n, view.live.size, k, len(queries), queries.shape[1], self._indexes.choices())
        return self._run(plan, queries, candidates), plan

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

    def _caught_up_fields(self, view: View) -> FieldsView:
        """The metadata, which knows at least what the view knows."""
        with self._lock:
            return self._fields.caught_up(self._store, view.seq, view.live.size)

    def _steady(self, attempt: Callable[[], T]) -> T:
        """Run a read again while rows die, or ids move to new rows, between finding and fetching them; in the end without writers."""
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


def _check_dim(view: View, dim: int) -> None:
    if view.dim is not None and dim != view.dim:
        raise DimensionMismatch(f"Collection expecting embedding with dimension of {view.dim}, got {dim}")


def _inserted(view: View, rows: Rows) -> Rows:
    """Rows in the order in which their records were inserted."""
    return rows if view.births is None else rows[np.argsort(view.births[rows], kind="stable")]


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
