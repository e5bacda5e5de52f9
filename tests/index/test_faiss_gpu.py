"""FAISS on a GPU, against a fake of one: what is handed over, what is believed, and what happens where it fails."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from index import fake_faiss
from neighbours import ArraySource, assert_same_neighbours, brute_force, recall

from benchmarks.datasets import folded
from chroma_gpu.errors import DeviceError, InvalidArgumentError
from chroma_gpu.index import IndexSpec, capabilities, create, faiss_gpu, load
from chroma_gpu.index.gpu.ledger import LEDGER
from chroma_gpu.kernels.buffer import Buffer, Chunk
from chroma_gpu.kernels.scan import product_error, reference
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

N, DIM = 5_000, 24
BOTH = folded(N + 20, DIM)
VECTORS, QUERIES = BOTH[:N], BOTH[N:]
ON = {"device": "cuda:0", "limit": "1GB"}


@pytest.fixture(params=[False, True], ids=["plain", "with cuVS"])
def gpu(request, monkeypatch):
    yield fake_faiss.install(monkeypatch, request.param)
    for each in (capabilities.capabilities, capabilities.tested, faiss_gpu.card_of):
        each.cache_clear()


@pytest.fixture
def stream(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: SimpleNamespace(cuda_stream=0))


def made(kind="ivf", metric=Metric.L2, params=ON, vectors=VECTORS):
    index = create(IndexSpec(kind, metric, DIM, params), ArraySource(vectors))
    index.add(len(vectors))
    return index


def test_what_is_installed(gpu):
    here = capabilities.capabilities()
    assert (here.gpus, here.gpu_build, here.faiss_cuvs) == (1, True, gpu.honours)
    assert "a GPU build" in str(here)


@pytest.mark.parametrize("kind", capabilities.LISTS)
def test_a_selector_is_believed_only_where_it_was_seen_to_be_honoured(gpu, kind):
    tested = capabilities.tested(kind, "cuda:0")
    assert (tested.filters_inside, tested.largest_k, tested.failure) == (gpu.honours, 2_048, None)
    assert capabilities.tested(kind, "cpu").filters_inside


def test_a_self_test_that_fails_says_why(gpu):
    gpu.fails = "no kernel image is available"
    assert "no kernel image" in capabilities.tested("ivf", "cuda:0").failure


@pytest.mark.parametrize("kind", capabilities.LISTS)
@pytest.mark.parametrize("metric", Metric)
def test_masks_hold_either_way(gpu, kind, metric, dear_exact):
    index = made(kind, metric)
    before = gpu.selected
    for share in (0.5, 0.1):
        mask = RowSet.where(np.random.default_rng(2).random(N) < share)
        got = index.search(QUERIES, 10, mask)
        assert all(int(row) in mask for row in got.rows.ravel())
        assert recall(got, brute_force(QUERIES, VECTORS, 10, metric, mask)) > 0.9
    assert (gpu.selected > before) == gpu.honours
    assert index.traits.filters_inside == gpu.honours


def test_more_than_the_card_selects_is_scanned(gpu, dear_exact):
    got = made().search(QUERIES[:2], 2_100)
    assert (got.exact, got.guard) == (True, None)
    assert_same_neighbours(got, brute_force(QUERIES[:2], VECTORS, 2_100, Metric.L2))


def test_the_books_of_the_device(gpu, dear_exact):
    index = made()
    assert LEDGER.held()["cuda:0"] == N * (4 * DIM + 8)
    index.release()
    assert "cuda:0" not in LEDGER.held()
    assert index.search(QUERIES, 5).exact
    index = made("ivf_pq")
    assert LEDGER.held()["cuda:0"] == N * (8 + 3)
    index.close()
    with pytest.raises(DeviceError, match="does not fit"):
        made(params={**ON, "limit": "100KB"})
    assert "cuda:0" not in LEDGER.held()


def test_rows_bring_lists_back_that_had_to_go(gpu, dear_exact):
    index = create(IndexSpec("ivf", Metric.L2, DIM, ON), ArraySource(VECTORS))
    index.add(N - 10)
    index.release()
    index.add(N)
    got = index.search(QUERIES, 10)
    assert not got.exact
    assert recall(got, brute_force(QUERIES, VECTORS, 10, Metric.L2)) > 0.95


@pytest.mark.parametrize("kind", capabilities.LISTS)
@pytest.mark.parametrize(("there", "here"), [(ON, {}), ({}, ON)], ids=["to the host", "to the device"])
def test_a_checkpoint_fits_every_device(gpu, kind, there, here, tmp_path, dear_exact):
    index = made(kind, params=there)
    index.save(tmp_path / "index")
    again = load(tmp_path / "index", IndexSpec(kind, Metric.L2, DIM, here), ArraySource(VECTORS))
    assert again.traits.device == here.get("device", "cpu")
    assert again.traits.reads == index.traits.reads
    np.testing.assert_array_equal(again.search(QUERIES, 10).rows, index.search(QUERIES, 10).rows)


def test_what_the_device_raises_is_ours(gpu, dear_exact):
    index = made()
    gpu.fails = "out of memory"
    with pytest.raises(DeviceError, match=r"FAISS failed on cuda:0: out of memory.*Free memory"):
        index.search(QUERIES, 10)


def test_a_cpu_build_refuses_a_device():
    capabilities.capabilities.cache_clear()
    with pytest.raises(DeviceError, match=r"cannot be made on cuda.*Install faiss-gpu"):
        made()
    with pytest.raises(InvalidArgumentError, match="recall"):
        made(params={"recall": 0})


def buffer(
    vectors, *, bias=False, dtype=torch.float32, stride=None, starts=(0, 2_048, 8_192), stops=(1_500, 2_048 + 900, 8_192 + 300)
):
    """Chunks of the first rows of ``vectors`` in turn, with gaps between them; and the rows by their global number."""
    chunks, rows, taken = [], {}, 0
    for start, stop in zip(starts, stops, strict=True):
        part = torch.from_numpy(vectors[taken : taken + stop - start].copy())
        wide = torch.zeros(len(part), stride or DIM, dtype=dtype)
        wide[:, :DIM] = part
        chunks.append(Chunk(start, wide[:, :DIM], bias=part.square().sum(1) / 2 if bias else None))
        rows |= {start + i: taken + i for i in range(len(part))}
        taken += len(part)
    return Buffer.of(chunks), rows


@pytest.mark.parametrize("metric", [Metric.IP, Metric.L2])
@pytest.mark.parametrize("stride", [None, 32])
def test_the_nearest_of_several_chunks(gpu, stream, metric, stride):
    held, rows = buffer(VECTORS, bias=metric is Metric.L2, stride=stride)
    got = faiss_gpu.nearest(torch.from_numpy(QUERIES), held, 10, metric)
    want = brute_force(QUERIES, VECTORS[: len(rows)], 10, metric)
    named = np.vectorize(rows.__getitem__)(got.rows.numpy())
    assert (np.sort(named) == np.sort(want.rows)).mean() > 0.99
    mine = reference(torch.from_numpy(QUERIES), held, 1, torch.zeros(len(QUERIES)))
    best = mine.scores[torch.searchsorted(mine.owners, torch.arange(len(QUERIES)))]
    torch.testing.assert_close(got.scores[:, 0], best, rtol=1e-4, atol=1e-4)


def test_halves_of_unit_length(gpu, stream):
    units = (VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)).astype(np.float32)
    held, rows = buffer(units, dtype=torch.float16)
    got = faiss_gpu.nearest(torch.from_numpy(QUERIES), held, 10, Metric.COSINE)
    named = np.vectorize(rows.__getitem__)(got.rows.numpy())
    want = brute_force(QUERIES, VECTORS[: len(rows)], 10, Metric.COSINE)
    assert np.mean([len(np.intersect1d(a, b)) for a, b in zip(named, want.rows, strict=True)]) > 9.5


def test_fewer_rows_than_asked_for(gpu, stream):
    held, _ = buffer(VECTORS, starts=(0,), stops=(7,))
    got = faiss_gpu.nearest(torch.from_numpy(QUERIES), held, 9, Metric.IP)
    assert (got.rows[:, 7:] == -1).all()
    assert torch.isneginf(got.scores[:, 7:]).all()


def test_where_faiss_cannot_say(gpu, stream):
    held, _ = buffer(VECTORS)
    queries = torch.from_numpy(QUERIES)
    gained = Buffer.of([Chunk(0, torch.ones(40, DIM), gain=torch.ones(40))])
    eight = Buffer.of([Chunk(0, torch.ones(40, DIM, dtype=torch.int8))])
    assert faiss_gpu.nearest(queries, held, 2_049, Metric.IP) is None
    for other in (gained, eight, Buffer.of([])):
        assert faiss_gpu.nearest(queries, other, 3, Metric.IP) is None
    assert faiss_gpu.nearest(queries, Buffer.of([Chunk(0, torch.ones(40, DIM).half())]), 3, Metric.L2) is None


def test_what_a_scan_missed_is_named(gpu, stream):
    held, _ = buffer(VECTORS)
    queries = torch.from_numpy(QUERIES)
    found = reference(queries, held, 10, torch.zeros(len(QUERIES)))
    assert not len(faiss_gpu.missed(found, queries, held, 10, Metric.IP))
    first = int(faiss_gpu.nearest(queries, held, 1, Metric.IP).rows[3, 0])
    kept = ~((found.owners == 3) & (found.rows == first))
    cut = type(found)(found.owners[kept], found.rows[kept], found.scores[kept])
    assert faiss_gpu.missed(cut, queries, held, 10, Metric.IP).tolist() == [[3, first]]


@pytest.mark.parametrize("metric", [Metric.IP, Metric.L2])
def test_survivors_are_those_of_the_scan(gpu, stream, metric):
    held, _ = buffer(VECTORS, bias=metric is Metric.L2)
    units = torch.nn.functional.normalize(torch.from_numpy(QUERIES))
    lengths = torch.from_numpy(np.linalg.norm(QUERIES, axis=1).astype(np.float32))
    slack = 2 * product_error(DIM, torch.device("cpu")) * lengths * 20
    want = reference(units, held, 10, slack, lengths=lengths)
    got = faiss_gpu.survivors(units, held, 10, slack, metric, lengths=lengths)
    assert {*zip(got.owners.tolist(), got.rows.tolist(), strict=True)} == {
        *zip(want.owners.tolist(), want.rows.tolist(), strict=True)
    }
    # Where as many rows as are asked for are equal, nothing shows that there are not more.
    same = Buffer.of([Chunk(0, torch.ones(500, DIM), bias=torch.full((500,), DIM / 2))])
    assert faiss_gpu.survivors(units, same, 10, slack, metric) is None
    assert faiss_gpu.survivors(units.half(), Buffer.of([Chunk(0, torch.ones(500, DIM).half())]), 10, slack, metric) is None
    assert faiss_gpu.survivors(units, held, 993, slack, metric) is None
