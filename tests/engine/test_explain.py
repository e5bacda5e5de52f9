"""Explanations: the tree of a filter from the steps of its evaluation, what is said of plans, and that times add up."""

from __future__ import annotations

import json

import numpy as np
import pytest

from chroma_gpu.engine.explain import explanation
from chroma_gpu.engine.planner import Considered, Plan, Way
from chroma_gpu.engine.trace import Trace
from chroma_gpu.engine.view import View
from chroma_gpu.filter import DOCUMENT_OPERATORS, OPERATORS
from chroma_gpu.filter.expr import And, How, InIds, Or, Step
from chroma_gpu.records import Hits
from chroma_gpu.rowset import RowSet

LIVE = RowSet.full(1_000)
OLD, EN, DE, LONG = (OPERATORS[token](field, operand) for token, field, operand in [
    ("$gte", "year", 2020), ("$eq", "lang", "en"), ("$eq", "lang", "de"), ("$gt", "size", 5),
])  # fmt: skip
WORD, OTHER = DOCUMENT_OPERATORS["$contains"]("word"), DOCUMENT_OPERATORS["$contains"]("other")


def step(expr, asked, passed, how=How.INDEX, read=0, why=None):
    return Step(expr, asked, passed, read, 1e-5, how, why)


def explained(expr, steps, candidates=LIVE, searches=()):
    trace = Trace()
    trace.seen(View(1, 4, LIVE, 1_000, None))
    trace.filtered(expr, candidates, steps)
    for search in searches:
        trace.searched(*search)
    trace.done("records")
    return explanation(trace, "shipped defaults")


def shape(condition):
    """(condition, asked, passed, how, parts), nested."""
    return condition.condition, condition.asked, condition.passed, condition.how, [shape(part) for part in condition.parts]


def leaf(expr, asked, passed, how="index"):
    [(field, condition)] = [(expr.field, {expr.token: expr.operand})]
    return {field: condition}, asked, passed, how, []


def test_a_condition_alone():
    told = explained(EN, [step(EN, 1_000, 300)])
    assert shape(told.filter) == leaf(EN, 1_000, 300)
    assert (told.filter.microseconds, told.filter.why, told.filter.read) == (10.0, None, 0)


def test_no_filter():
    told = explained(None, ())
    assert told.filter is None
    assert (told.rows, told.live, told.candidates) == (1_000, 1_000, 1_000)
    assert "none" in str(told)


def test_parts_stand_under_what_they_are_parts_of():
    tree = And((Or((EN, DE)), OLD, And((LONG, EN))))
    steps = [
        step(OLD, 1_000, 500),
        step(EN, 500, 100), step(DE, 400, 50), step(Or((EN, DE)), 500, 150, How.COMBINED),
        step(LONG, 150, 20), step(EN, 20, 10), step(And((LONG, EN)), 150, 10, How.COMBINED),
        step(tree, 1_000, 10, How.COMBINED),
    ]  # fmt: skip
    assert shape(explained(tree, steps).filter) == (
        "$and", 1_000, 10, "combined", [
            leaf(OLD, 1_000, 500),
            ("$or", 500, 150, "combined", [leaf(EN, 500, 100), leaf(DE, 400, 50)]),
            ("$and", 150, 10, "combined", [leaf(LONG, 150, 20), leaf(EN, 20, 10)]),
        ],
    )  # fmt: skip


def test_what_was_not_asked_is_shown_as_such():
    tree = And((OLD, Or((EN, DE))))
    told = explained(tree, [step(OLD, 1_000, 0), step(tree, 1_000, 0, How.COMBINED)], RowSet.empty(1_000))
    assert shape(told.filter)[4][1] == (
        "$or", 0, 0, "not asked", [leaf(EN, 0, 0, "not asked"), leaf(DE, 0, 0, "not asked")]
    )  # fmt: skip
    assert told.candidates == 0
    assert shape(explained(EN, ()).filter) == leaf(EN, 0, 0, "not asked")


def test_the_same_condition_twice():
    tree = Or((EN, EN))
    told = explained(tree, [step(EN, 1_000, 300), step(EN, 700, 0), step(tree, 1_000, 300, How.COMBINED)])
    assert shape(told.filter)[4] == [leaf(EN, 1_000, 300), leaf(EN, 700, 0)]
    told = explained(tree, [step(EN, 1_000, 1_000), step(tree, 1_000, 1_000, How.COMBINED)])
    assert shape(told.filter)[4] == [leaf(EN, 1_000, 1_000), leaf(EN, 0, 0, "not asked")]


def test_conditions_that_were_answered_together_are_one_part():
    both = And((WORD, OTHER))
    tree = And((WORD, OLD, OTHER))
    steps = [
        step(OLD, 1_000, 200),
        step(both, 200, 5, How.SCAN, 200, "no piece of three bytes"),
        step(tree, 1_000, 5, How.COMBINED),
    ]
    first, second = explained(tree, steps).filter.parts
    assert shape(first) == leaf(OLD, 1_000, 200)
    assert (second.condition, second.how, second.why, second.read) == (
        {"$and": [{"#document": {"$contains": "word"}}, {"#document": {"$contains": "other"}}]}, "scan", "no piece of three bytes", 200,
    )  # fmt: skip


def test_what_was_kept_has_the_parts_that_it_had():
    tree = And((OLD, EN, DE))
    told = explained(tree, [step(OLD, 1_000, 500), step(EN, 500, 0), step(tree, 1_000, 0, How.KEPT)])
    parts = [leaf(OLD, 1_000, 500), leaf(EN, 500, 0), leaf(DE, 0, 0, "not asked")]
    assert shape(told.filter) == ("$and", 1_000, 0, "kept", parts)


def test_what_was_answered_as_a_whole_has_no_parts():
    both = And((WORD, OTHER))
    told = explained(both, [step(both, 1_000, 5, How.GRAMS, 20)])
    assert (told.filter.condition, told.filter.parts) == (
        {"$and": [{"#document": {"$contains": "word"}}, {"#document": {"$contains": "other"}}]}, (),
    )  # fmt: skip


def test_ids_are_shown():
    ids = InIds(("a", "b"))
    assert explained(ids, [step(ids, 1_000, 2, How.GIVEN)]).filter.condition == {"#id": {"$in": ["a", "b"]}}


def test_searches_without_a_plan():
    hits = Hits(np.zeros((1, 3), np.uint32), np.zeros((1, 3), np.float32), np.array([3], np.int32))
    told = explained(None, (), searches=[("words", None, hits)])
    (search,) = told.searches
    assert (search.field, search.queries, search.k, search.expected, search.considered) == ("words", 1, 3, None, ())


def test_why_other_plans_were_not_taken():
    hits = Hits(np.zeros((1, 3), np.uint32), np.zeros((1, 3), np.float32), np.array([3], np.int32))
    ways = (
        Considered(Way.SCAN, None, 90.0, 1.0),
        Considered(Way.GATHER, None, 100.0, 1.0),
        Considered(Way.INDEX, "codes", 104.0, 0.9999),
        Considered(Way.INDEX, "hnsw", 250.0, None),
    )
    plan = Plan(Way.GATHER, None, 10, 1_000, 3, 100.0, ways)
    told = explained(None, (), searches=[("#embedding", plan, hits)])
    (search,) = told.searches
    assert (search.way, search.expected, search.recall) == ("gather", 100.0, 1.0)
    assert [(each.way, each.recall, each.taken) for each in search.considered] == [
        ("scan", 1.0, False), ("gather", 1.0, True), ("index(codes)", 0.9999, False), ("index(hnsw)", None, False),
    ]  # fmt: skip
    last, taken, alike, dear = (each.why for each in search.considered)
    assert "last query" in last
    assert taken == ""
    assert (alike, dear) == ("about as expensive", "2.5 times as expensive")


@pytest.mark.parametrize("exact", [True, False])
def test_an_answer_is_exact_if_every_search_was(exact):
    def hits(exact, guard):
        return Hits(np.zeros((2, 3), np.uint32), np.zeros((2, 3), np.float32), np.full(2, 3, np.int32), exact, guard)

    told = explained(None, (), searches=[("#embedding", None, hits(True, None)), ("#embedding", None, hits(exact, "passed"))])
    assert told.exact is exact
    assert [search.guard for search in told.searches] == [None, "passed"]
    assert "guard: passed" in str(told)


def test_times_add_up_and_everything_is_json():
    told = explained(EN, [step(EN, 1_000, 300)])
    stages = dict(told.microseconds)
    assert stages.pop("total") == pytest.approx(sum(stages.values()), abs=0.11)
    assert list(stages) == ["state", "filter", "records"]
    said = told.to_dict()
    assert json.loads(json.dumps(said)) == said
    assert said["filter"]["condition"] == {"lang": {"$eq": "en"}}


def test_a_trace_of_nothing_cannot_be_explained():
    with pytest.raises(ValueError, match="nothing was answered"):
        explanation(Trace(), "shipped defaults")
