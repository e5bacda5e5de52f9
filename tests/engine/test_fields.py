"""The metadata of a table follows its store: what the inverted index knows is not read, the rest once, and nothing is lost on the way."""

from __future__ import annotations

import numpy as np
import pytest

from chroma_gpu.bytecache import ByteCache
from chroma_gpu.engine import fields as module
from chroma_gpu.engine.fields import Fields
from chroma_gpu.errors import StoreBusy
from chroma_gpu.records import Mode, RecordBatch, SparseVector
from chroma_gpu.rowset import RowSet
from chroma_gpu.store.inverted import fold as folding
from chroma_gpu.store.inverted.reader import InvertedReader
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
def cache():
    return ByteCache(1 << 20)


@pytest.fixture
def fields(cache):
    made = Fields(cache)
    yield made
    made.close()
    assert cache.nbytes == 0


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
    """The numbers among the columns and in the sparse vectors, by row."""
    hits = view.sparse("s").search(SparseVector([3], [1.0]), n, RowSet.full(n))
    values = {row: 1.0 - distance for row, distance in zip(hits.rows[0].tolist(), hits.distances[0].tolist(), strict=True)}
    return of_columns(view, n, values)


def of_columns(view, n, values=None):
    found = {row: float(number) for number in range(200) for row in view.columns.equal("n", number).rows().tolist()}
    assert values is None or found == values
    assert view.columns.size == n
    return found


def numbers(n, **other):
    return {row: float(row) for row in range(n)} | {int(row[1:]): float(number) for row, number in other.items()}


def test_what_the_index_does_not_know_is_read_once(store, fields):
    add(store, 0, 20)
    assert of_columns(caught_up(fields, store), 20) == numbers(20)
    assert store.reads == [8, 8, 4]
    caught_up(fields, store)
    add(store, 20, 23)
    add(store, 5, 6, Mode.UPDATE, 100)
    assert of_columns(caught_up(fields, store), 23) == numbers(23, r5=100)
    assert store.reads == [8, 8, 4, 4]


def test_rows_beyond_what_the_sequence_number_says_are_known(store, fields):
    add(store, 0, 5)
    before = store.state()
    caught_up(fields, store)
    add(store, 5, 8)
    assert of_columns(fields.caught_up(store, before.seq, 8), 8) == numbers(8)


def test_what_the_index_knows_is_not_read(store, fields):
    add(store, 0, 20)
    store.fold()
    assert of_columns(caught_up(fields, store), 20) == numbers(20)
    assert store.reads == []
    add(store, 3, 5, Mode.UPDATE, 77)
    add(store, 20, 21)
    assert of_columns(caught_up(fields, store), 21) == numbers(21, r3=77, r4=77)
    assert store.reads == [3]


def test_pending_rows_are_read_by_who_comes_later(store, fields):
    add(store, 0, 20)
    store.fold()
    add(store, 3, 5, Mode.UPDATE, 77)
    add(store, 20, 21)
    assert of_columns(caught_up(fields, store), 21) == numbers(21, r3=77, r4=77)
    assert store.reads == [3]


@pytest.mark.parametrize("between", [0, 1])
def test_after_a_fold_the_overlay_is_empty(store, fields, between):
    add(store, 0, 20)
    caught_up(fields, store)
    add(store, 5, 6, Mode.UPDATE, 100)
    store.fold()
    add(store, 20, 20 + between)
    view = caught_up(fields, store)
    assert of_columns(view, 20 + between) == numbers(20 + between, r5=100)
    assert view.columns.size - view.columns.indexed == between
    assert sum(store.reads) == 20 + between


def test_an_index_that_went_on_under_a_view_is_noticed(store, fields):
    add(store, 0, 20)
    store.fold()
    view = caught_up(fields, store)
    state = store.state()
    add(store, 20, 22)
    store.fold()
    with pytest.raises(KeyError):
        view.columns.equal("n", 3)
    # Even for the old state: a read that saw it goes on with a later one.
    view = fields.caught_up(store, state.seq, state.rows)
    assert of_columns(view, 22) == numbers(22)


def test_writes_fold_by_themselves(store, fields, monkeypatch):
    monkeypatch.setattr(folding, "FOLD_ROWS", 5)
    for n in range(23):
        add(store, n, n + 1)
        view = caught_up(fields, store)
        assert view.columns.equal("n", n).rows().tolist() == [n]
        assert view.columns.size - view.columns.indexed < 5
    assert of_columns(view, 23) == numbers(23)


@pytest.fixture
def asked(monkeypatch):
    """The chunks of which numbers and rows are read; None for all."""
    chunks = []

    def counted(name):
        real = getattr(InvertedReader, name)

        def asking(self, *question):
            chunks.append(question[-1] if question[-1] is None else list(question[-1]))
            return real(self, *question)

        return asking

    for name in ("numbers", "among"):
        monkeypatch.setattr(InvertedReader, name, counted(name))
    return chunks


def test_a_fold_leaves_what_was_read_of_other_chunks(store, fields, asked):
    """Of early chunks after late rows; of late ones after an early row was rewritten; all of them after deletions."""

    def put(first, stop, mode=Mode.ADD, n=None):
        ids = [str(row) for row in range(first, stop)]
        vectors = np.ones((len(ids), 1), np.float32) if mode is Mode.ADD else None
        metadatas = [
            {"n": row // 1000 if n is None else n, "s": f"s{row // 1000 if n is None else n}"} for row in range(first, stop)
        ]
        store.write(RecordBatch(ids, vectors, metadatas=metadatas), mode)

    def found(number):
        asked.clear()
        columns = caught_up(fields, store).columns
        rows = columns.equal("n", number).rows().tolist()
        assert columns.equal("s", f"s{number}").rows().tolist() == rows
        return rows, list(asked)

    put(0, 66_000)
    assert found(65) == (list(range(65_000, 66_000)), [None, None])
    put(66_000, 66_010)
    store.fold()
    assert found(65) == (list(range(65_000, 66_000)), [[1], [1]])
    put(7, 9, Mode.UPDATE, 65)
    assert found(65) == ([7, 8, *range(65_000, 66_000)], []), "it is in the overlay"
    store.fold()
    assert found(65) == ([7, 8, *range(65_000, 66_000)], [[0], [0]])
    put(66_010, 66_020)
    put(8, 9, Mode.UPDATE, 3)
    store.fold()
    assert found(65) == ([7, *range(65_000, 66_000)], [[0, 1], [0, 1]])
    store.delete(np.array([65_000], np.uint32))
    put(66_020, 66_021)
    store.fold()
    assert found(65) == ([7, *range(65_000, 66_000)], [[1], [1]])
    store.refold()
    assert found(65) == ([7, *range(65_001, 66_000)], [[0, 1], [0, 1]]), "a repair lets nothing stand"


def test_another_process_folds(fields, tmp_path, asked):
    """Two openings of one store, of which one writes and the other has read before."""
    here, there = RecordStore.open(tmp_path / "store"), RecordStore.open(tmp_path / "store")
    add(there, 0, 10)
    there.fold()
    view = caught_up(fields, here)
    assert view.columns.equal("n", 3).rows().tolist() == [3]
    add(there, 3, 4, Mode.UPDATE, 9)
    there.fold()
    with pytest.raises(KeyError):
        view.columns.has("n")
    assert caught_up(fields, here).columns.equal("n", 3).rows().tolist() == []
    assert caught_up(fields, here).columns.equal("n", 9).rows().tolist() == [3, 9]
    assert asked == [None, [0]]
    here.close()
    there.close()


def test_what_was_given_before_stays_as_it_was(store, fields):
    add(store, 0, 4)
    before = caught_up(fields, store)
    add(store, 0, 2, Mode.UPDATE, 50)
    add(store, 4, 6)
    assert of_columns(caught_up(fields, store), 6) == numbers(6, r0=50, r1=50)
    assert of_columns(before, 4) == numbers(4)


@pytest.mark.parametrize("asked_before", [False, True])
@pytest.mark.parametrize("folded", [False, True])
def test_sparse_vectors_follow(store, fields, asked_before, folded):
    add(store, 0, 10)
    if folded:
        store.fold()
    if asked_before:
        assert held(caught_up(fields, store), 10) == numbers(10)
    add(store, 1, 3, Mode.UPDATE, 77)
    add(store, 10, 30)
    assert held(caught_up(fields, store), 30) == numbers(30, r1=77, r2=77)
    store.fold()
    add(store, 2, 3, Mode.UPDATE, 55)
    store.write(RecordBatch(["4"], metadatas=[{"s": None, "n": None}]), Mode.UPDATE)
    add(store, 30, 31)
    expected = numbers(31, r1=77, r2=55)
    del expected[4]
    assert held(caught_up(fields, store), 31) == expected


def test_a_field_without_sparse_vectors_costs_nothing(store, fields):
    store.write(RecordBatch(["a", "b"], np.ones((2, 2), np.float32), metadatas=[{"s": 1, "t": [1.0]}, {"t": word(1)}]), Mode.ADD)
    store.fold()
    view = caught_up(fields, store)
    assert view.sparse("s") is None
    assert view.sparse("none") is None
    assert store.reads == []
    assert view.sparse("t") is not None
    assert store.reads == [1]


def test_an_empty_store_has_no_sparse_vectors(store, fields):
    view = caught_up(fields, store)
    assert view.sparse("s") is None
    assert view.columns.size == 0


@pytest.mark.parametrize("done", [0, 1, 2])
@pytest.mark.parametrize("folded", [False, True])
def test_a_reading_that_fails_half_way_starts_anew(store, fields, done, folded):
    add(store, 0, 10)
    if folded:
        store.fold()
    held(caught_up(fields, store), 10)
    add(store, 10, 30)
    add(store, 1, 2, Mode.UPDATE, 77)
    store.fail_after = len(store.reads) + done
    with pytest.raises(StoreBusy):
        caught_up(fields, store)
    store.fail_after = 1 << 30
    assert held(caught_up(fields, store), 30) == numbers(30, r1=77)


def test_without_the_log_everything_starts_anew(store, fields):
    add(store, 0, 10)
    held(caught_up(fields, store), 10)
    add(store, 3, 4, Mode.UPDATE, 9)
    store.forgetful = True
    assert held(caught_up(fields, store), 10) == numbers(10, r3=9)


def test_an_answer_is_kept_for_one_state(store, fields, cache):
    add(store, 0, 10)
    first = caught_up(fields, store)
    first.answers.put("x", 1, 100)
    assert caught_up(fields, store).answers.get("x") == 1
    add(store, 10, 11)
    assert caught_up(fields, store).answers.get("x") is None
    first.answers.put("x", 1, 100)
    assert first.answers.get("x") is None
