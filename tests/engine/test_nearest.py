"""Every way to the nearest rows: what says it is exact is, what does not reaches its recall on hard data, and checks change nothing."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbours import ArraySource, assert_same_neighbours, brute_force
from neighbours import recall as share_found

from benchmarks.datasets import folded
from chroma_gpu.config import Settings
from chroma_gpu.engine.background import Background
from chroma_gpu.engine.calibration import Calibration
from chroma_gpu.engine.indexes import Indexes
from chroma_gpu.engine.nearest import Nearest
from chroma_gpu.engine.planner import Way
from chroma_gpu.index.cost import SHIPPED
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

N, DIM, QUERIES = 6_000, 48, 12
WAYS = ("gather", "scan", "index(codes)", "index(hnsw)")
KEEN = Calibration(SHIPPED.scaled(call=1e9))
"""By these costs no index begins with an exact scan."""


@pytest.fixture(scope="module")
def data():
    both = folded(N + QUERIES, DIM)
    return both[:N], both[N:]


@pytest.fixture(scope="module")
def background():
    made = Background()
    yield made
    made.close()


@pytest.fixture(scope="module")
def made(data, background):
    """Nearest over all rows, by metric, with all indexes."""
    built = {}
    for metric in Metric:
        source = ArraySource(data[0])
        indexes = Indexes(source, metric, {}, Settings(device="cpu", index="hnsw"), background, None)
        indexes.build(N, DIM)
        built[metric] = Nearest(source, metric, indexes)
    yield built
    for nearest in built.values():
        nearest._indexes.close()


@pytest.fixture
def nearest(made):
    one = made[Metric.L2]
    one.checks.clear()
    yield one
    one.force = None
    one._indexes.settings = Settings(device="cpu", index="hnsw")
    one._indexes.calibration = Calibration()


def ask(nearest, queries, k, flags):
    mask = RowSet.where(flags)
    return nearest.search(queries, k, mask, len(mask))


def narrowed(vectors, query, share, kind):
    """A filter that passes a share of the rows: any, those near the query, those far from it."""
    distances = ((vectors - query) ** 2).sum(axis=1)
    count = round(share * len(vectors))
    if kind == "random":
        chosen = np.random.default_rng(3).choice(len(vectors), count, replace=False)
    else:
        chosen = np.argsort(distances if kind == "near" else -distances, kind="stable")[:count]
    flags = np.zeros(len(vectors), np.bool_)
    flags[chosen] = True
    return flags


@settings(max_examples=60)
@given(
    metric=st.sampled_from(list(Metric)),
    way=st.sampled_from(WAYS),
    share=st.sampled_from([1.0, 0.9, 0.5, 0.1, 0.01, 0.001]),
    k=st.sampled_from([1, 3, 10, 100]),
    n_queries=st.sampled_from([1, 2, 5]),
    keen=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_way_gives_the_exact_answer_or_says_that_it_may_not(made, data, metric, way, share, k, n_queries, keen, seed):
    vectors, queries = data
    rng = np.random.default_rng(seed)
    flags = rng.random(N) < share
    chosen = queries[rng.choice(QUERIES, n_queries, replace=False)]
    nearest = made[metric]
    nearest.force = way
    nearest._indexes.calibration = KEEN if keen else Calibration()
    hits, plan = ask(nearest, chosen, k, flags)
    truth = brute_force(chosen, vectors, k, metric, RowSet.where(flags))
    if flags.any():
        assert plan.name == way
    if plan.recall == 1.0:
        assert hits.exact
    if hits.exact:
        assert_same_neighbours(hits, truth)
    else:
        assert plan.recall is None or plan.recall < 1
        assert share_found(hits, truth) >= 0.9


@pytest.mark.parametrize("kind", ["random", "near", "far"])
@pytest.mark.parametrize("way", ["index(codes)", "index(hnsw)"])
def test_approximate_ways_reach_their_recall_under_hard_filters(nearest, data, kind, way):
    vectors, queries = data
    nearest.force = way
    nearest._indexes.calibration = KEEN
    found = []
    for share in (0.9, 0.5, 0.1, 0.02):
        for query in queries:
            flags = narrowed(vectors, query, share, kind)
            hits, _ = ask(nearest, query[None], 10, flags)
            found.append(share_found(hits, brute_force(query[None], vectors, 10, Metric.L2, RowSet.where(flags))))
    assert np.mean(found) >= 0.98


def test_a_way_that_cannot_be_taken_is_not_forced(nearest, data):
    nearest.force = "index(flat)"
    flags = np.zeros(N, np.bool_)
    assert ask(nearest, data[1][:1], 10, flags)[1].way is Way.NOTHING
    flags[:50] = True
    assert ask(nearest, data[1][:1], 10, flags)[1].name == "gather"


def test_a_least_recall_is_kept(nearest, data):
    nearest._indexes.calibration = KEEN
    nearest._indexes.settings.recall = 1.0
    hits, plan = ask(nearest, data[1][:1], 10, np.ones(N, np.bool_))
    assert plan.name in ("gather", "scan")
    assert {str(each) for each in plan.considered} == {"gather", "scan"}
    assert hits.exact


def test_a_share_of_the_searches_is_checked(nearest, data):
    flags = np.random.default_rng(0).random(N) < 0.5
    want = [ask(nearest, query[None], 10, flags) for query in data[1]]
    assert nearest.checked() is None
    nearest._indexes.settings.plan_check = 0.25
    got = [ask(nearest, query[None], 10, flags) for query in data[1]]
    for (hits, plan), (same, planned) in zip(want, got, strict=True):
        assert np.array_equal(hits.rows, same.rows)
        assert np.array_equal(hits.distances, same.distances)
        assert plan == planned
    said = nearest.checked()
    assert said["count"] == len(nearest.checks) == QUERIES // 4
    for check in nearest.checks:
        assert set(check.microseconds) == set(check.recalls) == {str(each) for each in check.plan.considered}
        assert check.recalls["gather"] == check.recalls["scan"] == 1
        assert check.regret >= 1
    assert said["worst"] == max(check.regret for check in nearest.checks) >= said["mean"]


def test_a_bad_plan_is_said(nearest, data, caplog, monkeypatch):
    """A forced scan of all for a handful of candidates, by a clock that runs when the whole table is read."""
    nearest.force = "scan"
    nearest._indexes.settings.plan_check = 1.0
    now = [0.0]
    run = nearest.run

    def timed(plan, *given):
        now[0] += 1.0 if plan.way is Way.SCAN else 0.1
        return run(plan, *given)

    monkeypatch.setattr(nearest, "run", timed)
    monkeypatch.setattr("chroma_gpu.engine.nearest.time.perf_counter", lambda: now[0])
    flags = np.zeros(N, np.bool_)
    flags[::100] = True
    with caplog.at_level(logging.INFO, "chroma_gpu.planner"):
        ask(nearest, data[1][:1], 10, flags)
    assert nearest.checked()["worst"] == pytest.approx(10)
    assert "regret 10.00, recall 1.000: scan: 60 of 6,000 rows" in caplog.text


def test_norms_are_known_once_an_index_has_come_near(data, background):
    source = ArraySource(data[0])
    indexes = Indexes(source, Metric.L2, {}, Settings(device="cpu", index="codes"), background, None)
    assert indexes.norms(N) is None
    indexes.build(N - 500, DIM)
    norms = indexes.norms(N)
    assert norms.shape == (N,)
    assert np.allclose(norms, np.linalg.norm(data[0], axis=1), rtol=1e-6)
    assert indexes.norms(N) is not None
    assert len(indexes.norms(100)) == 100
    indexes.close()
