"""The flat index with a copy of its rows on a device: chunks, rows set aside, and the same answers as the host."""

from __future__ import annotations

import numpy as np
import pytest
from neighbours import ArraySource, assert_identical

from benchmarks.datasets import folded, with_extremes
from chroma_gpu.errors import DeviceError, InvalidArgumentError
from chroma_gpu.index import IndexSpec, exact, flat
from chroma_gpu.index.flat import FlatIndex
from chroma_gpu.kernels import gather, scan
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

N, DIM = 5_000, 24
METRICS = pytest.mark.parametrize("metric", list(Metric))


def resident(vectors, metric, device, stops):
    index = FlatIndex(IndexSpec("flat", metric, vectors.shape[1], {"device": device, "resident": True}), ArraySource(vectors))
    for stop in stops:
        index.add(stop)
    return index


@METRICS
@pytest.mark.parametrize("k", [1, 10, 300])
def test_the_same_bits_as_on_the_host(device, metric, k, monkeypatch):
    monkeypatch.setattr(flat, "_FIRST_CHUNK", 64)
    both = folded(N + 9, DIM)
    vectors, queries = both[:N], both[N:]
    index = resident(vectors, metric, device, (1, 63, 64, 65, 1_000, 1_001, N))
    chunks = index._buffer._chunks
    assert len(chunks) > 3
    assert [chunk.start for chunk in chunks[1:]] == list(np.cumsum([len(chunk.vectors) for chunk in chunks])[:-1])
    want = exact.search_block(queries, ArraySource(vectors), 0, N, None, k, metric)
    assert_identical(index.search(queries, k), want)


@METRICS
def test_narrow_masks_are_listed_and_wide_ones_are_not(device, metric, monkeypatch):
    ways = []
    for module, name in ((gather, "gather"), (scan, "scan")):
        way = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, _way=way, _name=name: ways.append(_name) or _way(*given))
    vectors = folded(N, DIM)
    index = resident(vectors, metric, device, (N,))
    for share, way in ((0.01, "gather"), (0.2, "scan")):
        mask = RowSet.where(np.random.default_rng(0).random(N) < share)
        got = index.search(vectors[:4], 10, mask)
        assert ways[-1] == way
        assert_identical(got, exact.search_block(vectors[:4], ArraySource(vectors), 0, N, mask, 10, metric))


@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
def test_long_rows_are_set_aside_even_when_they_come_first(device, metric, monkeypatch):
    monkeypatch.setattr(flat, "_SLICE", 500)
    vectors = folded(N, DIM)
    long = np.arange(0, 120, 10)
    vectors[long] *= np.float32(1e6)
    index = resident(vectors, metric, device, (100, N))
    assert set(index._buffer._aside.tolist()) >= set(long.tolist())
    survivors = index._buffer.candidates(vectors[1:2], np.ones(1, np.float32) * 5, N, 10, None, N)[1]
    assert len(survivors) < 150
    for mask in (None, RowSet.where(np.arange(N) % 3 == 0)):
        want = exact.search_block(vectors[:30], ArraySource(vectors), 0, N, mask, 10, metric)
        assert_identical(index.search(vectors[:30], 10, mask), want)


@METRICS
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_extremes(device, metric, scale):
    vectors = with_extremes(folded(N, DIM))
    queries = (folded(3, DIM, seed=9).astype(np.float64) * scale).astype(np.float32)
    want = exact.search_block(queries, ArraySource(vectors), 0, N, None, 30, metric)
    assert_identical(resident(vectors, metric, device, (2_000, N)).search(queries, 30), want)


def test_a_device_that_is_not_there():
    with pytest.raises(DeviceError, match="'cuda:99' cannot be used"):
        FlatIndex(IndexSpec("flat", Metric.L2, 4, {"device": "cuda:99"}), ArraySource(np.eye(4, dtype=np.float32)))


def test_unknown_parameters_are_refused():
    with pytest.raises(InvalidArgumentError, match="no parameter M"):
        FlatIndex(IndexSpec("flat", Metric.L2, 4, {"M": 3}), ArraySource(np.eye(4, dtype=np.float32)))
