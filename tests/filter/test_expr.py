"""Evaluation: equal to the plain meaning of the tree, and lazy about documents."""

from __future__ import annotations

import numpy as np
import pytest
from filter.random_metadata import CONDITIONS, METADATAS
from hypothesis import given
from hypothesis import strategies as st

from chroma_gpu.errors import InvalidFilter
from chroma_gpu.filter import (
    And,
    Columns,
    DocumentContains,
    DocumentMatches,
    DocumentNotContains,
    DocumentNotMatches,
    Eq,
    Gt,
    InIds,
    InRows,
    Ne,
    Or,
    evaluate,
    matches,
    to_dict,
)
from chroma_gpu.records import NO_ROW
from chroma_gpu.rowset import RowSet


class Texts:
    """Texts that remember the rows they were asked for. The id of row 3 is "3"."""

    def __init__(self, documents):
        self._documents = documents
        self.asked = []

    def documents(self, rows):
        for row in rows.tolist():
            self.asked.append(row)
            text = self._documents[row]
            yield None if text is None else text.encode()

    def rows_of(self, ids):
        rows = [int(id) if id.isdigit() and int(id) < len(self._documents) else NO_ROW for id in ids]
        return np.array(rows, np.uint32)


def table(metadatas, documents):
    columns = Columns()
    columns.append(0, metadatas)
    return columns, Texts(documents)


def rows(size, *numbers):
    return RowSet.of(np.array(numbers, np.uint32), size)


def passed(expr, within, columns, texts):
    return evaluate(expr, within, columns, texts)[0].rows().tolist()


FIVE = [{"n": n, "even": n % 2 == 0} for n in range(5)], ["zero", "one", "two", None, "four"]
FULL = RowSet.full(5)

TEXT = st.text(alphabet="ab é\n", max_size=4)
DOCUMENT_CONDITIONS = st.one_of(
    st.builds(DocumentContains, TEXT),
    st.builds(DocumentNotContains, TEXT),
    st.sampled_from(["a+b", "^a", "b$", r"\bé", "(?s)a.b"]).flatmap(
        lambda pattern: st.sampled_from([DocumentMatches(pattern), DocumentNotMatches(pattern)])
    ),
)
ROW_LISTS = st.lists(st.integers(0, 11), max_size=8).map(lambda numbers: InRows(rows(12, *numbers)))
ID_LISTS = st.builds(InIds, st.lists(st.integers(0, 14).map(str) | st.just("nobody"), max_size=8).map(tuple), st.booleans())
EXPRS = st.recursive(
    st.one_of(CONDITIONS, DOCUMENT_CONDITIONS, ROW_LISTS, ID_LISTS),
    lambda inner: st.builds(
        lambda kind, children: kind(tuple(children)), st.sampled_from([And, Or]), st.lists(inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    EXPRS,
    st.lists(st.tuples(METADATAS, st.none() | TEXT), min_size=12, max_size=12),
    st.sets(st.integers(0, 11)),
    st.integers(0, 12),
)
def test_evaluating_finds_what_matches(expr, records, members, size):
    metadatas, documents = zip(*records, strict=True)
    columns, texts = table(metadatas, documents)
    within = rows(12, *members).resized(size)
    encoded = [None if text is None else text.encode() for text in documents]
    expected = [row for row in sorted(members) if row < size and matches(expr, row, metadatas[row], encoded[row], str(row))]
    found, steps = evaluate(expr, within, columns, texts)
    assert found.size == size
    assert found.rows().tolist() == expected
    if within:
        assert (steps[-1].expr, steps[-1].asked, steps[-1].passed) == (expr, len(within), len(expected))
    assert sum(step.read for step in steps) == len(texts.asked)


def test_a_conjunction_reads_only_documents_of_rows_that_passed_everything_else():
    columns, texts = table(*FIVE)
    expr = And((DocumentContains("o"), Eq("even", True), InRows(rows(5, 1, 2, 3, 4))))
    assert passed(expr, FULL, columns, texts) == [2, 4]
    assert texts.asked == [2, 4]


def test_a_disjunction_reads_only_documents_of_rows_that_nothing_else_lets_pass():
    columns, texts = table(*FIVE)
    assert passed(Or((DocumentContains("one"), Eq("even", True))), FULL, columns, texts) == [0, 1, 2, 4]
    assert texts.asked == [1, 3]


def test_a_nested_disjunction_with_documents_waits_for_the_rest():
    columns, texts = table(*FIVE)
    expr = And((Or((DocumentContains("w"), Eq("n", 4))), Gt("n", 0), Eq("even", True)))
    assert passed(expr, FULL, columns, texts) == [2, 4]
    assert texts.asked == [2]


@pytest.mark.parametrize("kind", [And, Or])
def test_conditions_on_documents_that_stand_together_read_each_once(kind):
    columns, texts = table(*FIVE)
    documents = DocumentContains("o"), And((DocumentNotContains("z"), DocumentMatches("n|r")))
    evaluate(kind((*documents, Ne("n", 9) if kind is And else Eq("n", 9))), FULL, columns, texts)
    assert texts.asked == [0, 1, 2, 3, 4]


def test_nothing_is_evaluated_once_the_answer_is_empty_or_whole():
    columns, texts = table(*FIVE)
    found, steps = evaluate(And((DocumentContains("o"), Eq("n", 7))), FULL, columns, texts)
    assert (found.rows().tolist(), [step.expr for step in steps[:-1]]) == ([], [Eq("n", 7)])
    found, steps = evaluate(Or((DocumentContains("o"), Gt("n", -1))), FULL, columns, texts)
    assert (found.rows().tolist(), [step.expr for step in steps[:-1]]) == ([0, 1, 2, 3, 4], [Gt("n", -1)])
    assert evaluate(DocumentContains("o"), RowSet.empty(5), columns, texts)[1] == []
    assert texts.asked == []


def test_conditions_on_rarer_fields_go_first():
    columns, texts = table([{"often": 1}, {"often": 1, "rare": 1}, {"often": 2}], [None] * 3)
    _, steps = evaluate(And((Eq("often", 1), Eq("rare", 1))), RowSet.full(3), columns, texts)
    assert [(step.expr, step.asked, step.passed) for step in steps[:-1]] == [(Eq("rare", 1), 3, 1), (Eq("often", 1), 1, 1)]


def test_given_rows_are_those_of_them_that_are_asked_about():
    columns, texts = table(*FIVE)
    assert passed(InRows(rows(9, 0, 2, 3, 8)), rows(5, 1, 2, 3), columns, texts) == [2, 3]
    assert passed(InRows(rows(2, 0, 1)), FULL, columns, texts) == [0, 1]


def test_no_children():
    columns, texts = table(*FIVE)
    assert passed(And(()), FULL, columns, texts) == [0, 1, 2, 3, 4]
    assert passed(Or(()), FULL, columns, texts) == []


def test_depth_is_bounded_without_recursion():
    columns, texts = table(*FIVE)

    def nested(depth):
        expr = Eq("n", 1)
        for _ in range(depth):
            expr = And((expr,))
        return expr

    assert passed(nested(128), FULL, columns, texts) == [1]
    for depth in (129, 100_000):
        with pytest.raises(InvalidFilter, match="deeper than 128"):
            evaluate(nested(depth), FULL, columns, texts)


def test_columns_must_cover_the_rows():
    columns, texts = table(*FIVE)
    with pytest.raises(ValueError, match="5 rows"):
        evaluate(Eq("n", 1), RowSet.full(6), columns, texts)


def test_to_dict_shows_chromas_grammar():
    expr = And((Eq("n", 1), Or((DocumentMatches("a"), InRows(rows(5, 1, 2))))))
    assert to_dict(expr) == {"$and": [{"n": {"$eq": 1}}, {"$or": [{"#document": {"$regex": "a"}}, {"#rows": 2}]}]}
