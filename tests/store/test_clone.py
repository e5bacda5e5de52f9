"""Copies of a store's files, rows as they are; and what a store counts."""

from __future__ import annotations

import errno
import os

import msgspec
import numpy as np
import pytest

from chroma_gpu.errors import StoreError
from chroma_gpu.records import Column, Mode, RecordBatch
from chroma_gpu.store import Totals, disk
from chroma_gpu.store.encoding import STATE, STATE_KEY, Summary, read_summary
from chroma_gpu.store.record_store import RecordStore
from chroma_gpu.store.seal import seal


def batch(ids, seed=0, documents=True):
    vectors = np.random.default_rng(seed).standard_normal((len(ids), 3), dtype=np.float32)
    return RecordBatch(list(ids), vectors, [f"{each}{seed}" for each in ids] if documents else None)


def contents(store):
    _, rows, ids = store.listing()
    found = store.read(rows, frozenset(Column))
    assert found.ids == ids
    return ids, rows.tolist(), found.documents, found.vectors.tolist()


def refuse_copy_file_range(monkeypatch):
    def refused(*_):
        raise OSError(errno.EXDEV, "not here")

    monkeypatch.setattr(os, "copy_file_range", refused)
    monkeypatch.setattr(disk, "_READ_AT_ONCE", 1000)


@pytest.mark.parametrize("ranges", [True, False], ids=["copy_file_range", "read and write"])
def test_a_clone_is_what_its_source_was(tmp_path, monkeypatch, ranges):
    if not ranges:
        refuse_copy_file_range(monkeypatch)
    source = RecordStore.open(tmp_path / "source")
    source.write(batch("abcdef"), Mode.ADD)
    source.write(batch("fb", seed=1), Mode.UPSERT)
    source.delete(source.rows_of(["c"]))
    # What a writer that died has left past the committed end stays behind.
    with (tmp_path / "source" / "vectors.f32").open("ab") as file:
        file.write(b"x" * 100)
    with source.exclusive():
        RecordStore.clone(tmp_path / "source", tmp_path / "clone", source.state())
    before = contents(source)
    clone = RecordStore.open(tmp_path / "clone")
    assert (tmp_path / "clone" / "vectors.f32").stat().st_size == 8 * 3 * 4
    assert (contents(clone), clone.state(), clone.totals()) == (before, source.state(), source.totals())
    clone.write(batch("xyz", seed=2), Mode.ADD)
    source.delete(source.rows_of(["a"]))
    assert contents(clone)[0] == [*"abdefxyz"]
    assert contents(source)[0] == [*"bdef"]
    assert clone.verify() == source.verify() == []
    clone.close()
    source.close()


def test_an_empty_store_can_be_cloned(tmp_path):
    source = RecordStore.open(tmp_path / "source")
    with source.exclusive():
        RecordStore.clone(tmp_path / "source", tmp_path / "clone", source.state())
    source.close()
    clone = RecordStore.open(tmp_path / "clone")
    clone.write(batch("a"), Mode.ADD)
    assert contents(clone)[0] == ["a"]
    clone.close()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_ends_too_early_is_not_copied_in_silence(tmp_path, monkeypatch, ranges):
    if not ranges:
        refuse_copy_file_range(monkeypatch)
    (tmp_path / "a").write_bytes(b"12345")
    with pytest.raises(StoreError, match="5 bytes too early"):
        disk.copy_file(tmp_path / "a", tmp_path / "b", 10)


def test_a_listing_is_in_insertion_order(store):
    store.write(batch("abc"), Mode.ADD)
    store.write(batch("ba", seed=1), Mode.UPSERT)
    store.write(batch("d"), Mode.ADD)
    store.delete(store.rows_of(["c"]))
    seq, rows, ids = store.listing()
    assert (seq, rows.tolist(), ids) == (4, [4, 3, 5], ["a", "b", "d"])


def test_operations_and_documents_are_counted(store, new_store):
    assert store.totals() == Totals(0, 0)
    store.write(batch("abc"), Mode.ADD)
    store.write(batch("xy", documents=False), Mode.ADD)
    assert store.totals() == Totals(5, 3)
    store.write(batch("ab", seed=1), Mode.UPSERT)
    store.write(RecordBatch(["x", "unknown"], None, ["text", "text"]), Mode.UPDATE)
    store.write(batch("a", seed=1), Mode.UPSERT)
    assert store.totals() == Totals(8, 4), "what changes nothing is no operation"
    store.delete(store.rows_of(["a", "y"]))
    assert store.totals() == Totals(10, 3)
    copy = new_store()
    store.copy_live(copy)
    assert copy.totals() == store.totals()


def test_a_store_that_did_not_count_begins_with_its_rows(keyvalue_store):
    store, keyvalue = keyvalue_store
    store.write(batch("abc"), Mode.ADD)
    store.write(batch("a", seed=1), Mode.UPSERT)

    def forget(txn):
        fields = msgspec.to_builtins(read_summary(txn))[: Summary.__struct_fields__.index("ops")]
        txn.put(STATE, STATE_KEY, seal(STATE_KEY, msgspec.msgpack.encode(fields)))

    keyvalue.write(forget)
    assert store.totals() == Totals(4, 3)
    store.delete(store.rows_of(["a"]))
    assert store.totals() == Totals(5, 2)
    assert store.verify() == []


@pytest.fixture
def keyvalue_store(store):
    return store, store._keyvalue
