"""Programs of a kernel run in any order, and stop for each other at every access to memory: as on a card, and not as in the interpreter.

There is one part of scratch for all programs here, so that they wait for each other as well. What threads of one program do to each
other is not seen here; see ``test_atomics`` in test_compile.py.
"""

from __future__ import annotations

import inspect
import random
import threading

import numpy as np
import pytest
import torch

from chroma_gpu.kernels.buffer import Buffer, Chunk
from chroma_gpu.kernels.join import join
from chroma_gpu.kernels.product import product
from chroma_gpu.kernels.scan import scan
from chroma_gpu.kernels.tuning import Config, trying

triton = pytest.importorskip("triton", reason="Triton is for Linux only")
tl = pytest.importorskip("triton.language")  # the interpreter looks for it among the names beside a kernel
HOW = Config(32, 16, 16, 4, 1, "dot")
STOPS = ("create_masked_load", "create_masked_store", "create_atomic_cas", "create_atomic_rmw")


class Turns:
    """Programs as threads, one of which runs at any time; at each stop another one goes on."""

    def __init__(self, builder, seed):
        self.builder, self.random = builder, random.Random(seed)
        self.stops, self.failed = 0, None
        self.alive, self.own = [], threading.local()

    def run(self, programs):
        """programs: (place in the grid, what is to be done)"""
        done = threading.Event()
        self.alive = [(place, threading.Event()) for place, _ in programs]
        for mine, (_, work) in zip(list(self.alive), programs, strict=True):
            threading.Thread(target=self._program, args=(mine, work, done), daemon=True).start()
        self._wake()
        assert done.wait(300), "programs wait for each other"
        if self.failed is not None:
            raise self.failed

    def stop(self):
        """Another program's turn; mine when it is woken."""
        mine = getattr(self.own, "mine", None)
        if mine is not None and len(self.alive) > 1:
            self.stops += 1
            mine[1].clear()
            self._wake()
            mine[1].wait()
            self.builder.grid_idx = mine[0]

    def _wake(self):
        self.random.choice(self.alive)[1].set()

    def _program(self, mine, work, done):
        self.own.mine = mine
        mine[1].wait()
        self.builder.grid_idx = mine[0]
        try:
            work()
        except Exception as error:
            self.failed = error
        self.alive.remove(mine)
        if self.alive:
            self._wake()
        else:
            done.set()


@pytest.fixture(params=[0, 1, 2])
def turns(request, device, monkeypatch):
    """Kernels run by turns in this test."""
    if device != "cpu":
        pytest.skip("a card has its own order")
    from triton.runtime import interpreter

    made = Turns(interpreter.interpreter_builder, request.param)
    in_order = interpreter.GridExecutor.__call__

    def by_turns(self, *given, **named):
        kernel, programs = self.fn, []

        def one(**arguments):
            programs.append((made.builder.grid_idx, lambda: kernel(**arguments)))
            if len(programs) == np.prod(made.builder.grid_dim):
                made.run(programs)

        one.__signature__ = inspect.signature(kernel)
        self.fn = one
        return in_order(self, *given, **named)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", by_turns)
    for name in STOPS:
        done = getattr(interpreter.InterpreterBuilder, name)
        monkeypatch.setattr(
            interpreter.InterpreterBuilder, name, lambda own, *given, _done=done: (made.stop(), _done(own, *given))[1]
        )
    yield made
    assert made.stops > 20


def table(n, dim, dtype, *, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-4, 5, (n, dim))
    error = rng.choice([0.0, 0.5], n)
    cut = n // 64 * 32
    parts = ((0, cut), (cut, n))
    chunks = [
        Chunk(a, torch.from_numpy(vectors[a:b]).to(dtype), torch.ones(b - a), None, torch.from_numpy(error[a:b]).float())
        for a, b in parts
    ]
    return Buffer.of(chunks), vectors.astype(float), error


def expected(queries, vectors, error, k, allowed):
    found = set()
    for i, scores in enumerate(queries @ vectors.T):
        rows = np.flatnonzero(allowed)
        floor = np.sort((scores - error)[rows])[-k]
        found |= {(i, int(row)) for row in rows if scores[row] + error[row] >= floor - 1}
    return found


@pytest.mark.parametrize("way", ["fused", "split"])
def test_product(turns, way):
    buffer, vectors, error = table(250, 12, torch.float16)
    queries = np.random.default_rng(1).integers(-4, 5, (20, 12))
    with trying("product", HOW):
        found = product(torch.from_numpy(queries).half(), buffer, 20, torch.ones(20), variant=way)
    assert len(found.rows) == len(pairs := set(zip(found.owners.tolist(), found.rows.tolist(), strict=True)))
    assert pairs == expected(queries, vectors, error, 20, np.ones(250, bool))
    np.testing.assert_array_equal(found.scores, (queries @ vectors.T)[found.owners, found.rows])


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_scan(turns, monkeypatch, share):
    from chroma_gpu.kernels import scan_triton

    monkeypatch.setattr("chroma_gpu.kernels.scan.has_triton", lambda device: True)
    monkeypatch.setattr(scan_triton, "SMALL", 0)
    monkeypatch.setattr(scan_triton, "LINE", 64)
    monkeypatch.setattr(scan_triton, "_processors", lambda device: 8)
    buffer, vectors, error = table(500, 12, torch.int8)
    allowed = np.random.default_rng(2).random(512) < share
    words = torch.from_numpy(np.packbits(allowed, bitorder="little").view(np.int32).copy())
    queries = np.random.default_rng(1).integers(-4, 5, (3, 12))
    with trying("scan", Config(32, 2, 16, 4, 1, "fma")):
        found = scan(torch.from_numpy(queries).float(), buffer, 5, torch.ones(3), words)
    assert len(found.rows) == len(pairs := set(zip(found.owners.tolist(), found.rows.tolist(), strict=True)))
    assert pairs == expected(queries, vectors, error, 5, allowed[:500])


@pytest.mark.parametrize("way", ["fused", "split"])
def test_join(turns, way):
    buffer, vectors, _ = table(120, 12, torch.int8)
    with trying("join", HOW):
        found = join(buffer, 60.0, variant=way)
    got = set(zip(found.left.tolist(), found.right.tolist(), strict=True))
    assert len(got) == len(found.left)
    scores = vectors @ vectors.T
    np.testing.assert_array_equal(found.scores, scores[found.left, found.right])
    sure = {(int(a), int(b)) for a, b in zip(*np.nonzero(scores >= 60), strict=True) if a < b}
    assert sure <= got
