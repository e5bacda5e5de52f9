"""The inverted index against sums over dictionaries: after appends, rewrites and deletions, in every order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chroma_gpu.index.sparse import SparseIndex
from chroma_gpu.records import SparseVector
from chroma_gpu.rowset import RowSet


def rows(*numbers):
    return np.array(numbers, np.uint32)


def vector(**entries):
    """vector(i3=0.5, i7=1) has 0.5 at 3 and 1 at 7."""
    pairs = sorted((int(name[1:]), value) for name, value in entries.items())
    return SparseVector([index for index, _ in pairs], [value for _, value in pairs])


def index_of(*vectors):
    made = SparseIndex()
    made.append(np.arange(len(vectors), dtype=np.uint32), vectors)
    return made


def found(hits):
    n = int(hits.counts[0])
    assert hits.rows.shape == hits.distances.shape == (1, n)
    assert hits.exact
    return list(zip(hits.rows[0].tolist(), hits.distances[0].tolist(), strict=True))


def naive(vectors, query, k, candidates, live=None):
    """What a search should find; ``vectors`` by row."""
    weights = dict(zip(query.indices, query.values, strict=True))
    if live is not None:
        for index in weights:
            df = sum(index in vectors[row].indices for row in live if row in vectors)
            weights[index] *= math.log1p((len(live) - df + 0.5) / (df + 0.5))
    scored = []
    for row in candidates:
        values = dict(zip(vectors[row].indices, vectors[row].values, strict=True)) if row in vectors else {}
        shared = [values[index] * weight for index, weight in weights.items() if index in values]
        if shared:
            total = 0.0
            for product in shared:
                total += product
            scored.append((float(np.float32(1.0 - total)), row))
    return [(row, distance) for distance, row in sorted(scored)[:k]]


def test_the_largest_inner_product_comes_first():
    index = index_of(vector(i1=1.0), vector(i1=2.0, i5=1.0), vector(i9=7.0), vector(i5=0.25))
    assert found(index.search(vector(i1=1.0, i5=2.0), 10, RowSet.full(4))) == [(1, -3.0), (0, 0.0), (3, 0.5)]
    assert found(index.search(vector(i1=1.0, i5=2.0), 1, RowSet.full(4))) == [(1, -3.0)]


def test_only_rows_that_share_an_index_are_found_also_with_a_product_of_zero():
    index = index_of(vector(i1=0.0), vector(i2=1.0), vector(i1=-1.0))
    assert found(index.search(vector(i1=1.0), 10, RowSet.full(3))) == [(0, 1.0), (2, 2.0)]
    assert found(index.search(vector(i3=1.0, i4294967295=1.0), 10, RowSet.full(3))) == []
    assert found(index.search(SparseVector([], []), 10, RowSet.full(3))) == []
    assert found(index.search(vector(i1=1.0), 0, RowSet.full(3))) == []


def test_equal_distances_are_in_the_order_of_rows_and_the_cut_keeps_the_first():
    index = index_of(*[vector(i4=1.0)] * 50, vector(i4=2.0))
    assert [row for row, _ in found(index.search(vector(i4=1.0), 7, RowSet.full(51)))] == [50, 0, 1, 2, 3, 4, 5]


def test_an_empty_index_finds_nothing():
    for index in (SparseIndex(), index_of(), index_of(SparseVector([], []))):
        assert found(index.search(vector(i1=1.0), 3, RowSet.full(5))) == []
        assert found(index.search(vector(i1=1.0), 3, RowSet.empty(0), idf=RowSet.empty(0))) == []


def test_candidates_mask_and_rows_past_them_are_not_known():
    index = index_of(*[vector(i1=float(n)) for n in range(6)])
    assert [row for row, _ in found(index.search(vector(i1=1.0), 9, RowSet.of(rows(0, 4, 5), 6)))] == [5, 4, 0]
    assert [row for row, _ in found(index.search(vector(i1=1.0), 9, RowSet.full(3)))] == [2, 1, 0]
    assert [row for row, _ in found(index.search(vector(i1=1.0), 2, RowSet.full(1000)))] == [5, 4]


def test_distances_are_computed_in_double_precision_and_rounded_once():
    index = index_of(SparseVector([0, 1], [1e9, 1e-3]), SparseVector([0], [0.1]))
    (first, distance), (second, other) = found(index.search(SparseVector([0, 1], [1.0, 1.0]), 2, RowSet.full(2)))
    assert (first, second) == (0, 1)
    assert distance == float(np.float32(1.0 - (1e9 + 1e-3)))
    assert other == float(np.float32(0.9))


def test_nan_comes_last_and_overflow_is_infinite():
    index = index_of(vector(i1=math.inf), vector(i1=1.0), vector(i1=-math.inf), vector(i1=math.nan), vector(i1=1e300))
    hits = index.search(vector(i1=1.0), 5, RowSet.full(5))
    assert hits.rows[0].tolist() == [0, 4, 1, 2, 3]
    assert np.isnan(hits.distances[0, -1])
    assert hits.distances[0, :4].tolist() == [-math.inf, -math.inf, 0.0, math.inf]


def test_idf_counts_live_rows_whatever_the_candidates_are():
    index = index_of(vector(i1=1.0), vector(i1=1.0), vector(i1=1.0, i2=1.0), vector(i2=1.0), vector(i3=1.0))
    live = RowSet.of(rows(0, 1, 2, 3, 5, 6), 7)
    weights = index.idf(rows(1, 2, 3, 9), live)
    n = 6
    expected = [math.log((n - df + 0.5) / (df + 0.5) + 1) for df in (3, 2, 0, 0)]
    assert weights == pytest.approx(expected, rel=1e-14)
    hits = index.search(vector(i1=2.0, i2=1.0), 9, RowSet.of(rows(2, 3), 7), idf=live)
    assert found(hits) == [
        (2, float(np.float32(1 - (2 * weights[0] + weights[1])))),
        (3, float(np.float32(1 - weights[1]))),
    ]


def test_a_snapshot_stays_as_it_was():
    index = index_of(vector(i1=1.0), vector(i1=2.0))
    before = index.snapshot()
    index.append(rows(2), [vector(i1=3.0)])
    index.rewrite(rows(0, 1), rows(1), [vector(i7=1.0)])
    assert [row for row, _ in found(before.search(vector(i1=1.0), 9, RowSet.full(3)))] == [1, 0]
    assert [row for row, _ in found(index.search(vector(i1=1.0), 9, RowSet.full(3)))] == [2]
    assert before.size == 2
    assert index.size == 3


def test_rows_may_be_skipped_but_not_given_twice():
    index = index_of(vector(i1=1.0))
    index.append(rows(4, 9), [vector(i1=1.0)] * 2)
    assert index.size == 10
    with pytest.raises(ValueError, match="from 10 on"):
        index.append(rows(9), [vector(i1=1.0)])
    with pytest.raises(ValueError, match="from 10 on"):
        index.append(rows(11, 11), [vector(i1=1.0)] * 2)
    with pytest.raises(ValueError, match="2 rows"):
        index.append(rows(11, 12), [vector(i1=1.0)])
    with pytest.raises(ValueError, match="1 rows"):
        index.rewrite(rows(0), rows(0), [])
    assert [row for row, _ in found(index.search(vector(i1=1.0), 9, RowSet.full(20)))] == [0, 4, 9]


def test_memory_is_twelve_bytes_a_posting_however_it_grew():
    rng = np.random.default_rng(0)
    n, each = 3_000, 20
    vectors = [SparseVector(sorted(rng.choice(500, each, replace=False).tolist()), rng.random(each).tolist()) for _ in range(n)]
    index = SparseIndex()
    for first in range(0, n, 7):
        index.append(np.arange(first, min(first + 7, n), dtype=np.uint32), vectors[first : first + 7])
    segments = math.log2(n * each)
    assert 12 * n * each <= index.nbytes <= 12 * n * each + 4 * n + segments * (12 * 500 + 8)


def test_rewritten_postings_are_given_back():
    index = index_of(*[vector(i1=1.0, i2=1.0)] * 100)
    size = index.nbytes
    for _ in range(20):
        index.rewrite(np.arange(100, dtype=np.uint32), np.arange(100, dtype=np.uint32), [vector(i1=1.0, i2=1.0)] * 100)
    assert index.nbytes == size
    index.rewrite(np.arange(100, dtype=np.uint32), rows(), [])
    assert index.nbytes == 0


VECTORS = st.dictionaries(
    st.one_of(st.integers(0, 12), st.sampled_from([2**31, 2**32 - 1])),
    st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6, width=32), st.floats(-10, 10)),
    max_size=6,
).map(lambda entries: SparseVector(sorted(entries), [entries[index] for index in sorted(entries)]))
BATCHES = st.lists(st.one_of(st.none(), VECTORS), min_size=1, max_size=20)


@given(data=st.data())
def test_any_history_is_answered_as_dictionaries_would(data):
    index, vectors, size = SparseIndex(), {}, 0
    for _ in range(data.draw(st.integers(1, 8))):
        batch = data.draw(BATCHES)
        if size and data.draw(st.booleans()):
            targets = sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=10)))
            given_vectors = {row: one for row, one in zip(targets, batch, strict=False) if one is not None}
            index.rewrite(rows(*targets), rows(*given_vectors), list(given_vectors.values()))
            for row in targets:
                vectors.pop(row, None)
            vectors.update(given_vectors)
        else:
            new = {size + place: one for place, one in enumerate(batch) if one is not None}
            index.append(rows(*new), list(new.values()))
            vectors.update(new)
            size += len(batch)
    live = data.draw(st.sets(st.integers(0, size - 1)))
    candidates = data.draw(st.sets(st.sampled_from(sorted(live)))) if live else set()
    query, k = data.draw(VECTORS), data.draw(st.integers(1, 30))
    weighed = data.draw(st.booleans())
    live_rows, candidate_rows = RowSet.of(rows(*live), size), RowSet.of(rows(*candidates), size)
    got = found(index.search(query, k, candidate_rows, idf=live_rows if weighed else None))
    want = naive(vectors, query, k, candidates, live if weighed else None)
    if weighed:
        # The two logarithms may differ in the last place.
        assert len(got) == len(want)
        assert [distance for _, distance in got] == pytest.approx([distance for _, distance in want], rel=1e-6, abs=1e-6)
    else:
        assert got == want


def test_few_and_many_postings_are_added_up_alike():
    rng = np.random.default_rng(3)
    vectors = {}
    for row in range(4_000):
        indices = [0] * (row % 40 == 0) + sorted(rng.choice(np.arange(1, 9), 3, replace=False).tolist())
        vectors[row] = SparseVector(indices, rng.standard_normal(len(indices)).tolist())
    index = SparseIndex()
    for first in range(0, 4_000, 900):
        part = range(first, min(first + 900, 4_000))
        index.append(rows(*part), [vectors[row] for row in part])
    for query in (vector(i0=1.5), vector(i0=0.5, i3=-1.25, i8=2.0)):
        assert found(index.search(query, 25, RowSet.full(4_000))) == naive(vectors, query, 25, range(4_000))
