"""Forks: two collections on one folder until one of them is written, and nothing of either is ever seen in the other."""

from __future__ import annotations

import os
import random
import threading
from contextlib import closing

import numpy as np
import pytest
from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from chroma_gpu.config import Settings
from chroma_gpu.engine.engine import Engine
from chroma_gpu.errors import AlreadyExistsError, DiskFull, NotFoundError
from chroma_gpu.records import Column, Metric, Mode, RecordBatch
from chroma_gpu.store.inverted import tidy
from chroma_gpu.store.record_store import RecordStore

T, D, DIM = "default_tenant", "default_database", 4
ALL = frozenset(Column)


@pytest.fixture(params=["memory", "disk"])
def opened(request, tmp_path):
    """Opens an engine; on disk, every call gives one on the same directory."""
    made = []

    def open_engine(**given):
        settings = Settings(device="cpu", **given)
        made.append(Engine.in_memory(settings) if request.param == "memory" else Engine.at(tmp_path / "data", settings))
        return made[-1]

    yield open_engine
    for each in made:
        each.close()


@pytest.fixture
def engine(opened):
    return opened()


def create(engine, name="one", metric=Metric.L2):
    return engine.catalog.create_collection(name, T, D, metric=metric, params={}, metadata={"a": 1}, configuration={"x": [1]}).id


def batch(ids, seed=0, dim=DIM):
    vectors = np.random.default_rng(seed).standard_normal((len(ids), dim), dtype=np.float32)
    return RecordBatch(list(ids), vectors, [f"text of {each} {seed}" for each in ids], [{"seed": seed}] * len(ids))


def ids_of(engine, collection):
    with engine.table(collection) as table:
        return table.fetch(None, ALL).ids


def folders(tmp_path):
    return {each.name for each in (tmp_path / "data" / "collections").iterdir()}


def test_a_fork_has_what_its_source_had_and_costs_no_copy(engine):
    one = create(engine)
    engine.write(one, batch("abc"), Mode.ADD)
    made = engine.fork(one, "two")
    source = engine.entry(one)
    assert made.folder == source.folder
    assert made.shared
    assert source.shared
    assert (made.metric, made.params, made.metadata, made.configuration) == (
        source.metric, source.params, source.metadata, source.configuration,
    )  # fmt: skip
    assert made.id != one
    assert engine.catalog.collection("two", T, D) == made
    assert ids_of(engine, one) == ids_of(engine, made.id) == ["a", "b", "c"]


@pytest.mark.parametrize("first", [0, 1], ids=["source first", "fork first"])
def test_neither_sees_what_is_written_to_the_other(engine, first):
    one = create(engine)
    engine.write(one, batch("abc"), Mode.ADD)
    two = engine.fork(one, "two").id
    written, other = (one, two) if first == 0 else (two, one)
    engine.write(written, batch("bd", seed=7), Mode.UPSERT)
    assert (ids_of(engine, written), ids_of(engine, other)) == (list("abcd"), list("abc"))
    engine.delete(other, None, ["a"], None)
    assert (ids_of(engine, written), ids_of(engine, other)) == (list("abcd"), list("bc"))
    with engine.table(other) as table:
        assert table.fetch(None, ALL, ids=["b"]).documents == ["text of b 0"]
    # The last one that names a folder is only unmarked: it goes on where it was.
    assert not engine.entry(written).shared
    assert not engine.entry(other).shared
    assert engine.entry(written).folder != engine.entry(other).folder


def test_a_fork_of_nothing_that_was_ever_written(engine):
    one = create(engine)
    two = engine.fork(one, "two").id
    engine.write(two, batch("a"), Mode.ADD)
    engine.write(one, batch("b", dim=3), Mode.ADD)
    assert (ids_of(engine, one), ids_of(engine, two)) == (["b"], ["a"])


def test_a_name_that_is_taken_makes_nothing(engine):
    one = create(engine)
    create(engine, "two")
    before = engine.catalog.collections(T, D)
    with pytest.raises(AlreadyExistsError):
        engine.fork(one, "two")
    assert engine.catalog.collections(T, D) == before
    engine.drop([engine.catalog.delete_collection("one", T, D)])
    with pytest.raises(NotFoundError):
        engine.fork(one, "three")


def test_forks_are_counted_by_lineage(engine):
    one, other = create(engine), create(engine, "other")
    assert engine.catalog.forks(one) == 0
    two = engine.fork(one, "two").id
    three = engine.fork(two, "three").id
    engine.write(two, batch("a"), Mode.ADD)
    assert [engine.catalog.forks(each) for each in (one, two, three, other)] == [2, 2, 2, 0]
    engine.drop([engine.catalog.delete_collection("one", T, D)])
    assert [engine.catalog.forks(each) for each in (two, three)] == [2, 2]
    engine.drop([engine.catalog.delete_collection("two", T, D)])
    assert engine.catalog.forks(three) == 1


def test_dropping_one_leaves_the_others_and_dropping_all_gives_the_disk_back(tmp_path):
    with closing(Engine.at(tmp_path / "data", Settings(device="cpu"))) as engine:
        one = create(engine)
        engine.write(one, batch("abc"), Mode.ADD)
        names = ["two", "three", "four"]
        forks = [engine.fork(one, name).id for name in names]
        assert len(folders(tmp_path)) == 1
        engine.drop([engine.catalog.delete_collection("one", T, D)])
        assert [ids_of(engine, each) for each in forks] == [list("abc")] * 3
        engine.write(forks[0], batch("d"), Mode.ADD)
        assert len(folders(tmp_path)) == 2
        for name in names:
            engine.drop([engine.catalog.delete_collection(name, T, D)])
        assert folders(tmp_path) == set()


def test_a_database_goes_with_its_forks(tmp_path):
    with closing(Engine.at(tmp_path / "data", Settings(device="cpu"))) as engine:
        one = create(engine)
        engine.write(one, batch("abc"), Mode.ADD)
        engine.fork(one, "two")
        engine.drop(engine.catalog.delete_database(D, T))
        assert folders(tmp_path) == set()


def test_the_sweep_knows_what_a_fork_names(tmp_path):
    with closing(Engine.at(tmp_path / "data", Settings(device="cpu"))) as engine:
        one = create(engine)
        engine.write(one, batch("abc"), Mode.ADD)
        two = engine.fork(one, "two").id
        engine.catalog.delete_collection("one", T, D)  # and no more: as if the process had died here
    with closing(Engine.at(tmp_path / "data", Settings(device="cpu"))) as engine:
        assert ids_of(engine, two) == list("abc")
        engine.write(two, batch("d"), Mode.ADD)
        assert len(folders(tmp_path)) == 1


def test_compaction_takes_a_collection_out_of_the_shared_folder(engine):
    one = create(engine)
    engine.write(one, batch("abcdef"), Mode.ADD)
    engine.delete(one, None, ["a", "c"], None)
    two = engine.fork(one, "two").id
    engine.compact(one)
    with engine.table(one) as table:
        assert table.occupancy() == (4, 0)
    with engine.table(two) as table:
        assert table.occupancy() == (6, 2)
    assert not engine.entry(one).shared
    engine.compact(two)
    assert ids_of(engine, one) == ids_of(engine, two) == list("bdef")


def test_a_clone_keeps_rows_checkpoints_and_counts(tmp_path):
    n, dim = 3_000, 32
    with closing(Engine.at(tmp_path / "data", Settings(device="cpu", index="codes"))) as engine:
        one = create(engine)
        ids = [str(at) for at in range(n)]
        engine.write(one, batch(ids, dim=dim), Mode.ADD)
        engine.write(one, batch(ids[::7], seed=1, dim=dim), Mode.UPSERT)
        with engine.table(one) as table:
            table.wait_indexed()
            occupancy, operations = table.occupancy(), table.indexing_status()["total_ops"]
        two = engine.fork(one, "two").id
        engine.write(two, batch(["new"], seed=2, dim=dim), Mode.ADD)
        with engine.table(two) as table:
            assert table.occupancy() == (occupancy[0] + 1, occupancy[1])
            assert table.indexing_status()["total_ops"] == operations + 1
            queries = np.random.default_rng(3).standard_normal((5, dim), dtype=np.float32)
            found = table.search(queries, 10, None, ALL)
            assert table.indexed()["codes"] >= n, "the checkpoint came along"
            every = table.fetch(None, ALL)
        distances = ((queries[:, None].astype(np.float64) - every.vectors[None].astype(np.float64)) ** 2).sum(axis=2)
        nearest = np.sort(distances, axis=1)[:, :10]
        assert np.allclose(found.hits.distances, nearest, rtol=1e-6)
        for entry in engine.catalog.collections(T, D):
            assert_sound(tmp_path, entry)


def test_a_copy_that_fails_leaves_all_as_it_was(tmp_path, monkeypatch):
    def full(*_):
        raise DiskFull("no space left")

    with closing(Engine.at(tmp_path / "data", Settings(device="cpu"))) as engine:
        one = create(engine)
        engine.write(one, batch("abc"), Mode.ADD)
        two = engine.fork(one, "two").id
        monkeypatch.setattr("chroma_gpu.store.record_store.copy_file", full)
        with pytest.raises(DiskFull):
            engine.write(two, batch("d"), Mode.ADD)
        monkeypatch.undo()
        assert len(folders(tmp_path)) == 1
        assert ids_of(engine, one) == ids_of(engine, two) == list("abc")
        engine.write(two, batch("d"), Mode.ADD)
        assert (ids_of(engine, one), ids_of(engine, two)) == (list("abc"), list("abcd"))


def test_a_collection_that_is_removed_while_it_is_copied(engine, monkeypatch):
    one = create(engine)
    engine.write(one, batch("abc"), Mode.ADD)
    two = engine.fork(one, "two").id
    clone = engine._folders.clone

    def late(store, folder, new):
        for name in ("one", "two"):
            engine.drop([engine.catalog.delete_collection(name, T, D)])
        clone(store, folder, new)

    monkeypatch.setattr(engine._folders, "clone", late)
    with pytest.raises(NotFoundError):
        engine.write(two, batch("d"), Mode.ADD)


def test_a_collection_that_is_removed_while_it_is_opened(engine, monkeypatch):
    one, opened_before = create(engine), engine._folders.open

    def late(*given):
        engine.drop([engine.catalog.delete_collection("one", T, D)])
        monkeypatch.undo()
        raise FileNotFoundError

    monkeypatch.setattr(engine._folders, "open", late)
    with pytest.raises(NotFoundError):
        ids_of(engine, one)
    assert engine._folders.open == opened_before


def test_a_reset_gives_the_disk_back_also_while_folders_are_made(tmp_path):
    with closing(Engine.at(tmp_path / "data", Settings(device="cpu"))) as engine:
        one = create(engine)
        engine.write(one, batch("abc"), Mode.ADD)
        engine.fork(one, "two")
        with engine._folders.maintenance():
            engine.reset()
        assert folders(tmp_path) == set()


def test_what_another_engine_removed_is_closed_at_the_next_call(tmp_path):
    with (
        closing(Engine.at(tmp_path / "data", Settings(device="cpu"))) as engine,
        closing(Engine.at(tmp_path / "data", Settings(device="cpu"))) as other,
    ):
        one = create(engine)
        engine.write(one, batch("abc"), Mode.ADD)
        assert ids_of(other, one) == list("abc")
        engine.drop([engine.catalog.delete_collection("one", T, D)])
        with pytest.raises(NotFoundError):
            ids_of(other, one)
        open_files = [os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd") if _is_open(each)]
        assert not [each for each in open_files if str(tmp_path / "data" / "collections") in each]


def _is_open(descriptor):
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


def assert_sound(tmp_path, entry):
    store = RecordStore.open(tmp_path / "data" / "collections" / entry.folder)
    try:
        assert store.verify() == []
    finally:
        store.close()


def test_a_table_that_is_in_use_stays_what_it_was(engine):
    one = create(engine)
    engine.write(one, batch("abc"), Mode.ADD)
    two = engine.fork(one, "two").id
    with engine.table(one) as ones, engine.table(two) as twos:
        engine.write(one, batch("d"), Mode.ADD)
        assert (ones.count(), twos.count()) == (3, 3)
    assert ids_of(engine, one) == list("abcd")


def test_threads_write_to_source_and_forks_while_forks_are_made(engine):
    """Each thread knows what its collection holds; a fork begins with what was acknowledged, and perhaps what was in flight."""
    one = create(engine)
    failures, made = [], []
    started = threading.Barrier(4)

    def write(collection, owner, n, begun):
        try:
            if begun is not None:
                begun.wait()
            mine = []
            for at in range(n):
                mine.append(f"{owner}{at}")
                engine.write(collection, batch(mine[-1:], seed=at), Mode.ADD)
            found = [each for each in ids_of(engine, collection) if each.startswith(owner)]
            assert found == mine, (owner, found, mine)
        except BaseException as error:
            failures.append(error)

    def fork(owner):
        try:
            started.wait()
            for at in range(6):
                before = set(ids_of(engine, one))
                new = engine.fork(one, f"{owner}-fork-{at}").id
                found = ids_of(engine, new)
                assert before <= set(found)
                write(new, f"{owner}-{at}-", 2, None)
                after = ids_of(engine, new)
                assert after[: len(found)] == found
                assert len(after) == len(found) + 2, "a write to the source or another fork was seen"
                made.append((new, after))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(one, owner, 25, started)) for owner in "xy"]
    threads += [threading.Thread(target=fork, args=(owner,)) for owner in "pq"]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failures, failures
    assert sorted(ids_of(engine, one)) == sorted(f"{owner}{at}" for owner in "xy" for at in range(25))
    for new, after in made:
        assert ids_of(engine, new) == after


class Forks(RuleBasedStateMachine):
    """Forks of forks against dicts, with random writes, drops, compactions, and openings anew."""

    def __init__(self, opened, persistent):
        super().__init__()
        self.opened, self.persistent = opened, persistent
        self.engine = opened()
        for entry in self.engine.catalog.collections(T, D):
            self.engine.drop([self.engine.catalog.delete_collection(entry.name, T, D)])
        self.made = 0
        self.models = {create(self.engine, "c0"): {}}

    def pick(self, at):
        return list(self.models)[at % len(self.models)]

    @rule(at=st.integers(0, 9), seed=st.integers(0, 10**6), update=st.booleans())
    def write(self, at, seed, update):
        if not self.models:
            return
        chosen, which = random.Random(seed), self.pick(at)
        given = batch(chosen.sample("abcdefghij", chosen.randint(1, 5)), seed)
        self.engine.write(which, given, Mode.UPSERT if update else Mode.ADD)
        model = self.models[which]
        for id_, vector, document in zip(given.ids, given.vectors, given.documents, strict=True):
            if update or id_ not in model:
                model[id_] = (vector.tolist(), document, seed)

    @rule(at=st.integers(0, 9), seed=st.integers(0, 10**6))
    def delete(self, at, seed):
        if not self.models:
            return
        which, ids = self.pick(at), random.Random(seed).sample("abcdefghij", 3)
        self.engine.delete(which, None, ids, None)
        for id_ in ids:
            self.models[which].pop(id_, None)

    @precondition(lambda self: 0 < len(self.models) < 8)
    @rule(at=st.integers(0, 9))
    def fork(self, at):
        which = self.pick(at)
        self.made += 1
        self.models[self.engine.fork(which, f"c{self.made}").id] = dict(self.models[which])

    @rule(at=st.integers(0, 9))
    def compact(self, at):
        if self.models:
            self.engine.compact(self.pick(at))

    @precondition(lambda self: len(self.models) > 1)
    @rule(at=st.integers(0, 9))
    def drop(self, at):
        which = self.pick(at)
        del self.models[which]
        self.engine.drop([self.engine.catalog.delete_collection(self.engine.entry(which).name, T, D)])

    @precondition(lambda self: self.persistent)
    @rule()
    def reopen(self):
        self.engine.close()
        self.engine = self.opened()

    @invariant()
    def each_holds_what_was_written_to_it(self):
        for which, model in self.models.items():
            with self.engine.table(which) as table:
                found = table.fetch(None, ALL)
            assert found.ids == list(model)
            assert found.documents == [document for _, document, _ in model.values()]
            assert found.metadatas == [{"seed": seed} for _, _, seed in model.values()]
            if model:
                assert found.vectors.tolist() == [vector for vector, _, _ in model.values()]

    def teardown(self):
        named = {entry.folder for entry in self.engine.catalog.collections(T, D)}
        assert self.engine.catalog.folders() == named
        self.engine.close()


def test_forks_of_forks_against_dicts(opened, request):
    persistent = "disk" in request.node.name
    run_state_machine_as_test(lambda: Forks(opened, persistent), settings=profile(max_examples=10 if persistent else 40))


def test_waiting_for_the_indexes_of_a_shared_folder_does_not_write_it(opened, monkeypatch):
    engine = opened()
    source = engine.catalog.create_collection("source", T, D, metric=Metric.L2, params={}, metadata={}, configuration={}).id
    engine.write(source, RecordBatch(["a"], np.zeros((1, DIM), np.float32), ["text"]), Mode.ADD)
    engine.fork(source, "fork")
    asked = []

    def crowded(txn, folded, indexing):
        asked.append(folded)
        return tidy.Crowded(0, [], np.zeros(1, np.uint32))

    monkeypatch.setattr(tidy, "crowded", crowded)
    with engine.table(source) as table:
        before = table._store.state()
        table.wait_indexed()
        assert asked
        assert table._store.state() == before
