"""Ranked search: the arithmetic of scores against a plain evaluator, and tables in memory and on disk against brute force."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chroma_gpu.config import Settings
from chroma_gpu.engine import ranking
from chroma_gpu.engine.background import Background
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.engine.ranked import Question
from chroma_gpu.engine.ranking import Apply, Constant, Groups, Near, SparseNear
from chroma_gpu.engine.table import Table
from chroma_gpu.errors import DimensionMismatch, InvalidArgumentError
from chroma_gpu.filter import OPERATORS
from chroma_gpu.records import Column, Hits, Metric, Mode, RecordBatch, SparseVector
from chroma_gpu.store.record_store import RecordStore

DIM = 8
IDS = frozenset[Column]()
METADATA = frozenset({Column.METADATA})

# ---- arithmetic


def near(limit=10, default=None, ranked=False):
    return Near(np.zeros(1, np.float32), limit, default, ranked)


def answers(found):
    """A search that answers each leaf from a dictionary of row to distance, by the leaf's id."""

    def search(leaf):
        pairs = sorted((distance, row) for row, distance in found[id(leaf)].items())
        hits = Hits.empty(1, len(pairs) + 1)  # with a place that is not filled
        hits.counts[0] = len(pairs)
        for place, (distance, row) in enumerate(pairs):
            hits.rows[0, place], hits.distances[0, place] = row, distance
        return hits

    return search


def as_dict(scored):
    return dict(zip(scored.rows.tolist(), scored.scores.tolist(), strict=True)), scored.default


def naive(rank, found):
    """({row: score}, default) of a tree, one record at a time."""
    if isinstance(rank, Constant):
        return {}, rank.value
    if isinstance(rank, Near):
        pairs = sorted((distance, row) for row, distance in found[id(rank)].items())
        return {row: float(place) if rank.ranked else distance for place, (distance, row) in enumerate(pairs)}, rank.default
    operands = [naive(operand, found) for operand in rank.operands]
    strict = [set(scores) for scores, default in operands if default is None]
    rows = set.intersection(*strict) if strict else set().union(*(scores for scores, _ in operands))
    result = {row: compute(rank.name, [scores.get(row, default) for scores, default in operands]) for row in rows}
    return result, None if strict else compute(rank.name, [default for _, default in operands])


def compute(name, values):
    with np.errstate(all="ignore"):
        first, *rest = map(np.float64, values)
        if name == "absolute":
            return float(abs(first))
        if name == "exponential":
            return float(np.exp(first))
        if name == "logarithm":
            return float(np.log(first))
        for value in rest:
            if name == "sum":
                first = first + value
            elif name == "product":
                first = first * value
            elif name == "difference":
                first = first - value
            elif name == "quotient":
                first = first / value
            elif math.isnan(first) or math.isnan(value):
                first = value if math.isnan(first) else first
            else:
                first = min(first, value) if name == "minimum" else max(first, value)
        return float(first)


def test_operands_without_default_are_intersected_and_those_with_default_filled_in():
    a, b, c = near(), near(default=10.0), near(default=-1.0)
    found = {id(a): {1: 0.5, 2: 1.5}, id(b): {2: 0.25, 3: 0.5}, id(c): {4: 2.0}}
    assert as_dict(ranking.evaluate(Apply("sum", (a, b)), answers(found))) == ({1: 10.5, 2: 1.75}, None)
    assert as_dict(ranking.evaluate(Apply("sum", (b, c)), answers(found))) == ({2: -0.75, 3: -0.5, 4: 12.0}, 9.0)
    assert as_dict(ranking.evaluate(Apply("product", (b, a, c)), answers(found))) == ({1: -5.0, 2: -0.375}, None)
    other = near()
    found[id(other)] = {2: 8.0, 9: 9.0}
    assert as_dict(ranking.evaluate(Apply("difference", (a, other)), answers(found))) == ({2: -6.5}, None)


def test_constants_score_what_others_found_and_find_nothing():
    a = near()
    found = {id(a): {7: 2.0, 3: 4.0}}
    tree = Apply("quotient", (Constant(1.0), Apply("sum", (Constant(60.0), a))))
    assert as_dict(ranking.evaluate(tree, answers(found)))[0] == {3: 1 / 64, 7: 1 / 62}
    alone = ranking.evaluate(Apply("sum", (Constant(1.0), Constant(2.0))), answers({}))
    assert as_dict(alone) == ({}, 3.0)
    assert len(ranking.ordered(alone)[0]) == 0


def test_a_leaf_may_score_by_position():
    a = near(ranked=True)
    assert as_dict(ranking.evaluate(a, answers({id(a): {5: 0.3, 2: 0.3, 9: 0.1}})))[0] == {9: 0.0, 2: 1.0, 5: 2.0}


def test_division_by_zero_and_logarithms_follow_ieee_and_nan_comes_last():
    a, b = near(), near()
    found = {id(a): {1: 0.0, 2: 1.0, 3: -1.0, 4: 5.0}, id(b): {1: 0.0, 2: 0.0, 3: 0.0, 4: 1.0}}
    rows, scores = ranking.ordered(ranking.evaluate(Apply("quotient", (a, b)), answers(found)))
    assert rows.tolist() == [3, 4, 2, 1]
    assert scores[:3].tolist() == [-math.inf, 5.0, math.inf]
    assert math.isnan(scores[3])
    logs = as_dict(ranking.evaluate(Apply("logarithm", (a,)), answers(found)))[0]
    assert (logs[1], math.isnan(logs[3])) == (-math.inf, True)
    kept = ranking.evaluate(Apply("minimum", (Apply("logarithm", (a,)), Constant(7.0))), answers(found))
    assert as_dict(kept)[0][3] == 7.0


def test_scores_are_rounded_once_and_ordered_by_score_and_row():
    a = near()
    found = {id(a): {9: 1.0, 4: 1.0, 6: 100.0}}
    rows, scores = ranking.ordered(ranking.evaluate(Apply("sum", (a, Constant(1e-12))), answers(found)))
    assert rows.tolist() == [4, 9, 6]
    assert scores.dtype == np.float32
    rows, scores = ranking.ordered(ranking.evaluate(Apply("exponential", (a,)), answers(found)))
    assert scores.tolist() == [float(np.float32(math.e))] * 2 + [math.inf]


def test_a_leaf_is_searched_once_and_deep_or_shared_trees_cost_what_they_hold():
    a = near()
    asked = []

    def search(leaf):
        asked.append(leaf)
        return answers({id(a): {1: 1.0}})(leaf)

    tree = a
    for _ in range(60):
        tree = Apply("sum", (tree, tree))
    for _ in range(3_000):
        tree = Apply("absolute", (tree,))
    assert as_dict(ranking.evaluate(tree, search))[0] == {1: 2.0**60}
    assert asked == ranking.leaves(tree) == [a]
    assert ranking.leaves(None) == []


@pytest.mark.parametrize(
    ("name", "n", "message"),
    [
        ("power", 1, "no operation 'power'"),
        ("sum", 0, "at least 1"),
        ("difference", 3, "takes 2 operands, not 3"),
        ("absolute", 2, "takes 1 operands, not 2"),
    ],
)
def test_operations_that_do_not_exist_are_refused_before_anything_is_searched(name, n, message):
    leaf = near()
    with pytest.raises(InvalidArgumentError, match=message):
        ranking.evaluate(Apply("sum", (leaf, Apply(name, (Constant(1.0),) * n))), answers({}))


SCORES = st.one_of(st.integers(-4, 4).map(float), st.floats(-100, 100, width=32))
FOUND = st.dictionaries(st.integers(0, 12), SCORES, max_size=8)


@st.composite
def trees(draw):
    found = {}

    def leaf():
        made = near(default=draw(st.one_of(st.none(), SCORES)), ranked=draw(st.booleans()))
        found[id(made)] = draw(FOUND)
        return made

    def tree(depth):
        kind = draw(st.integers(0, 4 if depth else 1))
        if kind == 0:
            return Constant(draw(SCORES))
        if kind == 1:
            return leaf()
        name = draw(st.sampled_from(sorted(["sum", "product", "minimum", "maximum", "difference", "quotient", "absolute"])))
        name = draw(st.sampled_from([name, "exponential", "logarithm"])) if name == "absolute" else name
        count = {"difference": 2, "quotient": 2, "absolute": 1, "exponential": 1, "logarithm": 1}.get(name)
        return Apply(name, tuple(tree(depth - 1) for _ in range(count or draw(st.integers(1, 4)))))

    return tree(3), found


@given(trees())
def test_any_tree_scores_as_the_plain_evaluator_does(drawn):
    tree, found = drawn
    got, got_default = as_dict(ranking.evaluate(tree, answers(found)))
    want, want_default = naive(tree, found)
    assert list(got) == sorted(want)
    np.testing.assert_array_equal([got[row] for row in got], [want[row] for row in got])
    assert (got_default is None) == (want_default is None)
    if want_default is not None:
        np.testing.assert_array_equal(got_default, want_default)


# ---- groups


def stay(groups, metadatas, scores=None):
    return ranking.grouped(groups, metadatas, None if scores is None else np.array(scores, np.float32)).tolist()


def test_groups_are_of_equal_type_and_records_without_the_key_are_one():
    metadatas = [{"c": 1}, {"c": 1.0}, {"c": True}, {"c": "1"}, {}, None, {"c": 1}, {"c": [1]}, {"c": [1]}, {"c": [1.0]}]
    assert stay(Groups(("c",), 1, (None,)), metadatas, range(10)) == [0, 1, 2, 3, 4, 7, 9]
    assert stay(Groups(("c",), 2, (None,)), metadatas, range(10)) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    sparse = [{"c": SparseVector([1], [1.0])}, {"c": SparseVector([1], [1.0])}, {"c": SparseVector([1], [2.0])}]
    assert stay(Groups(("c",), 1, (None,)), sparse, range(3)) == [0, 2]


def test_the_best_of_a_group_are_chosen_by_fields_and_then_by_rank():
    metadatas = [{"c": "a", "p": p, "q": q} for p, q in [(2, 1), (1, 5), (1, 3), (3, 0)]]
    assert stay(Groups(("c",), 2, ("p",)), metadatas, range(4)) == [1, 2]
    assert stay(Groups(("c",), 1, ("p",)), metadatas, range(4)) == [1]
    assert stay(Groups(("c",), 1, ("p", "q")), metadatas, range(4)) == [2]
    assert stay(Groups(("c",), 1, ("p",), largest=True), metadatas, range(4)) == [3]
    assert stay(Groups(("c",), 3, ("c",), largest=True), metadatas, range(4)) == [0, 1, 2]
    assert stay(Groups(("c",), 1, (None,), largest=True), metadatas, range(4)) == [3]
    assert stay(Groups(("c",), 2, (None,)), metadatas) == [0, 1]
    assert stay(Groups(("c", "p"), 1, (None,)), metadatas, range(4)) == [0, 1, 3]


def test_types_are_ordered_and_nothing_comes_first_among_the_smallest():
    values = [[1], SparseVector([0], [1.0]), "a", 0.5, 7, True, None]
    metadatas = [{"v": value} if value is not None else {} for value in values]
    for keep in range(8):
        assert stay(Groups(("none",), keep, ("v",)), metadatas) == list(range(7 - keep, 7))
        assert stay(Groups(("none",), keep, ("v",), largest=True), metadatas) == list(range(keep))


def test_nan_is_never_the_best_score_of_a_group():
    for largest in (False, True):
        assert stay(Groups(("c",), 1, (None,), largest), [{}, {}], [2.0, math.nan]) == [0]


# ---- tables


@pytest.fixture
def background():
    made = Background()
    yield made
    made.close()


@pytest.fixture(params=["memory", "disk"])
def table(request, tmp_path, background):
    store = RecordStore.in_memory() if request.param == "memory" else RecordStore.open(tmp_path / "store")
    settings = Settings(device="cpu", index="codes")
    made = Table(store, Metric.L2, Indexes(store.vectors, Metric.L2, {}, settings, background, None))
    yield made
    made.close()
    store.close()


def vectors(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def words(n, seed=0):
    """n sparse vectors over a few indices; every seventh record has none."""
    rng = np.random.default_rng([seed, 1])
    made = []
    for at in range(n):
        indices = sorted(rng.choice(30, 5, replace=False).tolist())
        made.append(None if at % 7 == 3 else SparseVector(indices, rng.integers(1, 9, 5).astype(float).tolist()))
    return made


def filled(table, n=60):
    metadatas = [{"n": at, "c": "abc"[at % 3]} | ({} if word is None else {"s": word}) for at, word in enumerate(words(n))]
    table.write(RecordBatch([f"id{at}" for at in range(n)], vectors(n), metadatas=metadatas), Mode.ADD)
    return metadatas


def distances(query, n=60):
    return dict(enumerate(((vectors(n).astype(np.float64) - query) ** 2).sum(axis=1).astype(np.float32).tolist()))


def inner(query, metadatas):
    found = {}
    for at, metadata in enumerate(metadatas):
        entries = dict(zip(metadata["s"].indices, metadata["s"].values, strict=True)) if "s" in metadata else {}
        shared = [entries[index] * value for index, value in zip(query.indices, query.values, strict=True) if index in entries]
        if shared:
            found[at] = 1.0 - sum(shared)
    return found


def nearest(found, k, among=None):
    rows = sorted((distance, row) for row, distance in found.items() if among is None or row in among)[:k]
    return {row: distance for distance, row in rows}


def ranked(table, rank, expr, columns, ids=None, **given):
    (found,) = table.rank([Question(rank, expr, columns, None if ids is None else tuple(ids), **given)])
    return found


def answer(ranked):
    scores = [None] * len(ranked.records) if ranked.scores is None else ranked.scores.tolist()
    return list(zip([int(id_[2:]) for id_ in ranked.records.ids], scores, strict=True))


def expected(rank, found):
    scores, _ = naive(rank, found)
    return sorted(((row, float(np.float32(score))) for row, score in scores.items()), key=lambda pair: (pair[1], pair[0]))


QUERY = vectors(1, seed=9)[0]
WORDS = SparseVector([2, 5, 11], [1.0, 0.5, 2.0])


def test_one_leaf_is_the_plain_search(table):
    filled(table)
    got = ranked(table, Near(QUERY, 5), None, IDS)
    found = table.search(QUERY[None], 5, None, IDS)
    assert answer(got) == list(zip(found.hits.rows[0].tolist(), found.hits.distances[0].tolist(), strict=True))
    assert [plan.k for plan in got.plans] == [5]
    assert got.scores.dtype == np.float32


@pytest.mark.parametrize("default", [None, 30.0])
@pytest.mark.parametrize("by_rank", [False, True])
def test_dense_and_sparse_leaves_are_combined(table, default, by_rank):
    metadatas = filled(table)
    expr = OPERATORS["$gte"]("n", 8)
    dense, sparse = Near(QUERY, 20, default, by_rank), SparseNear(WORDS, "s", 15, default=default, ranked=by_rank)
    tree = Apply("sum", (Apply("product", (Constant(0.25), dense)), Apply("product", (Constant(0.5), sparse)), Constant(100.0)))
    got = ranked(table, tree, expr, IDS)
    stands = Near(QUERY, 15, default, by_rank)
    plain = Apply("sum", (Apply("product", (Constant(0.25), dense)), Apply("product", (Constant(0.5), stands)), Constant(100.0)))
    among = range(8, 60)
    found = {id(dense): nearest(distances(QUERY), 20, among), id(stands): nearest(inner(WORDS, metadatas), 15, among)}
    assert answer(got) == expected(plain, found)
    assert len(got.records) > (20 if default else 0)
    assert len(got.steps) == 1
    assert answer(ranked(table, tree, expr, IDS, limit=4, offset=3)) == answer(got)[3:7]
    assert answer(ranked(table, tree, expr, IDS, offset=1000)) == []


def test_ids_and_filter_and_leaves_see_the_same_records(table):
    metadatas = filled(table)
    chosen = [f"id{at}" for at in range(0, 60, 2)]
    got = ranked(table, SparseNear(WORDS, "s", 99), OPERATORS["$eq"]("c", "b"), METADATA, ids=[*chosen, "none"])
    among = [at for at in range(0, 60, 2) if at % 3 == 1]
    assert dict(answer(got)) == nearest(inner(WORDS, metadatas), 99, among)
    assert [metadata["c"] for metadata in got.records.metadatas] == ["b"] * len(got.records)


def test_idf_counts_all_live_records(table):
    metadatas = filled(table)
    table.delete(np.arange(5, dtype=np.uint32))
    query = SparseVector([2, 5], [1.0, 1.0])
    live = metadatas[5:]
    dfs = [sum("s" in metadata and index in metadata["s"].indices for metadata in live) for index in query.indices]
    weighed = SparseVector([2, 5], [math.log1p((len(live) - df + 0.5) / (df + 0.5)) for df in dfs])
    got = ranked(table, SparseNear(query, "s", 99, idf=True), OPERATORS["$lt"]("n", 30), IDS)
    want = nearest(inner(weighed, metadatas), 99, range(5, 30))
    assert [row for row, _ in answer(got)] == list(want)
    assert got.scores.tolist() == pytest.approx(list(want.values()), rel=1e-6)


def test_without_a_ranking_records_come_in_insertion_order(table):
    filled(table)
    table.write(RecordBatch(["id4", "id2"], vectors(2, seed=5)), Mode.UPSERT)
    got = ranked(table, None, OPERATORS["$lt"]("n", 6), IDS, limit=4, offset=1)
    assert got.records.ids == ["id1", "id2", "id3", "id4"]
    assert got.scores is None
    assert got.plans == []
    grouped = ranked(table, None, None, IDS, groups=Groups(("c",), 2, ("n",), largest=True))
    assert sorted(grouped.records.ids) == ["id54", "id55", "id56", "id57", "id58", "id59"]
    assert grouped.scores is None


def test_groups_are_cut_before_the_page(table):
    filled(table)
    whole = answer(ranked(table, Near(QUERY, 60), None, IDS))
    best, seen = [], dict.fromkeys(range(3), 0)
    for row, score in whole:
        seen[row % 3] += 1
        if seen[row % 3] <= 2:
            best.append((row, score))
    groups = Groups(("c",), 2, (None,))
    assert answer(ranked(table, Near(QUERY, 60), None, IDS, groups=groups)) == best
    assert answer(ranked(table, Near(QUERY, 60), None, IDS, groups=groups, limit=3, offset=2)) == best[2:5]


def test_sparse_vectors_follow_every_kind_of_write(table):
    metadatas = filled(table)
    leaf = SparseNear(WORDS, "s", 99)

    def check(gone=()):
        found = inner(WORDS, metadatas)
        assert dict(answer(ranked(table, leaf, None, IDS))) == {row: found[row] for row in found if row not in gone}

    check()
    changed = SparseVector([11, 29], [50.0, 1.0])
    table.write(RecordBatch(["id1", "id3", "id8"], metadatas=[{"s": changed}, {"s": changed}, {"s": None}]), Mode.UPDATE)
    metadatas[1]["s"], metadatas[3]["s"] = changed, changed
    metadatas[8].pop("s", None)
    check()
    table.write(RecordBatch(["id12"], metadatas=[{"s": "no vector any more"}]), Mode.UPDATE)
    del metadatas[12]["s"]
    check()
    table.delete(np.array([1, 20], np.uint32))
    check(gone=(1, 20))
    table.write(RecordBatch(["id60"], vectors(1), metadatas=[{"s": changed, "t": changed}]), Mode.ADD)
    metadatas.append({"s": changed})
    check(gone=(1, 20))
    assert answer(ranked(table, SparseNear(WORDS, "t", 9), None, IDS)) == [(60, -99.0)]
    table.write(RecordBatch(["id5"], vectors(1, seed=3)), Mode.UPSERT)  # a new row with the old metadata
    check(gone=(1, 20))


def test_nothing_is_found_where_nothing_is(table):
    both = Apply("sum", (Near(QUERY, 5, 1.0), SparseNear(WORDS, "s", 5, default=1.0)))
    groups = Groups(("c",), 1, (None,))
    assert answer(ranked(table, both, None, IDS, groups=groups)) == []
    assert answer(ranked(table, None, None, IDS, groups=groups)) == []
    filled(table)
    assert answer(ranked(table, SparseNear(WORDS, "no such field", 5), None, IDS)) == []
    assert answer(ranked(table, both, OPERATORS["$gt"]("n", 1000), IDS)) == []
    assert answer(ranked(table, Near(QUERY, 0), None, IDS)) == []


def test_a_query_of_another_length_is_refused(table):
    filled(table)
    with pytest.raises(DimensionMismatch, match=f"dimension of {DIM}, got {DIM + 1}"):
        ranked(table, Apply("sum", (Near(QUERY, 5), Near(np.zeros(DIM + 1, np.float32), 5))), None, IDS)


def test_ranking_goes_on_while_records_are_replaced_and_removed(table):
    filled(table)
    tree = Apply("sum", (Near(QUERY, 60, 9.0), SparseNear(WORDS, "s", 60, default=1.0)))
    allowed, stop = threading.Event(), threading.Event()
    raised = []

    def churn():
        try:
            for step in range(40):
                # At most two rounds in one read: it gives up when records die under it again and again.
                allowed.wait()
                allowed.clear()
                table.write(RecordBatch(["id7", "id9"], vectors(2, seed=step), metadatas=[{"s": WORDS}] * 2), Mode.UPSERT)
                table.delete(table.rows(None, ids=["id9"]))
        except Exception as error:
            raised.append(error)
        finally:
            stop.set()

    thread = threading.Thread(target=churn)
    thread.start()
    while not stop.is_set():
        allowed.set()
        got = ranked(table, tree, OPERATORS["$ne"]("c", "none"), METADATA, groups=Groups(("n",), 1, (None,)))
        assert 59 <= len(got.records) <= 60
        assert (np.diff(got.scores) >= 0).all()
    thread.join()
    assert raised == []
