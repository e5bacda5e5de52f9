"""Search through a graph on a CUDA device (CAGRA, of cuVS), reranked exactly, with a guard.

A graph is built of all rows there are, never extended: rows that come later are scored exactly by the CPU until they are a quarter more,
and then the graph is built anew. How many candidates a query keeps is found out as in ``ivf``. The mask is handed to the graph only
where a self-test has shown that it is honoured; elsewhere more rows are asked for and looked at.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import DeviceError, InvalidArgumentError
from chroma_gpu.index import IndexSpec, Traits, answers, capabilities, checkpoint, exact, scoring
from chroma_gpu.index.cagra_graphs import DEGREE, Graph, graph_of
from chroma_gpu.index.cost import SHIPPED, Costs
from chroma_gpu.index.effort import Effort, Trial
from chroma_gpu.index.gpu.ledger import LEDGER, NoRoom
from chroma_gpu.index.growing import Growing
from chroma_gpu.index.guard import EXTREME, Guard
from chroma_gpu.index.masked import asked_for, kept
from chroma_gpu.records import Hits, Metric, Vectors, VectorSource
from chroma_gpu.rowset import RowSet

_DEFAULTS: Final = {"device": "cuda", "recall": 0.99, "limit": "80%"}

_FIRST: Final = 4096
"""Rows from which there is a graph."""

_GROWTH: Final = 1.25
"""Growth after which it is built anew."""

_SLICE: Final = 8192
"""Rows whose norms are taken at once."""

_WIDTHS: Final = (32, 64, 128, 256, 512)
"""Numbers of candidates that are tried. One block of threads keeps at most 512."""


class CagraIndex:
    """A CAGRA graph (kind "cagra"); needs the cuvs package or faiss-gpu-cuvs, and a CUDA device.

    params   device, recall and limit as ``ivf.IvfIndex`` has them
    Memory   4 dim + 256 bytes a row on the device, about twice that while a graph is built; 4 bytes a row on the host
    Raises   MissingDependency, DeviceError
    """

    def __init__(self, spec: IndexSpec, source: VectorSource) -> None:
        params: dict[str, Any] = {**_DEFAULTS, **spec.params}
        unknown = params.keys() - _DEFAULTS.keys()
        if unknown:
            raise InvalidArgumentError(f"the index kind cagra has no parameter {unknown.pop()}; it has {', '.join(_DEFAULTS)}.")
        recall = params["recall"]
        if not isinstance(recall, int | float) or not 0 < recall <= 1:
            raise InvalidArgumentError(f"the parameter recall must be above 0 and at most 1, got {recall!r}.")
        self.spec = spec
        self.device = str(params["device"])
        self._builder = graph_of(self.device)
        self._recall, self._limit = float(recall), str(params["limit"])
        self._source = source
        self._adding = threading.Lock()
        self._norms = Growing()
        self._extreme = np.empty(0, np.uint32)
        self._guard = Guard(source, spec.metric)
        self._count = 0
        self._built: tuple[Graph, int, Effort] | None = None

    @property
    def traits(self) -> Traits:
        """As of now."""
        if self._built is None:
            return Traits(exact=False, concurrent_add=True, device=self.device)
        _, rows, effort = self._built
        inside = capabilities.tested(self.spec.kind, self.device)
        return Traits(
            exact=False,
            concurrent_add=True,
            device=self.device,
            codes="float32",
            filters_inside=inside.filters_inside,
            largest_k=inside.largest_k,
            reads=min(1.0, effort.level * DEGREE / rows),
            recall=effort.recall,
        )

    def __len__(self) -> int:
        return self._count

    def add(self, stop: int) -> None:
        """Take in rows [len(self), stop) from the source. Searches go on meanwhile.  Raises DeviceError"""
        with self._adding:
            while self._count < stop:
                last = min(self._count + _SLICE, stop)
                norms = scoring.norms(self._source.block(self._count, last))
                self._norms.append(norms)
                extreme = np.flatnonzero(~(norms < EXTREME))
                self._extreme = np.concatenate([self._extreme, (extreme + self._count).astype(np.uint32)])
                self._count = last
            self._guard.follow(self._norms.view())
            # While a table is being read in, nothing is built of its beginning.
            whole = 10 * stop >= 9 * len(self._source)
            if stop >= _FIRST and whole and (self._built is None or stop >= _GROWTH * self._built[1]):
                self._built = self._graph_of(stop)

    def search(self, queries: Vectors, k: int, mask: RowSet | None = None, costs: Costs = SHIPPED) -> Hits:
        """As ``Index.search``; the guard as ``ivf.IvfIndex.search`` has it."""
        queries = exact.checked(queries, self.spec.dim)
        n = self._count  # before the graph: one that replaces it holds at least as many rows
        built = self._built
        mask, passing = exact.narrowed(mask, n)
        if not (len(queries) and k and passing):
            return Hits.empty(len(queries), k)
        metric, norms = self.spec.metric, self._norms.view(n)
        if built is None:
            return exact.search_block(queries, self._source, 0, n, mask, k, metric, norms)
        held = min(built[1], n)
        hits = self._through(built, queries, held, k, mask, norms[:held], costs)
        if held < n:
            late = exact.search_block(queries, self._source, held, n, mask, k, metric, norms)
            hits = answers.merge(hits, late, k)
        return hits

    def lengths(self, stop: int) -> npt.NDArray[np.float32] | None:
        """As ``Index.lengths``."""
        return self._norms.view(stop) if stop <= self._count else None

    def close(self) -> None:
        """Give the memory of the device back; the exact scan answers from now on. Idempotent."""
        self.release()

    def release(self) -> None:
        """As ``gpu.ledger.Holder``: others need the memory. The graph comes back with the next rows."""
        self._built = None
        LEDGER.give_back(self)

    def save(self, path: Path) -> None:
        """As ``Index.save``: the links, where the graph gives them; it is built anew otherwise."""
        with self._adding:
            built = self._built
            arrays: dict[str, npt.NDArray[Any]] = {"norms": self._norms.view()}
            extra = {"rows": 0 if built is None else built[1]}
            if built is not None and (links := built[0].links()) is not None:
                arrays["links"] = links
            checkpoint.write(path, self.spec, checkpoint.Checkpoint(self._count, extra, arrays))

    @classmethod
    def load(cls, path: Path, spec: IndexSpec, source: VectorSource) -> CagraIndex:
        """As ``Index.load``. Reads the vectors once, and builds the graph where its links were not kept."""
        index = cls(spec, source)
        held = checkpoint.read(path, spec, source)
        index._norms, index._count = Growing(held.column("norms")), held.count
        index._extreme = np.flatnonzero(~(index._norms.view() < EXTREME)).astype(np.uint32)
        index._guard.follow(index._norms.view(), anew=True)
        rows, links = int(held.extra["rows"]), held.arrays.get("links")
        held.require(0 <= rows <= held.count, "as many rows as its graph")
        if links is not None:
            fits = links.dtype == np.uint32 and links.ndim == 2 and len(links) == rows and not (links >= rows).any()
            held.require(fits, "the links of every row")
        if rows:
            index._built = index._graph_of(rows, links)
        return index

    def _through(
        self,
        built: tuple[Graph, int, Effort],
        queries: Vectors,
        n: int,
        k: int,
        mask: RowSet | None,
        norms: npt.NDArray[np.float32],
        costs: Costs,
    ) -> Hits:
        """The nearest of the first n rows, all of which are in the graph."""
        graph, rows, effort = built
        mask, passing = exact.narrowed(mask, n)
        tested = capabilities.tested(self.spec.kind, self.device)
        fetch = k + k // 8 + 8
        if mask is not None and not tested.filters_inside:
            fetch = asked_for(fetch, n, passing)
        width = 32 * math.ceil(max(fetch, effort.needed(k * n / max(1, passing))) / 32)
        asked = costs.lists(n, self.spec.dim, None, 1, 1, fetch, self.device)
        possible = passing > k and width <= (tested.largest_k or _WIDTHS[-1])
        if not possible or len(queries) * asked >= costs.exact_block(n, passing, self.spec.dim, len(queries)):
            return exact.search_block(queries, self._source, 0, n, mask, k, self.spec.metric, norms)
        lengths = scoring.norms(queries)
        inside = None
        if n == rows and mask is not None and tested.filters_inside:
            inside = mask
        found = graph.search(self._directed(queries, lengths), fetch, width, inside)
        if mask is not None:
            found = kept(found, mask)
        LEDGER.searched(self)
        return self._guard.settled(queries, lengths, found, self._extreme, k, mask, norms, width)

    def _directed(self, vectors: Vectors, lengths: npt.NDArray[np.float32]) -> Vectors:
        return scoring.normalised(vectors, lengths) if self.spec.metric is Metric.COSINE else vectors

    def _graph_of(self, rows: int, links: npt.NDArray[np.uint32] | None = None) -> tuple[Graph, int, Effort]:
        """A graph of the first rows and what searching it takes."""
        tested = capabilities.tested(self.spec.kind, self.device)
        if tested.failure is not None:
            raise DeviceError(f"the index cagra cannot be used on {self.device}: {tested.failure}", hint="Use index='flat'.")
        self.release()
        try:
            LEDGER.reserve(self, self.device, rows * (4 * self.spec.dim + 4 * DEGREE), LEDGER.budget(self.device, self._limit))
        except NoRoom as error:
            raise DeviceError(
                f"the index cagra does not fit on {self.device}: {error}",
                hint="Raise Settings.vram_limit, or use index='ivf_pq'.",
            ) from error
        vectors, norms = self._source.block(0, rows), self._norms.view(rows)
        extreme = self._extreme[self._extreme < rows]
        if self.spec.metric is Metric.COSINE:
            vectors = scoring.normalised(vectors, norms)
        elif len(extreme):
            vectors = vectors.copy()
            vectors[extreme] = 0
        try:
            graph = self._builder.build(vectors, self.spec.metric, links)
            return graph, rows, self._tried(graph, norms)
        except BaseException:
            LEDGER.give_back(self)
            raise

    def _tried(self, graph: Graph, norms: npt.NDArray[np.float32]) -> Effort:
        ten, hundred = (Trial(self._source, self.spec.metric, norms, k, self._extreme) for k in (10, 100))

        def found(trial: Trial, width: int) -> npt.NDArray[np.int64]:
            return graph.search(self._directed(trial.queries, trial.lengths), min(width, trial.k + 16), width, None)

        first = ten.least(_WIDTHS, lambda width: found(ten, width), self._recall)
        more = hundred.least(
            (w for w in _WIDTHS if w >= max(128, first.level)), lambda width: found(hundred, width), self._recall
        )
        return Effort.between(len(norms), self._recall, first, more)
