"""A graph search on the CPU (FAISS HNSW), reranked exactly, with a guard against what graphs do under filters.

The graph keeps vectors in 16 bits; what it finds is scored exactly from the source. Under a mask it visits nodes that fail it too
and returns fewer or wrong ones, the more so the narrower the mask and the farther its rows lie from the query: recall was 0.06 with
half of the rows allowed, when the query's own half was the forbidden one. So ef grows by the share of rows that pass, the exact
scan is taken where that is cheaper, and every answer is checked against a sample (``guard``).
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.index import IndexSpec, Traits, checkpoint, exact, scoring
from chroma_gpu.index.cost import SHIPPED, Costs
from chroma_gpu.index.faiss_library import Shared, in_own_thread, load_faiss, selector
from chroma_gpu.index.growing import Growing
from chroma_gpu.index.guard import EXTREME, Guard
from chroma_gpu.records import Hits, Metric, Vectors, VectorSource
from chroma_gpu.rowset import RowSet

_DEFAULTS: Final = {"M": 16, "ef_construction": 100, "ef_search": 200}

_FIRST, _SLICE = 64, 1024
"""Rows added at once: at the beginning, and at most, when nobody has searched meanwhile."""

_HOLD: Final = 0.005
"""Seconds that an add may keep searches waiting, as far as it can tell."""


class HnswIndex:
    """A FAISS HNSW graph (kind "hnsw"); needs FAISS.

    params   M: links of a node, ef_construction, ef_search: lengths of the candidate lists; 16, 100 and 200 by default
    Memory   2 dim + 8 M + 12 bytes a row
    Cost     add: some 150 µs of one core a row of 384, on all cores; searches get in between slices
    """

    def __init__(self, spec: IndexSpec, source: VectorSource) -> None:
        faiss = load_faiss()
        params = {**_DEFAULTS, **spec.params}
        for name, value in params.items():
            if name not in _DEFAULTS:
                raise InvalidArgumentError(f"the index kind hnsw has no parameter {name}; it has {', '.join(_DEFAULTS)}.")
            if not isinstance(value, int) or value < 2:
                raise InvalidArgumentError(f"the parameter {name} must be an int of at least 2, got {value!r}.")
        self.spec = spec
        self.traits = Traits(exact=False, concurrent_add=True, device="cpu")
        self.ef_search: int = params["ef_search"]
        self._source = source
        metric = faiss.METRIC_L2 if spec.metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
        graph = faiss.IndexHNSWSQ(spec.dim, faiss.ScalarQuantizer.QT_bf16, params["M"], metric)
        graph.hnsw.efConstruction = params["ef_construction"]
        graph.train(np.zeros((1, spec.dim), np.float32))
        self._graph = Shared(graph)
        self._adding = threading.Lock()
        self._norms = Growing()
        self._extreme = np.empty(0, np.uint32)
        self._guard = Guard(source, spec.metric)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, stop: int) -> None:
        """Take in rows [len(self), stop) from the source, on all cores. Searches go on meanwhile and see them slice by slice."""
        with self._adding:
            in_own_thread(lambda: self._grow(stop))

    def search(self, queries: Vectors, k: int, mask: RowSet | None = None, costs: Costs = SHIPPED) -> Hits:
        """As ``Index.search``.

        Returns  Hits whose guard is None where the exact scan was the cheaper way from the start, else the worst of the batch:
                 "passed" or "exact" (failed, so that everything was scanned)
        """
        queries = exact.checked(queries, self.spec.dim)
        n = self._count
        mask, passing = exact.narrowed(mask, n)
        if not (len(queries) and k and passing):
            return Hits.empty(len(queries), k)
        norms = self._norms.view(n)
        dim = self.spec.dim
        fetch, ef = costs.graph_ef(self.ef_search, k, n, passing)
        asked = costs.graph(ef, dim, fetch, masked=mask is not None)
        if passing <= k or len(queries) * asked >= costs.exact_block(n, passing, dim, len(queries)):
            return exact.search_block(queries, self._source, 0, n, mask, k, self.spec.metric, norms)
        lengths = scoring.norms(queries)
        placed = scoring.normalised(queries, lengths) if self.spec.metric is Metric.COSINE else queries
        params = load_faiss().SearchParametersHNSW(efSearch=ef, sel=None if mask is None else selector(mask))
        found = self._graph.search(placed, fetch, params)[1]
        return self._guard.settled(queries, lengths, found, self._extreme, k, mask, norms, ef)

    def lengths(self, stop: int) -> npt.NDArray[np.float32] | None:
        """As ``Index.lengths``."""
        return self._norms.view(stop) if stop <= self._count else None

    def save(self, path: Path) -> None:
        """As ``Index.save``."""
        with self._adding:
            arrays = {"norms": self._norms.view()}
            checkpoint.write(path, self.spec, checkpoint.Checkpoint(self._count, {}, arrays, self._graph.index))

    @classmethod
    def load(cls, path: Path, spec: IndexSpec, source: VectorSource) -> HnswIndex:
        """As ``Index.load``."""
        index = cls(spec, source)
        held = checkpoint.read(path, spec, source)
        held.require(isinstance(held.faiss, load_faiss().IndexHNSWSQ), "a graph")
        held.require(held.faiss.d == spec.dim and held.faiss.ntotal == held.count, "all nodes")
        index._graph = Shared(held.faiss)
        index._norms = Growing(held.column("norms"))
        index._count = held.count
        index._extreme = np.flatnonzero(~(index._norms.view() < EXTREME)).astype(np.uint32)
        index._guard.follow(index._norms.view(), anew=True)
        return index

    def _grow(self, stop: int) -> None:
        size, seen = _FIRST, self._graph.searches
        while self._count < stop:
            last = min(self._count + size, stop)
            vectors = self._source.block(self._count, last)
            norms = scoring.norms(vectors)
            extreme = np.flatnonzero(~(norms < EXTREME))
            if self.spec.metric is Metric.COSINE:
                vectors = scoring.normalised(vectors, norms)
            elif len(extreme):
                vectors = vectors.copy()
                vectors[extreme] = 0
            self._norms.append(norms)
            self._extreme = np.concatenate([self._extreme, (extreme + self._count).astype(np.uint32)])
            before = time.perf_counter()
            self._graph.add(vectors)
            took = time.perf_counter() - before
            self._count = last
            self._guard.follow(self._norms.view())
            if self._graph.searches == seen:
                size = min(2 * size, _SLICE)
            else:
                # The lock prefers a waiting writer, so searches get in only while none waits.
                size = max(1, min(_SLICE, int(size * _HOLD / took)))
                time.sleep(0.001)
            seen = self._graph.searches
