"""Search expressions have the JSON form of chromadb's own classes, and refuse what those refuse, with the same words."""

from __future__ import annotations

import chromadb.base_types
import chromadb.execution.expression as theirs
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import chroma_gpu.execution.expression as ours
import chroma_gpu.execution.expression.operator
import chroma_gpu.execution.expression.plan
from chroma_gpu.api.search.expression import check_size
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.records import SparseVector

SPARSE = {ours: SparseVector, theirs: chromadb.base_types.SparseVector}

KEYS = st.sampled_from(["a", "b", "#id", "#document"])
SCALARS = st.one_of(st.integers(-3, 3), st.floats(-2, 2), st.booleans(), st.sampled_from(["x", "y"]))
NUMBERS = st.one_of(st.integers(-3, 3), st.floats(0.1, 2))

CONDITIONS = st.recursive(
    st.one_of(
        st.tuples(st.sampled_from(["__eq__", "__ne__", "__gt__", "__ge__", "__lt__", "__le__"]), KEYS, SCALARS),
        st.tuples(st.sampled_from(["is_in", "not_in"]), KEYS, st.lists(SCALARS, max_size=3)),
        st.tuples(st.sampled_from(["contains", "not_contains", "regex", "not_regex"]), KEYS, st.sampled_from(["x", "y"])),
    ),
    lambda inner: st.tuples(st.sampled_from(["__and__", "__or__"]), inner, inner),
    max_leaves=8,
)
QUERIES = st.sampled_from(
    ["text", [0.5, 1.0], np.array([1.0, 2.0], np.float32), np.array([3, 4]), ("sparse", [1, 5], [0.5, 1.0])]
)
KNNS = st.tuples(
    st.just("knn"),
    QUERIES,
    st.sampled_from(["#embedding", "s"]),
    st.booleans(),
    st.integers(1, 9),
    st.none() | NUMBERS,
    st.booleans(),
)
RANKS = st.recursive(
    st.one_of(KNNS, st.tuples(st.just("val"), NUMBERS)),
    lambda inner: st.one_of(
        st.tuples(
            st.sampled_from(["__add__", "__sub__", "__mul__", "__truediv__", "max", "min"]), inner, st.one_of(inner, NUMBERS)
        ),
        st.tuples(st.sampled_from(["__radd__", "__rsub__", "__rmul__", "__rtruediv__"]), inner, NUMBERS),
        st.tuples(st.sampled_from(["__neg__", "__abs__", "abs", "exp", "log"]), inner),
        st.tuples(
            st.just("rrf"),
            st.lists(st.tuples(inner, st.floats(0.1, 3)), min_size=1, max_size=3),
            st.booleans(),
            st.integers(1, 60),
        ),
    ),
    max_leaves=8,
)


def condition(module, tree):
    name, left, right = tree
    if name in ("__and__", "__or__"):
        return getattr(condition(module, left), name)(condition(module, right))
    return getattr(module.Key(left), name)(right)


def rank(module, tree):
    if not isinstance(tree, tuple):
        return tree
    name, *rest = tree
    if name == "val":
        return module.Val(*rest)
    if name == "knn":
        query, key, as_key, limit, default, ranked = rest
        query = SPARSE[module](*query[1:]) if isinstance(query, tuple) else query
        return module.Knn(query, module.Key(key) if as_key else key, limit, default, ranked)
    if name == "rrf":
        parts, normalize, k = rest
        return module.Rrf([rank(module, part) for part, _ in parts], k, [weight for _, weight in parts], normalize)
    return getattr(rank(module, rest[0]), name)(*(rank(module, each) for each in rest[1:]))


@given(CONDITIONS)
def test_conditions_have_the_same_json(tree):
    mine, other = condition(ours, tree), condition(theirs, tree)
    assert mine.to_dict() == other.to_dict()
    assert ours.Where.from_dict(mine.to_dict()).to_dict() == theirs.Where.from_dict(other.to_dict()).to_dict()
    assert type(mine).__name__ == type(other).__name__


@given(RANKS)
def test_ranks_have_the_same_json(tree):
    mine, other = rank(ours, tree), rank(theirs, tree)
    assert mine.to_dict() == other.to_dict()
    assert type(mine).__name__ == type(other).__name__
    assert rank(ours, tree) == mine


@given(
    st.none() | CONDITIONS,
    st.none() | RANKS,
    st.tuples(st.integers(-1, 5), st.integers(-1, 5)),
    st.sets(st.sampled_from(["#id", "#score", "a"])),
)
def test_whole_searches_have_the_same_json(where, ranking, page, keys):
    def built(module):
        search = module.Search(group_by=module.GroupBy(module.Key("g"), module.MinK([module.Key.SCORE, "b"], 2)))
        search = search.where(None if where is None else condition(module, where))
        search = search.rank(None if ranking is None else rank(module, ranking)).limit(*page).select(*keys)
        said = search.to_dict()
        said["select"]["keys"].sort()
        return said

    assert built(ours) == built(theirs)


WORDS = [
    *["$and", "$or", "$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$contains", "$not_contains", "$regex"],
    *["$not_regex", "$val", "$knn", "$sum", "$sub", "$mul", "$div", "$abs", "$exp", "$log", "$max", "$min", "$min_k", "$max_k"],
    *["a", "#document", "#type", "left", "right", "query", "key", "limit", "offset", "default", "return_rank", "keys"],
    *["aggregate", "k", "$what"],
]
JSON = st.recursive(
    st.one_of(st.none(), SCALARS, st.just([]), st.just({}), st.just([0.5, 1.0]), st.just([[1.0], [2.0]])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(WORDS),
            inner,
            max_size=2,
        ),
    ),
    max_leaves=10,
)


def outcome(parse, data):
    try:
        return parse(data).to_dict()
    except Exception as error:  # both sides are compared, whatever they raise
        return type(error), str(error)


VAL = {"$val": 1}


@pytest.mark.parametrize("kind", ["Where", "Rank", "Limit", "Select", "GroupBy", "Aggregate"])
@given(data=JSON)
@example(data={"$and": [{"a": 1}], "b": 2})
@example(data={"a": {"$in": "x"}})
@example(data={"a": {"$contains": None}})
@example(data={"#document": {"$contains": 1}})
@example(data={"a": {"$regex": 1}})
@example(data={1: 2})
@example(data={"$sum": [VAL]})
@example(data={"$sum": VAL})
@example(data={"$max": [VAL, {"$max": [VAL, VAL]}]})
@example(data={"$sub": {"left": VAL}})
@example(data={"$sub": [VAL]})
@example(data={"$abs": 1})
@example(data={"$val": "1"})
@example(data={"$knn": {"query": [1.0], "limit": 0}})
@example(data={"$knn": {"query": [1.0], "limit": 1.5}})
@example(data={"$knn": {"query": [1.0], "key": 1}})
@example(data={"$knn": {"query": [1.0], "return_rank": 1}})
@example(data={"$knn": {"query": [[1.0], [2.0]]}})
@example(data={"$knn": {"query": []}})
@example(data={"$knn": {"query": "text"}})
@example(data={"$knn": {"query": {"#type": "other"}}})
@example(data={"$knn": {"query": {"#type": "sparse_vector", "indices": [2, 1], "values": [1.0, 1.0]}}})
@example(data={"offset": -1})
@example(data={"limit": 0})
@example(data={"limit": "1"})
@example(data={"limit": 1, "more": 2})
@example(data={"keys": ["a"], "more": 2})
@example(data={"keys": [1]})
@example(data={"keys": "a"})
@example(data={"keys": ["a"]})
@example(data={"keys": [], "aggregate": {}})
@example(data={"keys": ["a"], "aggregate": {"$min_k": {"keys": [], "k": 1}}})
@example(data={"keys": ["a"], "aggregate": {"$min_k": {"keys": ["#score"], "k": 1}}})
@example(data={"$min_k": {"keys": ["a"], "k": 0}})
@example(data={"$min_k": {"keys": ["a"], "k": "1"}})
@example(data={"$max_k": {"keys": "a", "k": 1}})
@example(data={"$max_k": {"k": 1}})
@example(data={"$max_k": 1, "$min_k": 2})
def test_json_is_read_or_refused_alike(kind, data):
    assert outcome(getattr(ours, kind).from_dict, data) == outcome(getattr(theirs, kind).from_dict, data)


@pytest.mark.parametrize(
    "given",
    [
        {"where": "x"},
        {"rank": 0.5},
        {"group_by": "x"},
        {"limit": "10"},
        {"select": 123},
        {"limit": -1},
        {"select": [1]},
        {"limit": 3, "select": {"a"}, "where": {"a": 1}, "rank": {"$val": 1}},
    ],
)
def test_searches_are_made_or_refused_alike(given):
    assert outcome(lambda data: ours.Search(**data), given) == outcome(lambda data: theirs.Search(**data), given)


@pytest.mark.parametrize(
    "given",
    [
        {"ranks": []},
        {"ranks": [0], "k": 0},
        {"ranks": [0], "weights": [1.0, 2.0]},
        {"ranks": [0], "weights": [-1.0]},
        {"ranks": [0, 0], "weights": [0.0, 0.0], "normalize": True},
    ],
)
def test_fusion_refuses_what_it_cannot_do(given):
    def made(module):
        return lambda data: module.Rrf(**{**data, "ranks": [module.Val(each) for each in data["ranks"]]})

    assert outcome(made(ours), given) == outcome(made(theirs), given)


def test_the_names_are_chromas():
    assert set(theirs.__all__) <= set(ours.__all__)
    assert all(getattr(ours, name) is not None for name in ours.__all__)
    assert chroma_gpu.execution.expression.operator.Knn is ours.Knn
    assert chroma_gpu.execution.expression.plan.Search is ours.Search


def test_expressions_are_equal_by_what_they_say():
    assert ours.Knn(np.array([1.0, 2.0])) == ours.Knn([1.0, 2.0])
    assert ours.Knn([1.0], key="a") != ours.Knn([1.0], key="b")
    assert ours.MinK(ours.Key("a"), 1) != ours.MinK(ours.Key("b"), 1)
    assert ours.MinK(ours.Key("a"), 1) != ours.MaxK(ours.Key("a"), 1)
    assert ours.Select({ours.Key("a"), "b"}) == ours.Select({"a", ours.Key("b")}) != ours.Select({"a"})
    assert repr(ours.Key("a") == 1) == "Eq(key='a', value=1)"


def test_a_step_leaves_the_search_before_it_as_it_was():
    first = ours.Search(limit=3)
    second = first.limit(5).where({"a": 1})
    assert (first.to_dict()["limit"], first.to_dict()["filter"]) == ({"offset": 0, "limit": 3}, None)
    assert (second.to_dict()["limit"], second.to_dict()["filter"]) == ({"offset": 0, "limit": 5}, {"a": {"$eq": 1}})


def test_only_ranks_and_numbers_can_be_computed_with():
    with pytest.raises(TypeError, match="Expected a rank or a number, got str"):
        ours.Val(1) + "x"
    with pytest.raises(TypeError, match="Expected a rank or a number, got NoneType"):
        ours.Val(1).max(None)
    assert (ours.Val(1) * np.float32(0.5)).to_dict() == {"$mul": [{"$val": 1}, {"$val": 0.5}]}


def deep(token, leaf, wrap):
    data = leaf
    for _ in range(100_000):
        data = {token: wrap(data)}
    return data


@pytest.mark.parametrize(
    ("parse", "data", "words"),
    [
        (ours.Rank.from_dict, deep("$abs", {"$val": 1}, lambda inner: inner), "nested deeper"),
        (ours.Rank.from_dict, deep("$sum", {"$val": 1}, lambda inner: [inner, {"$val": 1}]), "nested deeper"),
        (ours.Where.from_dict, deep("$and", {"a": 1}, lambda inner: [inner]), "nested deeper"),
        (ours.Rank.from_dict, {"$max": [{"$val": 1}] * 50_000}, "more than"),
        (ours.Where.from_dict, {"$or": [{"a": 1}] * 50_000}, "more than"),
        (lambda data: ours.Search(where=data), {"$or": [{"a": 1}] * 50_000}, "more than"),
    ],
    ids=["deep rank", "deep sum", "deep condition", "wide rank", "wide condition", "wide search"],
)
def test_json_of_any_size_is_refused_before_it_is_parsed(parse, data, words):
    with pytest.raises(InvalidArgumentError, match=words):
        parse(data)


def test_json_of_the_largest_expressions_is_read():
    condition, ranking = ours.Key("a").is_in([1, 2]), ours.Knn(SparseVector([1], [1.0], ["x"]))
    for _ in range(62):
        condition, ranking = ours.And([condition]), ours.Val(1) / ranking
    assert ours.Rank.from_dict(ranking.to_dict()) == ranking
    assert ours.Where.from_dict(condition.to_dict()) == ours.Key("a").is_in([1, 2])
    wide = ours.And([ours.Key("a").is_in([1, 2])] * 1_999)
    assert ours.Where.from_dict(wide.to_dict()) == wide


def test_expressions_in_tuples_are_counted_too():
    ranking, condition = ours.Val(1), ours.Key("a") == 1
    for _ in range(5_000):
        ranking, condition = ours.Sum((ranking, ours.Val(1))), ours.And((condition,))
    for part in (ranking, condition):
        with pytest.raises(InvalidArgumentError, match="nested deeper"):
            check_size(part, 64, 2_000)
