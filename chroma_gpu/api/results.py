"""From records and hits to the dictionaries that Chroma's callers know."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from chroma_gpu.api.backend import Answer
from chroma_gpu.api.types import DataLoader, GetResult, Include, Loadable, QueryResult
from chroma_gpu.records import Column, Metadata, RecordBatch

_COLUMNS: Final = {
    "documents": Column.DOCUMENT,
    "embeddings": Column.VECTOR,
    "metadatas": Column.METADATA,
    "uris": Column.URI,
    "data": Column.URI,
}


def columns(include: Include) -> frozenset[Column]:
    """The store's columns that an include list needs."""
    asked = {_COLUMNS[item] for item in include if item in _COLUMNS}
    # Whether a record without metadata shows {} or None depends on its uri.
    return frozenset(asked | {Column.URI} if Column.METADATA in asked else asked)


def get_result(records: RecordBatch, include: Include, loader: DataLoader[Loadable] | None) -> GetResult:
    """The answer of ``get``. Raises ValueError if data is asked for and there is no loader."""
    return GetResult(
        ids=records.ids,
        embeddings=_float64(records.vectors) if "embeddings" in include else None,
        documents=list(records.documents or ()) if "documents" in include else None,
        uris=list(records.uris or ()) if "uris" in include else None,
        included=list(include),
        data=_loaded(records.uris or (), loader) if "data" in include else None,
        metadatas=_metadatas(records) if "metadatas" in include else None,
    )


def query_result(
    found: Answer, include: Include, loader: DataLoader[Loadable] | None, max_distance: float | None = None
) -> QueryResult:
    """The answer of ``query``: one list a query in every asked column. Hits beyond ``max_distance`` are left out."""
    hits, records = found.hits, found.records
    counts = hits.counts
    if max_distance is not None:
        counts = np.minimum(counts, (hits.distances.astype(np.float64) <= max_distance).sum(axis=1))
    places = [[found.position[int(row)] for row in rows[:count]] for rows, count in zip(hits.rows, counts, strict=True)]

    def spread(name: str, column: Callable[[], Any]) -> Any:
        if name not in include:
            return None
        values = column()
        return [[values[at] for at in each] for each in places]

    vectors = _float64(records.vectors) if "embeddings" in include else None
    return QueryResult(
        ids=[[records.ids[at] for at in each] for each in places],
        embeddings=None if vectors is None else [vectors[each] if each else np.array([]) for each in places],
        documents=spread("documents", lambda: records.documents),
        uris=spread("uris", lambda: records.uris),
        included=list(include),
        data=[_loaded([(records.uris or ())[at] for at in each], loader) for each in places] if "data" in include else None,
        metadatas=spread("metadatas", lambda: _metadatas(records)),
        distances=(
            [row[:count].tolist() for row, count in zip(hits.distances, counts, strict=True)] if "distances" in include else None
        ),
    )


def _float64(vectors: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float64]:
    """As Chroma returns them: [n, dim] float64, or an empty array without a dimension."""
    if vectors is None or not len(vectors):
        return np.array([], dtype=np.float64)
    return vectors.astype(np.float64)


def _metadatas(records: RecordBatch) -> list[Metadata | None]:
    """Chroma keeps a uri in the metadata, so a record that has only a uri shows an empty dictionary."""
    metadatas = records.metadatas or ()
    if records.uris is None:
        return list(metadatas)
    return [
        {} if metadata is None and uri is not None else metadata for metadata, uri in zip(metadatas, records.uris, strict=True)
    ]


def _loaded(uris: Iterable[str | None], loader: DataLoader[Loadable] | None) -> Loadable:
    if loader is None:
        raise ValueError("You must set a data loader on the collection if loading from URIs.")
    return loader(uris=list(uris))  # type: ignore[arg-type]
