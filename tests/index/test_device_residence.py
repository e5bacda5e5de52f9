"""Tables that come to a device, go and come back; memory that runs out; devices that fail. Answers stay as they are."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
from neighbours import ArraySource, assert_identical

from benchmarks.datasets import folded
from chroma_gpu import device as devices
from chroma_gpu.errors import DeviceError
from chroma_gpu.index import exact
from chroma_gpu.index.gpu import residence, rows
from chroma_gpu.index.gpu.codes import Codes, Layout
from chroma_gpu.index.gpu.ledger import Ledger
from chroma_gpu.index.gpu.residence import Residence
from chroma_gpu.index.growing import Growing
from chroma_gpu.index.scoring import norms
from chroma_gpu.kernels import buffer, quantise, scan
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet

N, DIM = 2_000, 24
VECTORS = folded(N, DIM)
QUERIES = folded(5, DIM, seed=4)
FLOAT16, INT8 = (Layout(kind).row_bytes(DIM, Metric.L2) for kind in (Codes.FLOAT16, Codes.INT8))
ROOM = 2_048
"""Rows that chunks for N rows have room for."""


@pytest.fixture
def device(device):
    """By the name that the books have for it."""
    return "cuda:0" if device == "cuda" else device


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(buffer, "CHUNK", 1024)
    monkeypatch.setattr(rows, "FIRST", 64)


class Place:
    """A table on devices, with the books it is in."""

    def __init__(self, device, ledger, limit="1GB", filled=N, **options):
        self.norms = Growing(norms(VECTORS))
        self.it = Residence(
            (device,), ArraySource(VECTORS), Metric.L2, self.norms, limit=limit, ledger=ledger, rerank=False, **options
        )
        if filled:
            self.it.fill(filled)

    def ask(self, queries=QUERIES):
        """None where the host had to answer; else what was found, which is right."""
        hits = self.it.search(queries, norms(queries), N, 10, None, N)
        if hits is not None:
            assert_identical(hits, exact.search_block(queries, ArraySource(VECTORS), 0, N, None, 10, Metric.L2))
        return hits

    @property
    def codes(self):
        return None if self.it.layout is None else str(self.it.layout)


@pytest.fixture
def ledger():
    return Ledger()


def test_what_is_kept_follows_the_budget(device, ledger):
    assert Place(device, ledger, str(ROOM * FLOAT16)).codes == "float16"
    assert Place(device, Ledger(), str(ROOM * FLOAT16 - 1)).codes == "int8"
    place = Place(device, Ledger(), str(ROOM * INT8))
    assert place.codes == "int8"
    assert place.ask() is not None
    assert Place(device, Ledger(), "1GB", codes="float32").codes == "float32"


def test_what_does_not_fit_stays_on_the_host_with_one_warning(device, ledger):
    with pytest.warns(RuntimeWarning, match=r"2,000 vectors of 24 dimensions do not fit.*Settings\.vram_limit is '1000'") as said:
        place = Place(device, ledger, "1000")
    place.it.fill(N)
    assert len(said) == 1
    assert place.it.over
    assert place.ask() is None
    assert not ledger.held()


def test_a_table_that_grows_out_of_16_bit_is_kept_in_8(device, ledger):
    place = Place(device, ledger, str(ROOM * INT8), filled=0, codes="float16")
    place.it._source = ArraySource(VECTORS[:900])
    place.it.fill(900)
    assert place.codes == "float16"
    place.it._source = ArraySource(VECTORS)
    place.it.fill(N)
    assert place.codes == "int8"
    assert place.ask() is not None
    assert ledger.held() == {device: ROOM * INT8}


def test_others_make_room_that_were_not_searched_for_longest(device, ledger):
    limit = str(2 * ROOM * INT8)
    first, second = (Place(device, ledger, limit, codes="int8") for _ in range(2))
    assert first.ask() is not None
    assert second.ask() is not None
    assert first.ask() is not None
    held = weakref.ref(second.it._shards.snapshot.parts[0].codes.chunks[0].vectors)
    third = Place(device, ledger, limit, codes="int8")
    assert [place.codes for place in (first, second, third)] == ["int8", None, "int8"]
    assert held() is None  # its memory went with it, though nobody has asked it since
    assert ledger.held() == {device: 2 * ROOM * INT8}


def test_8_bit_comes_before_driving_others_away(device, ledger):
    limit = str(ROOM * (FLOAT16 + INT8))
    first, second = (Place(device, ledger, limit) for _ in range(2))
    assert (first.codes, second.codes) == ("float16", "int8")


def test_a_table_comes_back_when_it_is_asked_while_others_are_not(device, ledger):
    limit = str(ROOM * INT8)
    first = Place(device, ledger, limit, codes="int8")
    second = Place(device, ledger, limit, codes="int8")
    assert first.codes is None
    # By turns nobody drives the other away: each would be uploaded at every search.
    for _ in range(3):
        assert second.ask() is not None
        assert first.ask() is None
        first.it.wait()
    first.it.fill(N)  # an add does not bring it back
    assert first.codes is None
    assert first.ask() is None
    first.it.wait()
    assert (first.codes, second.codes) == ("int8", None)
    assert first.ask() is not None
    assert second.ask() is None


def test_memory_is_given_back_at_once(device, ledger):
    place, other = Place(device, ledger), Place(device, ledger)
    place.it.close()
    place.it.close()
    assert ledger.held() == {device: ROOM * FLOAT16}
    assert place.ask() is None
    place.it.fill(N)
    assert place.codes is None
    del other
    gc.collect()
    assert not ledger.held()


def test_searches_go_on_while_a_table_is_closed_and_driven_away(device, ledger):
    limit = str(2 * ROOM * INT8)
    places = [Place(device, ledger, limit, codes="int8") for _ in range(3)]
    failed, stop = [], threading.Event()

    def ask(place):
        try:
            while not stop.is_set():
                place.ask()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(place,)) for place in places]
    for thread in threads:
        thread.start()
    for _ in range(20):
        places.append(Place(device, ledger, limit, codes="int8"))
        places[-1].ask()
        places[-2].it.close()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert sum(ledger.held().values()) <= 2 * ROOM * INT8


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")


def test_memory_that_runs_out_at_an_upload(device, ledger, monkeypatch):
    made = quantise.allocate
    monkeypatch.setattr(
        quantise,
        "allocate",
        lambda n, dim, dtype, *rest: out_of_memory() if dtype == torch.float16 else made(n, dim, dtype, *rest),
    )
    with pytest.warns(
        RuntimeWarning, match=r"ran out for 2,000 vectors as float16: they are kept as int8.*Settings\.vram_limit"
    ) as said:
        place = Place(device, ledger)
    assert len(said) == 1
    assert place.codes == "int8"
    assert place.ask() is not None
    assert ledger.held() == {device: ROOM * INT8}


def test_memory_that_runs_out_whatever_is_kept(device, ledger, monkeypatch):
    monkeypatch.setattr(quantise, "allocate", out_of_memory)
    with pytest.warns(RuntimeWarning, match=r"Settings\.vram_limit") as said:
        place = Place(device, ledger)
    assert [("kept as int8" in str(each.message), "the CPU searches" in str(each.message)) for each in said] == [
        (True, False),
        (False, True),
    ]
    assert place.it.over
    assert place.ask() is None
    assert not ledger.held()


def test_memory_that_runs_out_in_a_large_batch_splits_it(device, ledger, monkeypatch):
    sizes = []
    way = scan.scan

    def tight(queries, *given, **more):
        sizes.append(len(queries))
        return out_of_memory() if len(queries) > 16 else way(queries, *given, **more)

    monkeypatch.setattr(scan, "scan", tight)
    place = Place(device, ledger)
    assert place.ask(folded(40, DIM, seed=2)) is not None
    assert sizes[:3] == [40, 20, 10]
    assert sum(size for size in sizes if size <= 16) == 40
    assert place.codes == "float16"


def test_memory_that_runs_out_for_one_query(device, ledger, monkeypatch):
    way = scan.scan
    monkeypatch.setattr(
        scan, "scan", lambda queries, seen, *given, **more: out_of_memory()
        if seen.chunks[0].vectors.dtype == torch.float16 else way(queries, seen, *given, **more),
    )  # fmt: skip
    place = Place(device, ledger)
    with pytest.warns(RuntimeWarning, match="are kept as int8") as said:
        assert place.ask() is not None
    place.it.wait()
    assert len(said) == 1
    assert place.codes == "int8"
    assert place.ask() is not None


def test_memory_that_runs_out_for_many_rows_takes_fewer_at_once(device, ledger, monkeypatch):
    way, sizes = quantise.quantise, []

    def tight(vectors, *given):
        sizes.append(len(vectors))
        return out_of_memory() if len(vectors) > 300 else way(vectors, *given)

    monkeypatch.setattr(quantise, "quantise", tight)
    place = Place(device, ledger)
    assert sizes[:3] == [1024, 512, 256]
    assert sum(size for size in sizes if size <= 300) == N
    assert place.codes == "float16"
    assert place.ask() is not None


def test_a_table_is_closed_while_memory_runs_out(device, ledger, monkeypatch):
    place = Place(device, ledger, filled=0)

    def closed(*given):
        place.it._closed, place.it._ladder = True, ()  # as ``close`` does in another thread, before it waits for this one
        place.it._let_go()
        out_of_memory()

    monkeypatch.setattr(quantise, "quantise", closed)
    place.it.fill(N)
    assert place.it.over
    assert not ledger.held()


def test_a_table_is_closed_between_two_steps_of_an_upload(device, ledger, monkeypatch):
    place = Place(device, ledger, filled=0)
    made = place.it._new

    def closing(layout):
        shards = made(layout)
        add = shards.add

        def closed(*given):
            place.it._closed = True
            place.it._let_go()
            add(*given)

        monkeypatch.setattr(shards, "add", closed)
        return shards

    monkeypatch.setattr(place.it, "_new", closing)
    place.it.fill(N)
    assert place.codes is None
    assert not ledger.held()


@pytest.mark.parametrize("listed", [False, True])
def test_rows_that_come_during_a_search_do_not_pass_an_earlier_mask(device, ledger, monkeypatch, listed):
    """Be it that devices know the mask as the beginning of a longer one, whose bits go on."""
    monkeypatch.setattr(residence, "listed_pays", lambda *_: listed)
    masks = residence.MASKS
    place = Place(device, ledger)
    for n in (640, 1_001, 1_025):
        whole = RowSet.full(N)
        masks.words(whole, place.it.names[0])
        mask = masks.cut(whole, n)
        place.it._shards.aside.rows = np.array([n - 1, N - 1], np.uint32)  # one more that came, and one of them set aside
        hits = place.it.search(QUERIES, norms(QUERIES), n, 10, mask, n)
        assert_identical(hits, exact.search_block(QUERIES, ArraySource(VECTORS), 0, n, None, 10, Metric.L2))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: uncorrectable ECC error encountered",
        "Triton Error [CUDA]: an illegal memory access was encountered",
    ],
)
def test_a_device_that_fails_in_a_search(device, ledger, monkeypatch, text):
    place = Place(device, ledger)

    def broken(*_, **__):
        raise RuntimeError(text)

    monkeypatch.setattr(scan, "scan", broken)
    with pytest.raises(DeviceError, match=f"failed: {re.escape(text)}.*The data is on disk and safe"):
        place.ask()
    assert residence._LEFT.pop().snapshot.parts, "torch would end the process if it had to free what the device has"
    assert place.it.over
    assert place.ask() is None
    assert not ledger.held()
    place.it.fill(N)
    assert place.codes is None


def test_a_device_that_fails_while_rows_come_back_is_told_to_the_next_search(device, ledger, monkeypatch):
    place = Place(device, ledger)
    Place(device, ledger, str(ROOM * INT8), codes="int8")
    assert place.codes is None

    def broken(*_, **__):
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(quantise, "quantise", broken)
    assert place.ask() is None
    place.it.wait()
    with pytest.raises(DeviceError, match="unspecified launch failure"):
        place.ask()
    assert place.ask() is None


def test_other_errors_are_not_taken_for_lost_devices(device, ledger, monkeypatch):
    place = Place(device, ledger)

    def wrong(*_, **__):
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(scan, "scan", wrong)
    with pytest.raises(ValueError, match="a mistake of ours"):
        place.ask()
    assert not place.it.over


def test_errors_are_told_apart():
    assert devices.is_lost(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not devices.is_lost(torch.OutOfMemoryError("CUDA error: out of memory"))
    assert not devices.is_lost(RuntimeError("CUDA error: out of memory"))
    assert devices.is_out_of_memory(RuntimeError("Triton Error [CUDA]: out of memory"))
    assert not devices.is_lost(ValueError("CUDA error"))


def test_a_search_on_the_cpu_imports_no_torch():
    code = """
import sys
import numpy as np
import chroma_gpu
client = chroma_gpu.EphemeralClient(chroma_gpu.Settings(device="cpu", index="flat"))
collection = client.create_collection("vectors", embedding_function=None)
collection.add(ids=["a", "b"], embeddings=np.eye(2, 8, dtype=np.float32))
assert collection.query(query_embeddings=np.eye(1, 8, dtype=np.float32), n_results=1)["ids"] == [["a"]]
collection.wait_indexed()
assert collection.query(query_embeddings=np.eye(1, 8, dtype=np.float32), n_results=1)["ids"] == [["a"]]
print(sorted(name for name in ("torch", "triton", "chroma_gpu.kernels") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_there_is_one_ledger():
    assert residence.LEDGER is residence.Residence.__init__.__kwdefaults__["ledger"]
