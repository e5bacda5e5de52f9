"""The vector libraries that are compared: no documents, no metadata, no disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.datasets import Vectors
from benchmarks.workload import Answers, Filter, Mask, Workload, unit

M: Final = 16
EF: Final = 100
"""Of every graph here: links of a node, candidates while building and searching. Chroma's defaults."""


class Bare(ABC):
    """What the vector libraries share: rows in memory, and a filter that is given ready made for every query."""

    def open(self, folder: Path, dim: int) -> None:
        self._dim = dim
        self._ids: list[str] = []
        self._documents: list[str] = []
        self._metadatas: list[dict[str, Any]] = []
        self._ready: dict[Filter | None, Any] = {None: None}

    def add(self, workload: Workload, start: int, stop: int) -> None:
        if not self._ids:
            self._index = self._create(len(workload.ids))
        self._insert(unit(workload.vectors[start:stop]))
        self._ids += workload.ids[start:stop]
        self._documents += workload.documents[start:stop]
        self._metadatas += workload.metadatas[start:stop]

    def wait_indexed(self) -> None:  # noqa: B027  the same for all of them
        """Done in ``add``."""

    def prepare(self, filtered: Filter, mask: Mask) -> None:
        """Have a filter ready before the first query with it."""
        self._ready[filtered] = self._prepare(mask)

    def query(self, vectors: Vectors, k: int, filtered: Filter | None) -> Answers:
        if filtered is not None and filtered not in self._ready:
            self.prepare(filtered, filtered.mask(self._metadatas, self._documents))
        return [[self._ids[row] for row in rows if row >= 0] for rows in self._search(vectors, k, self._ready[filtered])]

    @abstractmethod
    def _create(self, rows: int) -> Any:
        """An empty index with room for these rows."""

    @abstractmethod
    def _insert(self, vectors: Vectors) -> None: ...

    @abstractmethod
    def _prepare(self, mask: Mask) -> Any:
        """What ``_search`` takes for this filter."""

    @abstractmethod
    def _search(self, vectors: Vectors, k: int, ready: Any) -> Any:
        """[q, k] rows, -1 where there is none; all pass if ready is None."""


class Faiss(Bare):
    """FAISS on the CPU."""

    package = "faiss-cpu"

    def load(self) -> None:
        import faiss

        self._module: Any = faiss

    def save(self, file: Path) -> None:
        """Keep the index, without the ids."""
        self._module.write_index(self._index, str(file))

    def restore(self, file: Path, ids: list[str]) -> None:
        """Take the index from a file."""
        self._index, self._ids = self._module.read_index(str(file)), ids

    def _insert(self, vectors: Vectors) -> None:
        self._index.add(vectors)

    def _selector(self, mask: Mask) -> Any:
        bits = np.packbits(mask, bitorder="little")
        selector = self._module.IDSelectorBitmap(len(bits), self._module.swig_ptr(bits))
        selector.memory = bits
        return selector

    def _search(self, vectors: Vectors, k: int, ready: Any) -> Any:
        return self._index.search(vectors, k, params=ready)[1]


class FaissFlat(Faiss):
    """Exact."""

    name = "faiss-flat"
    settings = "IndexFlatIP; bitmap selector"

    def _create(self, rows: int) -> Any:
        return self._module.IndexFlatIP(self._dim)

    def _prepare(self, mask: Mask) -> Any:
        return self._module.SearchParameters(sel=self._selector(mask))


class FaissHnsw(Faiss):
    """A graph."""

    name = "faiss-hnsw"
    settings = f"IndexHNSWFlat M {M}, ef {EF}; bitmap selector"

    def _create(self, rows: int) -> Any:
        index = self._module.IndexHNSWFlat(self._dim, M, self._module.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = index.hnsw.efSearch = EF
        return index

    def _prepare(self, mask: Mask) -> Any:
        return self._module.SearchParametersHNSW(sel=self._selector(mask), efSearch=EF)


class Hnswlib(Bare):
    """hnswlib, whose filter is a Python function called for every row it visits."""

    name = package = "hnswlib"
    settings = f"M {M}, ef {EF}; filtered by looking up a list"

    def load(self) -> None:
        import hnswlib  # type: ignore[import-untyped]

        self._module: Any = hnswlib

    def _create(self, rows: int) -> Any:
        index = self._module.Index("cosine", self._dim)
        index.init_index(max_elements=rows, M=M, ef_construction=EF)
        index.set_ef(EF)
        return index

    def _insert(self, vectors: Vectors) -> None:
        self._index.add_items(vectors)

    def _prepare(self, mask: Mask) -> Any:
        return mask.tolist().__getitem__

    def _search(self, vectors: Vectors, k: int, ready: Any) -> Any:
        if ready is None:
            return self._index.knn_query(vectors, k)[0]
        try:
            return self._index.knn_query(vectors, k, num_threads=1, filter=ready)[0]
        except RuntimeError:
            # It found fewer than k and returns none of them.
            return [[] for _ in vectors]
