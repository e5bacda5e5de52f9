"""Splitting one large batch into calls that a client takes."""

from __future__ import annotations

from typing import Any, Protocol


class _Limited(Protocol):
    def get_max_batch_size(self) -> int: ...


def create_batches(
    api: _Limited, ids: Any, embeddings: Any = None, metadatas: Any = None, documents: Any = None
) -> list[tuple[Any, ...]]:
    """(ids, embeddings, metadatas, documents) for one call each, none longer than ``api.get_max_batch_size()``, in order.

    A column that was not given is None in each. Embedded clients have no limit, so there is one batch.
    """
    size = api.get_max_batch_size()
    if len(ids) <= size:
        return [(ids, embeddings, metadatas, documents)]
    columns = (ids, embeddings, metadatas, documents)
    return [
        tuple(None if column is None else column[start : start + size] for column in columns)
        for start in range(0, len(ids), size)
    ]
