"""Stores of both kinds, and other processes."""

from __future__ import annotations

import multiprocessing

import pytest

from chroma_gpu.store.lmdb import open_lmdb
from chroma_gpu.store.memory import MemoryKeyValue
from chroma_gpu.store.record_store import RecordStore


@pytest.fixture(params=["lmdb", "memory"])
def kind(request):
    return request.param


@pytest.fixture
def keyvalue(kind, tmp_path):
    """An environment with the tables a and b."""
    tables = ("a", "b")
    if kind == "lmdb":
        made = open_lmdb(tmp_path / "env", tables, map_size=1 << 24, lock_timeout=5.0)
    else:
        made = MemoryKeyValue(tables, lock_timeout=5.0)
    yield made
    made.close()


@pytest.fixture
def new_store(kind, tmp_path):
    """Makes empty stores, closed at the end."""
    made = []

    def make():
        store = RecordStore.open(tmp_path / f"store{len(made)}") if kind == "lmdb" else RecordStore.in_memory()
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(new_store):
    return new_store()


@pytest.fixture(scope="session")
def processes():
    """Where other processes come from: a server that has the imports and forks, and never opened anything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chroma_gpu.store.record_store", "store.children"])
    return context


@pytest.fixture
def in_child(processes):
    """Run a function of ``children`` in another process: what it returns. Fails if the process is killed or raises."""
    from store.children import report

    def run(function, *args):
        mine, theirs = processes.Pipe()
        process = processes.Process(target=report, args=(theirs, function, args))
        process.start()
        theirs.close()
        try:
            outcome = mine.recv()
        except EOFError:
            outcome = (False, "")
        process.join(60)
        assert process.exitcode == 0, f"{function.__name__} ended with {process.exitcode}"
        assert outcome[0], outcome[1]
        return outcome[1]

    return run
