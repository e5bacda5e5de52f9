"""Rebuild: every record gets another vector while readers and writers go on, all at once, whatever happens on the way."""

from __future__ import annotations

import random
import threading
from contextlib import closing

import numpy as np
import pytest
from engine.test_fork import ALL, D, T, assert_sound, batch, create, folders, ids_of, opened  # noqa: F401  a fixture

from chroma_gpu.config import Settings
from chroma_gpu.engine.engine import Engine
from chroma_gpu.engine.rebuild import Rebuilt
from chroma_gpu.errors import NotFoundError, StoreBusy
from chroma_gpu.records import Metric, Mode, RecordBatch

DIM = 6


@pytest.fixture
def engine(opened):  # noqa: F811
    return opened()


def vector_of(text):
    return np.random.default_rng(list(text.encode())).standard_normal(DIM, dtype=np.float32)


def vectors_of(given):
    return np.stack([vector_of(document) for document in given.documents])


def rebuild(engine, collection, key="k", work=vectors_of, **given):
    changes = given.pop("changes", {})
    return engine.rebuild(collection, work, key, lambda _: changes, **{"batch_size": 4, **given})


def contents(engine, collection):
    with engine.table(collection) as table:
        return table.fetch(None, ALL)


def assert_rebuilt(engine, collection, before):
    """Everything is as before, but for the vectors."""
    after = contents(engine, collection)
    assert (after.ids, after.documents, after.metadatas, after.uris) == (
        before.ids, before.documents, before.metadatas, before.uris,
    )  # fmt: skip
    if after.ids:
        assert np.array_equal(after.vectors, vectors_of(after))
        with engine.table(collection) as table:
            found = table.search(after.vectors[:1], 1, None, ALL)
        assert found.records.ids == after.ids[:1]


def filled(engine, ids="abcdefghij"):
    one = create(engine)
    engine.write(one, batch(ids), Mode.ADD)
    engine.write(one, RecordBatch(["c"], None, None, [{"only": True}], ["file:c"]), Mode.UPDATE)
    engine.write(one, batch("eb", seed=3), Mode.UPSERT)
    engine.delete(one, None, ["d"], None)
    return one


def test_all_but_the_vectors_stays(engine):
    one = filled(engine)
    before, steps = contents(engine, one), []
    with engine.table(one) as table:
        operations = table.indexing_status()["total_ops"]
    entry = rebuild(
        engine, one, changes={"configuration": {"y": 2}, "metric": Metric.COSINE}, progress=lambda *at: steps.append(at)
    )
    assert_rebuilt(engine, one, before)
    assert (entry.configuration, entry.metric, entry.rebuilt, entry.staging) == ({"y": 2}, Metric.COSINE, 1, None)
    assert engine.entry(one) == entry
    assert steps[0] == (0, 9)
    assert steps[-1] == (9, 9)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    with engine.table(one) as table:
        assert table.occupancy() == (9, 0)
        assert table.indexing_status()["total_ops"] == operations


def test_an_empty_collection_takes_vectors_of_any_length_afterwards(engine):
    one = create(engine)
    rebuild(engine, one)
    engine.write(one, batch("a", dim=3), Mode.ADD)
    engine.delete(one, None, ["a"], None)
    rebuild(engine, one)
    engine.write(one, batch("a", dim=5), Mode.ADD)
    assert ids_of(engine, one) == ["a"]


def test_what_changes_meanwhile_is_brought_over(engine):
    """At each batch something else happens to the collection, records that are done and not done, moved, removed, added again."""
    one = filled(engine)
    happen = [
        lambda: engine.write(one, batch("aj", seed=5), Mode.UPSERT),
        lambda: engine.delete(one, None, ["b", "i"], None),
        lambda: engine.write(one, RecordBatch(["b"], np.ones((1, 4), np.float32), ["added again"], None, None), Mode.ADD),
        lambda: engine.write(one, RecordBatch(["a", "c"], None, None, [{"seed": None, "x": 1}, {"y": True}]), Mode.UPDATE),
        lambda: engine.write(one, batch("xyz", seed=6), Mode.ADD),
        lambda: engine.delete(one, None, ["x", "y"], None),
        lambda: engine.write(one, batch("yx", seed=7), Mode.ADD),
        lambda: engine.compact(one),
        lambda: engine.write(one, RecordBatch(["b"], None, ["another"], None, ["file:b"]), Mode.UPDATE),
    ]

    def work(given):
        if happen and engine.entry(one).staging is not None:
            happen.pop(0)()
        return vectors_of(given)

    rebuild(engine, one, work=work, batch_size=2)
    assert not happen
    assert ids_of(engine, one) == [*"acefghj", "b", "z", "y", "x"]
    after = contents(engine, one)
    assert after.metadatas[0] == {"x": 1}
    assert after.metadatas[1] == {"only": True, "seed": 0, "y": True}
    assert after.documents[7] == "another"
    assert after.uris[7] == "file:b"
    assert np.array_equal(after.vectors, vectors_of(after))


@pytest.mark.parametrize("seed", range(12))
def test_random_changes_meanwhile(engine, seed):
    chosen = random.Random(seed)
    one, model, step = create(engine), {}, iter(range(10**6))

    def happen():
        ids = chosen.sample("abcdefghijklmnop", chosen.randint(1, 5))
        at = next(step)
        if chosen.random() < 0.4:
            engine.delete(one, None, ids, None)
            for each in ids:
                model.pop(each, None)
            return
        document = None if chosen.random() < 0.3 else f"document {at}"
        if document is None:
            engine.write(one, RecordBatch(ids, None, None, [{"at": at}] * len(ids)), Mode.UPDATE)
        else:
            vectors = np.full((len(ids), 4), at, np.float32)
            engine.write(one, RecordBatch(ids, vectors, [document] * len(ids), [{"at": at}] * len(ids)), Mode.UPSERT)
        for each in ids:
            if document is not None or each in model:
                model[each] = (document or model[each][0], at)

    for _ in range(8):
        happen()
    left = [12]

    def work(given):
        if left[0] and engine.entry(one).staging is not None and threading.current_thread() is threading.main_thread():
            left[0] -= 1
            try:
                happen()
            except RuntimeError:
                left[0] = 0  # writers are held back by this very thread now: the end
        return vectors_of(given)

    rebuild(engine, one, work=work, batch_size=3)
    after = contents(engine, one)
    assert list(zip(after.ids, after.documents, [each["at"] for each in after.metadatas], strict=True)) == [
        (id_, *value) for id_, value in model.items()
    ]
    if model:
        assert np.array_equal(after.vectors, vectors_of(after))


def test_a_failure_leaves_all_as_it_was_and_the_next_call_goes_on(opened):  # noqa: F811
    engine = opened()
    one = filled(engine)
    before, made = contents(engine, one), []

    def failing(given):
        if len(made) >= 4:
            raise OSError("the network is gone")
        made.extend(given.ids)
        return vectors_of(given)

    with pytest.raises(OSError, match="network"):
        rebuild(engine, one, work=failing)
    after = contents(engine, one)
    assert (after.ids, after.vectors.tolist()) == (before.ids, before.vectors.tolist())
    assert engine.entry(one).rebuilt == 0

    def rest(given):
        made.extend(given.ids)
        return vectors_of(given)

    rebuild(engine, one, work=rest)
    assert sorted(made) == sorted(before.ids), "each was made once"
    assert_rebuilt(engine, one, before)


def test_another_key_begins_anew(engine):
    one = filled(engine)
    before = contents(engine, one)

    def failing(given):
        if "a" not in given.ids:
            raise OSError
        return np.zeros((len(given), 3), np.float32)

    with pytest.raises(OSError):
        rebuild(engine, one, key="other", work=failing)
    rebuild(engine, one)
    assert_rebuilt(engine, one, before)


def test_what_is_unfinished_can_be_given_up(tmp_path):
    def failing(given):
        raise OSError

    with closing(Engine.at(tmp_path / "data", Settings(device="cpu"))) as engine:
        one = filled(engine)
        assert not engine.abandon(one)
        with pytest.raises(OSError):
            rebuild(engine, one, work=failing)
        assert len(folders(tmp_path)) == 2
    with closing(Engine.at(tmp_path / "data", Settings(device="cpu"))) as engine:
        assert len(folders(tmp_path)) == 2, "the sweep knows what is unfinished"
        assert engine.abandon(one)
        assert len(folders(tmp_path)) == 1
        with pytest.raises(OSError):
            rebuild(engine, one, work=failing)
        engine.drop([engine.catalog.delete_collection("one", T, D)])
        assert folders(tmp_path) == set()


def test_only_one_rebuild_at_a_time(engine):
    one = filled(engine)

    def work(given):
        for key in ("k", "other"):
            with pytest.raises(StoreBusy):
                rebuild(engine, one, key=key)
        with pytest.raises(StoreBusy):
            engine.abandon(one)
        return vectors_of(given)

    rebuild(engine, one, work=work, batch_size=100)
    assert engine.entry(one).rebuilt == 1


def test_a_collection_that_is_removed_meanwhile(engine):
    one = filled(engine)

    def work(given):
        engine.drop([engine.catalog.delete_collection("one", T, D)])
        return vectors_of(given)

    with pytest.raises(NotFoundError):
        rebuild(engine, one, work=work)


def test_forks_keep_their_vectors(engine):
    one = filled(engine)
    two = engine.fork(one, "two").id
    before, old = contents(engine, one), contents(engine, two)
    rebuild(engine, one)
    three = engine.fork(one, "three").id
    assert_rebuilt(engine, one, before)
    assert np.array_equal(contents(engine, two).vectors, old.vectors)
    assert np.array_equal(contents(engine, three).vectors, vectors_of(before))
    rebuild(engine, two)
    assert_rebuilt(engine, two, before)


def test_a_folder_that_a_fork_names_is_never_made_anew(opened):  # noqa: F811
    """The staged folder is older than the one of the compaction: who counted on from it would come to the fork's."""
    engine = opened()
    one, forks = filled(engine), []

    def work(given):
        if not forks:
            engine.compact(one)
            forks.append(engine.fork(one, "two").id)
        return vectors_of(given)

    before = contents(engine, one)
    rebuild(engine, one, work=work)
    engine.compact(one)
    assert engine.entry(one).folder != engine.entry(forks[0]).folder
    engine.write(forks[0], batch("z", seed=5), Mode.ADD)
    assert_rebuilt(engine, one, before)
    assert ids_of(engine, forks[0]) == [*before.ids, "z"]


def test_what_is_given_up_before_it_began_leaves_no_folder(tmp_path, monkeypatch):
    with closing(Engine.at(tmp_path / "data", Settings(device="cpu"))) as engine:
        one, begin = filled(engine), engine._rebuilds._staging

        def late(collection, key):
            staging = begin(collection, key)
            engine.abandon(one)
            return staging

        monkeypatch.setattr(engine._rebuilds, "_staging", late)
        with pytest.raises(NotFoundError, match="given up"):
            rebuild(engine, one)
        assert folders(tmp_path) == {engine.entry(one).folder}


def test_old_vectors_are_refused_after_it(engine):
    one = filled(engine)
    rebuild(engine, one)
    with pytest.raises(Rebuilt), engine.table(one, rebuilt=0):
        pass
    with pytest.raises(Rebuilt):
        engine.write(one, batch("n", dim=DIM), Mode.ADD, rebuilt=0)
    engine.write(one, batch("n", dim=DIM), Mode.ADD, rebuilt=1)
    assert ids_of(engine, one)[-1] == "n"


def test_writers_and_readers_go_on(engine):
    one = create(engine)
    engine.write(one, batch([f"a{at}" for at in range(200)]), Mode.ADD)
    failures, done = [], threading.Event()

    def write(owner):
        try:
            at = 0
            while not done.is_set() or at < 3:
                rebuilt = engine.entry(one).rebuilt
                text = f"text {owner} {at}"
                vector = vector_of(text) if rebuilt else np.ones(4, np.float32)
                given = RecordBatch([f"{owner}{at}"], vector[None], [text], [{"at": at}])
                try:
                    engine.write(one, given, Mode.ADD, rebuilt=rebuilt)
                except Rebuilt:
                    continue
                at += 1
        except BaseException as error:
            failures.append(error)

    def read():
        try:
            seen = 0
            while not done.is_set():
                found = contents(engine, one)
                assert len(found) >= seen
                assert len({vector.shape for vector in found.vectors}) == 1
                seen = len(found)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(owner,)) for owner in "xy"] + [threading.Thread(target=read)]
    for each in threads:
        each.start()
    rebuild(engine, one, batch_size=20)
    done.set()
    for each in threads:
        each.join()
    assert not failures, failures
    after = contents(engine, one)
    assert np.array_equal(after.vectors, vectors_of(after))
    for owner in "xy":
        mine = [each for each in after.ids if each.startswith(owner)]
        assert mine == [f"{owner}{at}" for at in range(len(mine))]


def test_the_files_are_sound_afterwards(tmp_path):
    with closing(Engine.at(tmp_path / "data", Settings(device="cpu"))) as engine:
        one = filled(engine)
        rebuild(engine, one)
        assert_sound(tmp_path, engine.entry(one))
        assert len(folders(tmp_path)) == 1


def test_a_document_that_is_gone_does_not_come_back(engine):
    """The last two records are removed and added again in the same order, without documents, when they are staged already."""
    one = create(engine)
    engine.write(one, batch("abc"), Mode.ADD)
    happen = [None]

    def work(given):
        if "c" in given.ids and happen:
            happen.pop()
            engine.delete(one, None, ["b", "c"], None)
            engine.write(one, RecordBatch(["b"], np.ones((1, 4), np.float32), None, None, ["file:b"]), Mode.ADD)
            engine.write(one, RecordBatch(["c"], np.ones((1, 4), np.float32), ["new"]), Mode.ADD)
        texts = [document or uri for document, uri in zip(given.documents, given.uris, strict=True)]
        return np.stack([vector_of(text) for text in texts])

    rebuild(engine, one, work=work, batch_size=1)
    after = contents(engine, one)
    assert (after.ids, after.documents, after.uris) == (list("abc"), ["text of a 0", None, "new"], [None, "file:b", None])
    assert np.array_equal(after.vectors[1:], np.stack([vector_of("file:b"), vector_of("new")]))


def test_a_change_before_a_compaction_is_brought_over(engine):
    """The new folder counts its writes anew, so the number that was reached in the old one says nothing about it."""
    one = create(engine)
    engine.write(one, batch("ab"), Mode.ADD)
    engine.write(one, batch("cd"), Mode.ADD)
    happen = [None]

    def work(given):
        if "d" in given.ids and happen:
            happen.pop()
            engine.write(one, RecordBatch(["a"], None, ["changed"]), Mode.UPDATE)
            engine.compact(one)
        return vectors_of(given)

    rebuild(engine, one, work=work, batch_size=1)
    after = contents(engine, one)
    assert after.documents[0] == "changed"
    assert np.array_equal(after.vectors, vectors_of(after))


def test_one_that_another_has_just_ended_is_not_gone_on_with(engine, monkeypatch):
    """What was the staging folder is the collection's own by then, and must not be touched."""
    one = filled(engine)
    before, begin = contents(engine, one), engine._rebuilds._staging

    def late(collection, key):
        staging = begin(collection, key)
        monkeypatch.undo()
        rebuild(engine, one)
        return staging

    monkeypatch.setattr(engine._rebuilds, "_staging", late)
    with pytest.raises(NotFoundError, match="given up"):
        rebuild(engine, one)
    assert_rebuilt(engine, one, before)
    assert engine.entry(one).rebuilt == 1
