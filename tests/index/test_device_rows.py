"""Chunks on a device: they grow at the end, old ones stay where they are, and the books know what they take."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from neighbours import ArraySource, assert_identical

from benchmarks.datasets import folded
from chroma_gpu import device as devices
from chroma_gpu.config import Settings, memory
from chroma_gpu.index import IndexSpec, exact
from chroma_gpu.index.flat import FlatIndex
from chroma_gpu.index.gpu import codes, rows
from chroma_gpu.index.gpu.codes import Codes, Layout
from chroma_gpu.index.gpu.ledger import Ledger, NoRoom
from chroma_gpu.index.gpu.masks import MaskCache
from chroma_gpu.index.gpu.rows import DeviceRows, Released
from chroma_gpu.kernels import buffer
from chroma_gpu.kernels.quantise import allocate, quantise
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

N, DIM = 3_000, 24
VECTORS = folded(N, DIM)
NOBODY = np.zeros(N, np.bool_)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(buffer, "CHUNK", 1024)
    monkeypatch.setattr(rows, "FIRST", 64)


def filled(device, ledger, stops, layout, expected=0, budget=1 << 30):
    made = DeviceRows(device, DIM, Metric.L2, layout, ledger, budget)
    first = 0
    for stop in stops:
        made.add(first, VECTORS[first:stop], NOBODY[first:stop], expected)
        first = stop
    return made


@pytest.mark.parametrize("layout", [Layout(Codes.FLOAT32), Layout(Codes.FLOAT16), Layout(Codes.INT8, rerank=True)], ids=str)
def test_rows_are_those_of_one_quantisation_however_they_came(device, layout):
    made = filled(device, Ledger(), (10, 64, 65, 500, 1_024, 1_030, 2_048), layout)
    part = made.part()
    part.wait()
    assert [(chunk.start, len(chunk)) for chunk in part.codes.chunks] == [(0, 1_024), (1_024, 1_024)]
    for seen, kind in ((part.codes, layout.codes), (part.vectors, Codes.FLOAT32)):
        for chunk in () if seen is None else seen.chunks:
            want = allocate(1_024, DIM, kind.dtype, Metric.L2, device, chunk.start)
            quantise(torch.from_numpy(VECTORS[chunk.start : chunk.start + 1_024]).to(device), want, 0, Metric.L2)
            for name in ("vectors", "gain", "bias", "error"):
                got, wanted = getattr(chunk, name), getattr(want, name)
                assert (got is None) == (wanted is None)
                assert got is None or torch.equal(got, wanted)
    assert (part.vectors is None) == (not layout.rerank)


def test_old_chunks_never_move_and_the_last_one_doubles(device):
    ledger, layout = Ledger(), Layout(Codes.FLOAT16)
    row_bytes = layout.row_bytes(DIM, Metric.L2)
    made = DeviceRows(device, DIM, Metric.L2, layout, ledger, 1 << 30)
    places, held, first = [], [], 0
    for stop in (*range(32, 1_024, 32), 1_024, 1_056, 1_200):
        made.add(first, VECTORS[first:stop], NOBODY[first:stop], 0)
        places.append(made.part().codes.chunks[0].vectors.data_ptr())
        held.append(ledger.held()[device] // row_bytes)
        first = stop
    assert sorted(set(held)) == [64, 128, 256, 512, 1_024, 1_024 + 64, 1_024 + 256]
    assert len(set(places)) <= 5
    assert len(set(places[-4:])) == 1


def test_a_chunk_that_will_be_full_is_made_at_once(device):
    ledger, layout = Ledger(), Layout(Codes.INT8)
    filled(device, ledger, (10,), layout, expected=5_000)  # garbage now
    made = filled(device, ledger, (10,), layout, expected=5_000)
    gc.collect()
    assert ledger.held()[device] == 1_024 * layout.row_bytes(DIM, Metric.L2)
    assert len(made.part().codes) == 10


def test_a_snapshot_stays_what_it_was(device):
    made = filled(device, Ledger(), (50,), Layout(Codes.FLOAT16))
    early = made.part()
    before = early.codes.chunks[0].vectors.clone()
    made.add(50, VECTORS[50:900], NOBODY[50:900], 0)
    made.release()
    assert len(early.codes) == 50
    assert torch.equal(early.codes.chunks[0].vectors, before)
    with pytest.raises(Released):
        made.part()
    with pytest.raises(Released):
        made.add(900, VECTORS[900:910], NOBODY[900:910], 0)


def test_what_does_not_fit_is_not_booked(device):
    ledger, layout = Ledger(), Layout(Codes.FLOAT16)
    budget = 200 * layout.row_bytes(DIM, Metric.L2)
    made = filled(device, ledger, (60,), layout, budget=budget)
    with pytest.raises(NoRoom):
        made.add(60, VECTORS[60:300], NOBODY[60:300], 0)
    assert ledger.held()[device] == 64 * layout.row_bytes(DIM, Metric.L2)
    assert len(made.part().codes) == 60


def test_rows_set_aside_late_are_found_by_no_scan(device):
    from chroma_gpu.kernels.scan import scan

    made = filled(device, Ledger(), (1_024, 1_500), Layout(Codes.FLOAT16))
    early = made.part()
    made.set_aside(np.array([3, 1_030], np.uint32))
    query = torch.from_numpy(VECTORS[3:4]).to(device)
    for part in (early, made.part()):
        part.wait()
        found = scan(query, part.codes, 5, torch.zeros(1, device=device), lengths=torch.ones(1, device=device))
        assert not {3, 1_030} & set(found.rows.tolist())


# ---- what is chosen


def test_codes_follow_what_is_free():
    each = {kind: Layout(kind).row_bytes(384, Metric.COSINE) for kind in Codes}
    assert each == {Codes.FLOAT32: 4 * 384 + 8, Codes.FLOAT16: 2 * 384 + 12, Codes.INT8: 384 + 12}
    ladder = codes.LADDERS["auto"]
    million = 1_000_000

    def chosen(rows, free, budget=None, ladder=ladder):
        return str(codes.chosen(ladder, rows, 384, Metric.COSINE, free, budget or free))

    card = int(0.8 * 15.6e9)  # a T4 of which a part is free
    assert chosen(10 * million, card) == "float16"
    assert chosen(30 * million, card) == "int8"
    assert chosen(40 * million, card) == "None"
    assert chosen(million, card) == "float16+float32"
    assert chosen(10 * million, int(0.8 * 140e9)) == "float16+float32"
    assert chosen(10 * million, 2 * 10**9, card) == "float16"
    assert chosen(10 * million, 5 * 10**9, card) == "int8"
    assert chosen(10 * million, card, ladder=codes.LADDERS["int8"]) == "int8"
    # The rows of a table and what is around them: an exact table of ten million fits a card of 16 GB.
    assert 10 * million * each[Codes.INT8] < 4e9


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("80%", 0.8),
        ("100 %", 1.0),
        ("123", 123),
        ("8GB", 8 * 10**9),
        ("8 gb", 8 * 10**9),
        ("1.5GiB", 3 << 29),
        ("512MiB", 512 << 20),
    ],
)
def test_limits_are_read(text, amount):
    assert memory(text) == amount
    assert Settings(vram_limit=text).vram_limit == text


@pytest.mark.parametrize("text", ["", "lots", "0", "-1", "120%", "0%", "8GBB", "nan", "1e9"])
def test_limits_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="amount of memory"):
        Settings(vram_limit=text)


def test_limits_that_are_no_text():
    assert Settings(vram_limit=10**9).vram_limit == "1000000000"
    assert Settings(vram_limit=None).vram_limit == "80%"
    with pytest.raises(ValueError, match="vram_limit"):
        Settings(vram_limit=True)


def test_a_share_is_of_what_is_free_when_it_is_first_used(monkeypatch):
    free = [1_000]
    monkeypatch.setattr(devices, "free_memory", lambda device: free[0])
    ledger = Ledger()
    assert ledger.budget("cuda", "80%") == 800
    free[0] = 10
    assert ledger.budget("cuda", "80%") == 800
    assert ledger.budget("cuda", "50%") == 5
    assert ledger.budget("cuda", "70") == 70


# ---- masks


def test_masks_are_uploaded_once(device):
    cache = MaskCache()
    mask = RowSet.where(np.arange(N) % 3 == 0)
    words = cache.words(mask, device)
    assert cache.words(mask, device) is words
    assert np.array_equal(words.cpu().numpy(), mask.words.view(np.int32))
    listed = cache.rows(mask, device, 1024, 0, 1)
    assert listed.tolist() == mask.rows().tolist()
    assert cache.rows(mask, device, 1024, 0, 1) is listed
    assert [row // 1024 for row in cache.rows(mask, device, 1024, 1, 2).tolist()] == [1] * 341
    assert cache.words(RowSet(mask.words.copy(), N), device) is not words


def test_masks_are_forgotten_with_their_row_sets(device):
    cache = MaskCache()
    mask = RowSet.full(N)
    cache.words(mask, device)
    kept = cache.nbytes
    assert kept == mask.words.nbytes
    del mask
    gc.collect()
    other = RowSet.full(2 * N)
    cache.words(other, device)
    assert cache.nbytes == other.words.nbytes
    cache.clear()
    assert cache.nbytes == 0


def test_the_masks_that_were_not_used_for_longest_go_first(device):
    masks = [RowSet.full(640) for _ in range(4)]
    cache = MaskCache(2 * 80)
    first = cache.words(masks[0], device)
    cache.words(masks[1], device)
    assert cache.words(masks[0], device) is first
    cache.words(masks[2], device)
    assert cache.words(masks[0], device) is first
    assert cache.nbytes == 160
    large = RowSet.full(64_000)
    assert cache.words(large, device).numel() == 2_000
    assert cache.nbytes == 160


# ---- several devices


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("kind", ["float16", "int8"])
@pytest.mark.parametrize("shards", [2, 3])
def test_rows_over_several_devices(device, metric, kind, shards):
    names = ",".join([device] * shards) if device != "cpu" else ",".join(f"cpu:{number}" for number in range(shards))
    both = folded(N + 9, DIM)
    vectors, queries = both[:N].copy(), both[N:]
    vectors[::500] *= np.float32(1e7)
    index = FlatIndex(
        IndexSpec("flat", metric, DIM, {"device": names, "resident": True, "codes": kind, "rerank": False}), ArraySource(vectors)
    )
    for stop in (700, 1_024, 1_100, N):
        index.add(stop)
        for mask in (None, RowSet.where(np.arange(stop) % 2 == 1), RowSet.of(np.array([5, 600, stop - 1], np.uint32), stop)):
            want = exact.search_block(queries, ArraySource(vectors), 0, stop, mask, 10, metric)
            assert_identical(index.search(queries, 10, mask), want)
    parts = index._residence._shards.snapshot.parts
    assert [[chunk.start // 1024 for chunk in part.codes.chunks] for part in parts] == [
        [number for number in range(3) if number % shards == shard] for shard in range(shards)
    ]
    assert index.traits.device == names
    index.close()
    assert index.traits.device == "cpu"
    assert_identical(index.search(queries, 10), exact.search_block(queries, ArraySource(vectors), 0, N, None, 10, metric))


def test_lists_of_devices():
    assert devices.several("cpu") == ("cpu",)
    assert devices.several("cpu, cpu") == ("cpu", "cpu")
    with pytest.raises(devices.DeviceError, match="'cuda:7' is not there"):
        devices.several("cpu,cuda:7")
