"""where and where_document: what they mean, what is refused, in whose words. The messages were recorded from Chroma 1.5.9."""

from __future__ import annotations

import pytest
from filter.random_metadata import CONDITIONS
from hypothesis import given
from hypothesis import strategies as st

from chroma_gpu.api.where import (
    MAX_CLAUSES,
    MAX_VALUES,
    parse_where,
    parse_where_document,
    validate_where,
    validate_where_document,
)
from chroma_gpu.errors import InvalidArgumentError, InvalidFilter
from chroma_gpu.filter import (
    And,
    Contains,
    DocumentContains,
    DocumentMatches,
    DocumentNotContains,
    DocumentNotMatches,
    Eq,
    Gt,
    Gte,
    In,
    InIds,
    Lt,
    Lte,
    Ne,
    NotContains,
    NotIn,
    Or,
    to_dict,
)

VALUE = "where value to be a str, int, float, or operator expression"
BRANCHES = "where value for $and or $or to be a list"
OPERATORS = "where operator to be one of $gt, $gte, $lt, $lte, $ne, $eq, $in, $nin, $contains, $not_contains"
OPERAND = "where operand value to be a str, int, float, bool, or list of those type"
LIST = "where operand value to be a non-empty list, and all values to be of the same type"
KEY = "where key to be a metadata field name or a logical operator ($and, $or)"
DOCUMENT_OPERATORS = "where document operator to be one of $contains, $not_contains, $regex, $not_regex, $and, $or"
DOCUMENT_BRANCHES = "document value for $and or $or to be a list"


@pytest.mark.parametrize(
    ("where", "expr"),
    [
        ({"k": 1}, Eq("k", 1)),
        ({"k": True}, Eq("k", True)),
        ({"k": "a"}, Eq("k", "a")),
        ({"k": {"$eq": 1.5}}, Eq("k", 1.5)),
        ({"k": {"$ne": "a"}}, Ne("k", "a")),
        ({"k": {"$gt": 1}}, Gt("k", 1)),
        ({"k": {"$gte": 1}}, Gte("k", 1)),
        ({"k": {"$lt": 1.5}}, Lt("k", 1.5)),
        ({"k": {"$lte": 1}}, Lte("k", 1)),
        ({"k": {"$in": ["a", "b"]}}, In("k", ("a", "b"))),
        ({"k": {"$nin": [True]}}, NotIn("k", (True,))),
        ({"k": {"$contains": 1}}, Contains("k", 1)),
        ({"k": {"$not_contains": "a"}}, NotContains("k", "a")),
        ({"": 1}, Eq("", 1)),
        ({"k": 2**64}, Eq("k", 2**64)),
        ({"$and": [{"a": 1}, {"$or": [{"b": 2}, {"c": 3}]}]}, And((Eq("a", 1), Or((Eq("b", 2), Eq("c", 3)))))),
        ({"#document": {"$contains": "a"}}, DocumentContains("a")),
        ({"#document": {"$not_contains": ""}}, DocumentNotContains("")),
        ({"$and": [{"a": 1}, {"#document": {"$contains": "a"}}]}, And((Eq("a", 1), DocumentContains("a")))),
        ({"#document": 1}, Eq("#document", 1)),
    ],
)
def test_where(where, expr):
    assert parse_where(where) == expr
    assert parse_where(where, lenient=True) == expr


@pytest.mark.parametrize(
    ("where_document", "expr"),
    [
        ({"$contains": "a"}, DocumentContains("a")),
        ({"$not_contains": "a"}, DocumentNotContains("a")),
        ({"$regex": "a+"}, DocumentMatches("a+")),
        ({"$not_regex": "a+"}, DocumentNotMatches("a+")),
        ({"$or": [{"$contains": "a"}, {"$regex": "b"}]}, Or((DocumentContains("a"), DocumentMatches("b")))),
    ],
)
def test_where_document(where_document, expr):
    assert parse_where_document(where_document) == expr
    assert parse_where_document(where_document, lenient=True) == expr


@pytest.mark.parametrize(
    ("condition", "expr"),
    [
        ("a", InIds(("a",))),
        ({"$eq": "a"}, InIds(("a",))),
        ({"$ne": "a"}, InIds(("a",), others=True)),
        ({"$in": ["a", "b"]}, InIds(("a", "b"))),
        ({"$nin": ["a", "b"]}, InIds(("a", "b"), others=True)),
    ],
)
def test_conditions_on_ids(condition, expr):
    assert parse_where({"#id": condition}) == expr


@pytest.mark.parametrize(
    "condition", [1, {"$gt": 1}, {"$contains": "a"}, {"$in": [1]}, {"$ne": True}, "\ud800", {"$in": ["\ud800"]}]
)
def test_conditions_on_ids_that_cannot_be(condition):
    with pytest.raises(InvalidFilter, match="#id takes"):
        parse_where({"#id": condition})


def test_the_server_takes_more_than_the_client():
    assert parse_where({"$and": []}, lenient=True) == And(())
    assert parse_where({"$or": [{"a": 1}]}, lenient=True) == Or((Eq("a", 1),))
    assert parse_where({"#document": {"$regex": "a"}}, lenient=True) == DocumentMatches("a")
    assert parse_where_document({"$or": []}, lenient=True) == Or(())


WRITABLE = CONDITIONS.filter(lambda condition: condition.accepts(condition.operand))


@given(st.recursive(WRITABLE, lambda inner: st.lists(inner, min_size=2, max_size=3).map(lambda some: And(tuple(some)))))
def test_what_is_shown_parses_to_the_same(expr):
    assert parse_where(to_dict(expr)) == expr


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ([], "where to be a dict, got []"),
        ("a", "where to be a dict, got a"),
        (3, "where to be a dict, got 3"),
        (None, "where to be a dict, got None"),
        ({}, "where to have exactly one operator, got {}"),
        ({"a": 1, "b": 2}, "where to have exactly one operator, got {'a': 1, 'b': 2}"),
        ({1: 2}, "where key to be a str, got 1"),
        ({"$contains": "a"}, f"{KEY}, got $contains"),
        ({"$not_contains": "a"}, f"{KEY}, got $not_contains"),
        ({"v": [1, 2]}, f"{VALUE}, got [1, 2]"),
        ({"v": None}, f"{VALUE}, got None"),
        ({"v": (1, 2)}, f"{VALUE}, got (1, 2)"),
        ({"$not": [{"i": 1}]}, f"{VALUE}, got [{{'i': 1}}]"),
        ({"$and": []}, f"{BRANCHES} with at least two where expressions, got []"),
        ({"$or": [{"i": 1}]}, f"{BRANCHES} with at least two where expressions, got [{{'i': 1}}]"),
        ({"$and": {"i": 1}}, f"{BRANCHES} of where expressions, got {{'i': 1}}"),
        ({"$and": "a"}, f"{BRANCHES} of where expressions, got a"),
        ({"$and": [{"i": 1}, {}]}, "where to have exactly one operator, got {}"),
        ({"$and": [{"i": 1}, 3]}, "where to be a dict, got 3"),
        ({"$and": [{"i": 1}, {"$and": [{"i": 1}]}]}, f"{BRANCHES} with at least two where expressions, got [{{'i': 1}}]"),
        ({"v": {}}, "operator expression to have exactly one operator, got {}"),
        ({"v": {"$eq": 1, "$ne": 2}}, "operator expression to have exactly one operator, got {'$eq': 1, '$ne': 2}"),
        ({"v": {"$foo": 1}}, f"{OPERATORS}, got $foo"),
        ({"v": {1: 2}}, f"{OPERATORS}, got 1"),
        ({"v": {"$and": [{"$gt": 1}, {"$lt": 3}]}}, f"{OPERATORS}, got $and"),
        ({"#document": {"$regex": "a"}}, f"{OPERATORS}, got $regex"),
        ({"v": {"$gt": "a"}}, "operand value to be an int or a float for operator $gt, got a"),
        ({"v": {"$lte": [1]}}, "operand value to be an int or a float for operator $lte, got [1]"),
        ({"v": {"$in": (1, 2)}}, "operand value to be an list for operator $in, got (1, 2)"),
        ({"v": {"$contains": [1]}}, "operand value to be a str, int, float, or bool for operator $contains, got [1]"),
        ({"v": {"$not_contains": None}}, "operand value to be a str, int, float, or bool for operator $not_contains, got None"),
        ({"#document": {"$contains": 1}}, "operand value to be a str for operator $contains on #document, got 1"),
        ({"v": {"$eq": None}}, f"{OPERAND}, got None"),
        ({"v": {"$eq": {"a": 1}}}, f"{OPERAND}, got {{'a': 1}}"),
        ({"v": {"$in": []}}, f"{LIST} got []"),
        ({"v": {"$in": [True, 1]}}, f"{LIST} got [True, 1]"),
        ({"v": {"$in": [1, 1.5]}}, f"{LIST} got [1, 1.5]"),
        ({"v": {"$nin": ["a", None]}}, f"{LIST} got ['a', None]"),
    ],
)
def test_where_refused_as_by_chromas_client(where, message):
    for check in (parse_where, validate_where):
        with pytest.raises(ValueError, match=r"^Expected") as caught:
            check(where)
        assert str(caught.value) == f"Expected {message}"
        assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    ("where_document", "message"),
    [
        ([], "where document to be a dictionary, got []"),
        ("a", "where document to be a dictionary, got a"),
        ({}, "where document to have exactly one operator, got {}"),
        (
            {"$contains": "a", "$regex": "b"},
            "where document to have exactly one operator, got {'$contains': 'a', '$regex': 'b'}",
        ),
        ({"$foo": "a"}, f"{DOCUMENT_OPERATORS}, got $foo"),
        ({1: "a"}, f"{DOCUMENT_OPERATORS}, got 1"),
        ({"$and": []}, f"{DOCUMENT_BRANCHES} with at least two where document expressions, got []"),
        ({"$and": "x"}, f"{DOCUMENT_BRANCHES} of where document expressions, got x"),
        ({"$and": [{"$contains": "a"}, 3]}, "where document to be a dictionary, got 3"),
        ({"$contains": ""}, "where document operand value for operator $contains to be a non-empty str"),
        ({"$not_regex": ""}, "where document operand value for operator $not_regex to be a non-empty str"),
        ({"$contains": 1}, "where document operand value for operator $contains to be a str, got 1"),
        ({"$regex": ["a"]}, "where document operand value for operator $regex to be a str, got ['a']"),
    ],
)
def test_where_document_refused_as_by_chromas_client(where_document, message):
    for check in (parse_where_document, validate_where_document):
        with pytest.raises(ValueError, match=r"^Expected") as caught:
            check(where_document)
        assert str(caught.value) == f"Expected {message}"
        assert type(caught.value) is ValueError


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "where",
    [
        *(
            {"v": {"$gt": True}},
            {"v": {"$lte": False}},
            {"v": {"$in": [1, True]}},
            {"v": {"$in": [[1]]}},
            {"v": {"$in": [{"a": 1}]}},
        ),
        *({"v": {"$eq": [1, 2]}}, {"v": {"$ne": ["a"]}}, {"v": NAN}, {"v": INF}, {"v": {"$ne": NAN}}, {"v": {"$gte": -INF}}),
        *({"$in": [1, 2]}, {"$nin": [1]}, {"$in": "a"}, {"$in": 1}, {"$in": {"$eq": 1}}, {"$eq": 1}, {"$eq": {"$eq": 1}}),
        *({"$foo": 1}, {"$gt": 5}, {"$regex": "a"}, {"v": "\ud800"}, {"\ud800": 1}, {"v": {"$in": ["a", "\ud800"]}}),
        {"$or": [{"a": 1}, {"v": {"$gt": True}}]},
    ],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_where_refused_as_by_chromas_engine(where, lenient):
    with pytest.raises(InvalidArgumentError, match=r"^Invalid where clause") as caught:
        parse_where(where, lenient=lenient)
    assert caught.value.hint


@pytest.mark.parametrize(
    "where", [[], 3, {}, {"a": 1, "b": 2}, {"$and": {"a": 1}}, {1: 1}, {"a": {"$x": 1}}, {"a": None}, {"$and": [3]}]
)
def test_the_server_refuses_as_the_engine_does(where):
    with pytest.raises(InvalidFilter, match=r"^Invalid where clause"):
        parse_where(where, lenient=True)


@pytest.mark.parametrize("where_document", [{}, 3, {"$contains": 1}, {"$x": "a"}, {"$and": "a"}, {1: "a"}, {"$regex": "\ud800"}])
def test_the_server_refuses_document_filters_as_the_engine_does(where_document):
    with pytest.raises(InvalidFilter, match=r"^Invalid where document clause"):
        parse_where_document(where_document, lenient=True)


@pytest.mark.parametrize("condition", ["a", {"$eq": "a"}, {"$ne": "a"}, {"$in": ["a"]}])
def test_the_document_is_no_metadata(condition):
    message = r"^Cannot filter using metadata key '#document' with type 'Str' because indexing is disabled"
    with pytest.raises(InvalidArgumentError, match=message):
        parse_where({"#document": condition})


def test_a_malformed_pattern_is_refused_while_parsing():
    with pytest.raises(InvalidArgumentError, match=r"^Regex syntax errror: regex parse error:\n"):
        parse_where_document({"$not_regex": "("})


PARSERS = pytest.mark.parametrize(
    ("parse", "leaf"), [(parse_where, {"a": {"$eq": 1}}), (parse_where, {"a": 1}), (parse_where_document, {"$contains": "a"})]
)


@PARSERS
@pytest.mark.parametrize("lenient", [False, True])
def test_depth_is_bounded_without_recursion(parse, leaf, lenient):
    def nested(depth):
        where = leaf
        for _ in range(depth):
            where = {"$and": [where, leaf]}
        return where

    parse(nested(64), lenient=lenient)
    for depth in (66, 100_000):
        with pytest.raises(InvalidFilter, match="deeper than 64 levels"):
            parse(nested(depth), lenient=lenient)


@pytest.mark.parametrize(
    "step", [lambda inner: [inner], lambda inner: {"$eq": inner}, lambda inner: {"a": 1, "b": inner}, lambda inner: (inner,)]
)
def test_nonsense_of_any_depth_is_refused(step):
    where = 1
    for _ in range(100_000):
        where = step(where)
    with pytest.raises(InvalidFilter, match="deeper than 64 levels"):
        parse_where({"a": where})


def test_what_holds_itself_is_refused():
    circle = {"$and": []}
    circle["$and"] += [circle, circle]
    with pytest.raises(InvalidFilter, match="more than 2000 clauses"):
        parse_where(circle)


@PARSERS
def test_clauses_are_bounded(parse, leaf):
    parse({"$or": [leaf] * (MAX_CLAUSES - 1)})
    for clauses in (MAX_CLAUSES, 5_000):
        with pytest.raises(InvalidFilter, match="more than 2000 clauses"):
            parse({"$or": [leaf] * clauses})


def test_values_are_bounded():
    assert len(parse_where({"a": {"$in": list(range(MAX_VALUES))}}).operand) == MAX_VALUES
    with pytest.raises(InvalidFilter, match="100001 values, of 100000 at most"):
        parse_where({"a": {"$in": list(range(MAX_VALUES + 1))}})
