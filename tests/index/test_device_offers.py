"""Vectors that a device has already: the index takes them from there, and its rows are those that an upload gives."""

from __future__ import annotations

import gc
import threading
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from neighbours import ArraySource, assert_identical

from benchmarks.datasets import folded
from chroma_gpu.index import IndexSpec, exact, offer
from chroma_gpu.index import flat as flat_module
from chroma_gpu.index.flat import FlatIndex
from chroma_gpu.index.gpu import residence, rows
from chroma_gpu.index.gpu.ledger import LEDGER, Ledger
from chroma_gpu.index.gpu.offered import LEAST, Offered
from chroma_gpu.index.gpu.residence import Residence
from chroma_gpu.index.gpu.staging import Staging
from chroma_gpu.index.growing import Growing
from chroma_gpu.index.scoring import norms
from chroma_gpu.kernels import buffer, quantise
from chroma_gpu.records import DeviceBlock, Metric

N, DIM = 2_600, 24
VECTORS = folded(N, DIM)
QUERIES = folded(4, DIM, seed=5)


@pytest.fixture
def device(device):
    """By the name that the books have for it."""
    return "cuda:0" if device == "cuda" else device


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(buffer, "CHUNK", 1024)
    monkeypatch.setattr(rows, "FIRST", 64)


@pytest.fixture
def sent(monkeypatch):
    """How many rows each upload sent."""
    counted = []
    upload = Staging.upload

    def counting(self, vectors, aside, into):
        counted.append(len(vectors))
        upload(self, vectors, aside, into)

    monkeypatch.setattr(Staging, "upload", counting)
    return counted


def block(device, first, stop, vectors=VECTORS):
    return DeviceBlock(first, torch.from_numpy(vectors[first:stop].copy()).to(device))


def flat(device, vectors=VECTORS, metric=Metric.COSINE, **params):
    spec = IndexSpec("flat", metric, DIM, {"device": device, "resident": True, "limit": "1GB", **params})
    return FlatIndex(spec, ArraySource(vectors))


def held(index):
    """Every column of every chunk that the index has on devices."""
    for part in index._residence._shards.snapshot.parts:
        part.wait()
        for each in (part.codes, part.vectors):
            for chunk in () if each is None else each.chunks:
                yield from (column for column in (chunk.vectors, chunk.gain, chunk.bias, chunk.error) if column is not None)


def assert_right(index, vectors=VECTORS, metric=Metric.COSINE):
    want = exact.search_block(QUERIES, ArraySource(vectors), 0, len(index), None, 7, metric)
    assert_identical(index.search(QUERIES, 7), want)


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("codes", ["float32", "float16", "int8"])
@pytest.mark.parametrize("rerank", [True, False])
def test_rows_are_those_of_an_upload_and_nothing_is_sent(device, sent, metric, codes, rerank):
    vectors = VECTORS.copy()
    vectors[[3, 700, 1_500]] *= np.float32(2.0**70)  # set aside
    given = {"metric": metric, "codes": codes, "rerank": rerank}
    uploaded = flat(device, vectors, **given)
    uploaded.add(N)
    assert sum(sent) == N
    sent.clear()
    index = flat(device, vectors, **given)
    for first, stop in ((0, 100), (100, 1_200), (1_200, N)):
        offer(index, block(device, first, stop, vectors))
    index.add(900)  # inside a block
    index.add(N)
    assert sent == []
    for got, want in zip(held(index), held(uploaded), strict=True):
        assert torch.equal(got.view(torch.uint8), want.view(torch.uint8))
    assert_right(index, vectors, metric)


def test_what_was_not_offered_is_sent(device, sent):
    index = flat(device)
    for first, stop in ((1_500, 2_000), (200, 400), (400, 900)):  # in any order, and others wrote in between
        offer(index, block(device, first, stop))
    index.add(N)
    assert sum(sent) == N - 1_200
    assert_right(index)


def test_blocks_are_let_go_when_their_rows_are_in(device):
    index = flat(device)
    tensors = []
    for first, stop in ((0, 1_000), (1_000, 2_000)):
        one = block(device, first, stop)
        tensors.append(weakref.ref(one.vectors))
        offer(index, one)
    del one
    before = LEDGER.held()[device]
    assert before >= 2_000 * DIM * 4
    index.add(1_100)
    gc.collect()
    assert [tensor() is None for tensor in tensors] == [True, False]
    index.add(N)
    gc.collect()
    assert [tensor() is None for tensor in tensors] == [True, True]
    offer(index, one := block(device, 0, N))  # too late: these rows are in
    tensor = weakref.ref(one.vectors)
    del one
    gc.collect()
    assert tensor() is None


def test_closing_lets_go(device):
    index = flat(device)
    one = block(device, 0, N)
    tensor = weakref.ref(one.vectors)
    offer(index, one)
    del one
    index.close()
    gc.collect()
    assert tensor() is None
    offer(index, block(device, 0, N))
    assert len(index._residence._offered) == 0
    index.add(N)
    assert_right(index)


def test_an_index_that_is_forgotten_takes_its_blocks_with_it(device):
    gc.collect()
    before = LEDGER.held().get(device, 0)
    index = flat(device)
    offer(index, block(device, 0, N))
    assert LEDGER.held()[device] == before + N * DIM * 4
    del index
    gc.collect()
    assert LEDGER.held().get(device, 0) == before


def test_an_index_without_a_device_wants_nothing(device):
    index = FlatIndex(IndexSpec("flat", Metric.L2, DIM), ArraySource(VECTORS))
    one = block(device, 0, N)
    tensor = weakref.ref(one.vectors)
    offer(index, one)
    del one
    gc.collect()
    assert tensor() is None


def test_another_device_and_few_rows_are_not_kept(device):
    book = Offered(Ledger(), {device: 1 << 30})
    book.put(DeviceBlock(0, torch.empty(N, DIM, device="meta")))
    book.put(block(device, 0, LEAST - 1))
    assert len(book) == 0
    book.put(block(device, 0, LEAST))
    assert len(book) == 1


# ---- when memory is short


class Place:
    """A table on a device with books of its own."""

    def __init__(self, device, ledger, limit):
        self.it = Residence(
            (device,), ArraySource(VECTORS), Metric.L2, Growing(norms(VECTORS)), limit=str(limit), ledger=ledger, rerank=False, codes="int8"
        )  # fmt: skip

    def assert_right(self):
        hits = self.it.search(QUERIES, norms(QUERIES), N, 10, None, N)
        assert_identical(hits, exact.search_block(QUERIES, ArraySource(VECTORS), 0, N, None, 10, Metric.L2))


def test_blocks_go_before_anything_else(device, sent):
    ledger = Ledger()
    place = Place(device, ledger, 200_000)
    for first in range(0, N, 650):
        place.it.offer(block(device, first, first + 650))
    offers = place.it._offered
    assert len(offers) == 3  # the oldest made room for the newest
    assert ledger.free(device, 200_000) == 200_000
    other = Place(device, ledger, 200_000)
    other.it.fill(N)
    assert other.it.layout is not None
    assert len(offers) < 3
    sent.clear()
    place.it.fill(N)  # what has gone is sent
    assert sum(sent) > 0
    place.assert_right()
    assert len(offers) == 0


def test_no_table_makes_room_for_blocks(device):
    ledger = Ledger()
    place = Place(device, ledger, 140_000)
    place.it.fill(N)
    assert place.it.layout is not None
    waiting = Place(device, ledger, 140_000)
    waiting.it.offer(block(device, 0, 1_000))
    assert len(waiting.it._offered) == 0
    assert place.it.layout is not None
    place.assert_right()


def test_a_block_that_goes_while_rows_are_taken_is_sent(device, sent, monkeypatch):
    place = Place(device, Ledger(), 1 << 30)
    place.it.offer(block(device, 0, N))
    place.it.fill(1_500)
    assert sent == []
    grow = rows.DeviceRows._grow

    def squeezed(self, *given):
        place.it._offered._offers[0].release()  # as the books do from another thread
        return grow(self, *given)

    monkeypatch.setattr(rows.DeviceRows, "_grow", squeezed)
    place.it.fill(N)
    assert sum(sent) == N - 1_500
    place.assert_right()


def test_memory_that_runs_out_costs_the_blocks_first(device, sent, monkeypatch):
    place = Place(device, Ledger(), 1 << 30)
    place.it._ladder = residence.LADDERS["float16"]
    place.it.offer(block(device, 0, N))
    reference = quantise.quantise

    def short(vectors, chunk, *given):
        if chunk.vectors.dtype == torch.float16:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        reference(vectors, chunk, *given)

    monkeypatch.setattr(quantise, "quantise", short)
    with pytest.warns(RuntimeWarning, match="they are kept as int8"):
        place.it.fill(N)
    assert sum(sent) == N
    assert len(place.it._offered) == 0
    place.assert_right()


def test_blocks_come_while_rows_are_taken(device, sent, monkeypatch):
    monkeypatch.setattr(flat_module, "_SLICE", 256)
    index = flat(device)
    steps = [*range(0, N, 130), N]
    ready = threading.Semaphore(0)

    def writing():
        for first, stop in pairwise(steps):
            offer(index, block(device, first, stop))
            ready.release()

    writer = threading.Thread(target=writing)
    writer.start()
    for stop in steps[1:]:
        ready.acquire()
        index.add(stop)
    writer.join()
    assert sum(sent) == 0
    assert len(index._residence._offered) == 0
    assert_right(index)


def test_pieces_cover_every_row_once():
    book = Offered(Ledger(), {"cpu": 1 << 30})
    spans = [(10, 100), (100, 230), (500, 600)]
    for first, stop in spans:
        book.put(block("cpu", first, stop))
    for start, stop in ((0, 700), (50, 550), (110, 120), (240, 480)):
        pieces = list(book.pieces(start, stop, "cpu", 40))
        assert [piece[0] for piece in pieces] == [start, *(piece[1] for piece in pieces[:-1])]
        assert pieces[-1][1] == stop
        assert all(0 < end - begin <= 40 for begin, end, _ in pieces)
        for begin, end, there in pieces:
            inside = any(first <= begin and end <= last for first, last in spans)
            assert (there is not None) == inside
            if there is not None:
                np.testing.assert_array_equal(there.block(begin, end).vectors.numpy(), VECTORS[begin:end])
