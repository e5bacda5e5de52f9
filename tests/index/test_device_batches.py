"""Large batches by FAISS: only where that was measured to pay, with the same answers, and without it where it fails."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from index import fake_faiss
from neighbours import ArraySource, assert_identical

from benchmarks.datasets import folded
from chroma_gpu import device as devices
from chroma_gpu.errors import DeviceError
from chroma_gpu.index import IndexSpec, capabilities, exact, faiss_gpu
from chroma_gpu.index.flat import FlatIndex
from chroma_gpu.index.gpu import batches
from chroma_gpu.kernels import tuning
from chroma_gpu.kernels.tuning import assuming
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

N, DIM, K = 2_000, 20, 7
BOTH = folded(N + batches.LEAST, DIM)
VECTORS, QUERIES = BOTH[:N], BOTH[N:]
LAYOUTS = {"float32": ("float32", False), "float16+float32": ("float16", True), "float16": ("float16", False)}


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """The fake FAISS on the host's memory, which counts its calls."""
    made = fake_faiss.install(monkeypatch)
    made.calls = 0
    brute_force = made.bfKnn

    def counted(resources, asked):
        made.calls += 1
        if made.fails:
            raise made.fails
        brute_force(resources, asked)

    made.bfKnn = counted
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(batches, "_FAILED", set())
    yield made
    for each in (capabilities.capabilities, capabilities.tested, faiss_gpu.card_of):
        each.cache_clear()


def made(metric, layout="float32", vectors=VECTORS, **params):
    codes, rerank = LAYOUTS[layout]
    given = {"device": "cpu", "resident": True, "codes": codes, "rerank": rerank, **params}
    index = FlatIndex(IndexSpec("flat", metric, DIM, given), ArraySource(vectors))
    index.add(len(vectors))
    return index


def by_hand(metric, queries=QUERIES, vectors=VECTORS, mask=None):
    return exact.search_block(queries, ArraySource(vectors), 0, len(vectors), mask, K, metric)


@pytest.mark.parametrize("layout", ["float32", "float16+float32"])
@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
def test_the_same_bits_where_it_pays(gpu, metric, layout):
    index, want = made(metric, layout), by_hand(metric)
    assert_identical(index.search(QUERIES, K), want)
    assert not gpu.calls, "nobody has measured it"
    with assuming("faiss", 0):
        assert_identical(index.search(QUERIES, K), want)
    assert gpu.calls


def test_the_file_decides(gpu, tmp_path, monkeypatch):
    path = tmp_path / "tuning.json"
    monkeypatch.setenv("CHROMA_GPU_TUNING", str(path))
    tuning._table.cache_clear()
    try:
        index = made(Metric.L2)
        tuning.compare("faiss", "card", (0, "float32", DIM, len(QUERIES), N, K), 1e-3, 5e-4, 0.0, path)
        made(Metric.L2, "float16+float32").search(QUERIES, K)
        assert not gpu.calls, "measured for rows that are kept in another way"
        index.search(QUERIES, K)
        assert gpu.calls
    finally:
        tuning._table.cache_clear()


def test_where_it_is_not_asked(gpu):
    mask = RowSet.where(VECTORS[:, 0] > 0)
    with assuming("faiss", 0):
        assert_identical(made(Metric.COSINE).search(QUERIES, K), by_hand(Metric.COSINE))
        assert_identical(made(Metric.L2, "float16").search(QUERIES, K), by_hand(Metric.L2))
        index = made(Metric.L2)
        assert_identical(index.search(QUERIES, K, mask), by_hand(Metric.L2, mask=mask))
        assert_identical(index.search(QUERIES[:-1], K), by_hand(Metric.L2, QUERIES[:-1]))
        made(Metric.L2, precision="fast").search(QUERIES, K)
        gpu.get_num_gpus = lambda: 0
        capabilities.capabilities.cache_clear()
        index.search(QUERIES, K)
    assert not gpu.calls


def test_rows_that_were_set_aside(gpu):
    """A vector far longer than all others is no scan's business; the host answers for it."""
    vectors = VECTORS.copy()
    vectors[5] *= 1e6
    vectors[7] *= 1e30
    for metric in (Metric.L2, Metric.IP):
        with assuming("faiss", 0):
            assert_identical(made(metric, vectors=vectors).search(QUERIES, K), by_hand(metric, vectors=vectors))
    assert gpu.calls


def test_what_cannot_be_shown_is_scanned_and_not_asked_again(gpu):
    vectors = VECTORS.copy()
    vectors[: N // 2] = vectors[0]
    queries = QUERIES + vectors[0]
    index, want = made(Metric.L2, vectors=vectors), by_hand(Metric.L2, queries, vectors)
    with assuming("faiss", 0):
        assert_identical(index.search(queries, K), want)
        asked = gpu.calls
        assert asked
        assert_identical(index.search(queries, K), want)
    assert gpu.calls == asked


def test_a_failure_of_faiss_is_told_once(gpu):
    index, want = made(Metric.L2), by_hand(Metric.L2)
    gpu.fails = RuntimeError("Faiss assertion failed: no kernel image is available")
    with assuming("faiss", 0):
        with pytest.warns(RuntimeWarning, match=r"no kernel image.*Our own kernels"):
            assert_identical(index.search(QUERIES, K), want)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_identical(index.search(QUERIES, K), want)
    assert gpu.calls == 1


def test_memory_that_runs_out_there_means_smaller_batches(gpu):
    index, want = made(Metric.L2), by_hand(Metric.L2)
    gpu.fails = RuntimeError("StandardGpuResources: alloc fail: out of memory")
    with assuming("faiss", 0):
        assert_identical(index.search(QUERIES, K), want)  # halves are below what FAISS is asked for
    assert gpu.calls == 1


def test_a_lost_device_is_ours_to_tell(gpu, monkeypatch):
    index, want = made(Metric.L2), by_hand(Metric.L2)
    gpu.fails = RuntimeError("CUDA error 700: an illegal memory access was encountered")
    monkeypatch.setattr(devices, "serves", lambda device: False)
    with assuming("faiss", 0):
        with pytest.raises(DeviceError, match="the device cpu failed"):
            index.search(QUERIES, K)
        assert_identical(index.search(QUERIES, K), want)
