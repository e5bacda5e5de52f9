"""AsyncCollection: a Collection whose calls are awaited."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from chroma_gpu.api import collection_configuration, foreign
from chroma_gpu.api.awaited import awaited, awaited_as, in_thread
from chroma_gpu.api.models.Collection import Collection
from chroma_gpu.api.schema.reconcile import schema_of
from chroma_gpu.api.schema.schema import Schema
from chroma_gpu.api.types import CollectionMetadata, EmbeddingFunction


class AsyncCollection:
    """The same collection, with the same methods, results and errors; each call runs in a worker thread, embedding included.

    A task that is cancelled while it waits leaves every record whole: what it was about to write is written to the end if it had been
    begun, and not at all if not. Safe to share between tasks.
    """

    def __init__(self, collection: Collection) -> None:
        self._sync = collection

    __class__ = foreign.stands_for("chromadb.api.models.AsyncCollection", "AsyncCollection")

    add = awaited(Collection.add)
    update = awaited(Collection.update)
    upsert = awaited(Collection.upsert)
    delete = awaited(Collection.delete)
    get = awaited(Collection.get)
    peek = awaited(Collection.peek)
    query = awaited(Collection.query)
    search = awaited(Collection.search)
    explain = awaited(Collection.explain)
    count = awaited(Collection.count)
    modify = awaited(Collection.modify)
    describe = awaited(Collection.describe)
    reembed = awaited(Collection.reembed)
    reembed_abort = awaited(Collection.reembed_abort)
    fork_count = awaited(Collection.fork_count)
    get_indexing_status = awaited(Collection.get_indexing_status)
    get_model = awaited(Collection.get_model)
    embed_queries = awaited(Collection.embed_queries)
    wait_indexed = awaited(Collection.wait_indexed)
    compact = awaited(Collection.compact)
    repair = awaited(Collection.repair)
    attach_function = awaited(Collection.attach_function)
    get_attached_function = awaited(Collection.get_attached_function)
    detach_function = awaited(Collection.detach_function)

    async def fork(self, new_name: str) -> AsyncCollection:
        """As ``Collection.fork``."""
        return AsyncCollection(await in_thread(self._sync.fork, new_name))

    @property
    def id(self) -> UUID:
        """As ``Collection.id``."""
        return self._sync.id

    @property
    def name(self) -> str:
        """As ``Collection.name``."""
        return self._sync.name

    @property
    def metadata(self) -> CollectionMetadata | None:
        """As ``Collection.metadata``."""
        return self._sync.metadata

    @property
    def tenant(self) -> str:
        """As ``Collection.tenant``."""
        return self._sync.tenant

    @property
    def database(self) -> str:
        """As ``Collection.database``."""
        return self._sync.database

    @property
    def configuration(self) -> collection_configuration.CollectionConfiguration:
        """As ``Collection.configuration``."""
        return self._sync.configuration

    @property
    def configuration_json(self) -> dict[str, Any]:
        """As ``Collection.configuration_json``."""
        return self._sync.configuration_json

    @property
    def schema(self) -> Schema:
        """What the collection keeps of its schema. Keys that only its records have are in the schema of ``get_model``."""
        entry = self._sync._entry
        return Schema.deserialize_from_json(schema_of(entry.schema, entry.configuration, {}))

    @property
    def _embedding_function(self) -> EmbeddingFunction[Any] | None:
        return self._sync._embedding_function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncCollection) and self._sync == other._sync

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"AsyncCollection(name={self.name})"


def collections(found: Any) -> list[AsyncCollection]:
    """Each collection with awaited calls."""
    return [AsyncCollection(each) for each in found]


awaited_collection = awaited_as(AsyncCollection)
