"""The guard of the graph, and where it is not asked at all."""

from __future__ import annotations

import numpy as np
import pytest
from neighbours import ArraySource, assert_same_neighbours, brute_force, recall

from benchmarks.datasets import clustered, folded
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.index import IndexSpec
from chroma_gpu.index.hnsw import HnswIndex
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

N, DIM, QUERIES = 6_000, 32, 40
SMALL = {"M": 8, "ef_construction": 40, "ef_search": 32}


def made(vectors, metric, **params):
    index = HnswIndex(IndexSpec("hnsw", metric, vectors.shape[1], {**SMALL, **params}), ArraySource(vectors))
    index.add(len(vectors))
    return index


@pytest.fixture(scope="module")
def clusters():
    both = clustered(N + QUERIES, DIM, clusters=50, spread=0.5)
    return both[:N], both[N:]


@pytest.fixture(scope="module")
def graph(clusters):
    return made(clusters[0], Metric.COSINE)


def test_the_graph_answers(clusters, graph, dear_exact):
    vectors, queries = clusters
    hits = [graph.search(query[None], 10) for query in queries]
    passed = [i for i, one in enumerate(hits) if one.guard == "passed"]
    assert len(passed) > 0.8 * QUERIES
    assert not any(hits[i].exact for i in passed)
    found = [recall(hits[i], brute_force(queries[i : i + 1], vectors, 10, Metric.COSINE)) for i in passed]
    assert np.mean(found) > 0.95


def test_a_small_table_is_scanned(clusters, graph):
    got = graph.search(clusters[1], 10)
    assert (got.guard, got.exact) == (None, True)


def test_wrong_answers_under_a_mask_are_caught(clusters, graph, dear_exact, monkeypatch):
    vectors, queries = clusters
    nearness = vectors @ queries[0]
    mask = RowSet.where(nearness < np.quantile(nearness, 0.3))
    want = brute_force(queries[:1], vectors, 10, Metric.COSINE, mask)
    with monkeypatch.context() as patch:
        patch.setattr("chroma_gpu.index.guard._beaten", lambda *given: False)
        unguarded = graph.search(queries[:1], 10, mask)
    assert unguarded.guard == "exact" or recall(unguarded, want) < 0.5
    guarded = graph.search(queries[:1], 10, mask)
    assert (guarded.guard, guarded.exact) == ("exact", True)
    assert_same_neighbours(guarded, want)


def test_too_few_hits_are_caught(clusters, graph, dear_exact, monkeypatch):
    vectors, queries = clusters
    search = graph._graph.search
    monkeypatch.setattr(graph._graph, "search", lambda q, k, params: tuple(each[:, :5] for each in search(q, k, params)))
    got = graph.search(queries, 10)
    assert (got.guard, got.exact) == ("exact", True)
    assert_same_neighbours(got, brute_force(queries, vectors, 10, Metric.COSINE))


def test_only_the_queries_that_failed_are_scanned(clusters, graph, dear_exact, monkeypatch):
    vectors, queries = clusters
    verdicts = iter([i == 7 for i in range(QUERIES)])
    monkeypatch.setattr("chroma_gpu.index.guard._beaten", lambda *given: next(verdicts))
    want = brute_force(queries, vectors, 10, Metric.COSINE)
    got = graph.search(queries, 10)
    assert (got.guard, got.exact) == ("exact", False)
    np.testing.assert_array_equal(got.rows[7], want.rows[7])
    assert recall(got, want) > 0.95


def test_ef_grows_as_the_mask_narrows(clusters, graph, dear_exact, monkeypatch):
    asked = []
    search = graph._graph.search
    monkeypatch.setattr(graph._graph, "search", lambda q, k, params: asked.append((k, params.efSearch)) or search(q, k, params))
    rng = np.random.default_rng(0)
    for share in (1.0, 0.5, 0.1):
        graph.search(clusters[1][:1], 10, RowSet.where(rng.random(N) < share))
    graph.search(clusters[1][:1], 100)
    (fetch, whole), (_, half), (_, tenth), (more, _) = asked
    assert (fetch, whole, more) == (48, 48, 150)
    assert 90 < half < 105
    assert 435 < tenth < 525


def test_the_bounded_queue_is_kept(graph):
    """Without it FAISS ignores the mask, silently."""
    from chroma_gpu.index.faiss_library import load_faiss

    assert load_faiss().SearchParametersHNSW(efSearch=10).bounded_queue


@pytest.mark.parametrize("metric", list(Metric))
def test_recall_on_hard_data(metric, dear_exact):
    both = folded(N + QUERIES, DIM, intrinsic=6)
    index = made(both[:N], metric, M=16, ef_construction=80, ef_search=150)
    got = index.search(both[N:], 10)
    assert recall(got, brute_force(both[N:], both[:N], 10, metric)) > 0.95


def test_added_in_pieces_of_any_size(clusters, dear_exact):
    vectors, queries = clusters
    index = HnswIndex(IndexSpec("hnsw", Metric.L2, DIM, SMALL), ArraySource(vectors))
    for stop in (1, 2, 1_030, 3_000):
        index.add(stop)
        assert len(index) == stop
    want = brute_force(queries, vectors[:3_000], 10, Metric.L2)
    assert recall(index.search(queries, 10), want) > 0.95


@pytest.mark.parametrize("params", [{"nlist": 3}, {"M": 1}, {"ef_search": "200"}])
def test_parameters_are_checked(params):
    with pytest.raises(InvalidArgumentError, match=next(iter(params))):
        made(np.zeros((0, 4), np.float32), Metric.L2, **params)
