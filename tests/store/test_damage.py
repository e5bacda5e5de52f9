"""Damaged files: found by verify, never returned by a read, never the end of the process that verifies."""

from __future__ import annotations

import numpy as np
import pytest
from store import children
from store.model import DIM

from chroma_gpu.errors import CorruptRecord
from chroma_gpu.records import Column, Mode, RecordBatch
from chroma_gpu.store.record_store import RecordStore

COUNT = 300
ALL_ROWS = np.arange(COUNT, dtype=np.uint32)


@pytest.fixture
def directory(tmp_path):
    """A closed store of COUNT records, the texts and ids of which can be found in its file."""
    store = RecordStore.open(tmp_path)
    vectors = np.random.default_rng(0).standard_normal((COUNT, DIM)).astype(np.float32)
    ids = [f"id-{n:06d}" for n in range(COUNT)]
    metadatas = [{"key": f"value-{n:06d}"} for n in range(COUNT)]
    store.write(RecordBatch(ids, vectors, [f"text-{n:06d}" for n in range(COUNT)], metadatas), Mode.ADD)
    store.close()
    return tmp_path


def damage(path, needle, bit=1):
    """Flip a bit in the first byte of every place where the needle is."""
    data = bytearray(path.read_bytes())
    at, found = data.find(needle), 0
    while at >= 0:
        data[at] ^= bit
        found, at = found + 1, data.find(needle, at + 1)
    assert found
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("needle", "table", "read"),
    [
        (b"text-000123", "documents", lambda store: store.read(ALL_ROWS, frozenset({Column.DOCUMENT}))),
        (b"text-000123", "documents", lambda store: list(store.documents(ALL_ROWS))),
        (b"value-000123", "records", lambda store: store.read(ALL_ROWS, frozenset())),
        (b"value-000123", "records", lambda store: store.metadatas(ALL_ROWS)),
    ],
)
def test_a_flipped_bit_in_a_value(directory, needle, table, read):
    damage(directory / "records" / "data.mdb", needle)
    store = RecordStore.open(directory)
    assert any(f"table {table}" in finding and "x00{" in finding for finding in store.verify())
    with pytest.raises(CorruptRecord, match=table):
        read(store)
    assert store.read(ALL_ROWS[:123], frozenset(Column)).documents == [f"text-{n:06d}" for n in range(123)]
    store.close()


def test_a_flipped_bit_in_an_id(directory):
    damage(directory / "records" / "data.mdb", b"id-000123")
    assert RecordStore.inspect(directory)
    store = RecordStore.open(directory)
    with pytest.raises(CorruptRecord):
        store.read(ALL_ROWS, frozenset())
    store.close()


def test_a_flipped_bit_in_a_vector(directory):
    path = directory / "vectors.f32"
    data = bytearray(path.read_bytes())
    data[(123 * DIM + 2) * 4] ^= 1
    path.write_bytes(data)
    store = RecordStore.open(directory)
    assert store.verify() == ["table records: the vector of row 123 (id 'id-000123') is damaged"]
    with pytest.raises(CorruptRecord, match="row 123"):
        store.read(ALL_ROWS, frozenset({Column.VECTOR}))
    assert len(store.read(ALL_ROWS[124:], frozenset({Column.VECTOR}))) == COUNT - 124
    store.close()


def test_a_vector_file_that_was_cut(directory):
    path = directory / "vectors.f32"
    path.write_bytes(path.read_bytes()[:1000])
    store = RecordStore.open(directory)
    assert len(store.verify()) == 1
    with pytest.raises(CorruptRecord, match="ends before"):
        store.read(ALL_ROWS, frozenset({Column.VECTOR}))
    with pytest.raises(CorruptRecord, match="ends before"):
        store.write(RecordBatch(["new"], np.ones((1, DIM), np.float32)), Mode.ADD)
    assert len(store.read(ALL_ROWS, frozenset({Column.DOCUMENT}))) == COUNT
    store.close()


@pytest.mark.parametrize("table", ["ids", "records", "documents", "dead", "births", "changes"])
def test_a_lost_or_misplaced_value(directory, table):
    store = RecordStore.open(directory)
    store.write(RecordBatch(["id-000001", "id-000002"], np.ones((2, DIM), np.float32)), Mode.UPSERT)
    store.delete(ALL_ROWS[50:60])
    assert store.verify() == []

    def lose(txn):
        key, _ = next(txn.scan(table))
        txn.delete(table, key)

    store._keyvalue.write(lose)
    assert any(f"table {table}" in finding for finding in store.verify())
    store.close()


def test_a_value_from_the_past(directory):
    """A sound seal is not enough: a write that the disk lost leaves the old value behind."""
    store = RecordStore.open(directory)
    key = (7).to_bytes(4, "big")
    with store._keyvalue.read() as txn:
        old = txn.get("records", key)
    store.write(RecordBatch(["id-000007"], metadatas=[{"key": "new"}]), Mode.UPDATE)
    store._keyvalue.write(lambda txn: txn.put("records", key, old))
    assert store.verify() == ["the digest of table records does not match: a write was lost"]
    store.close()


@pytest.mark.parametrize("seed", range(25))
def test_random_damage_is_found_before_it_can_do_harm(directory, in_child, seed):
    rng = np.random.default_rng(seed)
    path = directory / "records" / "data.mdb"
    data = bytearray(path.read_bytes())
    page = int(rng.integers(len(data) // 4096)) * 4096
    kind = seed % 5
    if kind == 0:
        data[page : page + 4096] = rng.bytes(4096)
    elif kind == 1:
        data[page : page + 4096] = bytes(4096)
    elif kind == 2:
        for at in rng.integers(page, page + 4096, 8):
            data[at] ^= 1 << int(rng.integers(8))
    elif kind == 3:
        other = int(rng.integers(len(data) // 4096)) * 4096
        data[page : page + 4096] = data[other : other + 4096]
    else:
        del data[max(page, 4096) :]
    path.write_bytes(data)
    findings, intact = in_child(children.inspect_and_read, directory, COUNT)
    assert findings or intact
