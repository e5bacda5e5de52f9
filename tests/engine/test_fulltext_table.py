"""The words of a table, whatever part of them is in the store's index, against BM25 over dictionaries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from plain_words import bm25

from chroma_gpu.engine import fulltext as module
from chroma_gpu.engine.fulltext import FullText
from chroma_gpu.engine.view import View
from chroma_gpu.errors import StoreBusy
from chroma_gpu.records import Mode, RecordBatch
from chroma_gpu.rowset import RowSet
from chroma_gpu.store.record_store import RecordStore
from chroma_gpu.words import Indexing


class Reading(RecordStore):
    """A store that counts the documents that are read, and fails when told to."""

    asked = 0
    failing = False

    def documents(self, rows):
        if self.failing:
            raise StoreBusy("not now.")
        self.asked += len(rows)
        return super().documents(rows)


@pytest.fixture
def store():
    made = Reading.in_memory()
    yield made
    made.close()


def write(store, documents, mode=Mode.UPSERT, vectors=True):
    """documents: text or None by id."""
    given = np.zeros((len(documents), 2), np.float32) if vectors else None
    store.write(RecordBatch(list(documents), given, documents=list(documents.values())), mode)


def seen(store, old=None):
    state = store.state()
    if old is not None and old.seq == state.seq:
        return old
    return (old or View.nothing()).caught_up(store, state)


def search(texts, store, view, query, k=50, candidates=None):
    hits = texts.caught_up(store, view).search(query, k, view.live if candidates is None else candidates)
    n = int(hits.counts[0])
    return list(zip(hits.rows[0, :n].tolist(), hits.distances[0, :n].tolist(), strict=True))


def expected(store, query, candidates, k=50):
    rows = store.live().rows()
    texts = dict(zip(rows.tolist(), (text and text.decode() for text in store.documents(rows)), strict=True))
    return bm25(texts, query, candidates, k)


def check(texts, store, view, query, candidates=None):
    passing = view.live.rows().tolist() if candidates is None else candidates
    some = view.live if candidates is None else RowSet.of(np.array(candidates, np.uint32), view.live.size)
    found = search(texts, store, view, query, candidates=some)
    assert dict(found) == pytest.approx(dict(expected(store, query, passing)), rel=1e-5, abs=1e-5)
    assert [score for _, score in found] == sorted(score for _, score in found)


WORDS = st.lists(st.sampled_from(["a", "b", "c", "dd", "é", "東京"]), max_size=5).map(" ".join)


class Histories(RuleBasedStateMachine):
    """Adds, rewrites, moves, deletions and folds in any order; one follower asked after each step, another seldom, and new ones."""

    @initialize(
        part=st.sampled_from([3, 65_536]),
        texts=st.lists(WORDS, min_size=3, max_size=6),
        documents=st.sampled_from([Indexing.FULL, Indexing.FULL, Indexing.GRAMS, Indexing.NONE]),
    )
    def begin(self, part, texts, documents):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(module, "CHUNK", part)
        self.store = Reading.in_memory(documents=documents)
        self.often, self.seldom, self.view, self.old = FullText(), FullText(), None, None
        self.n = 0
        self.add(texts)

    @rule(texts=st.lists(st.none() | WORDS, min_size=1, max_size=5))
    def add(self, texts):
        write(self.store, {f"id{self.n + at}": text for at, text in enumerate(texts)})
        self.n += len(texts)

    @rule(data=st.data(), text=WORDS)
    def rewrite(self, data, text):
        write(self.store, {f"id{data.draw(st.integers(0, self.n - 1))}": text}, Mode.UPDATE, vectors=False)

    @rule(data=st.data(), text=WORDS)
    def move(self, data, text):
        vectors = np.full((1, 2), data.draw(st.integers(1, 9)), np.float32)
        self.store.write(RecordBatch([f"id{data.draw(st.integers(0, self.n - 1))}"], vectors, documents=[text]), Mode.UPDATE)

    @rule(data=st.data())
    def delete(self, data):
        rows = self.store.rows_of([f"id{data.draw(st.integers(0, self.n - 1))}"])
        self.store.delete(rows[rows != 0xFFFFFFFF])

    @rule()
    def fold(self):
        self.store.fold()

    @rule(documents=st.sampled_from(Indexing))
    def fold_otherwise(self, documents):
        self.store._indexing = documents
        self.store.fold()

    @rule()
    def refold(self):
        self.store.refold()

    @rule(query=WORDS)
    def ask_seldom(self, query):
        self.old = seen(self.store, self.old)
        check(self.seldom, self.store, self.old, query)

    @invariant()
    def asked_often(self):
        self.view = seen(self.store, self.view)
        check(self.often, self.store, self.view, "a dd é")
        check(FullText(), self.store, self.view, "a dd é")
        check(self.often, self.store, self.view, "b 京 b", [row for row in self.view.live.rows().tolist() if row % 2])

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            self.patch.undo()


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=20)
TestHistories = Histories.TestCase


def test_only_what_is_new_is_read(store):
    texts = FullText()
    write(store, {f"id{n}": f"word{n}" for n in range(40)})
    view = seen(store)
    assert search(texts, store, view, "word7")[0][0] == 7
    assert store.asked == 40
    assert search(texts, store, view, "word8")[0][0] == 8
    assert store.asked == 40
    write(store, {"new": "word7"})
    write(store, {"id7": "other"}, Mode.UPDATE, vectors=False)
    view = seen(store, view)
    assert [row for row, _ in search(texts, store, view, "word7")] == [40]
    assert store.asked == 42
    store.fold()
    assert [row for row, _ in search(texts, store, view, "word7")] == [40]
    assert [row for row, _ in search(texts, store, view, "other")] == [7]
    assert store.asked == 42
    assert not texts.caught_up(store, view).parts


def test_many_small_writes_are_put_together(store):
    texts, view = FullText(), None
    for n in range(60):
        write(store, {f"id{n}": "word"})
        view = seen(store, view)
        texts.caught_up(store, view)
    assert len(texts.caught_up(store, view).parts) <= 6
    assert len(search(texts, store, view, "word", k=100)) == 60
    assert store.asked <= 60 * 7


def test_what_fails_half_way_starts_anew(store):
    texts = FullText()
    write(store, {"a": "word", "b": "other"})
    view = seen(store)
    check(texts, store, view, "word")
    write(store, {"c": "word word", "a": "none"})
    view = seen(store, view)
    store.failing = True
    with pytest.raises(StoreBusy):
        texts.caught_up(store, view)
    store.failing = False
    check(texts, store, view, "word")
    check(texts, store, view, "none other")


def test_an_older_view_is_answered_as_it_was(store):
    texts = FullText()
    write(store, {"a": "word", "b": "word word"})
    old = seen(store)
    write(store, {"c": "word", "d": "other"})
    new = seen(store, old)
    assert [row for row, _ in search(texts, store, new, "word")] == [1, 0, 2]
    assert sorted(row for row, _ in search(texts, store, old, "word")) == [0, 1]
    store.fold()
    assert sorted(row for row, _ in search(texts, store, old, "word")) == [0, 1]
    assert [row for row, _ in search(texts, store, new, "word")] == [1, 0, 2]


def test_a_fold_between_catching_up_and_asking_starts_the_read_again(store):
    texts = FullText()
    write(store, {"a": "word"})
    view = seen(store)
    known = texts.caught_up(store, view)
    store.fold()
    with pytest.raises(KeyError):
        known.search("word", 3, view.live)
    check(texts, store, view, "word")
