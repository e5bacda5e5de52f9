"""Forks and rebuilds among processes, and in processes that are killed at any moment."""

from __future__ import annotations

import multiprocessing
import random
import time
from contextlib import closing

import numpy as np
import pytest
from engine import forking_children as children

from chroma_gpu.records import Column, Metric, Mode
from chroma_gpu.store.record_store import RecordStore

ROUNDS, SOAK_ROUNDS = 50, 2_000


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chroma_gpu.engine.engine", "engine.forking_children"])
    return context


def started(processes, function, *arguments):
    mine, theirs = processes.Pipe()
    process = processes.Process(target=function, args=(*arguments, theirs))
    process.start()
    theirs.close()
    return process, mine


def received(pipe):
    """All that a killed process has sent."""
    found = []
    try:
        while True:
            found.append(pipe.recv())
    except EOFError:
        return found


def create(engine, name="one"):
    return engine.catalog.create_collection(
        name, children.T, children.D, metric=Metric.L2, params={}, metadata=None, configuration={}
    ).id


def assert_sound(path, engine):
    """Every folder is sound and named; nothing else is there."""
    entries = engine.catalog.collections(children.T, children.D)
    for folder in {entry.folder for entry in entries}:
        store = RecordStore.open(path / "collections" / folder)
        try:
            assert store.verify() == []
        finally:
            store.close()
    assert {each.name for each in (path / "collections").iterdir()} <= engine.catalog.folders()


def test_forks_survive_kill_9(tmp_path, processes):
    act_and_kill(tmp_path / "data", processes, ROUNDS, seed=5)


@pytest.mark.soak
def test_forks_survive_kill_9_for_long(tmp_path, processes):
    act_and_kill(tmp_path / "data", processes, SOAK_ROUNDS, seed=time.time_ns() % 2**32)


def act_and_kill(path, processes, rounds, seed):
    """Writes, forks, drops and compactions until killed; what was acknowledged is there, and no step is there by half."""
    moments, models, step = random.Random(seed), {}, 0
    for number in range(rounds):
        process, pipe = started(processes, children.act_until_killed, path, seed, step, models)
        begun = [pipe.recv()] if number % 4 else []
        assert begun in ([], ["open"]), f"seed {seed}, round {number}"
        if number % 2:  # in every second round at least one step is done, however slow the machine is
            begun.append(pipe.recv())
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        for _ in [each for each in [*begun, *received(pipe)] if each != "open"]:
            children.apply(models, step, *children.step_of(seed, step, models))
            step += 1
        with closing(children.open_engine(path)) as engine:
            found = children.contents(engine)
            if found != models:
                children.apply(models, step, *children.step_of(seed, step, models))
                step += 1
                assert found == models, f"seed {seed}, round {number}, step {step}"
            assert [list(each) for each in found.values()] == [list(models[name]) for name in found]
            if number % 5 == 0:
                assert_sound(path, engine)
    assert step >= rounds // 2


def test_a_rebuild_survives_kill_9_and_goes_on(tmp_path, processes):
    n, size = 150, 5
    path, log = tmp_path / "data", tmp_path / "log"
    moments, kills, rebuilt = random.Random(1), 0, False
    with closing(children.open_engine(path)) as engine:
        one = create(engine)
        engine.write(one, children.batch([str(at) for at in range(n)], 0), Mode.ADD)
        with engine.table(one) as table:
            before = table.fetch(None, frozenset(Column))
    while not rebuilt:
        process, pipe = started(processes, children.rebuild, path, one, log, size)
        assert pipe.recv() == "open"
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        kills += 1
        with closing(children.open_engine(path)) as engine:
            rebuilt = bool(engine.entry(one).rebuilt)
            with engine.table(one) as table:
                after = table.fetch(None, frozenset(Column))
            assert (after.ids, after.documents) == (before.ids, before.documents)
            assert np.array_equal(after.vectors, children.vectors_of(after) if rebuilt else before.vectors)
            assert_sound(path, engine)
            assert len(engine.catalog.folders()) <= 2
    made = log.read_text().split()
    assert set(made) == set(before.ids)
    assert len(made) <= n + kills * size, "no more than the batch in flight was made twice"
    assert len(list((path / "collections").iterdir())) == 1


def test_processes_write_to_a_source_and_its_forks_at_once(tmp_path, processes):
    n, path = 40, tmp_path / "data"
    with closing(children.open_engine(path)) as engine:
        one = create(engine)
        engine.write(one, children.batch("abc", 0), Mode.ADD)
        two = engine.fork(one, "two").id
        ours = [
            started(processes, children.write_many, path, one, "x", n),
            started(processes, children.write_many, path, one, "y", n),
            started(processes, children.write_many, path, two, "z", n),
            started(processes, children.fork_many, path, one, "p", 8),
            started(processes, children.fork_many, path, two, "q", 8),
        ]
        assert [pipe.recv() for _, pipe in ours] == ["open"] * len(ours)
        for _, pipe in ours:
            pipe.send("begin")
        said = [pipe.recv() for _, pipe in ours]
        for process, _ in ours:
            process.join()
        found = children.contents(engine)
        assert sorted(found["one"]) == sorted([*"abc", *(f"{owner}{at}" for owner in "xy" for at in range(n))])
        assert list(found["two"]) == [*"abc", *(f"z{at}" for at in range(n))]
        for name, ids in {**said[3], **said[4]}.items():
            assert list(found[name]) == ids
        for name, ids in said[3].items():
            for owner in "xy":
                mine = [each for each in ids if each.startswith(owner)]
                assert mine == [f"{owner}{at}" for at in range(len(mine))], f"{name} has a gap"
        assert_sound(path, engine)
        assert engine.catalog.forks(one) == 17
