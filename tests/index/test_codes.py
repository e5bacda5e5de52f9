"""The guard of the 1-bit codes, and the ways a search over them takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from neighbours import ArraySource, assert_same_neighbours, brute_force, recall

from benchmarks.datasets import clustered, folded, with_duplicates
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.index import IndexSpec, cost, rabitq, scoring
from chroma_gpu.index.codes import CodesIndex, _places
from chroma_gpu.index.growing import Growing
from chroma_gpu.index.rotation import Rotation
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

N, DIM, QUERIES = 9_000, 96, 60
METRICS = pytest.mark.parametrize("metric", list(Metric))

pytestmark = pytest.mark.usefixtures("dear_exact")


def made(vectors, metric=Metric.COSINE, **params):
    index = CodesIndex(IndexSpec("codes", metric, vectors.shape[1], params), ArraySource(vectors))
    index.add(len(vectors))
    return index


@pytest.fixture(scope="module")
def clusters():
    both = clustered(N + QUERIES, DIM, clusters=300, spread=0.5)
    return both[:N], both[N:]


@pytest.fixture(scope="module")
def lumps():
    """Wide gaps between a query's cluster and all others: the guard passes at once."""
    both = clustered(N + QUERIES, DIM, clusters=400, spread=0.3, seed=11)
    return both[:N], both[N:]


def each(index, queries, k, mask=None):
    return [index.search(query[None], k, mask) for query in queries]


@METRICS
def test_a_passed_guard_is_right_and_not_called_exact(lumps, metric):
    vectors, queries = lumps
    index = made(vectors, metric, fetch=900)
    hits = each(index, queries, 3)
    passed = [i for i, one in enumerate(hits) if one.guard == "passed"]
    assert len(passed) > QUERIES // 2
    for i in passed:
        assert not hits[i].exact
        assert_same_neighbours(hits[i], brute_force(queries[i : i + 1], vectors, 3, metric))


@METRICS
def test_a_failed_guard_fetches_more(clusters, metric):
    vectors, queries = clusters
    hits = each(made(vectors, metric, fetch=16), queries, 10)
    assert "widened" in {one.guard for one in hits}
    for query, one in zip(queries, hits, strict=True):
        assert recall(one, brute_force(query[None], vectors, 10, metric)) == 1


@METRICS
def test_codes_are_scanned_twice_at_most_and_the_second_time_finds_enough(metric, monkeypatch):
    both = folded(N + QUERIES, DIM)
    index = made(both[:N], metric, fetch=64)
    asked: list[int] = []
    scan = rabitq.Codes.scan
    monkeypatch.setattr(rabitq.Codes, "scan", lambda self, query, fetch: asked.append(fetch) or scan(self, query, fetch))
    widened = 0
    for query in both[N:]:
        asked.clear()
        hits = index.search(query[None], 10)
        assert asked[0] == 64
        assert len(asked) <= 2
        widened += len(asked) == 2 and hits.guard == "widened"
        assert hits.guard != "passed" or len(asked) == 1
        assert recall(hits, brute_force(query[None], both[:N], 10, metric)) == 1
    assert widened > QUERIES // 4


def test_where_a_mask_rules_out_what_is_near_the_codes_are_scanned_once(monkeypatch):
    both = folded(N + QUERIES, DIM)
    index = made(both[:N], Metric.L2)
    distances = ((both[:N] - both[N]) ** 2).sum(axis=1)
    mask = RowSet.where(distances > np.quantile(distances, 0.3))
    monkeypatch.undo()
    calls: list[int] = []
    scan = rabitq.Codes.scan
    monkeypatch.setattr(rabitq.Codes, "scan", lambda self, query, fetch: calls.append(fetch) or scan(self, query, fetch))
    costs = cost.SHIPPED.scaled(call=20)  # dearer than a scan of the codes, cheaper than one that fetches most of them
    hits = index.search(both[N : N + 1], 10, mask, costs)
    assert (len(calls), hits.guard, hits.exact) == (1, "exact", True)


def test_how_many_estimates_lie_below_a_key():
    keys = np.log(np.arange(1, 1_001)).astype(np.float32)  # ten times as many for every 2.3
    for rank in (1_500, 4_000, 100_000):
        assert _places(keys, math.log(rank)) == pytest.approx(rank, rel=0.02)
    assert _places(keys, float(keys[-1])) == 1_000
    assert _places(np.zeros(1_000, np.float32), 0.1) == math.inf
    assert _places(keys[:3], 9.0) == math.inf
    assert _places(keys, 1e6) == _places(keys, math.nan) == math.inf


@METRICS
def test_in_the_end_everything_is_scanned(clusters, metric, monkeypatch):
    vectors, queries = clusters
    index = made(vectors, metric, fetch=16)
    dear = cost.SHIPPED.codes(N, N, index.rotation.width, 16) + 1
    monkeypatch.setattr(cost.Costs, "exact_block", lambda *given, **more: dear)
    hits = each(index, queries, 10)
    assert {one.guard for one in hits} >= {"exact"}
    for query, one in zip(queries, hits, strict=True):
        if one.guard == "exact":
            assert one.exact
            assert_same_neighbours(one, brute_force(query[None], vectors, 10, metric))


@METRICS
def test_duplicates_at_the_boundary_never_pass(metric):
    vectors = with_duplicates(folded(N, DIM), 1_000)
    (one,) = each(made(vectors, metric, fetch=100), vectors[:1], 10)
    assert one.guard != "passed"
    np.testing.assert_array_equal(one.rows[0], np.flatnonzero((vectors == vectors[0]).all(axis=1))[:10])


def test_a_batch_takes_the_exact_scan(clusters, monkeypatch):
    vectors, queries = clusters
    index = made(vectors)
    monkeypatch.undo()
    together = index.search(np.tile(queries, (4, 1)), 10)
    assert (together.guard, together.exact) == (None, True)


def test_small_tables_and_narrow_vectors_have_no_codes():
    assert made(folded(4_095, 64))._codes is None
    assert made(folded(5_000, 40))._codes is None
    assert made(folded(4_096, 64))._codes is not None


@METRICS
@pytest.mark.parametrize(("share", "skipping"), [(0.95, False), (0.1, True)])
def test_masks_take_the_cheaper_form(lumps, metric, share, skipping):
    vectors, queries = lumps
    mask = RowSet.where(np.random.default_rng(2).random(N) < share)
    index = made(vectors, metric, fetch=600)
    hits = each(index, queries[:20], 3, mask)
    assert index._codes is not None
    assert (index._codes.plain is not None) == skipping
    assert {one.guard for one in hits} & {"passed", "widened"}
    for query, one in zip(queries, hits, strict=False):
        assert recall(one, brute_force(query[None], vectors, 3, metric, mask)) == 1


def test_the_second_form_grows_with_the_first(lumps):
    vectors, queries = lumps
    mask = RowSet.where(np.random.default_rng(2).random(N) < 0.1)
    index = CodesIndex(IndexSpec("codes", Metric.L2, DIM, {"fetch": 600}), ArraySource(vectors))
    index.add(8_000)
    index.search(queries[:1], 3, mask)
    index.add(N)
    codes = index._codes
    assert codes is not None
    assert codes.plain is not None
    assert len(codes.plain) == len(codes) == N
    want = brute_force(queries[:9], vectors, 3, Metric.L2, mask)
    assert recall(index.search(queries[:9], 3, mask), want) == 1


def test_growth_makes_the_codes_anew():
    vectors = folded(20_000, 64)
    vectors[:4_096] += 3  # the first topic lies elsewhere
    index = CodesIndex(IndexSpec("codes", Metric.L2, 64), ArraySource(vectors))
    index.add(4_096)
    first = index._codes
    index.add(16_383)
    assert index._codes is first
    index.add(20_000)
    assert index._codes is not first
    assert index._codes is not None
    assert (index._codes.trained, len(index._codes)) == (20_000, 20_000)
    centre = index.rotation(vectors.mean(axis=0)[None])[0]
    np.testing.assert_allclose(index._codes.centre, centre, atol=0.05)
    assert first is not None
    assert index._codes.bounds.reach < first.bounds.reach * 1.1


@METRICS
def test_rows_far_out_are_found_though_their_codes_are_useless(metric):
    vectors = clustered(N, DIM, clusters=300, spread=0.5)
    far = np.arange(100, 130)
    vectors[far] *= 50
    index = made(vectors, metric)
    assert index._codes is not None
    assert set(index._codes.bounds.outliers.tolist()) == (set() if metric is Metric.COSINE else set(far.tolist()))
    queries = vectors[far[:5]] / 2
    for query in queries:
        assert recall(index.search(query[None], 10), brute_force(query[None], vectors, 10, metric)) == 1


def test_outliers_are_not_left_to_their_codes():
    """Long rows that lie almost across the queries: their inner products are barely the largest, their codes' errors huge."""
    rng = np.random.default_rng(6)
    vectors = clustered(N, DIM, clusters=300, spread=0.5)
    queries = np.linalg.qr(rng.standard_normal((DIM, 24)))[0].T.astype(np.float32)
    best = vectors @ queries.T
    across = rng.standard_normal((24, DIM))
    across -= across @ queries.T @ queries
    places = rng.choice(N, 24, replace=False)
    vectors[places] = 40 * across / np.linalg.norm(across, axis=1, keepdims=True) + (best.max() + 0.1) * queries
    hits = each(made(vectors, Metric.IP), queries, 1)
    assert [int(one.rows[0, 0]) for one in hits] == places.tolist()
    assert "passed" in {one.guard for one in hits}


def test_errors_are_as_predicted(lumps):
    """The deviation that the guard relies on, against the errors of all rows near a query."""
    vectors, queries = lumps
    for metric in Metric:
        index = made(vectors, metric)
        codes = index._codes
        assert codes is not None
        scores = []
        for query in queries:
            rotated, offset, length = codes.place_query(query[None])
            keys, rows = codes.scan(rotated, N)
            true = scoring.distances(query, vectors[rows], metric).astype(np.float64)
            true = true if metric is Metric.L2 else 2 * true - 2
            near = np.argsort(true)[:30]
            deviation = codes.deviation(codes.bounds, float(true[near[-1]]), offset, length)
            scores.append((keys[near] - true[near]) / deviation)
        spread = float(np.sqrt(np.mean(np.square(scores))))
        assert 0.4 < spread < 1.1
        assert abs(float(np.mean(scores))) < 0.2


@pytest.mark.parametrize("shape", ["one-hot", "blocks", "low-dimensional"])
def test_rotation_makes_structured_data_ordinary(shape):
    rng = np.random.default_rng(4)
    vectors = np.zeros((600, 640), np.float32)
    if shape == "one-hot":
        vectors[np.arange(600), np.arange(600)] = 1
    elif shape == "blocks":
        vectors[:, 128:256] = rng.standard_normal((600, 128))
    else:
        vectors[:] = rng.standard_normal((600, 3)) @ rng.standard_normal((3, 640))
    rotation = Rotation(640)
    rotated = rotation(vectors)
    assert rotation.width == 640
    np.testing.assert_allclose(rotated @ rotated.T, vectors @ vectors.T, atol=1e-3 * float((vectors**2).sum(axis=1).max()))
    agreement = np.abs(rotated).sum(axis=1) / np.linalg.norm(rotated, axis=1) / np.sqrt(640)
    assert 0.7 < agreement.min() <= agreement.max() < 0.9


def test_widths():
    assert [rabitq.Rotation(dim).width for dim in (1, 7, 64, 100, 128, 200, 300, 384, 512, 513, 768, 1536)] == [
        8, 16, 128, 200, 256, 256, 384, 384, 512, 640, 768, 1536,
    ]  # fmt: skip


def test_a_query_too_long_for_float32(lumps):
    vectors, queries = lumps
    index = made(vectors, Metric.IP)
    got = index.search(queries[:1] * np.float32(1e20), 10)
    assert (got.guard, got.exact) == ("exact", True)


def test_unknown_parameters_are_refused():
    with pytest.raises(InvalidArgumentError, match="no parameter nprobe"):
        CodesIndex(IndexSpec("codes", Metric.L2, 8, {"nprobe": 3}), ArraySource(np.zeros((0, 8), np.float32)))


def test_growing_keeps_earlier_views():
    column = Growing()
    column.append(np.arange(3, dtype=np.float32))
    early = column.view()
    for _ in range(5):
        column.append(np.arange(100, dtype=np.float32))
    np.testing.assert_array_equal(early, [0, 1, 2])
    assert len(column) == len(column.view()) == 503
    np.testing.assert_array_equal(column.view(5), [0, 1, 2, 0, 1])
