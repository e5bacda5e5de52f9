"""Random histories: a store against a dictionary, and its log of changes against itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store.model import UNIVERSE, Model, apply, contents, differs, random_write

from chroma_gpu.records import Column, Mode, RecordBatch
from chroma_gpu.store.record_store import RecordStore

KINDS = pytest.mark.parametrize("kind", ["lmdb", "memory"])


def make_store(kind, tmp_path_factory):
    return RecordStore.in_memory() if kind == "memory" else RecordStore.open(tmp_path_factory.mktemp("store"))


@KINDS
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 25), since=st.integers(0, 25))
def test_a_store_equals_a_dictionary(kind, tmp_path_factory, seed, steps, since):
    store, model = make_store(kind, tmp_path_factory), Model()
    snapshots = [(np.zeros(0, bool), {})]
    for step in range(steps):
        write, mode = random_write(seed, step)
        before, seq = repr(model.records), store.state().seq
        written = apply(store, write, mode, by_row=True)
        apply(model, write, mode)
        assert (store.state().seq, written.seq) == (seq + (before != repr(model.records)),) * 2
        if written.seq > seq:
            live = store.live()
            held = store.read(live.rows(), frozenset(Column) - {Column.VECTOR})
            snapshots.append(
                (live.flags(), dict(zip(live.rows().tolist(), zip(held.documents, held.metadatas, strict=True), strict=True)))
            )
    assert differs(store, model, UNIVERSE) is None
    assert store.verify() == []

    since = min(since, store.state().seq)
    changes, (old, had), (now, has) = store.changes(since), snapshots[since], snapshots[-1]
    flags = np.concatenate([old, np.ones(changes.stop - changes.first, bool)])
    assert (changes.seq, changes.first, changes.stop) == (store.state().seq, len(old), len(now))
    flags[changes.dead] = False
    assert np.array_equal(flags, now)
    rewritten = [row for row in had if row in has and repr(had[row]) != repr(has[row])]
    assert set(rewritten) <= set(changes.touched.tolist())
    assert len(set(changes.touched.tolist())) == len(changes.touched)

    copy = RecordStore.in_memory()
    store.copy_live(copy)
    assert differs(copy, model, UNIVERSE) is None
    assert copy.state().rows == len(model.records)
    store.close()


@KINDS
@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=12))
def test_insertion_order_survives_new_vectors(kind, tmp_path_factory, ids):
    store = make_store(kind, tmp_path_factory)
    for at, id_ in enumerate(ids):
        store.write(RecordBatch([id_], np.full((1, 2), at, np.float32)), Mode.UPSERT)
    assert list(contents(store)) == list(dict.fromkeys(ids))
    store.close()
