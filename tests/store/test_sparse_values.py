"""Sparse vectors as values of metadata, on disk and in memory."""

from __future__ import annotations

import math
import struct

import msgspec
import numpy as np
import pytest
from store.model import ALL, DIM, contents

from chroma_gpu.errors import CorruptRecord, InvalidArgumentError, StoreError
from chroma_gpu.records import Mode, RecordBatch, SparseVector
from chroma_gpu.store.encoding import Record, decode_record, encode
from chroma_gpu.store.record_store import RecordStore

VALUES = [
    SparseVector([], []),
    SparseVector([0], [1.0]),
    SparseVector([0, 5, 2**31, 2**32 - 1], [0.1, -0.0, 5e-324, -1.7e308], ["a", "", "ß\0", "𐍈"]),
    SparseVector([3, 4], [math.inf, -math.inf]),
    SparseVector(list(range(0, 30_000, 3)), [value / 7 for value in range(10_000)]),
]
CHANGED = SparseVector([1], [1.0])
CHANGED.indices.append(2)
BEYOND = SparseVector([1], [1.0])
BEYOND.values[0] = 10**400


def batch(*ids, seed=0, **columns):
    vectors = np.random.default_rng(seed).standard_normal((len(ids), DIM)).astype(np.float32)
    return RecordBatch(list(ids), vectors, **columns)


def update(id_, **metadata):
    return RecordBatch([id_], metadatas=[metadata])


def metadatas(store):
    return {id_: kept.metadata for id_, kept in contents(store).items()}


def test_what_is_stored_comes_back(store):
    given = {f"k{at}": value for at, value in enumerate(VALUES)} | {"plain": 1}
    store.write(batch("a", "b", metadatas=[given, {"k": VALUES[1]}]), Mode.ADD)
    (got, other) = store.metadatas(np.array([0, 1], np.uint32))
    assert got == given
    assert repr(got) == repr(given)
    assert other == {"k": VALUES[1]}
    assert all(type(part) is list for part in (got["k2"].indices, got["k2"].values, got["k2"].labels))
    assert store.read(np.array([0], np.uint32), ALL).metadatas == [given]
    assert store.verify() == []


def test_ints_become_floats():
    record = decode_record(encode(Record("a", {"k": SparseVector([1, 2], [2, -3])}, None, 0)))
    assert repr(record.metadata) == repr({"k": SparseVector([1, 2], [2.0, -3.0])})


def test_reading_does_not_check_element_by_element(monkeypatch):
    payload = encode(Record("a", {"k": VALUES[2]}, None, 0))
    monkeypatch.setattr(SparseVector, "__init__", None)
    assert decode_record(payload).metadata == {"k": VALUES[2]}


def test_updates_merge_replace_and_delete_them(store):
    store.write(batch("a", metadatas=[{"s": VALUES[1], "t": VALUES[2], "n": 1}]), Mode.ADD)
    assert store.write(update("a", s=VALUES[2]), Mode.UPDATE).rewritten == 1
    assert metadatas(store) == {"a": {"s": VALUES[2], "t": VALUES[2], "n": 1}}
    store.write(update("a", t=None, n=VALUES[1]), Mode.UPDATE)
    assert metadatas(store) == {"a": {"s": VALUES[2], "n": VALUES[1]}}
    store.write(update("a", s="text", n=[1, 2]), Mode.UPSERT)
    assert metadatas(store) == {"a": {"s": "text", "n": [1, 2]}}
    assert store.verify() == []


def test_the_same_value_again_changes_nothing(store):
    store.write(batch("a", metadatas=[{"s": VALUES[2], "n": 1}]), Mode.ADD)
    seq = store.state().seq
    assert store.write(update("a", s=VALUES[2]), Mode.UPDATE).rewritten == 0
    assert store.write(update("a", n=1), Mode.UPDATE).rewritten == 0
    assert store.write(update("a", n=2), Mode.UPDATE).rewritten == 1
    assert store.state().seq == seq + 1
    assert metadatas(store) == {"a": {"s": VALUES[2], "n": 2}}


def test_a_new_vector_takes_them_along(store):
    store.write(batch("a", metadatas=[{"s": VALUES[2]}]), Mode.ADD)
    store.write(batch("a", seed=1), Mode.UPSERT)
    assert metadatas(store) == {"a": {"s": VALUES[2]}}
    assert store.verify() == []


def test_a_copy_of_what_is_live_has_them(new_store):
    source, target = new_store(), new_store()
    ids = [f"id{at}" for at in range(300)]
    source.write(batch(*ids, metadatas=[{"s": VALUES[at % 4], "n": at} for at in range(300)]), Mode.ADD)
    source.delete(np.arange(0, 300, 2, dtype=np.uint32))
    source.write(update("id3", s=VALUES[0]), Mode.UPDATE)
    source.copy_live(target)
    assert metadatas(target) == metadatas(source)
    assert metadatas(target)["id3"] == {"s": VALUES[0], "n": 3}
    assert target.verify() == []


def test_they_are_there_when_the_store_is_opened_again(tmp_path):
    store = RecordStore.open(tmp_path / "s")
    store.write(batch("a", metadatas=[{"s": VALUES[2]}]), Mode.ADD)
    store.close()
    again = RecordStore.open(tmp_path / "s")
    assert metadatas(again) == {"a": {"s": VALUES[2]}}
    again.close()


@pytest.mark.parametrize(
    "value",
    [BEYOND, SparseVector([1], [1.0], ["\ud800"]), SparseVector([1], [1.0], [7]), CHANGED],
    ids=["beyond floats", "lone surrogate", "label of another type", "changed since it was made"],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(store, value):
    with pytest.raises(InvalidArgumentError):
        store.write(batch("a", "b", metadatas=[{"s": VALUES[1]}, {"s": value}]), Mode.ADD)
    assert store.state().seq == 0


def test_values_of_a_newer_version_are_named():
    payload = msgspec.msgpack.encode(["a", {"k": msgspec.msgpack.Ext(9, b"?")}, None, 0])
    with pytest.raises(StoreError, match="unknown kind 9"):
        decode_record(payload)


def test_a_flipped_bit_in_one_is_found(tmp_path):
    value = SparseVector([7], [1234.5678])
    store = RecordStore.open(tmp_path / "s")
    store.write(batch("a", metadatas=[{"s": value}]), Mode.ADD)
    store.close()
    data = tmp_path / "s" / "records" / "data.mdb"
    content = bytearray(data.read_bytes())
    held = struct.pack("<d", 1234.5678)
    assert held in content
    start = 0
    while (at := content.find(held, start)) >= 0:
        content[at] ^= 1
        start = at + 1
    data.write_bytes(content)
    store = RecordStore.open(tmp_path / "s")
    with pytest.raises(CorruptRecord):
        store.metadatas(np.array([0], np.uint32))
    assert store.verify() != []
    store.close()


def test_what_is_no_sparse_vector_is_no_value():
    with pytest.raises(ValueError, match="must fit into a float"):
        SparseVector([1, 2], [1.0, -(10**400)])
    for given in ({"#type": "sparse_vector"}, {"#type": "sparse_vector", "indices": [1]}):
        with pytest.raises(ValueError, match="to have indices and values"):
            SparseVector.from_dict(given)
