"""Query-time transforms and diversity against plain evaluators over all records."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbours import _distances

from chroma_gpu.config import Settings
from chroma_gpu.engine import planner
from chroma_gpu.engine import transforms as module
from chroma_gpu.engine.background import Background
from chroma_gpu.engine.diversity import diversified
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.engine.table import Table
from chroma_gpu.engine.transforms import Boost, Constraint, FieldBoost, Transforms
from chroma_gpu.errors import DimensionMismatch, UnknownID
from chroma_gpu.filter import Eq, Gte
from chroma_gpu.records import Column, Hits, Metric, Mode, RecordBatch
from chroma_gpu.store.record_store import RecordStore

DIM = 3
METADATA = frozenset({Column.METADATA})


@pytest.fixture(scope="module")
def background():
    made = Background()
    yield made
    made.close()


def opened(store, metric, background, index="codes"):
    return Table(store, metric, Indexes(store.vectors, metric, {}, Settings(device="cpu", index=index), background, None))


def naive(transforms, query, records, k, metric, passes):
    """[(boosted distance, id)] by the definition, one record at a time; records are (id, vector, metadata) in the order of rows."""
    found = []
    for row, (id, vector, metadata) in enumerate(records):
        if not passes(metadata) or not all(_admitted(each, vector, records, metric) for each in transforms.constraints):
            continue
        raw = distance(query, vector, metric)
        if raw > transforms.farthest:
            continue
        held = [boost for boost in transforms.boosts if boost.expr.matches(metadata)]
        boosted = raw * math.prod(boost.factor for boost in held) + sum(boost.add for boost in held)
        for each in transforms.fields:
            value = metadata.get(each.field)
            known = isinstance(value, int | float) and not isinstance(value, bool)
            boosted -= each.weight * (value if known else each.missing)
        found.append((float(np.float32(boosted)), raw, row, id))
    return [(boosted, id) for boosted, _, _, id in sorted(found)[:k]]


def _admitted(constraint, vector, records, metric):
    to = constraint.to if not isinstance(constraint.to, str) else next(each for id, each, _ in records if id == constraint.to)
    far = distance(to, vector, metric)
    near = 1 - far > constraint.bound if constraint.similarity else far <= constraint.bound
    return near != constraint.outside


def distance(query, vector, metric):
    return float(_distances(query.astype(np.float64), vector[None].astype(np.float64), metric).astype(np.float32)[0])


def as_pairs(found, i=0):
    n = int(found.hits.counts[i])
    ids = [found.records.ids[found.position[row]] for row in found.hits.rows[i, :n].tolist()]
    return list(zip(found.hits.distances[i, :n].tolist(), ids, strict=True))


# ---- everything at once

small = st.integers(-2, 2)
vector = st.tuples(small, small, small).map(lambda numbers: np.array(numbers, np.float32))
metadata = st.fixed_dictionaries(
    {"of": st.just(1)}, optional={"a": st.integers(0, 2), "n": st.sampled_from([1, -2, 0.5, "x", True])}
)
boosts = st.builds(
    Boost,
    st.sampled_from([Eq("a", 0), Eq("a", 1), Gte("n", 0)]),
    st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    st.sampled_from([-1.0, 0.0, 0.25]),
)
fields = st.builds(FieldBoost, st.sampled_from(["n", "a"]), st.sampled_from([0.5, -0.25]), st.sampled_from([0.0, 4.0]))


@st.composite
def constraints(draw, metric, ids):
    to = draw(st.one_of(vector, st.sampled_from(ids))) if ids else draw(vector)
    similarity = metric is not Metric.L2 and draw(st.booleans())
    return Constraint(to, draw(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 6.0])), similarity, draw(st.booleans()))


@pytest.mark.parametrize("classes", [16, 1])
@pytest.mark.parametrize("place", ["memory", "disk"])
@settings(max_examples=40)
@given(data=st.data())
def test_answers_are_those_of_a_plain_evaluator(classes, place, tmp_path_factory, background, data):
    metric = data.draw(st.sampled_from(list(Metric)))
    given_ = data.draw(st.lists(st.tuples(vector, metadata), max_size=40))
    records = [(str(n), each, said) for n, (each, said) in enumerate(given_)]
    gone = data.draw(st.sets(st.sampled_from(range(len(records))))) if records else set()
    store = RecordStore.in_memory() if place == "memory" else RecordStore.open(tmp_path_factory.mktemp("t") / "store")
    table = opened(store, metric, background)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CLASSES", classes)
        if records:
            ids, vectors, metadatas = zip(*records, strict=True)
            table.write(RecordBatch(list(ids), np.stack(vectors), metadatas=list(metadatas)), Mode.ADD)
        if records and data.draw(st.booleans()):
            store.fold()
            some, kind = (
                data.draw(st.lists(st.sampled_from(range(len(records))), unique=True)),
                st.sampled_from([7, 0.25, "y", [1.0]]),
            )
            for at in some:
                change = {"n": data.draw(kind)}
                records[at] = (records[at][0], records[at][1], records[at][2] | change)
                table.write(RecordBatch([str(at)], metadatas=[change]), Mode.UPDATE)
        if gone:
            table.delete(np.array(sorted(gone), np.uint32))
        left = [each for each in records if int(each[0]) not in gone]
        transforms = Transforms(
            data.draw(st.lists(constraints(metric, [id for id, _, _ in left]), max_size=2)),
            data.draw(st.sampled_from([math.inf, math.inf, 2.0, 0.0])),
            data.draw(st.lists(boosts, max_size=3)),
            data.draw(st.lists(fields, max_size=2)),
        )
        expr = data.draw(st.sampled_from([None, Eq("a", 1)]))
        k = data.draw(st.integers(1, len(records) + 3))
        queries = np.stack(data.draw(st.lists(vector, min_size=1, max_size=3)))
        found = table.search(queries, k, expr, METADATA, transformed=transforms)
    for i, query in enumerate(queries):
        passes = (lambda said: True) if expr is None else expr.matches
        assert as_pairs(found, i) == naive(transforms, query, left, k, metric, passes)
    assert found.hits.exact
    table.close()
    store.close()


# ---- many records, and indexes


def filled(store, metric, background, n, index="codes"):
    rng = np.random.default_rng(n)
    vectors = rng.standard_normal((n, 16)).astype(np.float32)
    table = opened(store, metric, background, index)
    metadatas = [
        {"a": int(value), "year": int(year)} for value, year in zip(rng.integers(0, 4, n), rng.integers(0, 90, n), strict=True)
    ]
    table.write(RecordBatch([str(i) for i in range(n)], vectors, metadatas=metadatas), Mode.ADD)
    table.wait_indexed()
    return table, [(str(i), vectors[i], metadatas[i]) for i in range(n)]


@pytest.mark.parametrize("index", ["codes", "hnsw"])
@pytest.mark.parametrize("metric", list(Metric))
def test_indexes_find_what_a_plain_evaluator_finds(index, metric, background, monkeypatch):
    monkeypatch.setattr(planner, "INDEX_ROWS", 64)
    store = RecordStore.in_memory()
    table, records = filled(store, metric, background, 2_500, index)
    query = np.random.default_rng(1).standard_normal(16).astype(np.float32)
    chosen = Boost(Eq("a", 1), 0.8), Boost(Gte("year", 45), 1.0, -0.05)
    for transforms in (
        Transforms(boosts=chosen),
        Transforms([Constraint("7", 1.0 if metric is not Metric.L2 else 30.0)], boosts=chosen),
        Transforms(fields=[FieldBoost("year", 0.003)]),
    ):
        found = table.search(query[None], 10, None, METADATA, transformed=transforms)
        wanted = naive(transforms, query, records, 10, metric, lambda said: True)
        assert len(set(as_pairs(found)) & set(wanted)) >= 9
        if found.hits.exact:
            assert as_pairs(found) == wanted
    table.close()
    store.close()


def test_an_answer_is_as_exact_as_the_least_exact_search(background, monkeypatch):
    store = RecordStore.in_memory()
    table, _ = filled(store, Metric.L2, background, 200)
    exact, asked = table._nearest, []

    def approximate(view, queries, k, candidates):
        hits, plan = exact(view, queries, k, candidates)
        asked.append(len(candidates))
        return (hits, plan) if len(asked) > 1 else (Hits(hits.rows, hits.distances, hits.counts, False, "widened"), plan)

    monkeypatch.setattr(table, "_nearest", approximate)
    found = table.search(
        np.zeros((1, 16), np.float32), 5, None, METADATA, transformed=Transforms(boosts=[Boost(Eq("a", 1), 0.5)])
    )
    assert sum(asked) == 200
    assert len(asked) == 2
    assert (found.hits.exact, found.hits.guard) == (False, "widened")
    table.close()
    store.close()


def test_the_order_of_boosts_changes_no_bit(background):
    store = RecordStore.in_memory()
    table, _ = filled(store, Metric.COSINE, background, 300)
    query = np.ones((1, 16), np.float32)
    some = [Boost(Eq("a", 1), 0.1, 0.3), Boost(Gte("year", 10), 0.7, 0.1), Boost(Gte("year", 30), 1.3, 0.7)]
    weights = [FieldBoost("year", 0.1), FieldBoost("a", 0.7)]
    for others in ([], weights):
        there = table.search(query, 50, None, METADATA, transformed=Transforms(boosts=some, fields=others))
        back = table.search(query, 50, None, METADATA, transformed=Transforms(boosts=some[::-1], fields=others[::-1]))
        assert as_pairs(there) == as_pairs(back)
    table.close()
    store.close()


def test_what_overflows_is_far_away(background):
    store = RecordStore.in_memory()
    table, _ = filled(store, Metric.L2, background, 20)
    huge = Transforms(
        fields=[FieldBoost("year", 1e308, 9e307), FieldBoost("a", -1e308)], boosts=[Boost(Gte("year", 0), 1e300, 1e308)] * 3
    )
    found = table.search(np.zeros((1, 16), np.float32), 20, None, METADATA, transformed=huge)
    assert found.hits.counts.tolist() == [20]
    assert not np.isnan(found.hits.distances).any()
    table.close()
    store.close()


# ---- what is told, and what is refused


def test_the_trace_tells_what_each_step_left(background):
    store = RecordStore.in_memory()
    table, records = filled(store, Metric.L2, background, 300)
    bound = distance(records[0][1], records[1][1], Metric.L2)
    transforms = Transforms([Constraint("0", bound), Constraint("1", 0.0, outside=True)], bound, [Boost(Eq("a", 1), 0.5)])
    found = table.search(records[0][1][None], 7, Eq("a", 1), METADATA, transformed=transforms)
    near, others, boost = found.trace.transforms
    assert near.name == f"similar (within {bound:g})"
    assert near.asked == sum(said["a"] == 1 for _, _, said in records)
    assert others.name == "not similar (within 0)"
    assert others.asked == near.left
    assert (boost.name, boost.asked, boost.left) == ("max_distance, boost", others.left, int(found.hits.counts[0]))
    plain = table.search(records[0][1][None], 7, None, METADATA, transformed=Transforms(farthest=0.0))
    assert [(each.name, each.asked, each.left) for each in plain.trace.transforms] == [("max_distance", 7, 1)]
    table.close()
    store.close()


def test_what_a_constraint_names_must_be_there(background):
    store = RecordStore.in_memory()
    table = opened(store, Metric.L2, background)
    query = np.zeros((1, DIM), np.float32)
    with pytest.raises(UnknownID, match="'nobody'"):
        table.search(query, 1, None, METADATA, transformed=Transforms([Constraint("nobody", 1.0)]))
    table.write(RecordBatch(["a"], query), Mode.ADD)
    with pytest.raises(DimensionMismatch, match="dimension of 3, got 5"):
        table.search(query, 1, None, METADATA, transformed=Transforms([Constraint(np.zeros(5, np.float32), 1.0)]))
    table.delete(np.array([0], np.uint32))
    with pytest.raises(UnknownID):
        table.search(query, 1, None, METADATA, transformed=Transforms([Constraint("a", 1.0)]))
    table.close()
    store.close()


# ---- diversity


def plain_mmr(relevance, vectors, balance, k, metric):
    """Carbonell and Goldstein's rule, with similarity = -distance."""
    chosen, left = [], list(range(len(relevance)))
    while left and len(chosen) < k:

        def gain(at):
            if not chosen:
                return -relevance[at]
            redundancy = max(-distance(vectors[other], vectors[at], metric) for other in chosen)
            return balance * -relevance[at] - (1 - balance) * redundancy

        best = max(left, key=lambda at: (gain(at), -at))
        chosen.append(best)
        left.remove(best)
    return chosen


@pytest.mark.parametrize("metric", list(Metric))
@given(
    given_=st.lists(st.tuples(vector, st.sampled_from([0.0, 0.5, 1.0, 3.0])), max_size=15),
    balance=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    k=st.integers(1, 20),
)
def test_diversity_is_maximal_marginal_relevance(metric, given_, balance, k):
    vectors = np.array([each for each, _ in given_], np.float32).reshape(-1, DIM)
    relevance = np.array([far for _, far in given_])
    # Halves and quarters of cosines are not exact; what is compared must not depend on the last bit.
    got = diversified(relevance, vectors, balance, k, metric).tolist()
    assert got == plain_mmr(relevance, vectors, balance, k, metric)


def test_distances_beyond_float32_do_not_end_the_choice():
    vectors = np.array([[3e38], [-3e38], [0.0]], np.float32)
    got = diversified(np.array([np.inf, 1.0, np.inf]), vectors, 0.5, 3, Metric.L2)
    assert sorted(got.tolist()) == [0, 1, 2]
    assert got[0] == 1
