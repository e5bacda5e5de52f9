"""Searches during adds, and after a fork. FAISS answers mistakes here with SIGSEGV or silence, so each test is a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from chroma_gpu.errors import EngineError
from chroma_gpu.index import faiss_library

ROOT = Path(__file__).parents[2]
KINDS = pytest.mark.parametrize("kind", ["flat", "codes", "hnsw", "ivf", "ivf_pq"])

SETTING = """
import os, sys, threading
import numpy as np
from benchmarks.datasets import folded
from chroma_gpu.index import IndexSpec, cost, create
from chroma_gpu.records import Metric
from chroma_gpu.rowset import RowSet
from neighbours import ArraySource, assert_same_neighbours, assert_well_formed, brute_force, recall

kind = sys.argv[1]
cost.Costs.exact_block = lambda *given, **more: 1e12
N = 9_000
both = folded(N + 20, 64)
vectors, queries = both[:N], both[N:]
params = {"M": 8, "ef_construction": 30, "ef_search": 64} if kind == "hnsw" else {}
index = create(IndexSpec(kind, Metric.L2, 64, params), ArraySource(vectors))
"""

SEARCH_DURING_ADDS = """
index.add(4_096)
stop, failures, rounds = threading.Event(), [], [0] * 4
mask = RowSet.where(np.random.default_rng(0).random(N) < 0.2)

def search(number):
    try:
        while not stop.is_set():
            known = len(index)
            for got in (index.search(queries[:1], 10), index.search(queries[:3], 10, mask)):
                assert_well_formed(got)
                assert (got.counts == 10).all()
                assert got.rows.max() < max(len(index), known)
            rounds[number] += 1
    except BaseException as error:
        failures.append(error)
        raise

threads = [threading.Thread(target=search, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
for last in (4_100, 4_101, 5_500, N):
    index.add(last)
stop.set()
for thread in threads:
    thread.join()
assert not failures and all(rounds), (failures, rounds)
assert recall(index.search(queries, 10), brute_force(queries, vectors, 10, Metric.L2)) > 0.9
"""

WITH_TORCH_UTILS = """
import faiss.contrib.torch_utils
index.add(N)
mask = RowSet.where(np.random.default_rng(0).random(N) < 0.5)
got = index.search(queries, 10, mask)
assert all(int(row) in mask for row in got.rows.ravel())
assert recall(got, brute_force(queries, vectors, 10, Metric.L2, mask)) > 0.9
"""

AFTER_A_FORK = """
index.add(5_000)
want = index.search(queries, 10)
index.search(queries[:1], 10)
child = os.fork()
if child == 0:
    again = index.search(queries, 10)
    assert (again.rows == want.rows).all()
    index.search(queries[:1], 10)
    index.add(N)
    assert recall(index.search(queries, 10), brute_force(queries, vectors, 10, Metric.L2)) > 0.9
    other = create(index.spec, ArraySource(vectors))
    other.add(5_000)
    other.search(queries, 10)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert (index.search(queries, 10).rows == want.rows).all()
"""


def run(script, kind):
    """Raises CalledProcessError, which shows the signal, or TimeoutExpired."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    subprocess.run(
        [sys.executable, "-c", SETTING + script, kind], check=True, timeout=60, env={**os.environ, "PYTHONPATH": path}, cwd=ROOT
    )


@KINDS
def test_searches_during_adds(kind):
    run(SEARCH_DURING_ADDS, kind)


@KINDS
def test_a_forked_child_searches_and_adds(kind):
    run(AFTER_A_FORK, kind)


@pytest.mark.parametrize("kind", ["codes", "hnsw", "ivf"])
def test_faiss_with_torch_searches_under_masks_too(kind):
    """Its module for tensors takes the parameters away from every search in the process."""
    run(WITH_TORCH_UTILS, kind)


@pytest.fixture
def shared():
    faiss = faiss_library.load_faiss()
    flat = faiss.IndexFlatL2(3)
    flat.add(np.eye(3, dtype=np.float32))
    return faiss_library.Shared(flat)


def test_a_child_forked_during_an_add_refuses(shared, monkeypatch):
    monkeypatch.setattr(shared, "_changing", True)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(EngineError, match=r"forked while rows were being added.*Open the client again"):
        shared.search(np.eye(3, dtype=np.float32), 1)


def test_one_query_runs_on_one_thread_and_leaves_the_setting_alone(shared, monkeypatch):
    faiss = faiss_library.load_faiss()
    seen = []
    monkeypatch.setattr(shared, "_search", lambda *given: seen.append((faiss.omp_get_max_threads(), threading.current_thread())))
    before = faiss.omp_get_max_threads()
    shared.search(np.zeros((1, 3), np.float32), 1)
    shared.search(np.zeros((2, 3), np.float32), 1)
    assert faiss.omp_get_max_threads() == before
    assert seen[0] == (1, threading.current_thread())
    assert seen[1][0] == before
    assert seen[1][1] is not threading.current_thread()


def test_what_fails_in_a_thread_is_raised_here():
    def fail():
        raise KeyError("there")

    with pytest.raises(KeyError, match="there"):
        faiss_library.in_own_thread(fail)
