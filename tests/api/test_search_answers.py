"""``search`` gives what a plain evaluation over all records gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import chroma_gpu
from chroma_gpu.api.types import ReadLevel
from chroma_gpu.errors import DimensionMismatch, InvalidArgumentError, InvalidFilter
from chroma_gpu.execution.expression import (
    Eq,
    GroupBy,
    K,
    Key,
    Knn,
    Limit,
    MaxK,
    MinK,
    Rank,
    Rrf,
    Search,
    Select,
    Sum,
    Val,
    Where,
)
from chroma_gpu.records import SparseVector
from chroma_gpu.store.record_store import RecordStore

N, DIM = 40, 3
RNG = np.random.default_rng(3)
IDS = [f"id{at}" for at in range(N)]
VECTORS = RNG.integers(-3, 4, (N, DIM)).astype(np.float32)
METADATAS = [
    {key: value for key, value in {"n": at % 5, "colour": "rgb"[at % 3], "flag": at % 2 == 0}.items() if (at + len(key)) % 4}
    for at in range(N)
]
ROW_ORDER = [*range(N)[::-2], *range(N)[::-1][1::2]]
DOCUMENTS = [None if at % 6 == 0 else f"text {at} {'even' if at % 2 == 0 else 'odd'}" for at in range(N)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with chroma_gpu.PersistentClient(tmp_path_factory.mktemp("search")) as client:
        yield client


@pytest.fixture(scope="module")
def collection(home):
    made = home.create_collection("answers", embedding_function=None)
    made.add(ids=IDS, embeddings=np.zeros((N, DIM)), documents=DOCUMENTS, metadatas=[each or None for each in METADATAS])
    # A new vector gives a record a new row: ties are by ROW_ORDER now, while the order of insertion stays.
    for part in (ROW_ORDER[: N // 2], ROW_ORDER[N // 2 :]):
        made.update(ids=[IDS[row] for row in part], embeddings=VECTORS[part])
    return made


def distances(query):
    return ((VECTORS.astype(np.float64) - np.array(query)) ** 2).sum(axis=1)


def near(said, rows):
    """The rows and scores of one search, from its JSON form."""
    away = distances(said["query"])
    found = sorted(rows, key=lambda row: (away[row], ROW_ORDER.index(row)))[: said["limit"]]
    return {row: float(place if said.get("return_rank") else np.float32(away[row])) for place, row in enumerate(found)}


def divided(left, right):
    with np.errstate(all="ignore"):
        return float(np.float64(left) / np.float64(right))


def logarithm(value):
    return -math.inf if value == 0 else math.nan if value < 0 else math.log(value)


def exponential(value):
    with np.errstate(over="ignore"):
        return float(np.exp(value))


PAIRWISE = {
    "$sum": lambda left, right: left + right,
    "$mul": lambda left, right: left * right,
    "$max": lambda left, right: right if math.isnan(left) else left if math.isnan(right) else max(left, right),
    "$min": lambda left, right: right if math.isnan(left) else left if math.isnan(right) else min(left, right),
    "$sub": lambda left, right: left - right,
    "$div": divided,
}
SINGLE = {"$abs": abs, "$exp": exponential, "$log": logarithm}


def naive(rank, leaf):
    """(scores of what was found, the score of all others or None), from the JSON form of a ranking."""
    [(token, said)] = rank.items()
    if token == "$val":
        return {}, float(said)
    if token == "$knn":
        return leaf(said), said.get("default")
    if token in SINGLE:
        found, other = naive(said, leaf)
        return {row: SINGLE[token](score) for row, score in found.items()}, None if other is None else SINGLE[token](other)
    operands = [naive(each, leaf) for each in (said if isinstance(said, list) else [said["left"], said["right"]])]
    left = operands[0]
    for right in operands[1:]:
        left = both(PAIRWISE[token], left, right)
    return left


def both(operation, left, right):
    (found, default), (found_right, default_right) = left, right
    rows = (
        set(found) & set(found_right)
        if default is None and default_right is None
        else set(found)
        if default is None
        else set(found_right)
        if default_right is None
        else set(found) | set(found_right)
    )
    other = None if default is None or default_right is None else operation(default, default_right)
    return {row: operation(found.get(row, default), found_right.get(row, default_right)) for row in rows}, other


KNNS = st.builds(
    Knn,
    st.lists(st.integers(-3, 3), min_size=DIM, max_size=DIM),
    limit=st.integers(1, 12),
    default=st.none() | st.sampled_from([0.0, 2.5, 30.0]),
    return_rank=st.booleans(),
)
NUMBERS = st.sampled_from([-2.0, 0, 0.5, 3])


@st.composite
def ranks(draw, depth=3):
    kind = draw(st.sampled_from(["knn", "knn", "val", "two", "two", "one", "rrf"])) if depth else "knn"
    if kind == "val":
        return Val(draw(NUMBERS))
    if kind == "one":
        return getattr(draw(ranks(depth - 1)), draw(st.sampled_from(["abs", "exp", "log", "__neg__"])))()
    if kind == "two":
        name = draw(st.sampled_from(["__add__", "__sub__", "__mul__", "__truediv__", "max", "min"]))
        return getattr(draw(ranks(depth - 1)), name)(draw(ranks(depth - 1) | NUMBERS))
    if kind == "rrf":
        return Rrf(draw(st.lists(KNNS, min_size=1, max_size=3)), k=draw(st.integers(1, 60)))
    return draw(KNNS)


WHERES = st.sampled_from(
    [
        None,
        K("n") >= 2,
        (K("colour") == "r") | (K("n") == 1),
        K.DOCUMENT.contains("even"),
        K.DOCUMENT.regex(r"\b1\d\b"),
        K.ID.is_in(["id3", "id7", "id8", "nobody", ""]),
        (K.ID != "id0") & K.DOCUMENT.not_contains("odd"),
        K.ID.not_in(IDS[:30]) | (K.ID == "id2"),
    ]
)


def passing(where):
    if where is None:
        return list(range(N))
    return [row for row in range(N) if passes(where.to_dict(), row)]


def passes(said, row):
    [(key, value)] = said.items()
    if key in ("$and", "$or"):
        return (all if key == "$and" else any)(passes(each, row) for each in value)
    [(token, operand)] = value.items()
    document, there = DOCUMENTS[row] or "", METADATAS[row].get(key) if key != "#id" else IDS[row]
    return {
        "$contains": lambda: operand in document,
        "$not_contains": lambda: operand not in document,
        "$regex": lambda: 10 <= row < 20 and bool(document),
        "$gte": lambda: there is not None and there >= operand,
        "$eq": lambda: there == operand,
        "$ne": lambda: there != operand,
        "$in": lambda: there in operand,
        "$nin": lambda: there not in operand,
    }[token]()


def check_order(found, expected):
    """The ids and scores of an answer are those expected, by (score, row) with nan last."""
    ids, scores = found["ids"][0], found["scores"][0]
    assert set(ids) == {IDS[row] for row in expected}
    with np.errstate(over="ignore"):
        expected = {IDS[row]: np.float32(score) for row, score in expected.items()}
    for id, score in zip(ids, scores, strict=True):
        assert score == pytest.approx(expected[id], rel=1e-5, abs=1e-6, nan_ok=True)
    places = [
        (math.isnan(score), 0 if math.isnan(score) else score, ROW_ORDER.index(IDS.index(id)))
        for id, score in zip(ids, scores, strict=True)
    ]
    assert places == sorted(places)


@given(rank=ranks(), where=WHERES)
def test_every_ranking_scores_as_a_plain_evaluation(collection, rank, where):
    found = collection.search(Search(where=where, rank=rank).select(K.SCORE))
    expected, _ = naive(rank.to_dict(), lambda said: near(said, passing(where)))
    check_order(found, expected)


@given(where=WHERES, page=st.tuples(st.none() | st.integers(1, 20), st.integers(0, 45)))
def test_without_a_ranking_records_come_in_insertion_order_and_have_no_score(collection, where, page):
    limit, offset = page
    found = collection.search(Search(where=where, limit=Limit(offset, limit)).select(K.SCORE))
    expected = [IDS[row] for row in passing(where)][offset:][:limit]
    assert (found["ids"], found["scores"]) == ([expected], [[None] * len(expected)])
    assert found.rows() == [[{"id": id} for id in expected]]


@given(rank=ranks(), where=WHERES, limit=st.integers(1, 10), offset=st.integers(0, 20))
def test_a_page_is_a_part_of_the_whole(collection, rank, where, limit, offset):
    whole = Search(where=where, rank=rank)
    [ids], [part] = collection.search(whole)["ids"], collection.search(whole.limit(limit, offset))["ids"]
    assert part == ids[offset : offset + limit]


@given(
    rank=ranks(),
    fields=st.lists(st.sampled_from(["n", "colour", "flag"]), min_size=1, max_size=2),
    by=st.lists(st.sampled_from(["n", "flag", "#score"]), min_size=1, max_size=3),
    k=st.integers(1, 4),
    largest=st.booleans(),
)
def test_groups_keep_the_best_of_each(collection, rank, fields, by, k, largest):
    search = Search(rank=rank).select(K.SCORE, K.METADATA)
    [rows] = collection.search(search).rows()
    [left] = collection.search(search.group_by(GroupBy(list(map(Key, fields)), (MaxK if largest else MinK)(by, k)))).rows()
    assume(not any(math.isnan(row["score"]) for row in rows))
    groups = {}
    for place, row in enumerate(rows):
        groups.setdefault(tuple(row.get("metadata", {}).get(field) for field in fields), []).append(place)

    def values(place):
        record = {"#score": rows[place]["score"], **rows[place].get("metadata", {})}
        return [(key in record, record.get(key, 0)) for key in by]

    def ordered(places):
        return sorted(places, key=values, reverse=largest)

    stay = sorted(place for places in groups.values() for place in ordered(places)[:k])
    assert left == [rows[place] for place in stay]


def test_groups_without_a_ranking_keep_the_first_inserted(collection):
    found = collection.search(Search().group_by(GroupBy(K("colour"), MinK(K.SCORE, 2))))
    seen = {}
    for row in range(N):
        seen.setdefault(METADATAS[row].get("colour"), []).append(row)
    assert found["ids"] == [[IDS[row] for row in sorted(row for rows in seen.values() for row in rows[:2])]]


@given(keys=st.sets(st.sampled_from(["#document", "#embedding", "#metadata", "#score", "#id", "n", "flag", "absent"])))
def test_only_what_is_selected_comes_back(collection, keys):
    found = collection.search(Search(rank=Knn([0, 0, 0], limit=9)).select(*keys))
    rows = [IDS.index(id) for id in found["ids"][0]]
    assert len(rows) == 9
    assert found["select"] == [sorted(keys)]
    assert found["documents"] == [[DOCUMENTS[row] for row in rows] if "#document" in keys else None]
    assert found["embeddings"] == [[VECTORS[row].tolist() for row in rows] if "#embedding" in keys else None]
    assert found["scores"] == [[distances([0, 0, 0])[row] for row in rows] if "#score" in keys else None]
    fields = {"n", "flag", "colour"} if "#metadata" in keys else keys
    kept = [{key: value for key, value in METADATAS[row].items() if key in fields} or None for row in rows]
    assert found["metadatas"] == [kept if "#metadata" in keys or keys & {"n", "flag", "absent"} else None]


def test_several_searches_are_answered_in_one_call(collection):
    searches = [Search(limit=2), Search(rank=Knn([1, 1, 1]), limit=3).select_all(), Search(where={"n": 99})]
    together = collection.search(searches)
    apart = [collection.search(each) for each in searches]
    assert together == {name: [each[name][0] for each in apart] for name in together}
    assert list(map(len, together["ids"])) == [2, 3, 0]
    assert collection.search([])["ids"] == []


@pytest.mark.parametrize("level", [*ReadLevel, "index_only"])
def test_every_read_level_sees_every_write(home, level):
    made = home.create_collection(f"level-{type(level).__name__}-{level}", embedding_function=None)
    assert made.search(Search(rank=Knn([1.0])), read_level=level)["ids"] == [[]]
    made.add(ids="a", embeddings=[1.0])
    assert made.search(Search(rank=Knn([1.0])), read_level=level)["ids"] == [["a"]]


def test_sixteen_are_found_and_a_constant_alone_finds_none(collection):
    assert len(collection.search(Search(rank=Knn([0, 0, 0])))["ids"][0]) == 16
    assert len(collection.search(Search(rank=Knn([0, 0, 0], limit=2**40)))["ids"][0]) == N
    assert collection.search(Search(rank=Val(1.0)))["ids"] == [[]]


def nested(depth):
    where: Where = Eq("a", 1)
    rank: Rank = Val(1)
    for at in range(depth):
        where = where | Eq("a", 1) if at % 2 else where & Eq("a", 1)
        rank = rank - 1
    return where, rank


@pytest.mark.parametrize(
    ("search", "error", "words"),
    [
        (Search(limit=Limit(0, -1)), ValueError, "Limit limit must be positive, got -1"),
        (Search().limit("3"), TypeError, "Limit limit must be an integer, got str"),
        (Search().select(3), TypeError, "Select key must be a string, got int"),
        (Search(rank=Knn([1.0, 2.0])), DimensionMismatch, "dimension of 3, got 2"),
        (Search(rank=Knn([1.0, math.nan, 2.0])), InvalidArgumentError, "NaN or Infinity"),
        (Search(rank=Knn([[1.0] * 3, [2.0] * 3])), ValueError, "exactly one query embedding"),
        (Search(rank=Knn([1.0] * 3, limit=0)), ValueError, "limit must be positive, got 0"),
        (Search(rank=Knn([1.0] * 3, default=math.inf)), InvalidArgumentError, "default must be a finite number"),
        (Search(rank=Knn([1.0] * 3, default="1")), InvalidArgumentError, "default must be a finite number"),
        (Search(rank=Val(math.nan)), InvalidArgumentError, "must be a finite number"),
        (Search(rank=Sum([Val(1)])), ValueError, "at least 2 ranks, got 1"),
        (Search(rank=Knn([1.0] * 3, key="colour")), InvalidArgumentError, "dense query for the key 'colour'"),
        (Search(rank=Knn(SparseVector([1], [1.0]))), InvalidArgumentError, "'#embedding' with type 'SparseVector'"),
        (Search(rank=Knn(SparseVector([1], [1.0]), key="s")), InvalidArgumentError, "'s' with type 'SparseVector'"),
        (Search(rank=Rrf([])), ValueError, "at least one rank"),
        (Search(where=K("n").regex("x")), InvalidFilter, "Invalid where clause"),
        (Search(where=K.DOCUMENT.regex("(")), InvalidArgumentError, "regex"),
        (Search(where=K.ID > 3), InvalidFilter, "#id takes"),
        (Search(where=K.ID.is_in("id1")), InvalidFilter, "#id takes"),
        (Search(where=K.ID == ["id1"]), InvalidFilter, "#id takes"),
        (Search(where=K.ID == 1), InvalidFilter, "#id takes"),
        (Search(group_by=GroupBy(keys=K("n"))), InvalidArgumentError, "both be specified"),
        (Search(group_by=GroupBy(aggregate=MinK(K.SCORE, 1))), InvalidArgumentError, "both be specified"),
        (Search(group_by=GroupBy(K.SCORE, MinK(K.SCORE, 1))), InvalidArgumentError, "must be metadata fields"),
        (Search(group_by=GroupBy(K("n"), MinK(K.DOCUMENT, 1))), InvalidArgumentError, "aggregate keys"),
        (Search(group_by=GroupBy(K("n"), MinK(K.SCORE, 0))), ValueError, "k must be positive"),
        (Search(group_by=GroupBy(("n", "m"), MinK(K.SCORE, 1))), TypeError, "key must be a string, got tuple"),
        (Search(group_by=GroupBy(K("n"), MinK([1], 1))), TypeError, "key must be a string, got int"),
        (Search(group_by=GroupBy(K("n"), 1)), TypeError, "must be an Aggregate, got int"),
        (Search(rank=Val(10**400)), InvalidArgumentError, "must be a finite number"),
        (Search(rank=Knn([1.0] * 3, default=-(10**400))), InvalidArgumentError, "must be a finite number"),
        (Search(rank=Knn([10**400, 1, 1])), InvalidArgumentError, "too large for float32"),
        (Search(where=nested(100)[0]), InvalidArgumentError, "nested deeper"),
        (Search(rank=nested(2_000)[1]), InvalidArgumentError, "nested deeper"),
        (Search(rank=Sum([Val(1)] * 3_000)), InvalidArgumentError, "more than 2000 parts"),
        ({"rank": {"$val": 1}}, TypeError, "Expected searches to be Search objects, got dict"),
    ],
    ids=lambda value: None if isinstance(value, (Search, type)) else str(value)[:30],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(collection, search, error, words):
    with pytest.raises(error, match=words):
        collection.search([Search(), search])


def test_an_unknown_read_level_is_refused(collection):
    with pytest.raises(ValueError, match="wal_only"):
        collection.search(Search(), read_level="wal_only")


def test_selecting_is_by_object_or_name(collection):
    by_name = collection.search(Search(select=["#document", "n"], limit=3))
    assert by_name == collection.search(Search(select=Select({K.DOCUMENT, K("n")}), limit=3))


def test_ids_are_filters_of_get_too(collection):
    assert collection.get(where={"$and": [{"#id": {"$in": ["id4", "id1"]}}, {"n": {"$gte": 0}}]})["ids"] == ["id1", "id4"]


@pytest.mark.parametrize(
    "found",
    [
        lambda made: made.get(ids=["a"])["ids"],
        lambda made: made.get(where={"#id": "a"})["ids"],
        lambda made: made.query(query_embeddings=[3.0], ids=["a"])["ids"][0],
        lambda made: made.search(Search(where=K.ID.not_in(["b"]), rank=Knn([3.0])))["ids"][0],
    ],
    ids=["get", "get where", "query", "search"],
)
def test_an_id_that_moves_to_a_new_row_during_a_read_is_found(home, request, monkeypatch, found):
    made = home.create_collection(f"moving-{request.node.callspec.id.replace(' ', '-')}", embedding_function=None)
    made.add(ids=["a", "b"], embeddings=[[1.0], [2.0]])
    first = RecordStore.rows_of

    def moving(store, ids):
        monkeypatch.setattr(RecordStore, "rows_of", first)
        made.update(ids="a", embeddings=[5.0])
        return first(store, ids)

    monkeypatch.setattr(RecordStore, "rows_of", moving)
    assert found(made) == ["a"]
    assert made.get(include=["embeddings"])["embeddings"].tolist() == [[5.0], [2.0]]
