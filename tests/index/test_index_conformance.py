"""What every kind of index must do, whatever way it takes."""

from __future__ import annotations

import numpy as np
import pytest
from neighbours import ArraySource, assert_identical, assert_same_neighbours, assert_well_formed, brute_force, recall

from benchmarks.datasets import clustered, folded, with_duplicates, with_extremes, with_zeros
from chroma_gpu.errors import DimensionMismatch, FormatError
from chroma_gpu.index import IndexSpec, create, load
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

N, DIM, QUERIES = 5_000, 64, 9


@pytest.fixture(scope="module")
def sheet():
    both = folded(N + QUERIES, DIM)
    return both[:N], both[N:]


def check(index, queries, vectors, k, mask=None, least=1.0):
    """Equal to brute force where it is promised, else at least so good; one query at a time as in a batch."""
    want = brute_force(queries, vectors, k, index.spec.metric, mask)
    for group in (queries, queries[:1]):
        got = index.search(group, k, mask)
        assert_well_formed(got)
        wanted = want if len(group) == len(queries) else brute_force(group, vectors, k, index.spec.metric, mask)
        np.testing.assert_array_equal(got.counts, wanted.counts)
        allowed = RowSet.full(len(vectors)) if mask is None else mask
        assert all(int(row) in allowed for i, count in enumerate(got.counts) for row in got.rows[i, :count])
        if got.exact:
            assert_same_neighbours(got, wanted)
        else:
            assert not index.traits.exact
            assert got.guard in {"passed", "widened", "exact"}
            assert recall(got, wanted) >= least
    return got


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("k", [1, 10, 77])
def test_nearest_of_hard_data(build, sheet, pieces, k):
    vectors, queries = sheet
    check(build(vectors, pieces), queries, vectors, k)


def test_nearest_of_hard_data_without_the_exact_scan(build, sheet, dear_exact):
    vectors, queries = sheet
    check(build(vectors), queries, vectors, 10, least=0.9)


@pytest.mark.parametrize("variant", ["wide", "narrow", "forbidden half", "one", "all"])
def test_masks(build, sheet, variant, dear_exact):
    vectors, queries = sheet
    rng = np.random.default_rng(1)
    nearness = vectors @ queries[0]
    flags = {
        "wide": rng.random(N) < 0.7,
        "narrow": rng.random(N) < 0.02,
        "forbidden half": nearness < np.median(nearness),
        "one": np.arange(N) == 1_234,
        "all": np.ones(N, np.bool_),
    }[variant]
    check(build(vectors), queries, vectors, 10, RowSet.where(flags), least=0.9)


def test_masks_of_other_sizes(build, sheet):
    vectors, queries = sheet
    index = build(vectors)
    check(index, queries, vectors[:700], 10, RowSet.full(700))
    larger = RowSet.of(np.array([3, 4_999, 5_001, 9_000], np.uint32), 10_000)
    got = index.search(queries, 10, larger)
    assert set(got.rows[0, :2].tolist()) == {3, 4_999}
    assert (got.counts == 2).all()


@pytest.mark.parametrize("mask", [RowSet.empty(N), RowSet.empty(0)], ids=["none passes", "of no rows"])
def test_nothing_to_find(build, sheet, mask):
    vectors, queries = sheet
    got = build(vectors).search(queries, 10, mask)
    assert_well_formed(got)
    assert not got.counts.any()


def test_an_empty_index(build, sheet):
    index = build(sheet[0][:0])
    assert len(index) == 0
    assert not index.search(sheet[1], 10).counts.any()


@pytest.mark.parametrize("n", [1, 9, 10, 11])
def test_fewer_rows_than_k_and_as_many(build, sheet, n):
    check(build(sheet[0][:n]), sheet[1], sheet[0][:n], 10)


def test_all_rows_in_order(build, sheet):
    vectors = sheet[0][:600]
    check(build(vectors), sheet[1], vectors, 600)


def test_one_dimension(build):
    vectors = np.linspace(-1, 1, 301, dtype=np.float32)[:, None]
    check(build(vectors), np.array([[0.3], [-2], [0]], np.float32), vectors, 5)


@pytest.mark.parametrize("wide", [DIM, 600])
def test_duplicates_come_in_the_order_of_their_rows(build, wide, dear_exact):
    vectors = with_duplicates(folded(N, wide), 1_000)
    got = check(build(vectors), vectors[:1], vectors, 10, least=0.0)
    same = np.flatnonzero((vectors == vectors[0]).all(axis=1))
    if got.exact:
        np.testing.assert_array_equal(got.rows[0], same[:10])


def test_all_rows_equal(build, dear_exact):
    vectors = np.ones((N, DIM), np.float32)
    check(build(vectors), vectors[:2], vectors, 10, least=0.0)


def test_zero_vectors(build, sheet, dear_exact):
    vectors = with_zeros(sheet[0], 2_000)
    queries = np.concatenate([sheet[1], np.zeros((1, DIM), np.float32)])
    check(build(vectors), queries, vectors, 10, least=0.8)


def test_huge_and_tiny_norms(build, sheet, dear_exact):
    vectors = with_extremes(sheet[0])
    for scale in (1e-30, 1.0, 1e12):
        queries = (sheet[1].astype(np.float64) * scale).astype(np.float32)
        check(build(vectors), queries, vectors, 10, least=0.8)


def test_norms_from_small_to_large(build, metric, dear_exact):
    rng = np.random.default_rng(3)
    vectors = (folded(N, DIM).T * rng.lognormal(0, 1.5, N)).T.astype(np.float32)
    check(build(vectors, 3), vectors[:5] * np.float32(0.9), vectors, 10, least=0.5 if metric is Metric.IP else 0.8)


def test_clusters(build, dear_exact):
    both = clustered(N + QUERIES, 96)
    check(build(both[:N]), both[N:], both[:N], 10, least=0.9)


def test_rows_in_the_order_of_their_nearness(build, sheet):
    vectors, queries = sheet
    ordered = vectors[np.argsort(vectors @ queries[0])]
    check(build(ordered), queries[:1], ordered, 10)


def test_ten_are_the_first_of_a_hundred(build, sheet):
    index = build(sheet[0])
    few, many = index.search(sheet[1], 10), index.search(sheet[1], 100)
    if few.exact and many.exact:
        np.testing.assert_array_equal(few.rows, many.rows[:, :10])
        np.testing.assert_array_equal(few.distances, many.distances[:, :10])
    else:
        assert not index.traits.exact


def test_a_dimension_that_does_not_fit(build, sheet):
    index = build(sheet[0])
    for wrong in (np.zeros((1, DIM + 1), np.float32), np.zeros(DIM, np.float32)):
        with pytest.raises(DimensionMismatch):
            index.search(wrong, 10)


def test_no_query_and_no_neighbour(build, sheet):
    index = build(sheet[0])
    assert index.search(sheet[1][:0], 10).rows.shape == (0, 10)
    assert index.search(sheet[1], 0).rows.shape == (QUERIES, 0)


@pytest.mark.parametrize("n", [0, 300, N])
def test_saved_and_loaded(build, sheet, tmp_path, n, dear_exact):
    vectors, queries = sheet
    index = build(vectors[:n])
    index.save(tmp_path / "index")
    again = load(tmp_path / "index", index.spec, ArraySource(vectors))
    assert len(again) == n
    check(again, queries, vectors[:n], 10, least=0.9)
    if index.spec.kind in {"flat", "codes"}:  # the guards of others draw another sample, and so may fall back for other queries
        assert_identical(again.search(queries, 10), index.search(queries, 10))
    again.add(N)
    check(again, queries, vectors, 10, least=0.9)


def test_a_checkpoint_of_more_rows_than_there_are(build, sheet, tmp_path):
    index = build(sheet[0])
    index.save(tmp_path / "index")
    with pytest.raises(FormatError, match="knows 5000 rows, the table has 4999"):
        load(tmp_path / "index", index.spec, ArraySource(sheet[0][:-1]))


def test_kinds_agree_bit_for_bit(build, sheet):
    vectors, queries = sheet
    index = build(vectors)
    flat = create(IndexSpec("flat", index.spec.metric, DIM), ArraySource(vectors))
    flat.add(N)
    got, want = index.search(queries, 10), flat.search(queries, 10)
    shared = got.rows == want.rows
    assert shared.mean() > 0.9
    np.testing.assert_array_equal(got.distances[shared], want.distances[shared])
