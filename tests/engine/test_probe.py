"""The look at a few rows that tells whether a filter rules out what is near."""

from __future__ import annotations

import numpy as np
import pytest

from chroma_gpu.engine.probe import Probe
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet
from chroma_gpu.store.memory import MemoryVectors

ROWS, DIM = 20_000, 16


@pytest.fixture(scope="module")
def probed():
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((ROWS, DIM), np.float32)
    source = MemoryVectors()
    source.append(0, vectors)
    source.commit(ROWS, DIM)
    query = rng.standard_normal((1, DIM), np.float32)
    return Probe(source, Metric.L2), query, ((vectors - query) ** 2).sum(1), rng


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
def test_a_filter_that_knows_nothing_of_vectors_misses_nothing(probed, share):
    probe, query, _, rng = probed
    missing = []
    for _ in range(50):
        flags = rng.random(ROWS) < share
        missing.append(probe.missing(query, RowSet.where(flags), int(flags.sum())))
    assert sum(each > 0 for each in missing) <= 5


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
def test_a_filter_that_rules_out_what_is_near_misses_all_of_it(probed, share):
    probe, query, distances, _ = probed
    flags = distances > np.quantile(distances, 1 - share)
    assert probe.missing(query, RowSet.where(flags), int(flags.sum())) > 0.6


def test_a_filter_that_keeps_what_is_near_misses_nothing(probed):
    probe, query, distances, _ = probed
    flags = distances < np.quantile(distances, 0.3)
    assert probe.missing(query, RowSet.where(flags), int(flags.sum())) == 0


def test_small_tables_are_not_looked_at(probed):
    source = MemoryVectors()
    source.append(0, np.eye(8, dtype=np.float32))
    source.commit(8, 8)
    assert Probe(source, Metric.L2).missing(np.ones((1, 8), np.float32), RowSet.of(np.array([0], np.uint32), 8), 1) == 0


def test_huge_vectors_do_no_harm():
    source = MemoryVectors()
    source.append(0, np.full((1_000, 4), 3e38, np.float32))
    source.commit(1_000, 4)
    flags = np.arange(1_000) % 2 == 0
    assert 0 <= Probe(source, Metric.L2).missing(np.full((1, 4), -3e38, np.float32), RowSet.where(flags), 500) <= 1
