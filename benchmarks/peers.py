"""The engines that are compared: ours and its peers, each behind the same verbs.

The imports are inside ``load``: a process pays for its own engine only, and that is measured.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable
from uuid import NAMESPACE_OID, uuid5

import numpy as np

from benchmarks.datasets import Vectors
from benchmarks.libraries import EF, FaissFlat, FaissHnsw, Hnswlib, M
from benchmarks.workload import Answers, Filter, Workload


class Unsupported(Exception):
    """The engine has no such thing."""


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
        """Ids of the k nearest of each query [q, dim] by cosine; who keeps documents and metadata reads them too.

        Raises Unsupported for a filter that the engine does not have.
        """


@runtime_checkable
class Store(Engine, Protocol):
    """An engine that keeps its records on disk."""

    normalises: bool
    """Whether the vectors that come back have length 1, whatever they had."""

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
    normalises = False
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

    @property
    def collection(self) -> Any:
        """What is behind the verbs."""
        return self._collection

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
        where = {} if filtered is None else filtered.arguments()
        return self._collection.query(query_embeddings=vectors, n_results=k, **where)["ids"]  # type: ignore[no-any-return]

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
    normalises = False
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


class Qdrant:
    """The local mode of qdrant-client: Python and NumPy in this process, SQLite on the disk. No server, no index, every search exact."""

    name = package = "qdrant-client"
    normalises = True
    settings = "local mode, exact; one transaction of SQLite a point; filters of substrings are not in it"

    def load(self) -> None:
        # It warns that local mode is meant for less than 20,000 points, and that it has no indexes.
        warnings.filterwarnings("ignore", category=UserWarning, message="(Local mode|Payload indexes)")
        import qdrant_client

        self._module: Any = qdrant_client

    def open(self, folder: Path, dim: int) -> None:
        models = self._module.models
        self._client = self._module.QdrantClient(path=str(folder))
        if not self._client.collection_exists("packages"):
            self._client.create_collection("packages", models.VectorParams(size=dim, distance=models.Distance.COSINE))

    def add(self, workload: Workload, start: int, stop: int) -> None:
        columns = zip(workload.ids[start:stop], workload.documents[start:stop], workload.metadatas[start:stop], strict=True)
        payloads = [{"id": name, "document": document, **metadata} for name, document, metadata in columns]
        vectors = workload.vectors[start:stop].tolist()
        batch = self._module.models.Batch(ids=_uuids(workload.ids[start:stop]), vectors=vectors, payloads=payloads)
        self._client.upsert("packages", points=batch)

    def wait_indexed(self) -> None:
        """There is no index."""

    def query(self, vectors: Vectors, k: int, filtered: Filter | None) -> Answers:
        condition = None if filtered is None else self._condition(filtered)
        request = self._module.models.QueryRequest
        asked = [request(query=each, filter=condition, limit=k, with_payload=True) for each in vectors.tolist()]
        answers = self._client.query_batch_points("packages", requests=asked)
        return [[point.payload["id"] for point in each.points] for each in answers]

    def embeddings(self) -> tuple[Sequence[str], Any]:
        count = self._client.count("packages").count
        points, _ = self._client.scroll("packages", limit=max(count, 1), with_payload=["id"], with_vectors=True)
        return [point.payload["id"] for point in points], np.array([point.vector for point in points], np.float32)

    def delete(self, ids: Sequence[str]) -> None:
        self._client.delete("packages", points_selector=self._module.models.PointIdsList(points=_uuids(ids)))

    def give_back(self) -> None:
        """It has no way to."""

    def close(self) -> None:
        self._client.close()

    def _condition(self, filtered: Filter) -> Any:
        models = self._module.models
        if filtered.op == "$contains":
            # MatchText compares whole words, without case: other records would pass.
            raise Unsupported(f"{self.name} has no filter of substrings")
        if filtered.op == "$eq":
            condition = models.FieldCondition(key=filtered.key, match=models.MatchValue(value=filtered.value))
        else:
            condition = models.FieldCondition(key=filtered.key, range=models.Range(**{filtered.op[1:]: filtered.value}))
        return models.Filter(must=[condition])


def _uuids(ids: Sequence[str]) -> list[str]:
    """Qdrant's ids are numbers or UUIDs."""
    return [str(uuid5(NAMESPACE_OID, each)) for each in ids]


ENGINES: Final[dict[str, type[Engine]]] = {
    each.name: each for each in (ChromaGpu, Chroma, Lance, Qdrant, FaissFlat, FaissHnsw, Hnswlib)
}
"""In the order of the report's columns."""

PEERS: Final = {
    "chromadb": ("chromadb",),
    "lancedb": ("lancedb",),
    "qdrant": ("qdrant-client",),
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
