"""RemoteTable: the records of one collection on a server, to be read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from chroma_gpu.api.remote import wire
from chroma_gpu.api.remote.connection import Connection
from chroma_gpu.engine.transforms import Transforms
from chroma_gpu.filter import Expr
from chroma_gpu.records import Column, RecordBatch, Vectors

POLL_SECONDS: Final = 0.2
"""How often ``wait_indexed`` asks."""


class RemoteTable:
    """See ``backend.Records``. Every method is one request."""

    def __init__(self, http: Connection, route: tuple[str, ...]) -> None:
        self._http = http
        self._route = route

    def fetch(
        self,
        expr: Expr | None,
        columns: frozenset[Column],
        *,
        ids: Sequence[str] | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> RecordBatch:
        """The records that satisfy ``expr`` and are among ``ids``, in the server's order."""
        body = {"ids": ids, **wire.filters(expr), "limit": limit, "offset": offset or None, "include": wire.include(columns)}
        return wire.records(self._http.read(*self._route, "get", body=body), columns)

    def search(
        self,
        queries: Vectors,
        k: int,
        expr: Expr | None,
        columns: frozenset[Column],
        *,
        ids: Sequence[str] | None = None,
        transformed: Transforms | None = None,
    ) -> wire.Answer:
        """The k nearest records of each query, as the server finds them; ``transformed`` is None, see ``Server.require_transforms``."""
        body = {
            "ids": ids,
            "query_embeddings": queries.tolist(),
            "n_results": k,
            **wire.filters(expr),
            "include": wire.include(columns, distances=True),
        }
        return wire.answer(self._http.read(*self._route, "query", body=body), columns)

    def explained(self, answer: Any, embedding: float = 0.0) -> NoReturn:
        """Raises NotImplementedError."""
        raise no_plans()

    def count(self) -> int:
        """How many records there are."""
        return wire.number(self._http.get(*self._route, "count", read_level="index_and_wal"))

    def dim(self) -> int | None:
        """Length of the vectors; None before the first one."""
        dim = self._http.get(*self._route[:-1], "by-id", self._route[-1]).get("dimension")
        return None if dim is None else int(dim)

    def note(self, name: str) -> NoReturn:
        """Raises NotImplementedError."""
        raise no_notes()

    def occupancy(self) -> tuple[int, int]:
        """(records, 0): a server does not tell what deleted records still hold."""
        return self.count(), 0

    def undocumented(self) -> int:
        """How many records have no document.  Cost: every record's document is sent."""
        return sum(each is None for each in self.fetch(None, frozenset({Column.DOCUMENT})).documents or ())

    def indexing_status(self) -> dict[str, Any]:
        """``num_indexed_ops``, ``num_unindexed_ops``, ``total_ops``, ``op_indexing_progress``. Raises on servers that do not know."""
        said: dict[str, Any] = self._http.get(*self._route, "indexing_status")
        return said

    def indexed(self) -> dict[str, int]:
        """Nothing: a server does not tell which indexes there are."""
        return {}

    def wait_indexed(self, progress: Callable[[int, int], object] | None = None) -> None:
        """Ask until no operation is left to be indexed. Raises InternalError on a server that does not know, as Chroma's local one."""
        while (status := self.indexing_status())["num_unindexed_ops"]:
            if progress is not None:
                progress(status["num_indexed_ops"], status["total_ops"])
            time.sleep(POLL_SECONDS)


def no_plans() -> NotImplementedError:
    """What is raised where a plan is asked for."""
    return NotImplementedError(
        "A server does not tell how it comes by its answers. Open the data with a local client, as PersistentClient(path), to explain."
    )


def no_notes() -> NotImplementedError:
    """What is raised where something is to be kept beside the records of a server."""
    return NotImplementedError(
        "A server keeps nothing beside the records, so a job cannot say there how far it is. "
        "Run it with a local client, as PersistentClient(path)."
    )
