"""Regions and boosted distances against the final distances of every row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neighbours import ArraySource

from chroma_gpu.errors import DimensionMismatch
from chroma_gpu.index import regions, scoring
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

METRICS = list(Metric)
SCALES = [0.0, 1e-30, 1e-12, 1e-3, 1.0, 1e3, 1e12, 1e25]


def lengths_of_all_kinds(n, dim, seed):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, dim)) * rng.choice(SCALES, (n, 1))).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@given(seed=st.integers(0, 1 << 30), dim=st.sampled_from([1, 3, 64, 384]), scale=st.sampled_from(SCALES))
def test_brackets_hold_the_final_distance(metric, seed, dim, scale):
    vectors = lengths_of_all_kinds(40, dim, seed)
    query = (np.random.default_rng(seed + 1).standard_normal(dim) * scale).astype(np.float32)
    vectors[:3] = query, -query, query * np.float32(1.0001)
    low, high = regions.bracket(query, vectors, metric)
    final = scoring.distances(query, vectors, metric).astype(np.float64)
    assert (low <= final).all()
    assert (final <= high).all()


@pytest.mark.parametrize("metric", METRICS)
def test_brackets_of_ordinary_vectors_are_narrow(metric):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1000, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    low, high = regions.bracket(vectors[0], vectors, metric)
    assert (high - low).max() < 2e-3


@pytest.mark.parametrize("metric", METRICS)
@given(seed=st.integers(0, 1 << 30), share=st.floats(0, 1))
def test_within_admits_by_final_distances(metric, seed, share):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (200, 5)).astype(np.float32)  # many ties, many exactly on the boundary
    query = rng.integers(-2, 3, 5).astype(np.float32)
    final = scoring.distances(query, vectors, metric).astype(np.float64)
    bound = float(rng.choice(final))
    candidates = RowSet.where(rng.random(200) < share)
    for admits in (lambda d: d <= bound, lambda d: d > bound, lambda d: 1.0 - d > 1.0 - bound):
        got = regions.within(query, ArraySource(vectors), candidates, admits, metric)
        assert got.rows().tolist() == np.flatnonzero(admits(final) & candidates.flags()).tolist()


def test_within_decides_the_last_bit():
    """Rows whose float32 scores cannot tell them from the bound."""
    rng = np.random.default_rng(3)
    query = rng.standard_normal(384).astype(np.float32)
    vectors = query + (rng.standard_normal((3000, 384)) * 1e-4).astype(np.float32)
    final = scoring.distances(query, vectors, Metric.L2).astype(np.float64)
    bound = float(np.median(final))
    got = regions.within(query, ArraySource(vectors), RowSet.full(3000), lambda d: d <= bound, Metric.L2)
    assert got.rows().tolist() == np.flatnonzero(final <= bound).tolist()


def test_blocks_are_joined(monkeypatch):
    monkeypatch.setattr(regions, "_ELEMENTS", 64)
    vectors = np.random.default_rng(1).standard_normal((333, 8)).astype(np.float32)
    final = scoring.distances(vectors[0], vectors, Metric.L2)
    candidates = RowSet.of(np.arange(1, 333, dtype=np.uint32), 333) - RowSet.of(np.array([7, 90], np.uint32), 333)
    got = regions.within(vectors[0], ArraySource(vectors), candidates, lambda d: d <= 12, Metric.L2)
    assert got.rows().tolist() == [row for row in candidates.rows().tolist() if final[row] <= 12]


def test_vectors_of_another_length_are_refused():
    with pytest.raises(DimensionMismatch):
        regions.within(np.zeros(3, np.float32), ArraySource(np.zeros((2, 4), np.float32)), RowSet.full(2), np.isfinite, Metric.L2)


@pytest.mark.parametrize("metric", METRICS)
@given(seed=st.integers(0, 1 << 30), k=st.integers(1, 80), limit=st.sampled_from([np.inf, 3.0, 0.5, -2.0]))
def test_nearest_boosted_has_every_row_that_may_count(metric, seed, k, limit):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (60, 4)).astype(np.float32)
    queries = rng.integers(-2, 3, (3, 4)).astype(np.float32)
    rows = np.flatnonzero(rng.random(60) < 0.8).astype(np.uint32)
    factors, addends = rng.choice([0.25, 1.0, 3.0], len(rows)), rng.choice([-1e300, -1.0, 0.0, 0.5, 1e300], len(rows))
    found = regions.nearest_boosted(queries, ArraySource(vectors), rows, k, metric, factors, addends, limit)
    for query, (got, distances, boosted) in zip(queries, found, strict=True):
        final = scoring.distances(query, vectors[rows], metric)
        near = final <= limit
        changed = regions.boosted(final, factors, addends)
        wanted = sorted(zip(changed[near].tolist(), final[near].tolist(), rows[near].tolist(), strict=True))[:k]
        assert sorted(zip(boosted.tolist(), distances.tolist(), got.tolist(), strict=True))[:k] == wanted
