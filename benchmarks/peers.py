"""The engines that are compared: ours and its peers, each behind the same verbs.

The imports are inside ``load``: a process pays for its own engine only, and that is measured.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import numpy as np

from benchmarks.datasets import Vectors
from benchmarks.workload import Filter, Mask, Workload, unit

Answers: TypeAlias = list[list[str]]

M, EF = 16, 100
"""Of every graph here: links of a node, candidates while building and searching. Chroma's defaults."""


class Engine(Protocol):
    """One engine, filled with the records of one workload."""

    name: str
    package: str
    settings: str
    """What was chosen, in words; all that is not named is the engine's default, threads among it."""

    def load(self) -> None:
        """Import the engine."""

    def open(self, folder: Path, dim: int) -> None:
        """Open the folder, new or filled; a bare library begins in memory and leaves the folder alone."""

    def add(self, workload: Workload, start: int, stop: int) -> None:
        """Add these rows as one batch, durably if there is a folder."""

    def wait_indexed(self) -> None:
        """Return when all rows are found at full speed."""

    def query(self, vectors: Vectors, k: int, filtered: Filter | None) -> Answers:
        """Ids of the k nearest of each query [q, dim] by cosine; who keeps documents and metadata reads them too."""


@runtime_checkable
class Store(Engine, Protocol):
    """An engine that keeps its records on disk."""

    def embeddings(self) -> tuple[Sequence[str], Any]:
        """All ids, and all vectors as an array [n, dim]."""

    def delete(self, ids: Sequence[str]) -> None:
        """Remove these records."""

    def give_back(self) -> None:
        """Give the disk of deleted records back, as far as the engine can."""

    def close(self) -> None:
        """Let go of the folder."""


class Chroma:
    """chromadb, embedded."""

    name = package = "chromadb"
    settings = f"defaults: HNSW M {M}, ef {EF}; disk given back by `chroma vacuum`"

    def load(self) -> None:
        import chromadb

        self._module: Any = chromadb

    def open(self, folder: Path, dim: int) -> None:
        self._folder, self._dim = folder, dim
        self._client = self._module.PersistentClient(str(folder), self._module.Settings(anonymized_telemetry=False))
        self._collection = self._client.get_or_create_collection(
            "packages", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
        )

    def add(self, workload: Workload, start: int, stop: int) -> None:
        self._collection.add(
            ids=workload.ids[start:stop],
            embeddings=workload.vectors[start:stop],
            documents=workload.documents[start:stop],
            metadatas=workload.metadatas[start:stop],
        )

    def wait_indexed(self) -> None:
        # It has no way to ask; a query takes in what the log still holds.
        self.query(np.ones((1, self._dim), np.float32), 1, None)

    def query(self, vectors: Vectors, k: int, filtered: Filter | None) -> Answers:
        where = None if filtered is None else filtered.where()
        return self._collection.query(query_embeddings=vectors, n_results=k, where=where)["ids"]  # type: ignore[no-any-return]

    def embeddings(self) -> tuple[Sequence[str], Any]:
        got = self._collection.get(include=["embeddings"])
        return got["ids"], got["embeddings"]

    def delete(self, ids: Sequence[str]) -> None:
        self._collection.delete(ids=list(ids))

    def give_back(self) -> None:
        self.close()
        program = Path(sys.executable).parent / "chroma"
        subprocess.run([program, "vacuum", "--path", self._folder, "--force"], check=True, stdout=subprocess.DEVNULL)

    def close(self) -> None:
        self._client.close()


class ChromaGpu(Chroma):
    """Ours: what differs from chromadb is what chromadb does not have."""

    name = package = "chroma_gpu"
    settings = "defaults; disk given back by `collection.compact()`"

    def load(self) -> None:
        import chroma_gpu

        self._module = chroma_gpu

    def wait_indexed(self) -> None:
        self._collection.wait_indexed()

    def give_back(self) -> None:
        self._collection.compact()


class Lance:
    """LanceDB, embedded, with the vector index its documentation names for filtered searches and an index on every filtered key."""

    name = package = "lancedb"
    settings = "IVF_RQ, 50 probes, refine factor 10; indexes on metadata, prefilter; disk given back by `optimize`; no fsync"

    def load(self) -> None:
        import lancedb
        import pyarrow  # type: ignore[import-untyped]

        self._module: Any = lancedb
        self._arrow: Any = pyarrow

    def open(self, folder: Path, dim: int) -> None:
        arrow, self._dim = self._arrow, dim
        text, number = arrow.string(), arrow.int64()
        columns = {"id": text, "document": text, "year": number, "month": text, "rank": number, "major": text}
        self._schema = arrow.schema([*columns.items(), ("vector", arrow.list_(arrow.float32(), dim))])
        self._table = self._module.connect(str(folder)).create_table("packages", schema=self._schema, exist_ok=True)

    def add(self, workload: Workload, start: int, stop: int) -> None:
        metadatas = workload.metadatas[start:stop]
        columns: dict[str, Any] = {key: [each[key] for each in metadatas] for key in metadatas[0]}
        columns["id"] = workload.ids[start:stop]
        columns["document"] = workload.documents[start:stop]
        flat = self._arrow.array(workload.vectors[start:stop].reshape(-1))
        columns["vector"] = self._arrow.FixedSizeListArray.from_arrays(flat, self._dim)
        self._table.add(self._arrow.table(columns, schema=self._schema))

    def wait_indexed(self) -> None:
        from lancedb.index import Bitmap, BTree, IvfRq

        self._table.create_index("vector", config=IvfRq(distance_type="cosine"))
        for key, config in {"year": Bitmap(), "month": Bitmap(), "rank": BTree()}.items():
            self._table.create_index(key, config=config)

    def query(self, vectors: Vectors, k: int, filtered: Filter | None) -> Answers:
        search = self._table.search(vectors if len(vectors) > 1 else vectors[0])
        search = search.distance_type("cosine").nprobes(50).refine_factor(10).limit(k)
        search = search.select(["id", "document", "year", "month", "rank", "major", "_distance"])
        if filtered is not None:
            search = search.where(filtered.sql(), prefilter=True)
        answers: Answers = [[] for _ in vectors]
        for each in search.to_list():
            answers[each.get("query_index", 0)].append(each["id"])
        return answers

    def embeddings(self) -> tuple[Sequence[str], Any]:
        columns = self._table.search().select(["id", "vector"]).limit(self._table.count_rows()).to_arrow()
        flat = columns["vector"].combine_chunks().flatten().to_numpy()
        return columns["id"].to_pylist(), flat.reshape(-1, self._dim)

    def delete(self, ids: Sequence[str]) -> None:
        self._table.delete("id in (" + ", ".join("'" + each.replace("'", "''") + "'" for each in ids) + ")")

    def give_back(self) -> None:
        # It warns that readers of older versions would fail; there are none.
        warnings.simplefilter("ignore", UserWarning)
        self._table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)

    def close(self) -> None:
        del self._table


class Bare(ABC):
    """What the vector libraries share: rows in memory, and a filter that is given ready made for every query."""

    def open(self, folder: Path, dim: int) -> None:
        self._dim = dim
        self._ids: list[str] = []
        self._metadatas: list[dict[str, Any]] = []
        self._ready: dict[Filter | None, Any] = {None: None}

    def add(self, workload: Workload, start: int, stop: int) -> None:
        if not self._ids:
            self._index = self._create(len(workload.ids))
        self._insert(unit(workload.vectors[start:stop]))
        self._ids += workload.ids[start:stop]
        self._metadatas += workload.metadatas[start:stop]

    def wait_indexed(self) -> None:  # noqa: B027  the same for all of them
        """Done in ``add``."""

    def query(self, vectors: Vectors, k: int, filtered: Filter | None) -> Answers:
        if filtered is not None and filtered not in self._ready:
            self._ready[filtered] = self._prepare(filtered.mask(self._metadatas))
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


ENGINES: Final[dict[str, type[Engine]]] = {each.name: each for each in (ChromaGpu, Chroma, Lance, FaissFlat, FaissHnsw, Hnswlib)}
"""In the order of the report's columns."""

PEERS: Final = {
    "chromadb": ("chromadb",),
    "lancedb": ("lancedb",),
    "faiss": ("faiss-flat", "faiss-hnsw"),
    "hnswlib": ("hnswlib",),
}
"""What ``--peers`` takes, and the engines each stands for."""


def installed(engine: Engine) -> str:
    """The engine's version. Raises PackageNotFoundError."""
    if engine.package == "chroma_gpu":
        import chroma_gpu

        return chroma_gpu.__version__
    return version(engine.package)
