"""Evaluation over an index: which texts are read, what a step says of it, and how little is read for the first few rows."""

from __future__ import annotations

import numpy as np
import pytest
from filter.naive_inverted import NaiveInverted
from filter.random_metadata import CONDITIONS, METADATAS
from hypothesis import given
from hypothesis import strategies as st

from chroma_gpu.bytecache import ByteCache
from chroma_gpu.filter import (
    And,
    DocumentContains,
    DocumentMatches,
    DocumentNotContains,
    DocumentNotMatches,
    Eq,
    Gt,
    Gte,
    How,
    InIds,
    Lt,
    Ne,
    Or,
    evaluate,
    evaluate_first,
    matches,
)
from chroma_gpu.filter.overlay import Overlay
from chroma_gpu.filter.view import IndexedView, KeptIndex
from chroma_gpu.rowset import RowSet


class Texts:
    """Texts that remember the rows they were asked for."""

    def __init__(self, documents):
        self._documents = documents
        self.asked = []

    def documents(self, rows):
        self.asked += rows.tolist()
        return iter([None if self._documents[row] is None else self._documents[row].encode() for row in rows.tolist()])

    def rows_of(self, ids):
        return np.array([int(id_) for id_ in ids], np.uint32)


def table(records, indexed=None, rewritten=None, doubtful=None):
    """The view and the texts of records, of which the first ones were indexed, some of them as something else."""
    indexed = len(records) if indexed is None else indexed
    before = [(rewritten or {}).get(row, record) for row, record in enumerate(records[:indexed])]
    inverted = NaiveInverted([each[0] for each in before], [each[1] for each in before], pending=rewritten or ())
    inverted.doubtful = None if doubtful is None else [row for row in doubtful if row < indexed]
    overlay = Overlay(indexed)
    late = np.array([*sorted(rewritten or ()), *range(indexed, len(records))], np.uint32)
    overlay.take(late, [records[row][0] for row in late.tolist()])
    cache = ByteCache(1 << 20)
    view = IndexedView(len(records), KeptIndex(inverted, cache.section(), cache.section()), overlay.snapshot())
    return view, Texts([document for _, document in records])


MANY = [({"n": row, "c": "ab"[row % 2]}, f"text {row} {'red' if row % 10 == 3 else 'blue'}") for row in range(400)]
RED = [row for row in range(400) if row % 10 == 3]

TEXT = st.text(alphabet="abé ", max_size=6)
ABOUT_TEXTS = st.one_of(
    st.builds(DocumentContains, TEXT),
    st.builds(DocumentNotContains, TEXT),
    st.sampled_from(["a+b", "^ab ", "ab(a|é)b", "(?i)BAB"]).flatmap(
        lambda pattern: st.sampled_from([DocumentMatches(pattern), DocumentNotMatches(pattern)])
    ),
)
EXPRS = st.recursive(
    st.one_of(CONDITIONS, ABOUT_TEXTS),
    lambda inner: st.builds(
        lambda kind, children: kind(tuple(children)), st.sampled_from([And, Or]), st.lists(inner, max_size=4)
    ),
    max_leaves=8,
)
RECORDS = st.lists(st.tuples(METADATAS, st.none() | TEXT), min_size=4, max_size=12)


@given(
    EXPRS,
    RECORDS,
    st.integers(0, 12),
    st.dictionaries(st.integers(0, 3), st.tuples(METADATAS, st.none() | TEXT)),
    st.integers(1, 5),
    st.none() | st.sets(st.integers(0, 95), max_size=40),
)
def test_evaluating_finds_what_matches(expr, records, indexed, rewritten, n, doubtful):
    # Few rows would be read without asking the index.
    records, indexed = records * 8, indexed * 8
    rewritten = {row: each for row, each in rewritten.items() if row < indexed}
    view, texts = table(records, min(indexed, len(records)), rewritten, doubtful)
    expected = [
        row
        for row, (metadata, document) in enumerate(records)
        if matches(expr, row, metadata, None if document is None else document.encode())
    ]
    found, steps = evaluate(expr, RowSet.full(len(records)), view, texts)
    assert found.rows().tolist() == expected
    assert sum(step.read for step in steps) == len(texts.asked)
    first, _ = evaluate_first(expr, RowSet.full(len(records)), view, texts, n, lambda rows: rows.rows()[::-1])
    assert first.rows().tolist()[-n:] == expected[-n:]
    assert set(first.rows().tolist()) <= set(expected)


@pytest.mark.parametrize(
    ("condition", "passed"),
    [
        (DocumentContains("red"), RED),
        (DocumentMatches("r(ed|ot)"), RED),
        (DocumentNotContains("red"), [row for row in range(400) if row not in RED]),
        (And((DocumentContains("red"), DocumentNotMatches("blue"))), RED),
    ],
)
def test_only_candidates_are_read(condition, passed):
    view, texts = table(MANY)
    found, steps = evaluate(condition, RowSet.full(400), view, texts)
    assert found.rows().tolist() == passed
    assert texts.asked == RED
    assert [(step.how, step.why, step.asked, step.read) for step in steps] == [(How.GRAMS, None, 400, len(RED))]


@pytest.mark.parametrize(
    ("condition", "passed", "read"),
    [
        (DocumentContains("red"), RED, [5, 13]),
        (DocumentContains("re"), RED, [5, 13]),
        (DocumentMatches("re(d|t)|0 r"), RED, [5, 13]),
        (DocumentNotMatches("blue"), RED, [5, 13]),
        (DocumentNotContains("red"), [row for row in range(400) if row not in RED], [5, 13]),
        (And((DocumentContains("red"), DocumentNotContains("blue"))), RED, [5, 13]),
        (Or((DocumentContains("red"), DocumentContains("blue"))), list(range(400)), [5, 13]),
        (And((DocumentContains("red"), DocumentMatches("r.d"))), RED, [*RED, 5]),
    ],
)
def test_what_the_index_knows_for_certain_is_not_read(condition, passed, read):
    view, texts = table(MANY, doubtful=[5, 13])
    found, steps = evaluate(condition, RowSet.full(400), view, texts)
    assert found.rows().tolist() == passed
    assert texts.asked == sorted(read)
    assert [(step.how, step.why, step.asked, step.read) for step in steps] == [(How.GRAMS, None, 400, len(read))]


def test_rows_that_the_index_does_not_know_are_always_read():
    view, texts = table(MANY, 390, {5: ({}, "red before")})
    found, _ = evaluate(DocumentContains("red"), RowSet.full(400), view, texts)
    assert found.rows().tolist() == RED
    assert texts.asked == sorted({*RED, 5, *range(390, 400)})


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        (DocumentContains("re"), "the text is shorter than three bytes"),
        (DocumentNotMatches("r.d"), "the pattern has no literal of three bytes"),
        (DocumentContains("text"), "every document may have it"),
    ],
)
def test_a_scan_says_why(condition, why):
    view, texts = table(MANY)
    _, steps = evaluate(condition, RowSet.full(400), view, texts)
    assert (steps[-1].how, steps[-1].why, steps[-1].read) == (How.SCAN, why, 400)
    assert len(texts.asked) == 400


def test_few_rows_are_read_without_asking_the_index():
    view, texts = table(MANY)
    _, steps = evaluate(And((Lt("n", 9), DocumentContains("red"))), RowSet.full(400), view, texts)
    assert (steps[-2].how, steps[-2].why, texts.asked) == (How.SCAN, "only 9 rows are left to decide", list(range(9)))


def test_what_was_never_indexed_is_scanned():
    view, texts = table(MANY, 0)
    _, steps = evaluate(And((DocumentContains("red"), Eq("c", "a"))), RowSet.full(400), view, texts)
    assert [step.how for step in steps] == [How.COLUMNS, How.SCAN, How.COMBINED]
    assert steps[1].why == "no document is indexed yet"


def test_bounds_that_stand_together_are_one_step():
    view, texts = table(MANY)
    expr = And((Gte("n", 10), Ne("c", "a"), Lt("n", 20)))
    found, steps = evaluate(expr, RowSet.full(400), view, texts)
    assert found.rows().tolist() == [11, 13, 15, 17, 19]
    assert {step.expr for step in steps} == {And((Gte("n", 10), Lt("n", 20))), Ne("c", "a"), expr}


def test_the_first_rows_take_few_texts():
    view, texts = table(MANY)
    found, _ = evaluate_first(DocumentContains("e"), RowSet.full(400), view, texts, 5, RowSet.rows)
    assert found.rows().tolist()[:5] == [0, 1, 2, 3, 4]
    assert texts.asked == list(range(64))


def test_the_first_rows_are_those_of_the_order_that_is_asked_for():
    view, texts = table(MANY)
    expr = And((DocumentContains("blue"), Gt("n", 100)))
    found, _ = evaluate_first(expr, RowSet.full(400), view, texts, 70, lambda rows: rows.rows()[::-1])
    blue = [row for row in range(399, 100, -1) if row not in RED]
    assert found.rows().tolist()[::-1][:70] == blue[:70]
    assert set(texts.asked) == set(blue[:70])


def test_ids_are_no_reason_to_read_more():
    view, texts = table(MANY)
    expr = And((InIds(("3", "4", "13")), DocumentContains("red")))
    assert evaluate_first(expr, RowSet.full(400), view, texts, 1, RowSet.rows)[0].rows().tolist() == [3, 13]
    assert texts.asked == [3, 4, 13]
