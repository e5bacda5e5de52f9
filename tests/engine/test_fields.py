"""The metadata in memory follows a store: one reading for columns and sparse vectors, and nothing is lost when one fails."""

from __future__ import annotations

import numpy as np
import pytest

from chroma_gpu.engine import fields as module
from chroma_gpu.engine.fields import Fields
from chroma_gpu.errors import StoreBusy
from chroma_gpu.records import Mode, RecordBatch, SparseVector
from chroma_gpu.rowset import RowSet
from chroma_gpu.store.record_store import RecordStore


class Reading(RecordStore):
    """A store in memory that counts the rows whose metadata is read, and fails when told to."""

    reads: list[int]
    fail_after = 1 << 30
    forgetful = False

    def metadatas(self, rows):
        if len(self.reads) >= self.fail_after:
            raise StoreBusy("not now.")
        self.reads.append(len(rows))
        return super().metadatas(rows)

    def changes(self, since):
        return None if self.forgetful else super().changes(since)


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(module, "SLICE", 8)
    made = Reading.in_memory()
    made.reads = []
    yield made
    made.close()


def word(value):
    return SparseVector([3], [float(value)])


def add(store, first, stop, mode=Mode.ADD, value=None):
    ids = [str(n) for n in range(first, stop)]
    vectors = np.ones((len(ids), 2), np.float32) if mode is Mode.ADD else None
    metadatas = [{"n": n if value is None else value, "s": word(n if value is None else value)} for n in range(first, stop)]
    store.write(RecordBatch(ids, vectors, metadatas=metadatas), mode)


def caught_up(fields, store):
    state = store.state()
    return fields.caught_up(store, state.seq, state.rows)


def held(view, n):
    """The numbers in the column and in the sparse index, by row."""
    hits = view.sparse["s"].search(SparseVector([3], [1.0]), n, RowSet.full(n))
    values = {row: 1.0 - distance for row, distance in zip(hits.rows[0].tolist(), hits.distances[0].tolist(), strict=True)}
    numbers = {row: number for number in set(values.values()) for row in view.columns.equal("n", number).rows().tolist()}
    assert numbers == values
    return values


def test_each_row_is_read_once_for_both(store):
    fields = Fields()
    add(store, 0, 20)
    assert held(caught_up(fields, store), 20) == {n: float(n) for n in range(20)}
    assert store.reads == [8, 8, 4]
    caught_up(fields, store)
    add(store, 20, 23)
    add(store, 5, 6, Mode.UPDATE, 100)
    view = caught_up(fields, store)
    assert store.reads == [8, 8, 4, 3, 1]
    assert held(view, 23) == {n: float(n) for n in range(23)} | {5: 100.0}


def test_what_was_given_before_stays_as_it_was(store):
    fields = Fields()
    add(store, 0, 4)
    before = caught_up(fields, store)
    add(store, 0, 2, Mode.UPDATE, 50)
    add(store, 4, 6)
    assert held(caught_up(fields, store), 6) == {0: 50.0, 1: 50.0, 2: 2.0, 3: 3.0, 4: 4.0, 5: 5.0}
    assert held(before, 6) == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_a_reading_that_fails_half_way_starts_anew(store, done):
    fields = Fields()
    add(store, 0, 10)
    caught_up(fields, store)
    add(store, 10, 30)
    add(store, 1, 2, Mode.UPDATE, 77)
    store.fail_after = len(store.reads) + done
    with pytest.raises(StoreBusy):
        caught_up(fields, store)
    store.fail_after = 1 << 30
    assert held(caught_up(fields, store), 30) == {n: float(n) for n in range(30)} | {1: 77.0}


def test_without_the_log_everything_is_read_again(store):
    fields = Fields()
    add(store, 0, 10)
    caught_up(fields, store)
    add(store, 3, 4, Mode.UPDATE, 9)
    store.forgetful = True
    assert held(caught_up(fields, store), 10) == {n: float(n) for n in range(10)} | {3: 9.0}


def test_only_keys_with_sparse_vectors_have_an_index(store):
    store.write(RecordBatch(["a", "b"], np.ones((2, 2), np.float32), metadatas=[{"s": 1, "t": [1.0]}, {"t": word(1)}]), Mode.ADD)
    assert set(caught_up(Fields(), store).sparse) == {"t"}
