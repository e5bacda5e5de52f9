"""Filtering: the records of one committed state that satisfy an expression, and what was found of it before."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from chroma_gpu.engine.device_filters import DeviceFilters
from chroma_gpu.engine.fields import FieldsView
from chroma_gpu.engine.view import View
from chroma_gpu.filter.evaluation import evaluate, evaluate_first
from chroma_gpu.filter.expr import And, Expr, How, InRows, Or, Step, check_depth, documents, nbytes
from chroma_gpu.records import NO_ROW, Rows
from chroma_gpu.rowset import RowSet
from chroma_gpu.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A store as a view of its first ``size`` rows sees it."""

    store: Store
    size: int

    def documents(self, rows: Rows) -> Iterator[bytes | None]:
        """As the store."""
        return self.store.documents(rows)

    def rows_of(self, ids: Sequence[str]) -> Rows:
        """Raises KeyError if an id has a newer row, so that the read starts again: the view may hold the older one of the same id."""
        rows = self.store.rows_of(ids)
        if ((rows >= self.size) & (rows != NO_ROW)).any():
            raise KeyError("an id was written after the view was taken")
        return rows


def passing(
    expr: Expr, within: RowSet, view: View, fields: FieldsView, seen: Seen, device: DeviceFilters | None = None
) -> tuple[RowSet, Sequence[Step]]:
    """The rows of ``within``, which are some of the view's, that satisfy an expression, and how they were found.

    What was found among all of the view's rows is kept for as long as nothing is written, with the steps that found it: the same
    row set each time, so that what devices have of it is used again.
    Raises   as ``evaluate``
    """
    start = perf_counter()
    check_depth(expr)
    key = _key(expr, within, view)
    if key is not None and (kept := fields.answers.get(key)) is not None:
        found, steps = kept
        passed = steps[-1].passed if steps else 0
        return found, (*steps[:-1], Step(expr, view.count, passed, 0, perf_counter() - start, How.KEPT))
    there = None if device is None else device.asking(fields.columns, view.live)
    found, steps = evaluate(expr, within, fields.columns, seen, there)
    if key is not None:
        fields.answers.put(key, (found, steps), found.words.nbytes + nbytes(expr))
    return found, steps


def page(
    expr: Expr, within: RowSet, view: View, fields: FieldsView, seen: Seen, offset: int, limit: int | None,
    device: DeviceFilters | None = None,
) -> tuple[Rows, Sequence[Step]]:  # fmt: skip
    """The same in insertion order, ``limit`` rows after the first ``offset``; no more documents are read than that takes."""
    check_depth(expr)
    key = _key(expr, within, view)
    if limit is None or not documents(expr) or (key is not None and fields.answers.get(key) is not None):
        found, steps = passing(expr, within, view, fields, seen, device)
    else:
        found, steps = evaluate_first(
            expr, within, fields.columns, seen, offset + limit, lambda rows: view.inserted(rows.rows())
        )  # fmt: skip
    return view.page(found, offset, limit), steps


def _key(expr: Expr, within: RowSet, view: View) -> Hashable | None:
    """Under which the answer may be kept; None for answers that nobody will ask for again."""
    return (view.seq, expr) if within is view.live and _lasting(expr) else None


def _lasting(expr: Expr) -> bool:
    if isinstance(expr, And | Or):
        return all(map(_lasting, expr.children))
    return not isinstance(expr, InRows)
