"""The flat index with its rows on a device: whatever is kept there, the answer is that of the host, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from neighbours import ArraySource, assert_identical

from benchmarks.datasets import clustered, folded, with_duplicates, with_extremes, with_zeros
from chroma_gpu.errors import DeviceError, InvalidArgumentError
from chroma_gpu.index import IndexSpec, exact
from chroma_gpu.index.flat import FlatIndex
from chroma_gpu.index.gpu import bounds, rows, shards
from chroma_gpu.kernels import buffer, gather, scan
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

N, DIM = 2_000, 24
METRICS = pytest.mark.parametrize("metric", list(Metric))
CODES = pytest.mark.parametrize("codes", ["float32", "float16", "int8"])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """So that a few thousand rows are several chunks."""
    monkeypatch.setattr(buffer, "CHUNK", 512)
    monkeypatch.setattr(rows, "FIRST", 64)


def resident(vectors, metric, device, stops=None, **params):
    spec = IndexSpec("flat", metric, vectors.shape[1], {"device": device, "resident": True, "rerank": False, **params})
    index = FlatIndex(spec, ArraySource(vectors))
    for stop in stops or (len(vectors),):
        index.add(stop)
    return index


def assert_as_on_the_host(index, vectors, queries, k, mask=None):
    want = exact.search_block(queries, ArraySource(vectors), 0, len(index), mask, k, index.spec.metric)
    assert_identical(index.search(queries, k, mask), want)


@METRICS
@CODES
@pytest.mark.parametrize("k", [1, 10, 300, N + 5])
def test_the_same_bits_as_on_the_host(device, metric, codes, k):
    both = folded(N + 9, DIM)
    vectors, queries = both[:N], both[N:]
    index = resident(vectors, metric, device, (1, 63, 64, 65, 1_000, 1_024, 1_025, N), codes=codes)
    assert index.traits.codes == codes
    assert_as_on_the_host(index, vectors, queries, k)
    assert_as_on_the_host(index, vectors, queries[:1], k)


@METRICS
@CODES
def test_every_sort_of_rows(device, metric, codes):
    sheet = folded(N, DIM)
    kinds = {
        "duplicates": with_duplicates(sheet, 500),
        "equal": np.ones((N, DIM), np.float32),
        "zeros": with_zeros(sheet, 500),
        "clusters": clustered(N, DIM),
        "one dimension": np.linspace(-1, 1, N, dtype=np.float32)[:, None],
        "coarse": np.sign(sheet[:, :5]),
    }
    for vectors in kinds.values():
        queries = np.concatenate([vectors[5:8], np.zeros_like(vectors[:1]), vectors[:1] * 2])
        index = resident(vectors, metric, device, (1_500, N), codes=codes)
        assert_as_on_the_host(index, vectors, queries, 10)
        assert_as_on_the_host(index, vectors, queries, 10, RowSet.where(np.arange(N) % 3 == 1))


@METRICS
@CODES
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_extremes(device, metric, codes, scale):
    vectors = with_extremes(folded(N, DIM))
    queries = (folded(3, DIM, seed=9).astype(np.float64) * scale).astype(np.float32)
    assert_as_on_the_host(resident(vectors, metric, device, (1_400, N), codes=codes), vectors, queries, 30)


@METRICS
def test_queries_of_zeros_do_not_bring_every_row_to_the_host(device, metric, monkeypatch):
    """Cosine and ip put all rows at the same distance from them; they and queries that float32 could overflow on come in any order."""
    vectors = with_zeros(folded(N, DIM), 400)
    index = resident(vectors, metric, device)
    queries = folded(9, DIM, seed=1)
    queries[[0, 3, 8]] = 0
    queries[4] *= np.float32(1e30)
    asked = []
    way = scan.scan
    monkeypatch.setattr(scan, "scan", lambda given, *rest, **more: asked.append(len(given)) or way(given, *rest, **more))
    scanned = []
    block = exact.search_block
    monkeypatch.setattr(exact, "search_block", lambda given, *rest: scanned.append(len(given)) or block(given, *rest))
    for k, mask in ((10, None), (N + 5, None), (10, RowSet.where(np.arange(N) % 3 == 1)), (10, RowSet.of(np.arange(4), N))):
        for few in (queries, queries[:1], queries[[0, 3]]):
            hits = index.search(few, k, mask)
            assert_identical(hits, block(few, ArraySource(vectors), 0, N, mask, k, metric))
    if metric is not Metric.L2:
        assert set(asked) <= {5}
        assert set(scanned) == {1}


@METRICS
@CODES
def test_every_width_of_masks(device, metric, codes, monkeypatch):
    ways = []
    for module, name in ((gather, "gather"), (scan, "scan")):
        way = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, _way=way, _name=name, **more: ways.append(_name) or _way(*given, **more))
    vectors = folded(N, DIM)
    index = resident(vectors, metric, device, codes=codes)
    taken = {}
    for share in (0.001, 0.004, 0.01, 0.2, 0.97):
        mask = RowSet.where(np.random.default_rng(0).random(N) < share)
        ways.clear()
        assert_as_on_the_host(index, vectors, vectors[:4], 10, mask)
        taken[share] = ways[0]
    assert taken[0.001] == "gather"
    assert taken[0.97] == "scan"


@METRICS
@pytest.mark.parametrize("codes", ["float16", "int8"])
def test_large_batches_of_halves(device, metric, codes, monkeypatch):
    seen = []
    way = scan.scan
    monkeypatch.setattr(
        scan, "scan", lambda queries, *given, **more: seen.append(str(queries.dtype)) or way(queries, *given, **more)
    )
    vectors = (folded(N, DIM).T * np.random.default_rng(1).lognormal(0, 1, N)).T.astype(np.float32)
    index = resident(vectors, metric, device, codes=codes)
    queries = (folded(bounds.HALVED, DIM, seed=3).T * np.geomspace(1e-9, 1e9, bounds.HALVED)).T.astype(np.float32)
    assert_as_on_the_host(index, vectors, queries, 10)
    assert_as_on_the_host(index, vectors, queries[1:], 10)
    assert seen == ["torch.float16", "torch.float32"]


@METRICS
@pytest.mark.parametrize("codes", ["float16", "int8"])
def test_the_device_narrows_what_the_codes_leave(device, metric, codes, monkeypatch):
    monkeypatch.setattr(shards, "NARROWED", 0)
    monkeypatch.setattr(shards, "KEPT", 1)
    settled = []
    settle = shards.answers.settle
    monkeypatch.setattr(
        shards.answers, "settle", lambda queries, source, owners, found, *rest: settled.append(len(found)) or settle(queries, source, owners, found, *rest)
    )  # fmt: skip
    vectors, queries = clustered(N, DIM)[: N - 5], clustered(N, DIM)[N - 5 :]
    counts = []
    for rerank in (False, True):
        index = resident(vectors, metric, device, (1_000, len(vectors)), codes=codes, rerank=rerank)
        assert index.traits.codes == (f"{codes}+float32" if rerank else codes)
        settled.clear()
        assert_as_on_the_host(index, vectors, queries, 20)
        counts.append(settled[-1])
    assert counts[1] < counts[0] or counts[0] == 20 * len(queries)


@CODES
@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
def test_long_rows_are_set_aside_even_when_they_come_first(device, metric, codes):
    vectors = folded(N, DIM)
    long = np.arange(0, 40, 10)
    vectors[long] *= np.float32(1e6)
    index = resident(vectors, metric, device, (100, 500, 1_100, N), codes=codes)
    shard = index._residence._shards
    assert set(shard.aside.rows.tolist()) >= set(long.tolist())
    norms = np.linalg.norm(vectors[1:2], axis=1)
    found = shard.search(shard.snapshot, vectors[1:2], norms, 10, None, listed=False)
    assert len(found.rows) < 250
    for mask in (None, RowSet.where(np.arange(N) % 3 == 0)):
        assert_as_on_the_host(index, vectors, vectors[:30], 10, mask)


@METRICS
def test_rows_that_come_while_others_are_searched_for(device, metric):
    both = folded(N + 9, DIM)
    index = resident(both[:N], metric, device, (1_500,), codes="int8")
    early = index._residence._shards.snapshot
    for stop in (1_501, 1_536, 1_600, N):
        index.add(stop)
        assert_as_on_the_host(index, both[:N], both[N:], 10)
        assert_as_on_the_host(index, both[:N], both[N:], 10, RowSet.where(np.arange(stop) % 2 == 0))
    # What was seen before is as it was.
    shard = index._residence._shards
    norms = np.linalg.norm(both[N:], axis=1).astype(np.float32)
    found = shard.search(early, both[N:], norms, 10, None, listed=False)
    settled = shards.settled(found, both[N:], norms, 10, metric, ArraySource(both[:N]), certified=True)
    assert_identical(settled, exact.search_block(both[N:], ArraySource(both[:N]), 0, 1_500, None, 10, metric))


@METRICS
@CODES
def test_fast_answers_say_that_they_are_not_proved(device, metric, codes):
    both = np.random.default_rng(5).standard_normal((N + 50, DIM), dtype=np.float32)
    vectors, queries = both[:N], both[N:]
    vectors[7] *= np.float32(1e20)
    index = resident(vectors, metric, device, codes=codes, precision="fast")
    assert not index.traits.exact
    want = exact.search_block(queries, ArraySource(vectors), 0, N, None, 10, metric)
    for group in (queries, np.tile(queries, (2, 1))):
        got = index.search(group, 10)
        assert not got.exact
        assert got.guard is None
        assert (np.sort(got.distances, axis=1) == got.distances).all()
        pairs = zip(got.rows, np.resize(want.rows, got.rows.shape), strict=True)
        shares = [np.isin(found, wanted).mean() for found, wanted in pairs]
        assert np.mean(shares) >= (0.93 if codes == "int8" else 0.99)
    same = index.search(queries, 10).rows == want.rows
    scale = np.abs(want.distances[np.isfinite(want.distances) & (want.distances < 1e15)]).max()
    near = same & (np.abs(want.distances) < 1e15)
    assert near.any()
    np.testing.assert_allclose(index.search(queries, 10).distances[near], want.distances[near], atol=0.03 * scale)


def test_a_device_that_is_not_there():
    with pytest.raises(DeviceError, match="'cuda:99' cannot be used"):
        FlatIndex(IndexSpec("flat", Metric.L2, 4, {"device": "cuda:99"}), ArraySource(np.eye(4, dtype=np.float32)))


def test_unknown_parameters_are_refused():
    with pytest.raises(InvalidArgumentError, match="no parameter M"):
        FlatIndex(IndexSpec("flat", Metric.L2, 4, {"M": 3}), ArraySource(np.eye(4, dtype=np.float32)))
    for name, value in (("codes", "int4"), ("precision", "slow")):
        with pytest.raises(InvalidArgumentError, match=name):
            FlatIndex(IndexSpec("flat", Metric.L2, 4, {name: value}), ArraySource(np.eye(4, dtype=np.float32)))
