"""The flat index over the Triton kernels: on a card as they are compiled, without one in the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from neighbours import ArraySource, assert_identical

from benchmarks.datasets import folded
from chroma_gpu.index import IndexSpec, exact
from chroma_gpu.index.flat import FlatIndex
from chroma_gpu.index.gpu import bounds, rows, shards
from chroma_gpu.kernels import buffer, scan
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

pytest.importorskip("triton", reason="the kernels are Triton's")

N, DIM = 200, 20


@pytest.fixture(autouse=True)
def triton(device, monkeypatch):
    monkeypatch.setattr(buffer, "CHUNK", 128)
    monkeypatch.setattr(rows, "FIRST", 64)
    if device == "cpu":
        monkeypatch.setattr(scan, "has_triton", lambda device: True)


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("codes", ["float32", "float16", "int8"])
def test_the_same_bits_as_on_the_host(device, metric, codes):
    both = folded(N + 2, DIM)
    vectors, queries = both[:N].copy(), both[N:]
    vectors[150:] = vectors[50:100]
    index = FlatIndex(
        IndexSpec("flat", metric, DIM, {"device": device, "resident": True, "codes": codes, "rerank": False}),
        ArraySource(vectors),
    )
    index.add(70)
    index.add(N)
    for mask in (None, RowSet.where(np.arange(N) % 3 == 0), RowSet.of(np.array([60], np.uint32), N)):
        want = exact.search_block(queries, ArraySource(vectors), 0, N, mask, 7, metric)
        assert_identical(index.search(queries, 7, mask), want)


@pytest.mark.parametrize("metric", [Metric.L2, Metric.COSINE])
def test_halves_and_narrowing(device, metric, monkeypatch):
    monkeypatch.setattr(bounds, "HALVED", 2)
    monkeypatch.setattr(shards, "NARROWED", 0)
    monkeypatch.setattr(shards, "KEPT", 0)
    vectors = folded(N, DIM)
    index = FlatIndex(
        IndexSpec("flat", metric, DIM, {"device": device, "resident": True, "codes": "int8", "rerank": True}),
        ArraySource(vectors),
    )
    index.add(N)
    want = exact.search_block(vectors[:3], ArraySource(vectors), 0, N, None, 5, metric)
    assert_identical(index.search(vectors[:3], 5), want)
