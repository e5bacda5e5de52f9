"""Evaluating an expression to an exact set of rows: what is cheap and rules out much goes first, documents are read last."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, reduce
from operator import and_, or_
from time import perf_counter
from typing import Final, Protocol

import numpy as np

from chroma_gpu.filter.documents import DocumentContains, DocumentOperator
from chroma_gpu.filter.expr import (
    And,
    Expr,
    How,
    InIds,
    InRows,
    Or,
    Records,
    Step,
    check_depth,
    documents,
    matches,
    only_documents,
)
from chroma_gpu.filter.grams import required, strings
from chroma_gpu.filter.operators import Comparison, Operator
from chroma_gpu.filter.view import Lookup
from chroma_gpu.records import Rows
from chroma_gpu.rowset import RowSet

FEW_TEXTS: Final = 64
"""So many texts are read in the time in which an index is asked which of them may pass."""


class Accelerator(Protocol):
    """What answers conditions on metadata faster than columns, at times."""

    def takes(self, expr: Expr) -> bool:
        """Whether it can answer a tree."""
        ...

    def rows(self, expr: Expr, within: RowSet, asked: int) -> RowSet | None:
        """The rows of ``within``, ``asked`` of them, that pass; None if the columns had better find them."""
        ...


def evaluate(
    expr: Expr, within: RowSet, columns: Lookup, records: Records, device: Accelerator | None = None
) -> tuple[RowSet, list[Step]]:
    """The rows of ``within`` that pass, and the steps taken, inner ones first.

    Cheap conditions that rule out much go first, and each looks only at rows that are still undecided; documents are read last and
    at most once for conditions that stand together. What cannot change the answer any more is not evaluated and is no step.

    within   rows below columns.size
    device   is asked first about conditions on metadata, those that stand together at once
    Raises   InvalidFilter for a tree deeper than MAX_DEPTH; KeyError if the inverted index has gone on
    Cost     a row set for each condition; one read of each document that the index of three-byte strings leaves undecided
    """
    _check(expr, within, columns)
    evaluation = _Evaluation(columns, records, device)
    return evaluation.rows(expr, within), evaluation.steps


def evaluate_first(
    expr: Expr, within: RowSet, columns: Lookup, records: Records, n: int, ordered: Callable[[RowSet], Rows]
) -> tuple[RowSet, list[Step]]:
    """Rows that pass, the first n of them in some order among them; as ``evaluate``, but no more documents are read than that takes.

    ordered  puts rows into the order that counts
    """
    _check(expr, within, columns)
    evaluation = _Evaluation(columns, records)
    children = evaluation.in_order(expr) if isinstance(expr, And) else [expr]
    reading = [child for child in children if documents(child)]
    for child in children[: len(children) - len(reading)]:
        within = evaluation.rows(child, within)
    if not reading or len(within) <= max(n, FEW_TEXTS):
        return reduce(lambda left, child: evaluation.rows(child, left), reading, within), evaluation.steps
    for child in reading:
        if only_documents(child):
            within = evaluation.candidates(child, within)
    evaluation.few = _FIRST_TEXTS
    rows = ordered(within)
    passed, found, start, size = RowSet.empty(within.size), 0, 0, max(n, FEW_TEXTS)
    while start < len(rows) and found < n:
        some = RowSet.of(rows[start : start + size], within.size)
        some = reduce(lambda left, child: evaluation.rows(child, left), reading, some)
        passed, found = passed | some, found + len(some)
        start, size = start + size, 2 * size
    return passed, evaluation.steps


def _check(expr: Expr, within: RowSet, columns: Lookup) -> None:
    if within.size > columns.size:
        raise ValueError(f"rows below {within.size} cannot be filtered by columns of {columns.size} rows")
    check_depth(expr)


class _Evaluation:
    """One evaluation: where it reads, what it has asked the index, and the steps it took."""

    def __init__(self, columns: Lookup, records: Records, device: Accelerator | None = None) -> None:
        self._columns = columns
        self._records = records
        self._device = device
        self._candidates: dict[DocumentOperator, tuple[RowSet, RowSet] | None] = {}
        self.few = FEW_TEXTS
        self.steps: list[Step] = []

    def rows(self, expr: Expr, within: RowSet) -> RowSet:
        """The rows of within that pass."""
        return self._asked(expr, within, len(within))[0]

    def _asked(self, expr: Expr, within: RowSet, asked: int) -> tuple[RowSet, int]:
        """The rows of within, ``asked`` of them, that pass, and how many these are."""
        if not asked:
            return within, 0
        start = perf_counter()
        read, how, why, n = 0, How.COMBINED, None, -1
        if only_documents(expr):
            passed, read, how, why = self._by_text(expr, within, asked)
        elif self._device is not None and (found_there := self._device.rows(expr, within, asked)) is not None:
            passed, how = found_there, How.DEVICE
        elif _only_bounds(expr):
            columns = self._columns.restricted(within) if asked * _SOME < within.size else self._columns
            bounds = [(child.field, child.bounds) for child in _leaves(expr) if isinstance(child, Comparison)]
            passed = within & columns.between_all(bounds).resized(within.size)
            how = How.INDEX if columns.indexed else How.COLUMNS
        elif isinstance(expr, And):
            passed, n = within, asked
            for child in self.in_order(expr):
                passed, n = self._asked(child, passed, n)
        elif isinstance(expr, Or):
            passed, n, undecided = RowSet.empty(within.size), 0, within
            for child in self.in_order(expr):
                more, found = self._asked(child, undecided, asked - n)
                if found:
                    passed, n, undecided = passed | more, n + found, undecided - more
        elif isinstance(expr, InRows):
            passed, how = within & expr.rows.resized(within.size), How.GIVEN
        elif isinstance(expr, InIds):
            rows = self._records.rows_of(expr.ids)
            named = RowSet.of(rows[rows < within.size], within.size)  # NO_ROW is above every size
            passed, how = within - named if expr.others else within & named, How.GIVEN
        elif isinstance(expr, Operator):
            columns = self._columns.restricted(within) if asked * _SOME < within.size else self._columns
            passed = within & expr.rows(columns).resized(within.size)
            how = How.INDEX if columns.indexed else How.COLUMNS
        n = len(passed) if n < 0 else n
        self.steps.append(Step(expr, asked, n, read, perf_counter() - start, how, why))
        return passed, n

    def in_order(self, expr: And | Or) -> list[Expr]:
        """The children: without documents, those that rule out most at the least cost first; those about documents only, as one; the rest.

        In a conjunction, those that bound numbers are one as well; so are those that a device can answer, where not all are.
        """
        texts = tuple(child for child in expr.children if only_documents(child))
        others = [child for child in expr.children if not only_documents(child)]
        bounds = tuple(child for child in others if isinstance(child, Comparison))
        there = tuple(child for child in others if self._device is not None and self._device.takes(child))
        if 1 < len(there) < len(expr.children):
            others = [child for child in others if child not in there] + [type(expr)(there)]
        elif isinstance(expr, And) and len(bounds) > 1:
            others = [child for child in others if not isinstance(child, Comparison)] + [And(bounds)]
        if len(others) > 1:
            others.sort(key=partial(self._urgency, decided_by_passing=isinstance(expr, Or)))
        cheap = [child for child in others if not documents(child)]
        as_one = texts if len(texts) < 2 else (type(expr)(texts),)
        return [*cheap, *as_one, *others[len(cheap) :]]

    def bounds(self, expr: Expr, within: RowSet) -> tuple[RowSet, RowSet]:
        """Of a tree of conditions on documents, rows of within that pass for certain, and all that may pass, by the index alone."""
        if isinstance(expr, And | Or):
            both = [self.bounds(child, within) for child in expr.children]
            join = and_ if isinstance(expr, And) else or_
            return reduce(join, (lower for lower, _ in both)), reduce(join, (upper for _, upper in both))
        candidates = self._having(expr) if isinstance(expr, DocumentOperator) else None
        if candidates is None:
            return RowSet.empty(within.size), within
        have, may = (rows.resized(within.size) for rows in candidates)
        if isinstance(expr, DocumentOperator) and expr.negated:
            return within - may, within - have
        return within & have, within & may

    def candidates(self, expr: Expr, within: RowSet) -> RowSet:
        """Of a tree of conditions on documents, rows of within that may pass, by three-byte strings: cheaper than ``bounds``."""
        if isinstance(expr, And | Or):
            join = and_ if isinstance(expr, And) else or_
            return reduce(join, (self.candidates(child, within) for child in expr.children))
        grams = required(expr) if isinstance(expr, DocumentOperator) and not expr.negated else None
        return within if grams is None else within & grams.candidates(self._columns.documents_with).resized(within.size)

    def _urgency(self, expr: Expr, decided_by_passing: bool) -> tuple[int, float]:
        """How many conditions on documents there are, and the cost of deciding one row."""
        cost, share = self._estimate(expr)
        return documents(expr), cost / max(share if decided_by_passing else 1.0 - share, _SLIGHT)

    def _estimate(self, expr: Expr) -> tuple[float, float]:
        """About the microseconds that finding the rows of a condition takes, and the share of all rows that passes."""
        if isinstance(expr, And | Or) and expr.children:
            parts = [self._estimate(child) for child in expr.children]
            shares = [share if isinstance(expr, And) else 1.0 - share for _, share in parts]
            together = float(np.prod(shares))
            return sum(cost for cost, _ in parts), together if isinstance(expr, And) else 1.0 - together
        if isinstance(expr, Operator):
            return _LOOKUP + _VALUE * self._columns.count(expr.field), expr.share(self._columns)
        if isinstance(expr, InRows | InIds):
            n = len(expr.rows) if isinstance(expr, InRows) else len(expr.ids)
            share = min(1.0, n / max(1, self._columns.size))
            if isinstance(expr, InRows):
                return 0.0, share
            return _ID * n, 1.0 - share if expr.others else share
        return 0.0, float(isinstance(expr, And))

    def _by_text(self, expr: Expr, within: RowSet, asked: int) -> tuple[RowSet, int, How, str | None]:
        """The rows whose documents pass, how many were read, how they were found, and why if by reading all."""
        if asked <= self.few:
            return self._read(expr, within), asked, How.SCAN, f"only {asked} rows are left to decide"
        lower, upper = self.bounds(expr, within)
        undecided = upper - lower if lower else upper
        read = len(undecided)
        passed = self._read(expr, undecided)
        if read < asked or not self._columns.indexed:
            return passed | lower, read, *((How.GRAMS, None) if read < asked else (How.SCAN, "no document is indexed yet"))
        return passed, read, How.SCAN, next(filter(None, map(_unhelped, _leaves(expr))), "every document may have it")

    def _having(self, operator: DocumentOperator) -> tuple[RowSet, RowSet] | None:
        """The rows in whose documents the operand is found for certain, and where it may be; None if the index cannot tell."""
        if operator not in self._candidates:
            texts, grams = strings(operator), required(operator)
            found = None
            if texts:
                both = [self._columns.documents_containing(text) for text in texts]
                found = reduce(or_, (have for have, _ in both)), reduce(or_, (may for _, may in both))
            elif grams is not None:
                found = RowSet.empty(self._columns.size), grams.candidates(self._columns.documents_with)
            self._candidates[operator] = found
        return self._candidates[operator]

    def _read(self, expr: Expr, within: RowSet) -> RowSet:
        """The rows whose documents pass, each read once."""
        rows = within.rows()
        texts = self._records.documents(rows)
        if isinstance(expr, DocumentOperator):
            passed = expr.passing(texts)
        else:
            passed = list(map(partial(matches, expr, 0, None), texts))
        return RowSet.of(rows[np.array(passed, np.bool_)], within.size)


_FIRST_TEXTS: Final = 512
"""So many texts are read rather than all that an index knows of a word asked for, where the first few rows are wanted."""

_SOME: Final = 2
"""A condition is told which rows count if that is less than one of so many."""

# Microseconds: one lookup in the index, one number, one id; and the least share that counts.
_LOOKUP, _VALUE, _ID, _SLIGHT = 50.0, 0.0004, 2.0, 1e-3


def _only_bounds(expr: Expr) -> bool:
    """Whether a tree is a conjunction of bounds on numbers."""
    return isinstance(expr, And) and len(expr.children) > 1 and all(isinstance(child, Comparison) for child in expr.children)


def _leaves(expr: Expr) -> Iterable[Expr]:
    if isinstance(expr, And | Or):
        for child in expr.children:
            yield from _leaves(child)
    else:
        yield expr


def _unhelped(expr: Expr) -> str | None:
    """Why the index of three-byte strings cannot help with a condition; None if it can."""
    if not isinstance(expr, DocumentOperator) or required(expr) is not None:
        return None
    if isinstance(expr, DocumentContains):
        return "the text is shorter than three bytes"
    return "the pattern has no literal of three bytes"
