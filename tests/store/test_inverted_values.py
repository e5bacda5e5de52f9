"""Every value of a field with its rows, as columns on a device are made of."""

from __future__ import annotations

import numpy as np
import pytest

from chroma_gpu.records import Mode, RecordBatch
from chroma_gpu.roaring import decoded
from chroma_gpu.store.record_store import RecordStore
from chroma_gpu.values import Kind

LONG = "a" * 5_000
VALUES = ["b", LONG, True, "b", False, 1, None, ["b"], "", True]


@pytest.fixture
def store():
    made = RecordStore.in_memory()
    metadatas = [None if value is None else {"x": value, "xx": "other"} for value in VALUES]
    ids = [str(at) for at in range(len(VALUES))]
    made.write(RecordBatch(ids, np.ones((len(ids), 2), np.float32), metadatas=metadatas), Mode.ADD)
    made.fold()
    yield made
    made.close()


@pytest.mark.parametrize("kind", [Kind.STR, Kind.BOOL])
def test_every_value_is_told_with_its_rows(store, kind):
    index = store.inverted(store.state().folds)
    of = str if kind is Kind.STR else bool
    wanted = sorted({value for value in VALUES if type(value) is of})
    keys = dict(zip(index.value_keys(kind, wanted), wanted, strict=True))
    found = index.values("x", kind, [0], 100)
    assert {keys[key]: decoded(rows).tolist() for _, key, rows in found} == {
        value: [at for at, each in enumerate(VALUES) if type(each) is of and each == value] for value in wanted
    }
    assert {chunk for chunk, _, _ in found} == {0}
    assert len(found) == len(wanted)


def test_only_asked_chunks_and_so_many_values_are_told(store):
    index = store.inverted(store.state().folds)
    assert index.values("x", Kind.STR, [], 100) == index.values("x", Kind.STR, [1, 7], 100) == []
    assert index.values("nobody has it", Kind.STR, [0], 100) == []
    assert len(index.values("x", Kind.STR, [0], 3)) == 3
    assert index.values("x", Kind.STR, [0], 2) is None


def test_an_index_that_went_on_says_so(store):
    index = store.inverted(store.state().folds)
    store.write(RecordBatch(["more"], np.ones((1, 2), np.float32), metadatas=[{"x": "c"}]), Mode.ADD)
    store.fold()
    with pytest.raises(KeyError):
        index.values("x", Kind.STR, [0], 100)
