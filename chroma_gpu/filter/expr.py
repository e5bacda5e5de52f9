"""The expression tree, and its evaluation to an exact set of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Final, Protocol, TypeAlias, Union

import numpy as np

from chroma_gpu.errors import InvalidFilter
from chroma_gpu.filter.columns import ColumnView
from chroma_gpu.filter.documents import DocumentOperator, Texts
from chroma_gpu.filter.operators import Operator
from chroma_gpu.records import Metadata, Rows
from chroma_gpu.rowset import RowSet

MAX_DEPTH: Final = 128
"""How many conjunctions and disjunctions may stand inside each other: evaluation recurses, so it must not be given more."""


@dataclass(frozen=True, slots=True)
class And:
    """Rows that pass every child; all rows if there is none."""

    children: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Rows that pass a child; no row if there is none."""

    children: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class InRows:
    """The given rows: what a caller knows already, such as the rows of a list of ids."""

    rows: RowSet


@dataclass(frozen=True, slots=True)
class InIds:
    """The records with the given ids; with ``others``, all but these. Ids that nobody has are no error."""

    ids: tuple[str, ...]
    others: bool = False


Expr: TypeAlias = Union[And, Or, InRows, InIds, Operator[Any], DocumentOperator]  # noqa: UP007


class Records(Texts, Protocol):
    """Where the documents of a table can be read, and the rows of ids."""

    def rows_of(self, ids: Sequence[str]) -> Rows:
        """[len(ids)] uint32; NO_ROW for an id that nobody has."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """What evaluating one node did.

    asked, passed  how many rows it was asked about, and how many of them pass
    read           how many documents were read for it
    seconds        its time, that of the nodes inside it included
    """

    expr: Expr
    asked: int
    passed: int
    read: int
    seconds: float


def evaluate(expr: Expr, within: RowSet, columns: ColumnView, records: Records) -> tuple[RowSet, list[Step]]:
    """The rows of ``within`` that pass, and the steps taken, inner ones first.

    Cheap conditions go first, and each looks only at rows that are still undecided; documents are read last and at most once
    for conditions that stand together. What cannot change the answer any more is not evaluated and is no step.

    within   rows below columns.size
    Raises   InvalidFilter for a tree deeper than MAX_DEPTH
    Cost     one pass over the values of each field; one read of each undecided document
    """
    if within.size > columns.size:
        raise ValueError(f"rows below {within.size} cannot be filtered by columns of {columns.size} rows")
    _check_depth(expr)
    evaluation = _Evaluation(columns, records)
    return evaluation.rows(expr, within), evaluation.steps


def matches(expr: Expr, row: int, metadata: Metadata | None, document: bytes | None, id: str = "") -> bool:
    """Whether one record passes: the plain meaning of a tree, which ``evaluate`` finds for all rows at once."""
    match expr:
        case And(children):
            return all(matches(child, row, metadata, document, id) for child in children)
        case Or(children):
            return any(matches(child, row, metadata, document, id) for child in children)
        case InRows(rows):
            return row in rows
        case InIds(ids, others):
            return (id in ids) != others
        case DocumentOperator():
            return expr.matches(document)
        case Operator():
            return expr.matches(metadata)


def to_dict(expr: Expr) -> dict[str, Any]:
    """The tree in Chroma's grammar, to be shown. Given rows become ``{"#rows": how many}``."""
    match expr:
        case And(children):
            return {"$and": [to_dict(child) for child in children]}
        case Or(children):
            return {"$or": [to_dict(child) for child in children]}
        case InRows(rows):
            return {"#rows": len(rows)}
        case InIds(ids, others):
            return {"#id": {"$nin" if others else "$in": list(ids)}}
        case DocumentOperator():
            return {"#document": {expr.token: expr.operand}}
        case Operator():
            return {expr.field: {expr.token: list(expr.operand) if isinstance(expr.operand, tuple) else expr.operand}}


class _Evaluation:
    """One evaluation: where it reads, and the steps it took."""

    def __init__(self, columns: ColumnView, records: Records) -> None:
        self._columns = columns
        self._records = records
        self.steps: list[Step] = []

    def rows(self, expr: Expr, within: RowSet) -> RowSet:
        """The rows of within that pass."""
        if not within:
            return within
        start, asked, read = perf_counter(), len(within), 0
        if isinstance(expr, DocumentOperator) or _only_documents(expr):
            passed, read = self._scanned(expr, within), asked
        elif isinstance(expr, And):
            passed = within
            for child in self._in_order(expr):
                passed = self.rows(child, passed)
        elif isinstance(expr, Or):
            passed, undecided = RowSet.empty(within.size), within
            for child in self._in_order(expr):
                more = self.rows(child, undecided)
                passed, undecided = passed | more, undecided - more
        elif isinstance(expr, InRows):
            passed = within & expr.rows.resized(within.size)
        elif isinstance(expr, InIds):
            rows = self._records.rows_of(expr.ids)
            named = RowSet.of(rows[rows < within.size], within.size)  # NO_ROW is above every size
            passed = within - named if expr.others else within & named
        else:
            passed = within & expr.rows(self._columns).resized(within.size)
        self.steps.append(Step(expr, asked, len(passed), read, perf_counter() - start))
        return passed

    def _in_order(self, expr: And | Or) -> list[Expr]:
        """The children: without documents, cheapest first; those about nothing else, as one; the rest."""
        documents = tuple(child for child in expr.children if _only_documents(child))
        others = sorted((child for child in expr.children if not _only_documents(child)), key=self._cost)
        cheap = [child for child in others if not _documents(child)]
        as_one = documents if len(documents) < 2 else (type(expr)(documents),)
        return [*cheap, *as_one, *others[len(cheap) :]]

    def _cost(self, expr: Expr) -> tuple[int, int]:
        """How many conditions on documents there are, and how many metadata values have to be looked at."""
        if isinstance(expr, And | Or):
            values = sum(self._cost(child)[1] for child in expr.children)
        else:
            values = self._columns.count(expr.field) if isinstance(expr, Operator) else 0
        return _documents(expr), values

    def _scanned(self, expr: Expr, within: RowSet) -> RowSet:
        """The rows whose documents pass, each read once."""
        rows = within.rows()
        passing = expr.matches if isinstance(expr, DocumentOperator) else partial(matches, expr, 0, None)
        passed = np.fromiter(map(passing, self._records.documents(rows)), np.bool_, len(rows))
        return RowSet.of(rows[passed], within.size)


def _only_documents(expr: Expr) -> bool:
    if isinstance(expr, And | Or):
        return bool(expr.children) and all(map(_only_documents, expr.children))
    return isinstance(expr, DocumentOperator)


def _documents(expr: Expr) -> int:
    """How many conditions on documents a tree has."""
    if isinstance(expr, And | Or):
        return sum(map(_documents, expr.children))
    return int(isinstance(expr, DocumentOperator))


def _check_depth(expr: Expr) -> None:
    level = [expr]
    for _ in range(MAX_DEPTH + 1):
        level = [child for node in level if isinstance(node, And | Or) for child in node.children]
    if level:
        raise InvalidFilter(f"a filter is nested deeper than {MAX_DEPTH} levels.", hint="Write it flatter.")
