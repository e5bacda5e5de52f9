"""Whole queries with filters, from Python and back: what a user of a collection on a GPU waits for."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any, Final

import numpy as np

from benchmarks.gpu_cases import Case
from benchmarks.gpu_steps import Place

_QUERIES: Final = 200
_ADDED: Final = 50_000
_SHARES: Final = 1_000


class Collections:
    """The collection that the cells ask, made when the first of them comes."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._client: Any = None
        self._made: tuple[tuple[int, int], Any, np.ndarray] | None = None

    def measured(self, case: Case, place: Place) -> dict[str, Any]:
        """Median and 95th percentile of single queries, each another one, with ``where`` on an int; recall against brute force.

        Not timed are the first ten, after which rows, columns and filters are where they stay.
        """
        collection, vectors = self._of(case)
        rng = np.random.default_rng(4)
        asked = vectors[rng.choice(len(vectors), _QUERIES // (10 if place.tiny else 1))] + 0.1
        where = None if case.share == 1 else {"number": {"$lt": round(_SHARES * case.share)}}
        passing = np.arange(len(vectors)) % _SHARES < round(_SHARES * case.share)
        took, recalls = [], []
        for number, query in enumerate([*asked[:10], *asked]):
            began = perf_counter()
            found = collection.query(query_embeddings=query[None], n_results=case.k, where=where, include=["distances"])
            took.append(perf_counter() - began)
            if number % 20 == 0:
                recalls.append(_recall(found, query, vectors, passing, case.k))
        took = sorted(took[10:])
        plan = str(collection.explain(query_embeddings=asked[:1], n_results=case.k, where=where))
        return {
            "ms": median(took) * 1e3,
            "p95_ms": took[int(0.95 * (len(took) - 1))] * 1e3,
            "best_ms": took[0] * 1e3,
            "n": len(took),
            "recall": min(recalls),
            "exact": sum(each == 1 for each in recalls) / len(recalls),
            "checked": len(recalls),
            "plan": plan.splitlines()[0] if plan else "",
        }

    def close(self) -> None:
        """Drop the collection."""
        if self._made is not None:
            self._client.reset()
            self._made = None

    def _of(self, case: Case) -> tuple[Any, np.ndarray]:
        shape = (case.rows, case.dim)
        if self._made is None or self._made[0] != shape:
            from chroma_gpu import EphemeralClient, Settings

            self.close()
            self._client = EphemeralClient(Settings(device=self._device, allow_reset=True))
            self._client.reset()
            collection = self._client.create_collection("rows", configuration={"hnsw": {"space": "cosine"}})
            vectors = np.random.default_rng(5).standard_normal(shape, np.float32)
            for start in range(0, case.rows, _ADDED):
                stop = min(start + _ADDED, case.rows)
                collection.add(
                    ids=[f"r{row}" for row in range(start, stop)],
                    embeddings=vectors[start:stop],
                    metadatas=[{"number": row % _SHARES} for row in range(start, stop)],
                )
            collection.wait_indexed()
            self._made = shape, collection, vectors
        return self._made[1], self._made[2]


def _recall(found: Any, query: np.ndarray, vectors: np.ndarray, passing: np.ndarray, k: int) -> float:
    rows = np.array([int(each[1:]) for each in found["ids"][0]])
    true = _cosines(query, vectors, np.flatnonzero(passing))
    least = np.sort(true)[-min(k, len(true))] if len(true) else 0.0
    near = int((_cosines(query, vectors, rows) >= least - 1e-6).sum()) if len(rows) else 0
    return near / max(1, min(k, len(true))) if passing[rows].all() else 0.0


def _cosines(query: np.ndarray, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    chosen = vectors[rows]
    return (chosen @ query) / np.linalg.norm(chosen, axis=1) / np.linalg.norm(query)
