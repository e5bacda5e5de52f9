"""The store's contract, on disk and in memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from store import children
from store.model import ALL, DIM, Model, contents, differs

from chroma_gpu.errors import (
    ClosedError,
    DimensionMismatch,
    DuplicateIDError,
    FormatError,
    InvalidArgumentError,
    StoreBusy,
)
from chroma_gpu.records import NO_ROW, Column, Mode, RecordBatch
from chroma_gpu.store import Moved, State, ledger
from chroma_gpu.store.record_store import RecordStore


def vectors(count, seed=0, dim=DIM):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def batch(*ids, seed=0, **columns):
    return RecordBatch(list(ids), vectors(len(ids), seed), **columns)


def outcome(written):
    return written.seq, written.added, written.replaced, written.rewritten, written.removed


def rows(*numbers):
    return np.array(numbers, np.uint32)


def test_a_new_store_is_empty(store):
    assert store.state() == State(0, 0, 0, None)
    assert len(store.vectors) == 0
    assert len(store.live()) == 0
    assert store.rows_of(["a"]).tolist() == [NO_ROW]
    assert [part.tolist() for part in store.births()] == [[], []]
    assert (store.changes(0).seq, store.changes(0).first, store.changes(0).stop) == (0, 0, 0)
    assert store.verify() == []
    assert len(store.read(rows(), ALL)) == 0


def test_what_is_added_comes_back(store):
    given = batch("a", "b", "c", documents=["one", None, ""], metadatas=[{"k": 1}, None, {}], uris=[None, "u", None])
    assert outcome(store.write(given, Mode.ADD)) == (1, 3, 0, 0, 0)
    assert store.state() == State(1, 3, 3, DIM)
    got = store.read(rows(2, 0, 1, 0), ALL)
    assert got.ids == ["c", "a", "b", "a"]
    assert got.vectors.tobytes() == given.vectors[[2, 0, 1, 0]].tobytes()
    assert got.documents == ["", "one", None, "one"]
    assert got.metadatas == [None, {"k": 1}, None, {"k": 1}]
    assert got.uris == [None, None, "u", None]
    assert list(store.documents(rows(1, 2, 0, 7))) == [None, b"", b"one", None]
    assert store.metadatas(rows(7, 0, 2)) == [None, {"k": 1}, None]
    assert store.rows_of(["c", "none", "a"]).tolist() == [2, NO_ROW, 0]
    assert store.vectors.block(0, 3).tobytes() == given.vectors.tobytes()
    assert store.verify() == []


def test_only_asked_columns_are_read(store):
    store.write(batch("a", documents=["d"], metadatas=[{"k": 1}], uris=["u"]), Mode.ADD)
    got = store.read(rows(0), frozenset())
    assert got.ids == ["a"]
    assert (got.vectors, got.documents, got.metadatas, got.uris) == (None,) * 4
    assert store.read(rows(0), frozenset({Column.URI})).uris == ["u"]
    assert store.read(rows(0), frozenset({Column.DOCUMENT})).metadatas is None


METADATA = {
    "int": 1, "zero": 0, "big": 2**63 - 1, "small": -(2**63), "unsigned": 2**64 - 1, "float": 1.0, "minus": -0.0, "tiny": 5e-324,
    "inf": float("inf"), "yes": True, "no": False, "text": "a\0b\u2028ü🎉", "empty": "", "ints": [1, -2], "floats": [1.0, 2.5],
    "bools": [True, False], "texts": ["", "x"], "": "empty key", "long" * 9000: "x" * 100_000,
}  # fmt: skip


def test_metadata_keeps_its_types(store):
    store.write(batch("a", metadatas=[METADATA]), Mode.ADD)
    got = store.read(rows(0), ALL).metadatas[0]
    assert got == METADATA
    assert repr(got) == repr(METADATA)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\ud800", object()])
def test_values_that_cannot_be_stored_are_refused(store, value):
    with pytest.raises(InvalidArgumentError):
        store.write(batch("a", "b", metadatas=[{"k": 1}, {"k": value}]), Mode.ADD)
    with pytest.raises(InvalidArgumentError):
        store.write(batch("\udfff"), Mode.ADD)
    with pytest.raises(InvalidArgumentError):
        store.write(batch("a", documents=["\udfff"]), Mode.ADD)
    assert store.state().seq == 0


IDS = [
    "",
    " ",
    "\0",
    "a",
    "A",
    "ü",
    "x" * 480,
    "x" * 481,
    "x" * 482,
    "ü" * 240,
    "ü" * 241,
    "y" * 1_000_000,
    "\U0010ffff",
    "\xff",
    "a\0",
]


def test_ids_of_every_kind(store):
    given = batch(*IDS)
    store.write(given, Mode.ADD)
    assert store.rows_of(IDS).tolist() == list(range(len(IDS)))
    assert store.rows_of([f"{id_}-" for id_ in IDS]).tolist() == [NO_ROW] * len(IDS)
    assert store.read(store.rows_of(IDS), frozenset()).ids == IDS
    store.write(RecordBatch(IDS, vectors(len(IDS), 1)), Mode.UPSERT)
    assert store.read(store.rows_of(IDS), ALL).vectors.tobytes() == vectors(len(IDS), 1).tobytes()
    assert store.verify() == []
    store.delete(store.rows_of(IDS))
    assert store.rows_of(IDS).tolist() == [NO_ROW] * len(IDS)
    assert store.verify() == []


def test_add_skips_what_exists(store):
    store.write(batch("a", "b", documents=["1", "2"]), Mode.ADD)
    assert outcome(store.write(batch("b", "a", seed=1, documents=["x", "x"]), Mode.ADD)) == (1, 0, 0, 0, 0)
    assert outcome(store.write(batch("b", "c", "a", seed=1, documents=["x", "3", "x"]), Mode.ADD)) == (2, 1, 0, 0, 0)
    got = store.read(rows(0, 1, 2), ALL)
    assert got.documents == ["1", "2", "3"]
    assert got.vectors.tobytes() == np.concatenate([vectors(2), vectors(3, 1)[1:2]]).tobytes()


def test_update_merges_in_place(store):
    store.write(batch("a", "b", documents=["1", "2"], metadatas=[{"k": 1, "l": 2}, None], uris=["u", None]), Mode.ADD)
    change = RecordBatch(["b", "none", "a"], None, [None, "x", "new"], [{"m": 3}, {"m": 3}, {"k": None, "m": 4}], None)
    assert outcome(store.write(change, Mode.UPDATE)) == (2, 0, 0, 2, 0)
    got = store.read(rows(0, 1), ALL)
    assert got.documents == ["new", "2"]
    assert got.metadatas == [{"l": 2, "m": 4}, {"m": 3}]
    assert got.uris == ["u", None]
    assert got.vectors.tobytes() == vectors(2).tobytes()
    store.write(RecordBatch(["b"], metadatas=[{"m": None}]), Mode.UPDATE)
    assert store.read(rows(1), ALL).metadatas == [None]
    assert store.changes(1).touched.tolist() == [0, 1]
    assert store.verify() == []


def test_updates_that_change_nothing_are_no_write(store):
    given = batch("a", documents=["1"], metadatas=[{"k": 1}], uris=["u"])
    store.write(given, Mode.ADD)
    for mode in (Mode.UPDATE, Mode.UPSERT):
        for same in (given, RecordBatch(["a"]), RecordBatch(["a"], metadatas=[{"k": 1, "none": None}]), RecordBatch([])):
            assert outcome(store.write(same, mode)) == (1, 0, 0, 0, 0)
    assert outcome(store.write(RecordBatch(["a"], metadatas=[{"k": 1.0}]), Mode.UPDATE)) == (2, 0, 0, 1, 0)
    assert repr(store.read(rows(0), ALL).metadatas) == "[{'k': 1.0}]"


def test_a_new_vector_makes_a_new_row_that_keeps_its_place(store):
    store.write(batch("a", "b", "c", documents=["1", "2", "3"], metadatas=[{"k": 1}, None, None]), Mode.ADD)
    assert outcome(store.write(batch("d", "a", seed=1, metadatas=[None, {"l": 2}]), Mode.UPSERT)) == (2, 1, 1, 0, 0)
    assert store.rows_of(["a", "b", "c", "d"]).tolist() == [4, 1, 2, 3]
    got = store.read(rows(4), ALL)
    assert (got.documents, got.metadatas) == (["1"], [{"k": 1, "l": 2}])
    assert got.vectors.tobytes() == vectors(2, 1)[1:].tobytes()
    assert [part.tolist() for part in store.births()] == [[4], [0]]
    store.write(batch("a", seed=2), Mode.UPDATE)
    assert [part.tolist() for part in store.births()] == [[5], [0]]
    assert [part.tolist() for part in store.births(6)] == [[], []]
    assert store.live().rows().tolist() == [1, 2, 3, 5]
    assert list(contents(store)) == ["a", "b", "c", "d"]
    assert store.state() == State(3, 6, 4, DIM)
    with pytest.raises(KeyError, match="row 0"):
        store.read(rows(1, 0), ALL)
    assert store.verify() == []


def test_signs_of_zero_are_kept(store):
    zeros = np.zeros((1, DIM), np.float32)
    store.write(RecordBatch(["a"], zeros), Mode.ADD)
    assert store.write(RecordBatch(["a"], -zeros), Mode.UPDATE).replaced == 1
    assert store.read(store.rows_of(["a"]), ALL).vectors.tobytes() == (-zeros).tobytes()


def test_delete(store):
    store.write(batch("a", "b", "c", documents=["1", "2", "3"]), Mode.ADD)
    assert outcome(store.delete(rows(1, 1, 0, 9, NO_ROW))) == (2, 0, 0, 0, 2)
    assert outcome(store.delete(rows(1, 0))) == (2, 0, 0, 0, 0)
    assert outcome(store.delete(rows())) == (2, 0, 0, 0, 0)
    assert store.state() == State(2, 3, 1, DIM)
    assert store.live().rows().tolist() == [2]
    assert list(store.documents(rows(0, 2))) == [None, b"3"]
    store.write(batch("b", seed=1), Mode.ADD)
    assert list(contents(store)) == ["c", "b"]
    store.delete(store.rows_of(["b", "c"]))
    assert store.state() == State(4, 4, 0, DIM)
    assert store.verify() == []


def test_the_length_of_vectors_is_fixed_by_the_first(store):
    with pytest.raises(InvalidArgumentError):
        store.write(RecordBatch(["a"], np.empty((1, 0), np.float32)), Mode.ADD)
    assert outcome(store.write(RecordBatch(["a"], vectors(1, dim=3)), Mode.UPDATE)) == (0, 0, 0, 0, 0)
    store.write(batch("a"), Mode.ADD)
    store.delete(rows(0))
    for mode in Mode:
        with pytest.raises(DimensionMismatch, match=f"{DIM}, got 3"):
            store.write(RecordBatch(["b"], vectors(1, dim=3)), mode)
    assert store.state() == State(2, 1, 0, DIM)


def test_set_dim(store):
    store.set_dim(3)
    assert store.state().dim == 3
    with pytest.raises(DimensionMismatch):
        store.write(batch("a"), Mode.ADD)
    with pytest.raises(InvalidArgumentError):
        store.set_dim(4)
    store.write(RecordBatch(["a"], vectors(1, dim=3)), Mode.ADD)
    assert store.verify() == []


def test_bad_batches_leave_nothing(store):
    store.write(batch("a"), Mode.ADD)
    with pytest.raises(InvalidArgumentError, match="'b' is new"):
        store.write(RecordBatch(["a", "b"], documents=["x", "y"]), Mode.UPSERT)
    with pytest.raises(DuplicateIDError):
        store.write(batch("b", "b"), Mode.ADD)
    with pytest.raises(ValueError, match="shorter"):
        store.write(batch("b", "c", metadatas=[{}]), Mode.ADD)
    assert list(contents(store)) == ["a"]
    assert store.state().seq == 1


def test_changes_tell_what_a_reader_missed(store):
    store.write(batch("a", "b", "c", "d"), Mode.ADD)
    store.write(RecordBatch(["c", "a"], metadatas=[{"k": 1}] * 2), Mode.UPDATE)
    store.delete(rows(3, 0))
    store.write(batch("b", "e", seed=1), Mode.UPSERT)

    def seen(since):
        found = store.changes(since)
        return found.seq, found.first, found.stop, sorted(found.dead.tolist()), found.touched.tolist()

    assert seen(0) == (4, 0, 6, [0, 1, 3], [0, 2])
    assert seen(1) == (4, 4, 6, [0, 1, 3], [0, 2])
    assert seen(2) == (4, 4, 6, [0, 1, 3], [])
    assert seen(3) == (4, 4, 6, [1], [])
    assert seen(4) == (4, 6, 6, [], [])
    assert store.changes(5) is None


def test_old_changes_are_forgotten(store, monkeypatch):
    monkeypatch.setattr(ledger, "LOG_ENTRIES", 32)
    for n in range(100):
        store.write(batch(f"id{n}"), Mode.ADD)
    assert store.changes(0) is None
    assert store.changes(60) is None
    assert store.changes(68).first == 68
    assert store.verify() == []
    monkeypatch.setattr(ledger, "LOG_BYTES", 200)
    store.write(RecordBatch([f"id{n}" for n in range(100)], metadatas=[{"k": 1}] * 100), Mode.UPDATE)
    assert store.changes(100) is None
    assert store.changes(101).touched.tolist() == []
    store.write(batch("more"), Mode.ADD)
    assert store.changes(101).first == 100
    assert store.verify() == []


def test_live_rows_beyond_one_chunk(store):
    count = 40_000
    store.write(RecordBatch([str(n) for n in range(count)], np.zeros((count, 1), np.float32)), Mode.ADD)
    gone = np.random.default_rng(0).permutation(count)[: count // 2].astype(np.uint32)
    for part in np.array_split(gone, 3):
        store.delete(part)
    expected = np.setdiff1d(np.arange(count), gone)
    assert np.array_equal(store.live().rows(), expected)
    assert store.live().size == count
    assert store.state().live == len(expected)
    assert np.array_equal(np.sort(store.changes(1).dead), np.sort(gone))
    assert store.verify() == []


def test_copy_live_closes_the_gaps(new_store):
    source, target = new_store(), new_store()
    source.write(batch("a", "b", "c", "d", documents=["1", None, "3", "4"], metadatas=[{"k": 1}] * 4), Mode.ADD)
    source.write(batch("b", "e", seed=1), Mode.UPSERT)
    source.delete(source.rows_of(["a"]))
    source.copy_live(target)
    assert contents(target) == contents(source)
    assert list(contents(target)) == ["b", "c", "d", "e"]
    assert (target.state().rows, target.state().live) == (4, 4)
    assert target.verify() == []
    with pytest.raises(InvalidArgumentError, match="not empty"):
        source.copy_live(target)


def test_copy_of_an_emptied_store_keeps_the_length_of_vectors(new_store):
    source, target = new_store(), new_store()
    source.write(batch("a"), Mode.ADD)
    source.delete(rows(0))
    source.copy_live(target)
    assert (target.state().live, target.state().dim) == (0, DIM)


def test_copy_notices_a_writer(new_store):
    source, target = new_store(), new_store()
    source.write(batch("a"), Mode.ADD)
    target.here = lambda: source.write(batch("b"), Mode.ADD) is not None
    with pytest.raises(StoreBusy, match="while it was copied"):
        source.copy_live(target)


def test_many_megabytes_are_copied(new_store):
    source, target = new_store(), new_store()
    count = 300
    given = RecordBatch([f"{n}" for n in range(count)], vectors(count), [f"{n}" * 30_000 for n in range(count)])
    source.write(given, Mode.ADD)
    source.copy_live(target)
    assert target.read(np.arange(count, dtype=np.uint32), ALL).documents == given.documents


def test_exclusive_keeps_writers_out(new_store):
    source, target = new_store(), new_store()
    source.write(batch("a"), Mode.ADD)
    order = []

    def elsewhere():
        source.write(batch("b"), Mode.ADD)
        order.append("written")

    thread = threading.Thread(target=elsewhere)
    with source.exclusive():
        thread.start()
        source.copy_live(target)
        order.append("copied")
    thread.join()
    assert order == ["copied", "written"]
    assert list(contents(target)) == ["a"]


def test_writes_ask_whether_the_records_are_still_here(store):
    store.write(batch("a"), Mode.ADD)
    store.here = lambda: False
    for write in (lambda: store.write(batch("b"), Mode.ADD), lambda: store.delete(rows(0))):
        with pytest.raises(Moved):
            write()
    store.here = lambda: True
    assert store.write(batch("b"), Mode.ADD).added == 1


def test_reads_do_not_see_half_a_write(store):
    done, failures = threading.Event(), []

    def read():
        try:
            while not done.is_set():
                live = store.live()
                tags = [metadata["tag"] for metadata in store.metadatas(live.rows())]
                assert all(tags.count(tag) == 20 for tag in set(tags))
                found = store.read(live.rows(), ALL)
                assert [vector.tobytes() for vector in found.vectors] == [
                    vectors(20, metadata["tag"])[metadata["at"]].tobytes() for metadata in found.metadatas
                ]
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for tag in range(30):
        metadatas = [{"tag": tag, "at": at} for at in range(20)]
        store.write(RecordBatch([f"{tag}-{at}" for at in range(20)], vectors(20, tag), metadatas=metadatas), Mode.ADD)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures


def test_threads_write_together(store):
    def write(writer):
        for n in range(10):
            store.write(batch(f"{writer}-{n}", "shared", seed=writer), Mode.UPSERT)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.state().live == 41
    assert store.verify() == []


def test_a_closed_store_says_so(store):
    store.write(batch("a"), Mode.ADD)
    store.close()
    store.close()
    for call in (store.state, store.live, store.verify, lambda: store.write(batch("b"), Mode.ADD), lambda: store.rows_of(["a"])):
        with pytest.raises(ClosedError):
            call()


def test_a_store_on_disk_is_there_again(tmp_path):
    model, given = Model(), batch("a", "b", documents=["1", "2"], metadatas=[{"k": 1}, None])
    store = RecordStore.open(tmp_path / "s", map_size=1 << 18)
    for target in (store, model):
        target.write(given, Mode.ADD)
        target.write(batch("a", seed=1), Mode.UPSERT)
    store.close()
    store = RecordStore.open(tmp_path / "s")
    assert differs(store, model, ["a", "b", "c"]) is None
    assert len(store.vectors) == 3
    other = RecordStore.open(tmp_path / "s")
    store.write(batch("c"), Mode.ADD)
    assert other.state().live == 3
    assert other.vectors.block(0, 4).tobytes() == store.vectors.block(0, 4).tobytes()
    other.close()
    store.close()


def test_vectors_without_records_are_refused(tmp_path):
    RecordStore.open(tmp_path).close()
    (tmp_path / "vectors.f32").write_bytes(b"1234")
    for name in ("data.mdb", "lock.mdb"):
        (tmp_path / "records" / name).unlink()
    with pytest.raises(FormatError, match="no records"):
        RecordStore.open(tmp_path)
    assert not (tmp_path / "records" / "data.mdb").exists()


def test_a_full_disk_leaves_what_was_acknowledged(tmp_path, in_child):
    assert in_child(children.fill_a_store, tmp_path) == (True, True, [])


def test_a_fork_writes_to_the_same_store(tmp_path, in_child):
    assert in_child(children.fork_with_a_store, tmp_path) == (0, ["parent", "child", "later"], [])


def test_a_full_table_is_refused(store, monkeypatch):
    store.write(batch("a"), Mode.ADD)
    monkeypatch.setattr("chroma_gpu.store.writes.NO_ROW", np.uint32(2))
    store.write(batch("b"), Mode.ADD)
    with pytest.raises(Exception, match="at most 2 rows"):
        store.write(batch("c"), Mode.ADD)
