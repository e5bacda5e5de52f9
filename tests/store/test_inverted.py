"""The inverted index equals what the records say, whatever was written before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store.model import UNIVERSE, Model, apply, differs, random_write
from store.naive_index import differences, numbers_in, rows_as_they_are, rows_in

from chroma_gpu.records import Mode, RecordBatch, SparseVector
from chroma_gpu.rowset import RowSet
from chroma_gpu.store import Moved
from chroma_gpu.store.inverted import fold
from chroma_gpu.store.record_store import RecordStore
from chroma_gpu.values import ColumnStatistics, Kind

FOLD_ROWS = 16
KINDS = pytest.mark.parametrize("kind", ["lmdb", "memory"])


@pytest.fixture(autouse=True, scope="module")
def small_folds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold, "FOLD_ROWS", FOLD_ROWS)
        patch.setattr(fold, "MOST_BLOCKS", 3)
        yield


def batch(metadatas, ids=None, documents=None, uris=None, dim=2):
    ids = ids or [f"id-{n}" for n in range(len(metadatas))]
    vectors = None if dim is None else np.arange(len(ids) * dim, dtype=np.float32).reshape(-1, dim)
    return RecordBatch(ids, vectors, documents, metadatas, uris)


def among(store, field, kind, value, array=False):
    index = store.inverted(store.state().folds)
    return rows_in(index, index.among(field, kind, array, [value])).rows().tolist()


@KINDS
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 30))
def test_random_histories(kind, tmp_path_factory, seed, steps):
    if kind == "memory":
        store = RecordStore.in_memory()
    else:  # with so small a map many writes are run again after it has grown
        store = RecordStore.open(tmp_path_factory.mktemp("store"), map_size=1 << 18)
    model, taken, folds = Model(), {}, 0
    for step in range(steps):
        write, mode = random_write(seed, step)
        apply(store, write, mode, by_row=True)
        apply(model, write, mode)
        state = store.state()
        if state.folds != folds:
            assert (state.folds, state.folded) == (folds + 1, state.rows)
            assert not len(store.pending())
            taken, folds = rows_as_they_are(store), state.folds
            assert differences(store, taken) == []
        assert mode is None or state.rows - state.folded + len(store.pending()) < FOLD_ROWS
        now = rows_as_they_are(store)
        changed = {row for row, was in taken.items() if row in now and repr(now[row]) != repr(was)}
        assert changed <= set(store.pending().tolist()) <= taken.keys()
    assert differences(store, taken) == []
    assert store.verify() == []
    assert differs(store, model, UNIVERSE) is None
    for make_anew in (RecordStore.fold, RecordStore.refold):
        make_anew(store)
        assert (store.state().folded, len(store.pending())) == (store.state().rows, 0)
        assert differences(store, rows_as_they_are(store)) == []
        assert store.verify() == []
    assert differs(store, model, UNIVERSE) is None
    store.close()


def test_rows_of_more_than_one_chunk(new_store):
    store = new_store()
    rng = np.random.default_rng(5)
    count = 66_000
    metadatas = [{"color": f"c{n % 7}", "n": n, "wide": n // 30_000, "x": n / 7, "tags": ["t", n % 3]} for n in range(count)]
    ids = [f"id-{n}" for n in range(count)]
    for first, stop in ((0, 65_530), (65_530, 65_540), (65_540, count)):
        part = slice(first, stop)
        store.write(batch(metadatas[part], ids[part], [f"text {n % 100}" for n in range(first, stop)]), Mode.ADD)
    chosen = rng.permutation(count)[:300].tolist()
    given = [{"color": ["red", "c1", 3, None, True][n % 5], "n": [5, None, 2.5][n % 3], "tags": ["t", "u"]} for n in chosen]
    store.write(batch(given, [ids[n] for n in chosen], dim=None), Mode.UPDATE)
    store.delete(rng.permutation(count)[:500].astype(np.uint32))
    store.fold()
    taken = rows_as_they_are(store)
    index = store.inverted(store.state().folds)
    live = store.live()
    for value in ("c1", "c6", "red", "absent"):
        expected = [row for row, (_, metadata) in taken.items() if metadata.get("color") == value]
        assert (rows_in(index, index.among("color", Kind.STR, False, [value])) & live).rows().tolist() == expected
    expected = {row: metadata["n"] for row, (_, metadata) in taken.items() if type(metadata.get("n")) is int}
    assert numbers_in(index, "n", Kind.INT, live.flags()) == expected
    assert [len(block.values) for block in index.numbers("wide", Kind.INT)] == [3, 1]
    assert [block.places is None for block in index.numbers("wide", Kind.INT)] == [True, True]
    expected = [row for row, (document, _) in taken.items() if "t 9" in document]
    assert (index.containing([b"t 9"]) & live).rows().tolist() == expected
    assert len(rows_in(index, index.having("x", Kind.FLOAT, False))) >= len([1 for _, each in taken.values() if "x" in each])
    assert store.verify() == []


def test_new_numbers_in_a_chunk_of_as_many_numbers_as_rows(new_store):
    store, ids = new_store(), [f"id-{n}" for n in range(65_536)]
    store.write(batch([{"n": 2 * n, "x": n / 2} for n in range(65_536)], ids, dim=1), Mode.ADD)
    store.write(batch([{"n": 2 * n + 7, "x": -1.5 - n} for n in range(5)], ids[:5], dim=None), Mode.UPDATE)
    store.fold()
    index = store.inverted(store.state().folds)
    everything = np.ones(65_536, np.bool_)
    changed = {n: 2 * n + 7 for n in range(5)}, {n: -1.5 - n for n in range(5)}
    assert numbers_in(index, "n", Kind.INT, everything) == {n: 2 * n for n in range(65_536)} | changed[0]
    assert numbers_in(index, "x", Kind.FLOAT, everything) == {n: n / 2 for n in range(65_536)} | changed[1]


def test_every_type_is_kept_apart(store):
    sparse = SparseVector([1], [2.0])
    values = [True, 1, 1.0, "1", [True], [1, 2, 1], [1.0], ["1", "1"], sparse, float("nan"), 2**63, -0.0, "x" * 3000]
    store.write(batch([{"a": value} for value in values] + [None, {"b": ""}]), Mode.ADD)
    store.fold()
    assert among(store, "a", Kind.BOOL, True) == [0]
    assert among(store, "a", Kind.STR, "1") == [3]
    assert among(store, "a", Kind.BOOL, True, array=True) == [4]
    assert among(store, "a", Kind.INT, 1, array=True) == [5]
    assert among(store, "a", Kind.FLOAT, 1.0, array=True) == [6]
    assert among(store, "a", Kind.STR, "1", array=True) == [7]
    assert among(store, "a", Kind.STR, "x" * 3000) == [12]
    assert among(store, "a", Kind.STR, "x" * 3001) == []
    assert among(store, "b", Kind.STR, "") == [14]
    index = store.inverted(store.state().folds)
    flags = np.ones(index.rows, bool)
    assert numbers_in(index, "a", Kind.INT, flags) == {1: 1}
    assert numbers_in(index, "a", Kind.FLOAT, flags) == {2: 1.0, 10: 2.0**63, 11: 0.0}
    assert rows_in(index, index.having("a", None, False)).rows().tolist() == [8]
    assert sorted(index.statistics(), key=repr)[-1] == ColumnStatistics("b", Kind.STR, False, 1)
    assert {(each.kind, each.array): each.count for each in index.statistics() if each.field == "a"} == {
        (Kind.BOOL, False): 1,
        (Kind.INT, False): 1,
        (Kind.FLOAT, False): 3,
        (Kind.STR, False): 2,
        **{(kind, True): 1 for kind in Kind},
        (None, False): 1,
    }


def test_a_float_zero_has_no_sign(store):
    store.write(batch([{"a": [0.0]}, {"a": [-0.0]}]), Mode.ADD)
    store.fold()
    assert among(store, "a", Kind.FLOAT, -0.0, array=True) == among(store, "a", Kind.FLOAT, 0.0, array=True) == [0, 1]


def test_a_rewritten_row_is_pending_until_the_next_fold(store):
    store.write(batch([{"a": "old", "n": n} for n in range(FOLD_ROWS)]), Mode.ADD)
    assert (store.state().folds, store.state().folded) == (1, FOLD_ROWS)
    index = store.inverted(1)
    store.write(batch(None, ["id-3"], uris=["file:///x"], dim=None), Mode.UPDATE)
    assert store.pending().tolist() == [], "the index knows nothing of uris"
    store.write(batch([{"a": "new"}], ["id-3"], dim=None), Mode.UPDATE)
    store.write(batch([{"a": "newer"}], ["id-3"], dim=None), Mode.UPDATE)
    store.write(batch(None, ["id-5"], ["a document"], dim=None), Mode.UPDATE)
    assert store.pending().tolist() == [3, 5]
    assert rows_in(index, index.among("a", Kind.STR, False, ["old"])).rows().tolist() == list(range(FOLD_ROWS))
    assert store.inverted(1).pending.tolist() == [3, 5]
    store.fold()
    assert store.state().folds == 2
    assert store.pending().tolist() == []
    assert among(store, "a", Kind.STR, "old") == [row for row in range(FOLD_ROWS) if row != 3]
    assert among(store, "a", Kind.STR, "newer") == [3]
    assert among(store, "a", Kind.STR, "new") == []
    seq = store.state().seq
    store.fold()
    assert store.state().seq == seq, "nothing was left to do"


def test_an_index_that_went_on_is_asked_anew(store):
    store.write(batch([{"a": "x"}] * FOLD_ROWS), Mode.ADD)
    index = store.inverted(store.state().folds)
    store.write(batch([{"a": "y"}], ["id-0"], dim=None), Mode.UPDATE)
    assert rows_in(index, index.among("a", Kind.STR, False, ["x"])).rows().tolist() == list(range(FOLD_ROWS))
    store.fold()
    questions = [
        index.statistics,
        lambda: index.among("a", Kind.STR, False, ["x"]),
        lambda: index.having("a", Kind.STR, False),
        lambda: index.numbers("a", Kind.INT),
        lambda: index.containing([b"abc"]),
        lambda: index.word_postings(np.zeros(1, np.uint64)),
        index.lengths,
        lambda: store.inverted(1),
    ]
    for question in questions:
        with pytest.raises(KeyError):
            question()


def test_an_empty_index(store):
    index = store.inverted(0)
    assert (index.rows, index.pending.tolist(), index.statistics()) == (0, [], [])
    assert index.among("a", Kind.STR, False, ["x"]) == index.having("a", Kind.STR, False) == index.numbers("a", Kind.INT) == []
    store.fold()
    store.refold()
    assert store.verify() == []


def test_documents_of_a_crowded_chunk_are_indexed_anew(store):
    for n in range(12):
        ids = [f"{n}-{at}" for at in range(FOLD_ROWS)]
        store.write(batch(None, ids, [f"alpha{n} beta"] * (FOLD_ROWS - 1) + [None]), Mode.ADD)
        with store._keyvalue.read() as txn:
            assert len(list(txn.scan("texts"))) <= 3
    assert store.state().folds == 12
    index = store.inverted(12)
    assert len(index.containing([b"bet"])) == 12 * (FOLD_ROWS - 1)
    assert index.containing([b"ha7"]).rows().tolist() == list(range(7 * FOLD_ROWS, 8 * FOLD_ROWS - 1))
    lengths, unknown = index.lengths()
    assert (lengths.sum(), len(unknown)) == (12 * 2 * (FOLD_ROWS - 1), 0)
    assert store.verify() == []


def test_a_chunk_of_long_documents_is_not_indexed_anew_by_each_fold(store, monkeypatch):
    monkeypatch.setattr(fold, "_TEXT_BYTES", 100)
    anew = []
    for n in range(12):
        ids = [f"{n}-{at}" for at in range(FOLD_ROWS)]
        store.write(batch(None, ids, ["long document " * 5] * FOLD_ROWS), Mode.ADD)
        with store._keyvalue.read() as txn:
            blocks = [int.from_bytes(key[2:], "big") for key, _ in txn.scan("texts", values=False)]
        anew.append(max(blocks) < 1 << 15)
    assert [n for n, was in enumerate(anew) if was] == [0, 2, 6]
    assert len(store.inverted(12).containing([b"ent"])) == 12 * FOLD_ROWS
    assert store.verify() == []


def test_documents_are_read_one_by_one_where_they_are_long(store, monkeypatch):
    monkeypatch.setattr(fold, "FOLD_ROWS", 1000)
    monkeypatch.setattr(fold, "_TEXT_BYTES", 100)
    together = []
    block_of = fold.texts.block_of

    def watched(chunk, block, places, texts, indexing):
        together.append(len(texts))
        return block_of(chunk, block, places, texts, indexing)

    monkeypatch.setattr(fold.texts, "block_of", watched)
    store.write(batch(None, [f"{n}" for n in range(6)], ["x" * 70] * 5 + ["y"]), Mode.ADD)
    store.fold()
    assert together == [2, 2, 2]
    assert store.verify() == []


def test_a_folder_that_was_left_is_not_folded(new_store):
    store = new_store()
    store.write(batch([{"a": "x"}]), Mode.ADD)
    store.here = lambda: False
    for work in (store.fold, store.refold):
        with pytest.raises(Moved):
            work()
    assert store.state().folds == 0


def test_row_sets_have_no_bits_past_their_end(store):
    store.write(batch([{"a": True}] * (FOLD_ROWS + 3)), Mode.ADD)
    index = store.inverted(1)
    found = rows_in(index, index.among("a", Kind.BOOL, False, [True]))
    assert found.words.tolist() == RowSet.full(FOLD_ROWS + 3).words.tolist()
