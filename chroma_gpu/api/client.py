"""Client: one tenant and database of an engine. AdminClient: tenants and databases themselves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any
from uuid import UUID

from chroma_gpu.api import collection_configuration, names, validate
from chroma_gpu.api.models.Collection import Collection
from chroma_gpu.api.shared import SharedEngines
from chroma_gpu.api.types import (
    CollectionMetadata,
    Database,
    DataLoader,
    DefaultEmbeddingFunction,
    EmbeddingFunction,
    Tenant,
    UserIdentity,
)
from chroma_gpu.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings
from chroma_gpu.engine.catalog import Entry
from chroma_gpu.errors import AlreadyExistsError, AuthorizationError, InvalidArgumentError, NotFoundError

# What get_max_batch_size says: the largest batch a server will have to take in one body. The embedded client has no limit.
MAX_BATCH_SIZE = 2**31 - 1

_DEFAULT_FUNCTION = DefaultEmbeddingFunction()


class Client:
    """The collections of one database.

    Clients of one path share one engine within a process; several processes may use one path. ``close`` it, or use it in a ``with``
    statement; an engine that is not closed loses nothing that was acknowledged.

    Raises NotFoundError for an unknown tenant or database, ValueError if the path is open with different settings.
    """

    def __init__(
        self, tenant: str | None = DEFAULT_TENANT, database: str | None = DEFAULT_DATABASE, settings: Settings | None = None
    ) -> None:
        settings = settings or Settings()
        self._settings = settings
        self._closed = False
        self._identity, self._engine = SharedEngines.take(
            settings.persist_directory if settings.is_persistent else None, settings
        )
        self.tenant = tenant or DEFAULT_TENANT
        self.database = database or DEFAULT_DATABASE
        try:
            self._check(self.tenant, self.database)
        except Exception:
            self.close()
            raise

    def heartbeat(self) -> int:
        """Nanoseconds since the epoch."""
        self._engine.require_open()
        return time.time_ns()

    def get_version(self) -> str:
        """The version of this package."""
        from chroma_gpu import __version__

        return __version__

    def get_settings(self) -> Settings:
        """The settings this client was made with."""
        return self._settings

    def get_max_batch_size(self) -> int:
        """How many records one call may carry: there is no limit here, so a very large number."""
        return MAX_BATCH_SIZE

    def get_user_identity(self) -> UserIdentity:
        """Embedded clients have no user: the default tenant and database."""
        return UserIdentity(user_id="", tenant=DEFAULT_TENANT, databases=[DEFAULT_DATABASE])

    def list_collections(self, limit: int | None = None, offset: int | None = None) -> Sequence[Collection]:
        """The collections of the database, oldest first."""
        limit, offset = validate.check_page("limit", limit), validate.check_page("offset", offset) or 0
        self._engine.require_open()
        entries = self._engine.catalog.collections(self.tenant, self.database)[offset:]
        return [self._collection(entry, _DEFAULT_FUNCTION, None) for entry in entries[:limit]]

    def count_collections(self) -> int:
        """How many collections the database has."""
        self._engine.require_open()
        return self._engine.catalog.count(self.tenant, self.database)

    def create_collection(
        self,
        name: str,
        schema: None = None,
        configuration: Mapping[str, Any] | None = None,
        metadata: CollectionMetadata | None = None,
        embedding_function: EmbeddingFunction[Any] | None = _DEFAULT_FUNCTION,
        data_loader: DataLoader | None = None,
        get_or_create: bool = False,
    ) -> Collection:
        """Make a collection.

        configuration  ``{"hnsw": {"space": "l2" | "cosine" | "ip", "ef_search": ..., ...}, "embedding_function": ...}``
        metadata       the collection's own; ``hnsw:space`` and its like set the same as configuration
        Raises         AlreadyExistsError unless ``get_or_create``, InvalidArgumentError, ValueError
        """
        if schema is not None:
            raise InvalidArgumentError(
                "A schema cannot be given here.", hint="Every metadata key is indexed; set the distance by configuration=."
            )
        names.check_collection(name)
        checked = validate.collection_metadata(metadata)
        stored = collection_configuration.created(configuration, checked, embedding_function)
        self._engine.require_open()
        try:
            entry = self._engine.catalog.create_collection(
                name,
                self.tenant,
                self.database,
                metric=collection_configuration.metric(stored),
                params=collection_configuration.graph_params(stored),
                metadata=checked,
                configuration=stored,
            )
        except AlreadyExistsError:
            if not get_or_create:
                raise
            return self.get_collection(name, embedding_function, data_loader)
        return self._collection(entry, embedding_function, data_loader)

    def get_or_create_collection(
        self,
        name: str,
        schema: None = None,
        configuration: Mapping[str, Any] | None = None,
        metadata: CollectionMetadata | None = None,
        embedding_function: EmbeddingFunction[Any] | None = _DEFAULT_FUNCTION,
        data_loader: DataLoader | None = None,
    ) -> Collection:
        """The collection of this name; one that exists is returned unchanged, whatever else is given."""
        return self.create_collection(name, schema, configuration, metadata, embedding_function, data_loader, get_or_create=True)

    def get_collection(
        self,
        name: str,
        embedding_function: EmbeddingFunction[Any] | None = _DEFAULT_FUNCTION,
        data_loader: DataLoader | None = None,
    ) -> Collection:
        """The collection of this name, with the embedding function it was made with.

        Raises NotFoundError, ValueError if another embedding function is given.
        """
        self._engine.require_open()
        entry = self._engine.catalog.collection(name, self.tenant, self.database)
        return self._opened(entry, embedding_function, data_loader)

    def get_collection_by_id(
        self,
        id: UUID,
        embedding_function: EmbeddingFunction[Any] | None = _DEFAULT_FUNCTION,
        data_loader: DataLoader | None = None,
    ) -> Collection:
        """The collection of this id in this client's tenant and database. Raises NotFoundError."""
        self._engine.require_open()
        entry = self._engine.catalog.entry(id)
        if entry is None or (entry.tenant, entry.database) != (self.tenant, self.database):
            raise NotFoundError(f"Collection [{id}] does not exist")
        return self._opened(entry, embedding_function, data_loader)

    def delete_collection(self, name: str) -> None:
        """Remove a collection and give its disk back. Raises NotFoundError."""
        self._engine.require_open()
        self._engine.drop([self._engine.catalog.delete_collection(name, self.tenant, self.database)])

    def reset(self) -> bool:
        """Remove everything: all tenants, databases and collections. Raises AuthorizationError unless ``Settings(allow_reset=True)``."""
        if not self._settings.allow_reset:
            raise AuthorizationError("Reset is disabled by config")
        self._engine.reset()
        return True

    def set_tenant(self, tenant: str, database: str = DEFAULT_DATABASE) -> None:
        """Go on in another tenant. Raises NotFoundError; nothing changes then."""
        self._check(tenant, database)
        self.tenant, self.database = tenant, database

    def set_database(self, database: str) -> None:
        """Go on in another database. Raises NotFoundError; nothing changes then."""
        self._check(self.tenant, database)
        self.database = database

    def close(self) -> None:
        """Let go of the engine; the last client of it closes it. Idempotent."""
        if not self._closed:
            self._closed = True
            SharedEngines.release(self._identity, self._engine)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @staticmethod
    def clear_system_cache() -> None:
        """Close and forget every engine of this process, as tests do between cases."""
        SharedEngines.clear()

    def _opened(self, entry: Entry, function: EmbeddingFunction[Any] | None, loader: DataLoader | None) -> Collection:
        collection_configuration.check_same_function(function, entry.configuration.get("embedding_function"))
        return self._collection(entry, function, loader)

    def _collection(self, entry: Entry, function: EmbeddingFunction[Any] | None, loader: DataLoader | None) -> Collection:
        return Collection(self._engine, entry, function, loader)

    def _check(self, tenant: str, database: str) -> None:
        self._engine.require_open()
        self._engine.catalog.tenant(tenant)
        self._engine.catalog.database(database, tenant)


class AdminClient:
    """Makes, lists and removes tenants and databases of the engine that the settings name."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._closed = False
        path = self._settings.persist_directory if self._settings.is_persistent else None
        self._identity, self._engine = SharedEngines.take(path, self._settings)

    @classmethod
    def from_client(cls, client: Client) -> AdminClient:
        """An admin client of the same engine."""
        return cls(client.get_settings())

    def create_database(self, name: str, tenant: str = DEFAULT_TENANT) -> None:
        """Raises NotFoundError for an unknown tenant, AlreadyExistsError, InvalidArgumentError."""
        names.check_namespace("database", name)
        self._engine.require_open()
        self._engine.catalog.create_database(name, tenant)

    def get_database(self, name: str, tenant: str = DEFAULT_TENANT) -> Database:
        """Raises NotFoundError."""
        self._engine.require_open()
        found = self._engine.catalog.database(name, tenant)
        return Database(id=found.id, name=found.name, tenant=found.tenant)

    def delete_database(self, name: str, tenant: str = DEFAULT_TENANT) -> None:
        """Remove a database with its collections and give their disk back. Raises NotFoundError."""
        self._engine.require_open()
        self._engine.drop(self._engine.catalog.delete_database(name, tenant))

    def list_databases(
        self, limit: int | None = None, offset: int | None = None, tenant: str = DEFAULT_TENANT
    ) -> Sequence[Database]:
        """The databases of a tenant, by name."""
        limit, offset = validate.check_page("limit", limit), validate.check_page("offset", offset) or 0
        self._engine.require_open()
        found = self._engine.catalog.databases(tenant)[offset:][:limit]
        return [Database(id=each.id, name=each.name, tenant=each.tenant) for each in found]

    def create_tenant(self, name: str) -> None:
        """Raises AlreadyExistsError, InvalidArgumentError."""
        names.check_namespace("tenant", name)
        self._engine.require_open()
        self._engine.catalog.create_tenant(name)

    def get_tenant(self, name: str) -> Tenant:
        """Raises NotFoundError."""
        self._engine.require_open()
        return Tenant(name=self._engine.catalog.tenant(name))

    def close(self) -> None:
        """Let go of the engine. Idempotent."""
        if not self._closed:
            self._closed = True
            SharedEngines.release(self._identity, self._engine)
