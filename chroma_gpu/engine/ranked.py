"""Ranked searches, any number at once: equal filters are evaluated once, and leaves that ask for the same are asked together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu.engine import ranking
from chroma_gpu.engine.fields import FieldsView
from chroma_gpu.engine.fulltext import FullTextView
from chroma_gpu.engine.planner import Plan
from chroma_gpu.engine.ranking import Groups, Leaf, Near, Rank, TextNear
from chroma_gpu.engine.trace import Trace
from chroma_gpu.engine.view import View
from chroma_gpu.filter.expr import Expr, Step
from chroma_gpu.records import Column, Hits, RecordBatch, Vectors
from chroma_gpu.rowset import RowSet
from chroma_gpu.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """The records that a ranking finds among those that satisfy ``expr`` and are among ``ids``, by (score, row).

    What a ranking finds is said at ``ranking.evaluate``. Without one, all that pass, in insertion order. ``groups`` are cut from that
    order, then ``limit`` records after the first ``offset`` are read, with the asked columns.
    """

    rank: Rank | None
    expr: Expr | None
    columns: frozenset[Column]
    ids: tuple[str, ...] | None = None
    groups: Groups | None = None
    limit: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Records in the order of their scores, and how they were come by.

    scores  [n] float32, ascending, nan last; None where nothing was ranked
    plans   how each search for nearest vectors was answered, inner ones first
    trace   what it took; of all questions that were asked at once
    """

    records: RecordBatch
    scores: npt.NDArray[np.float32] | None
    plans: Sequence[Plan]
    steps: Sequence[Step]
    trace: Trace


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One committed state of a table, and the ways to ask it.

    fields      the metadata, caught up
    candidates  (expr, ids) -> what passes, and the steps that found it
    texts       the words of documents, caught up
    nearest     (queries, k, candidates) -> the nearest rows of each query, and how they were found
    """

    view: View
    store: Store
    fields: Callable[[], FieldsView]
    candidates: Callable[[Expr | None, Sequence[str] | None], tuple[RowSet, Sequence[Step]]]
    nearest: Callable[[Vectors, int, RowSet], tuple[Hits, Plan]]
    texts: Callable[[], FullTextView]


_Filter: TypeAlias = tuple[Expr | None, tuple[str, ...] | None]
_Dense: TypeAlias = dict[tuple[_Filter, int], tuple[Hits, Plan]]
"""The answers to dense leaves, by the filter and the identity of the leaf."""


def answers(questions: Sequence[Question], reading: Reading, trace: Trace) -> list[Ranked]:
    """The answer of each question, the same as if it were asked alone.

    Raises   DimensionMismatch, InvalidArgumentError; KeyError if a record died meanwhile: then read again
    Cost     one evaluation of each different filter; one search for all leaves with the same filter and limit; with groups, the metadata
             of every record found
    """
    for question in questions:
        for leaf in ranking.leaves(question.rank):
            if isinstance(leaf, Near):
                reading.view.check_dim(len(leaf.query))
    passing: dict[_Filter, tuple[RowSet, Sequence[Step]]] = {}
    for question in questions:
        if _filter(question) not in passing:
            passing[_filter(question)] = reading.candidates(question.expr, question.ids)
            trace.filtered(question.expr, *passing[_filter(question)])
    trace.done("filter")
    dense = _dense(questions, passing, reading, trace)
    return [_answer(question, *passing[_filter(question)], dense, reading, trace) for question in questions]


def _filter(question: Question) -> _Filter:
    return question.expr, question.ids


def _dense(
    questions: Sequence[Question], passing: dict[_Filter, tuple[RowSet, Sequence[Step]]], reading: Reading, trace: Trace
) -> _Dense:
    """Leaves with the same filter and limit as one batch, which an index answers faster than one after the other."""
    alike: dict[tuple[_Filter, int], dict[int, Near]] = defaultdict(dict)
    for question in questions:
        for leaf in ranking.leaves(question.rank):
            if isinstance(leaf, Near):
                alike[_filter(question), leaf.limit][id(leaf)] = leaf
    found: _Dense = {}
    for (asked, limit), leaves in alike.items():
        hits, plan = reading.nearest(np.stack([leaf.query for leaf in leaves.values()]), limit, passing[asked][0])
        trace.searched("#embedding", plan, hits)
        found |= {(asked, leaf): (_of_query(hits, at), plan) for at, leaf in enumerate(leaves)}
    return found


def _answer(
    question: Question, candidates: RowSet, steps: Sequence[Step], dense: _Dense, reading: Reading, trace: Trace
) -> Ranked:
    plans: list[Plan] = []

    def search(leaf: Leaf) -> Hits:
        if isinstance(leaf, Near):
            hits, plan = dense[_filter(question), id(leaf)]
            plans.append(plan)
            return hits
        if isinstance(leaf, TextNear):
            hits = reading.texts().search(leaf.query, leaf.limit, candidates)
            trace.searched("#document", None, hits)
            return hits
        index = reading.fields().sparse(leaf.field)
        if index is None:
            return Hits.empty(1)
        hits = index.search(leaf.query, leaf.limit, candidates, idf=reading.view.live if leaf.idf else None)
        trace.searched(leaf.field, None, hits)
        return hits

    scores: npt.NDArray[np.float32] | None = None
    if question.rank is None:
        rows = reading.view.inserted(candidates.rows())
    else:
        rows, scores = ranking.ordered(ranking.evaluate(question.rank, search))
    trace.done("search")
    if question.groups is not None:
        metadatas = reading.store.read(rows, frozenset({Column.METADATA})).metadatas
        stay = ranking.grouped(question.groups, metadatas or (), scores)
        rows, scores = rows[stay], None if scores is None else scores[stay]
    part = slice(question.offset, None if question.limit is None else question.offset + question.limit)
    records = reading.store.read(rows[part], question.columns)
    trace.done("records")
    return Ranked(records, None if scores is None else scores[part], plans, steps, trace)


def _of_query(hits: Hits, at: int) -> Hits:
    """What a batch found for one of its queries."""
    return Hits(hits.rows[at : at + 1], hits.distances[at : at + 1], hits.counts[at : at + 1], hits.exact, hits.guard)
