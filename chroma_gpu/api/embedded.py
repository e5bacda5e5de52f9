"""The engine of this process as a backend: the engine, and the few things that only clients ask for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, Self
from uuid import UUID

from chroma_gpu.api import collection_configuration
from chroma_gpu.api.collection_model import Collection
from chroma_gpu.api.schema.reconcile import schema_of
from chroma_gpu.api.search import answer
from chroma_gpu.api.search.plan import Search
from chroma_gpu.api.types import Database, ReadLevel, SearchResult, UserIdentity
from chroma_gpu.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings
from chroma_gpu.embed.memory.cache import EmbeddingCache
from chroma_gpu.engine import catalog
from chroma_gpu.engine.catalog import Entry
from chroma_gpu.engine.engine import Engine
from chroma_gpu.engine.explain import Explanation
from chroma_gpu.errors import AlreadyExistsError, AuthorizationError, NotFoundError

# What get_max_batch_size says: the largest batch a server will have to take in one body. The embedded client has no limit.
MAX_BATCH_SIZE: Final = 2**31 - 1


class Embedded(Engine):
    """See ``api/backend.py`` for what each call does. Every call that reads names reads them as they are now."""

    memory: EmbeddingCache | None = None

    @classmethod
    def at(cls, path: Path, settings: Settings) -> Self:
        """As the engine has it, with what is remembered of embeddings beside the collections."""
        engine = super().at(path, settings)
        if settings.embedding_cache:
            engine.memory = EmbeddingCache(path.expanduser().resolve() / "embeddings", settings.embedding_cache)
        return engine

    def close(self) -> None:
        """As the engine's; also the files of what is remembered."""
        super().close()
        if self.memory is not None:
            self.memory.close()

    def after_fork(self) -> None:
        """In a forked child: forget the locks of the parent."""
        super().after_fork()
        if self.memory is not None:
            self.memory = EmbeddingCache(self.memory.directory, self.memory.limit)

    def heartbeat(self) -> int:
        """Nanoseconds since the epoch."""
        self.require_open()
        return time.time_ns()

    def get_version(self) -> str:
        """The version of this package."""
        from chroma_gpu import __version__

        return __version__

    def get_max_batch_size(self) -> int:
        """There is no limit, so a very large number."""
        return MAX_BATCH_SIZE

    def get_user_identity(self) -> UserIdentity:
        """There are no users here: the default tenant and database."""
        return UserIdentity(user_id="", tenant=DEFAULT_TENANT, databases=[DEFAULT_DATABASE])

    def create_tenant(self, name: str) -> None:
        """Raises AlreadyExistsError."""
        self.require_open()
        self.catalog.create_tenant(name)

    def get_tenant(self, name: str) -> str:
        """Raises NotFoundError."""
        self.require_open()
        return self.catalog.tenant(name)

    def create_database(self, name: str, tenant: str) -> None:
        """Raises NotFoundError for an unknown tenant, AlreadyExistsError."""
        self.require_open()
        self.catalog.create_database(name, tenant)

    def get_database(self, name: str, tenant: str) -> Database:
        """Raises NotFoundError."""
        self.require_open()
        return _database(self.catalog.database(name, tenant))

    def list_databases(self, tenant: str, limit: int | None, offset: int) -> Sequence[Database]:
        """By name."""
        self.require_open()
        return [_database(each) for each in self.catalog.databases(tenant)[offset:][:limit]]

    def delete_database(self, name: str, tenant: str) -> None:
        """Raises NotFoundError."""
        self.require_open()
        self.drop(self.catalog.delete_database(name, tenant))

    def create_collection(
        self,
        name: str,
        tenant: str,
        database: str,
        *,
        metadata: Mapping[str, Any] | None,
        given: Mapping[str, Any] | None,
        stored: Mapping[str, Any],
        schema: Mapping[str, Any] | None,
        get_or_create: bool,
    ) -> Entry:
        """Raises AlreadyExistsError unless ``get_or_create``, NotFoundError for an unknown database."""
        self.require_open()
        while True:
            try:
                return self.catalog.create_collection(
                    name,
                    tenant,
                    database,
                    metric=collection_configuration.metric(stored),
                    params=collection_configuration.graph_params(stored),
                    metadata=metadata,
                    configuration=stored,
                    schema=schema,
                )
            except AlreadyExistsError:
                if not get_or_create:
                    raise
            try:
                return self.catalog.collection(name, tenant, database)
            except NotFoundError:
                continue  # removed in between

    def get_collection(self, name: str, tenant: str, database: str) -> Entry:
        """Raises NotFoundError."""
        self.require_open()
        return self.catalog.collection(name, tenant, database)

    def get_collection_by_id(self, collection: UUID, tenant: str, database: str) -> Entry:
        """Raises NotFoundError."""
        self.require_open()
        entry = self.catalog.entry(collection)
        if entry is None or (entry.tenant, entry.database) != (tenant, database):
            raise NotFoundError(f"Collection [{collection}] does not exist")
        return entry

    def list_collections(self, tenant: str, database: str, limit: int | None, offset: int) -> Sequence[Entry]:
        """In the order of their creation."""
        self.require_open()
        return self.catalog.collections(tenant, database)[offset:][:limit]

    def count_collections(self, tenant: str, database: str) -> int:
        """How many collections a database has."""
        self.require_open()
        return self.catalog.count(tenant, database)

    def delete_collection(self, name: str, tenant: str, database: str) -> None:
        """Raises NotFoundError."""
        self.require_open()
        self.drop([self.catalog.delete_collection(name, tenant, database)])

    def described(self, old: Entry) -> Collection:
        """With the metadata keys that its records have. Raises NotFoundError."""
        entry = self.entry(old.id)
        with self.table(entry.id) as table:
            return Collection(
                entry.id,
                entry.name,
                collection_configuration.shown(entry.configuration),
                schema_of(entry.schema, entry.configuration, table.fields()),
                entry.metadata,
                table.dim(),
                entry.tenant,
                entry.database,
                version=table.version(),
                log_position=table.version(),
            )

    def modify(
        self, old: Entry, *, name: str | None, metadata: Mapping[str, Any] | None, configuration: Mapping[str, Any] | None
    ) -> Entry:
        """Raises NotFoundError, AlreadyExistsError."""
        self.require_open()
        params = None if configuration is None else collection_configuration.graph_params(configuration)
        return self.catalog.change(old.id, name=name, metadata=metadata, configuration=configuration, params=params)

    def count(self, collection: UUID, read_level: ReadLevel) -> int:
        """Of all that was committed before, whatever the read level."""
        with self.table(collection) as table:
            return table.count()

    def search(
        self,
        collection: UUID,
        searches: Sequence[Search],
        sparse: answer.SparseSettings,
        read_level: ReadLevel,
        *,
        rebuilt: int | None = None,
    ) -> SearchResult:
        """All searches see one table; every one sees all that was committed before it, whatever the read level."""
        with self.table(collection, rebuilt=rebuilt) as table:
            return answer.answered(searches, table, sparse)

    def require_transforms(self) -> None:
        """Queries know them."""
        self.require_open()

    def require_plans(self) -> None:
        """They are known."""
        self.require_open()

    def explain(
        self, collection: UUID, search: Search, sparse: answer.SparseSettings, *, rebuilt: int | None = None
    ) -> Explanation:
        """The search is run."""
        with self.table(collection, rebuilt=rebuilt) as table:
            return answer.explained(search, table, sparse)

    @property
    def functions(self) -> NoReturn:
        """Raises NotImplementedError: nothing runs here by itself."""
        raise NotImplementedError(
            "Attached functions are only supported when connecting to a Chroma server via HttpClient. "
            "The Rust bindings (embedded mode) do not support attached function operations."
        )

    def reset(self) -> None:
        """Raises AuthorizationError unless the settings allow it."""
        if not self.settings.allow_reset:
            raise AuthorizationError("Reset is disabled by config")
        super().reset()
        if self.memory is not None:
            self.memory.clear()


def _database(found: catalog.Database) -> Database:
    return Database(id=found.id, name=found.name, tenant=found.tenant)
