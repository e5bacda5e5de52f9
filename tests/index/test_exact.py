"""Brute force in float32 that is still exact: ties, any k, masks, extremes, and that it does not give up and score everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neighbours import ArraySource, assert_identical, assert_same_neighbours, brute_force

from benchmarks.datasets import folded, with_duplicates, with_extremes, with_zeros
from chroma_gpu.errors import DimensionMismatch
from chroma_gpu.index import answers, exact, faiss_library, scoring
from chroma_gpu.records import Hits, Metric
from chroma_gpu.rowset import RowSet

N, DIM = 3_000, 40
METRICS = pytest.mark.parametrize("metric", list(Metric))


@pytest.fixture(scope="module")
def sheet():
    both = folded(N + 7, DIM)
    return both[:N], both[N:]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 128 rows, groups of three queries; counts the blocks."""
    taken = []
    take = exact._Scan.take

    def counted(self, rows, *given):
        taken.append(len(rows))
        return take(self, rows, *given)

    monkeypatch.setattr(exact._Scan, "take", counted)
    monkeypatch.setattr(exact, "_rows_of_a_block", lambda n_queries: 128)
    monkeypatch.setattr(exact, "_QUERIES", 3)
    return taken


@pytest.fixture(params=[False, True], ids=["one thread", "a team"])
def in_place(request, monkeypatch):
    """Scattered rows are read where they lie, however few; the numbers of rows that were, call by call."""
    faiss_library.load_faiss()
    monkeypatch.setattr(exact, "IN_PLACE", 1)
    if request.param:
        monkeypatch.setattr(faiss_library, "_TEAM", 1)
    asked = []
    products = faiss_library.products

    def counted(query, vectors, rows):
        asked.append(len(rows))
        return products(query, vectors, rows)

    monkeypatch.setattr(faiss_library, "products", counted)
    return asked


def with_zeros_(vectors):
    return with_zeros(vectors, 100)


@METRICS
@pytest.mark.parametrize("k", [1, 10, 500, N, N + 5])
def test_block(sheet, metric, k, small_blocks):
    vectors, queries = sheet
    got = exact.search_block(queries, ArraySource(vectors), 0, N, None, k, metric)
    assert_same_neighbours(got, brute_force(queries, vectors, k, metric))
    assert got.exact
    assert (len(small_blocks), sum(small_blocks)) == (3 * 24, 3 * N)


@METRICS
@pytest.mark.parametrize("share", [0.7, 0.2, 0.01])
@pytest.mark.parametrize("n_queries", [1, 3])
@pytest.mark.parametrize(
    "change", [lambda vectors: vectors, lambda vectors: with_duplicates(vectors, 200), with_extremes, with_zeros_]
)
def test_rows_read_in_place(sheet, metric, share, n_queries, change, in_place):
    vectors, queries = change(sheet[0]), sheet[1][:n_queries]
    source, norms = ArraySource(vectors), scoring.norms(vectors)
    mask = RowSet.where(np.random.default_rng(5).random(N) < share)
    want = brute_force(queries, vectors, 10, metric, mask)
    assert_same_neighbours(exact.search_rows(queries, source, mask.rows(), 10, metric, norms), want)
    assert_same_neighbours(exact.search_block(queries, source, 0, N, mask, 10, metric, norms), want)
    if change is not with_extremes:
        assert in_place == [len(mask)] * 2 * n_queries


@METRICS
def test_rows_read_in_place_more_neighbours_than_rows(sheet, metric, in_place):
    vectors, queries = sheet
    rows = np.arange(0, N, 3, dtype=np.uint32)
    got = exact.search_rows(queries[:1], ArraySource(vectors), rows, N, metric, scoring.norms(vectors))
    assert_same_neighbours(got, brute_force(queries[:1], vectors, N, metric, RowSet.of(rows, N)))


def test_products_of_rows_that_are_not_there(sheet):
    vectors, queries = sheet
    for rows, given_vectors in (([0, N], vectors), ([0, 1], vectors[:, ::2]), ([0, 1], vectors[:, :-1])):
        with pytest.raises(ValueError, match="contiguous"):
            faiss_library.products(queries[0], given_vectors, np.array(rows, np.uint32))


@METRICS
@pytest.mark.parametrize("share", [0.9, 0.1, 0.001])
@pytest.mark.parametrize("kept", [True, False])
def test_block_with_a_mask(sheet, metric, share, kept, small_blocks):
    vectors, queries = sheet
    mask = RowSet.where(np.random.default_rng(5).random(N) < share)
    norms = scoring.norms(vectors) if kept else None
    got = exact.search_block(queries, ArraySource(vectors), 100, 2_900, mask, 10, metric, norms)
    within = mask & RowSet.of(np.arange(100, 2_900, dtype=np.uint32), N)
    assert_same_neighbours(got, brute_force(queries, vectors, 10, metric, within))


@METRICS
@pytest.mark.parametrize("n", [0, 1, 9, 300, N])
def test_rows(sheet, metric, n, monkeypatch):
    vectors, queries = sheet
    monkeypatch.setattr(exact, "_rows_in_cache", lambda dim: 64)
    rows = np.random.default_rng(6).permutation(N)[:n].astype(np.uint32)
    mask = RowSet.of(rows, N)
    want = brute_force(queries, vectors, 10, metric, mask)
    for norms in (None, scoring.norms(vectors)):
        assert_same_neighbours(exact.search_rows(queries, ArraySource(vectors), rows, 10, metric, norms), want)


@METRICS
def test_one_query_and_many_agree_bit_for_bit(sheet, metric):
    vectors, _ = sheet
    queries = folded(300, DIM, seed=8)
    source = ArraySource(vectors)
    together = exact.search_block(queries, source, 0, N, None, 10, metric)
    assert len(queries) > exact._QUERIES
    for i in (0, 17, 255, 256, 299):
        alone = exact.search_block(queries[i : i + 1], source, 0, N, None, 10, metric)
        np.testing.assert_array_equal(alone.rows[0], together.rows[i])
        np.testing.assert_array_equal(alone.distances[0], together.distances[i])


@METRICS
@pytest.mark.parametrize("case", ["ordinary", "ties", "long row", "short query"])
def test_one_query_takes_fewer_steps_where_they_suffice(sheet, metric, case, monkeypatch):
    vectors, query = sheet[0].copy(), sheet[1][:1].copy()
    if case == "ties":
        vectors[::3] = query
    elif case == "long row":
        vectors[5] *= 1e15
    elif case == "short query":
        query *= 1e-10
    scans = []
    made = exact._Scan
    monkeypatch.setattr(exact, "_Scan", lambda *given: scans.append(1) or made(*given))
    for n in (5, 18, 19, 20, N):
        want = brute_force(query, vectors[:n], 10, metric)
        got = exact.search_rows(query, ArraySource(vectors), np.arange(n, dtype=np.uint32), 10, metric)
        np.testing.assert_array_equal(got.rows, want.rows)
        np.testing.assert_array_equal(got.distances, want.distances)
        np.testing.assert_array_equal(got.counts, want.counts)
    assert bool(scans) == (case != "ordinary")


@METRICS
def test_few_rows_are_scored_twice(sheet, metric, monkeypatch):
    scored = []
    settle = answers.settle
    monkeypatch.setattr(exact, "settle", lambda q, s, owners, *rest: scored.append(len(owners)) or settle(q, s, owners, *rest))
    vectors, queries = sheet
    exact.search_block(queries, ArraySource(vectors), 0, N, None, 10, metric)
    assert 10 * len(queries) <= scored[0] < 15 * len(queries)


@METRICS
def test_one_long_row_does_not_widen_the_margin_of_the_others(sheet, metric, monkeypatch):
    scored = []
    settle = answers.settle
    monkeypatch.setattr(exact, "settle", lambda q, s, owners, *rest: scored.append(len(owners)) or settle(q, s, owners, *rest))
    vectors, queries = sheet[0].copy(), sheet[1]
    vectors[1_234] *= 1e9
    got = exact.search_block(queries, ArraySource(vectors), 0, N, None, 10, metric)
    assert_same_neighbours(got, brute_force(queries, vectors, 10, metric), atol=1e-4)
    assert scored[0] < 20 * len(queries)


@METRICS
@pytest.mark.parametrize("falling", [True, False])
def test_rows_in_the_order_of_their_nearness(sheet, metric, falling, monkeypatch):
    vectors, queries = sheet
    nearness = -scoring.distances(queries[0], vectors, metric)
    ordered = vectors[np.argsort(nearness if falling else -nearness)]
    floors = []
    best_of = exact._best_of
    monkeypatch.setattr(exact, "_best_of", lambda scores, k: floors.append(scores.shape[1]) or best_of(scores, k))
    twice = np.concatenate([queries[:1], queries[:1]])
    got = exact.search_block(twice, ArraySource(ordered), 0, N, None, 10, metric, scoring.norms(ordered))
    assert_same_neighbours(got, brute_force(twice, ordered, 10, metric))
    # Where the sample says nothing, the block itself gives the floor.
    assert (N + 10 in floors) == falling


@METRICS
@pytest.mark.parametrize("k", [10, 1_500])
def test_ties(metric, k):
    vectors = with_zeros(with_duplicates(folded(N, DIM), 1_000), 500)
    queries = np.concatenate([vectors[:2], np.zeros((1, DIM), np.float32)])
    assert_identical(
        exact.search_block(queries, ArraySource(vectors), 0, N, None, k, metric), brute_force(queries, vectors, k, metric)
    )


@METRICS
@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-25, 1.0, 1e20, 1e37])
def test_extreme_norms(metric, scale):
    vectors = with_extremes(folded(N, DIM))
    queries = (folded(3, DIM, seed=9).astype(np.float64) * scale).astype(np.float32)
    got = exact.search_block(queries, ArraySource(vectors), 0, N, None, 50, metric)
    want = brute_force(queries, vectors, 50, metric)
    np.testing.assert_array_equal(got.rows, want.rows)
    np.testing.assert_array_equal(got.distances, want.distances)


@METRICS
@pytest.mark.parametrize(
    ("queries", "rows"), [(1.0, 1e-9), (1e-6, 1e-3), (1e37, 1e-43), (1e37, 1e-41), (1e-40, 1e-40), (1e18, 1e18)]
)
def test_products_that_round_away(metric, queries, rows):
    both = folded(N + 3, DIM).astype(np.float64)
    vectors, asked = (both[:N] * rows).astype(np.float32), (both[N:] * queries).astype(np.float32)
    got = exact.search_block(asked, ArraySource(vectors), 0, N, None, 20, metric)
    want = brute_force(asked, vectors, 20, metric)
    np.testing.assert_array_equal(got.distances, want.distances)
    np.testing.assert_array_equal(got.rows, want.rows)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 400),
    dim=st.integers(1, 70),
    k=st.integers(1, 40),
    metric=st.sampled_from(list(Metric)),
    grid=st.sampled_from([0, 1, 4]),
    logs=st.floats(-20, 20),
)
def test_any_data(seed, n, dim, k, metric, grid, logs):
    rng = np.random.default_rng(seed)
    both = rng.standard_normal((n + 2, dim))
    if grid:  # many equal distances
        both = np.round(both * grid) / grid
    both = (both * 10.0**logs).astype(np.float32)
    source = ArraySource(both[:n])
    want = brute_force(both[n:], both[:n], k, metric)
    assert_identical(exact.search_block(both[n:], source, 0, n, None, k, metric), want)
    assert_identical(exact.search_rows(both[n:], source, rng.permutation(n).astype(np.uint32), k, metric), want)


@METRICS
def test_merge(sheet, metric):
    vectors, queries = sheet
    source = ArraySource(vectors)
    parts = [exact.search_block(queries, source, *part, None, k, metric) for part, k in (((0, 5), 10), ((5, N), 12))]
    want = exact.search_block(queries, source, 0, N, None, 10, metric)
    assert_identical(answers.merge(*parts, 10), want)
    assert_identical(answers.merge(Hits.empty(len(queries), 3), want, 10), want)


@pytest.mark.parametrize(
    ("guards", "want"),
    [((None, None), None), (("passed", None), "passed"), (("widened", "passed"), "widened"), ((None, "exact"), "exact")],
)
def test_the_guard_of_two_is_the_worse(guards, want):
    left, right = (
        Hits(np.array([[i]], np.uint32), np.zeros((1, 1), np.float32), np.ones(1, np.int32), exact=i == 0, guard=guard)
        for i, guard in enumerate(guards)
    )
    merged = answers.merge(left, right, 2)
    assert merged.guard == want
    assert not merged.exact
    stacked = answers.stacked([left, right], 1)
    assert (stacked.guard, stacked.exact, stacked.rows.tolist()) == (want, False, [[0], [1]])


def test_wrong_dimensions(sheet):
    source = ArraySource(sheet[0])
    for queries in (np.zeros((1, DIM + 1), np.float32), np.zeros(DIM, np.float32)):
        with pytest.raises(DimensionMismatch):
            exact.search_block(queries, source, 0, N, None, 10, Metric.L2)
        with pytest.raises(DimensionMismatch):
            exact.search_rows(queries, source, np.arange(3, dtype=np.uint32), 10, Metric.L2)
