"""Client: one tenant and database of an engine. AdminClient: tenants and databases themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any
from uuid import UUID

from chroma_gpu.api import collection_configuration, foreign, names, validate
from chroma_gpu.api.backend import Backend
from chroma_gpu.api.identity import maybe_set_tenant_and_database
from chroma_gpu.api.interfaces import AdminAPI, ClientAPI
from chroma_gpu.api.models.Collection import Collection
from chroma_gpu.api.schema.reconcile import reconciled
from chroma_gpu.api.shared import SharedSystemClient, System
from chroma_gpu.api.types import (
    CollectionMetadata,
    Database,
    DataLoader,
    DefaultEmbeddingFunction,
    EmbeddingFunction,
    Loadable,
    Schema,
    Tenant,
    UserIdentity,
)
from chroma_gpu.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings
from chroma_gpu.engine.catalog import Entry
from chroma_gpu.errors import ChromaAuthError

_DEFAULT_FUNCTION = DefaultEmbeddingFunction()


class Client(SharedSystemClient, ClientAPI):
    """The collections of one database.

    Clients of one path share one engine within a process; several processes may use one path. ``close`` it, or use it in a ``with``
    statement; an engine that is not closed loses nothing that was acknowledged.

    Raises NotFoundError for an unknown tenant or database, ValueError if the path is open with different settings.
    """

    def __init__(
        self, tenant: str | None = DEFAULT_TENANT, database: str | None = DEFAULT_DATABASE, settings: Settings | None = None
    ) -> None:
        self._open(settings)
        try:
            self._settle(self.get_user_identity(), tenant, database)
            self._validate_tenant_database(self.tenant, self.database)
        except Exception:
            self.close()
            raise

    __class__ = foreign.stands_for("chromadb.api.client", "Client")

    @property
    def _server(self) -> Backend:
        """Chroma's name for what a client stands on."""
        return self._engine

    @property
    def _admin_client(self) -> AdminClient:
        """Tenants and databases of the same engine; of no use after this client is closed."""
        return AdminClient._of(self._engine, self._settings)

    @classmethod
    def from_system(cls, system: System, tenant: str = DEFAULT_TENANT, database: str = DEFAULT_DATABASE) -> Client:
        """A client of the engine that a system names."""
        return cls(tenant, database, system.settings)

    def heartbeat(self) -> int:
        """Nanoseconds since the epoch; of a server, by its clock."""
        return self._engine.heartbeat()

    def get_version(self) -> str:
        """The version of this package, or of the server."""
        return self._engine.get_version()

    def get_settings(self) -> Settings:
        """The settings this client was made with."""
        return self._settings

    def get_max_batch_size(self) -> int:
        """How many records a server takes in one request; a very large number without one. No call has a limit."""
        return self._engine.get_max_batch_size()

    def get_user_identity(self) -> UserIdentity:
        """Whom a server takes this client for. Embedded clients have no user: the default tenant and database."""
        return self._engine.get_user_identity()

    def list_collections(self, limit: int | None = None, offset: int | None = None) -> Sequence[Collection]:
        """The collections of the database, oldest first."""
        limit, offset = validate.check_page("limit", limit), validate.check_page("offset", offset) or 0
        entries = self._engine.list_collections(self.tenant, self.database, limit, offset)
        return [self._collection(entry, _DEFAULT_FUNCTION, None) for entry in entries]

    def count_collections(self) -> int:
        """How many collections the database has."""
        return self._engine.count_collections(self.tenant, self.database)

    def create_collection(
        self,
        name: str,
        schema: Schema | None = None,
        configuration: Mapping[str, Any] | None = None,
        metadata: CollectionMetadata | None = None,
        embedding_function: EmbeddingFunction[Any] | None = _DEFAULT_FUNCTION,
        data_loader: DataLoader[Loadable] | None = None,
        get_or_create: bool = False,
    ) -> Collection:
        """Make a collection.

        schema         which indexes it keeps, its distance and its embedding function; says what configuration says, and more
        configuration  ``{"hnsw": {"space": "l2" | "cosine" | "ip", "ef_search": ..., ...}, "embedding_function": ...}``
        metadata       the collection's own; ``hnsw:space`` and its like set the same as configuration
        Raises         AlreadyExistsError unless ``get_or_create``, InvalidArgumentError, ValueError
        """
        names.check_collection(name)
        checked = validate.collection_metadata(metadata)
        kind = self._settings.vector_index
        stored = collection_configuration.created(configuration, checked, embedding_function, kind=kind)
        stored, kept_schema = reconciled(schema, stored, kind=kind)
        entry = self._engine.create_collection(
            name,
            self.tenant,
            self.database,
            metadata=checked,
            given=configuration,
            stored=stored,
            schema=kept_schema,
            get_or_create=get_or_create,
        )
        if get_or_create:
            return self._opened(entry, embedding_function, data_loader)
        return self._collection(entry, embedding_function, data_loader)

    def get_or_create_collection(
        self,
        name: str,
        schema: Schema | None = None,
        configuration: Mapping[str, Any] | None = None,
        metadata: CollectionMetadata | None = None,
        embedding_function: EmbeddingFunction[Any] | None = _DEFAULT_FUNCTION,
        data_loader: DataLoader[Loadable] | None = None,
    ) -> Collection:
        """The collection of this name; one that exists is returned unchanged, whatever else is given."""
        return self.create_collection(name, schema, configuration, metadata, embedding_function, data_loader, get_or_create=True)

    def get_collection(
        self,
        name: str,
        embedding_function: EmbeddingFunction[Any] | None = _DEFAULT_FUNCTION,
        data_loader: DataLoader[Loadable] | None = None,
    ) -> Collection:
        """The collection of this name, with the embedding function it was made with.

        Raises NotFoundError, ValueError if another embedding function is given.
        """
        names.check_str(name)
        entry = self._engine.get_collection(name, self.tenant, self.database)
        return self._opened(entry, embedding_function, data_loader)

    def get_collection_by_id(
        self,
        id: UUID,
        embedding_function: EmbeddingFunction[Any] | None = _DEFAULT_FUNCTION,
        data_loader: DataLoader[Loadable] | None = None,
    ) -> Collection:
        """The collection of this id in this client's tenant and database. Raises NotFoundError."""
        entry = self._engine.get_collection_by_id(id, self.tenant, self.database)
        return self._opened(entry, embedding_function, data_loader)

    def delete_collection(self, name: str) -> None:
        """Remove a collection and give its disk back. Raises NotFoundError."""
        names.check_str(name)
        self._engine.delete_collection(name, self.tenant, self.database)

    def reset(self) -> bool:
        """Remove everything: all tenants, databases and collections.

        Raises AuthorizationError unless ``Settings(allow_reset=True)``, here or, of a server, there.
        """
        self._engine.reset()
        return True

    def set_tenant(self, tenant: str, database: str = DEFAULT_DATABASE) -> None:
        """Go on in another tenant. Raises NotFoundError; nothing changes then."""
        self._validate_tenant_database(tenant, database)
        self.tenant, self.database = tenant, database

    def set_database(self, database: str) -> None:
        """Go on in another database. Raises NotFoundError; nothing changes then."""
        self._validate_tenant_database(self.tenant, database)
        self.database = database

    def close(self) -> None:
        """Let go of the engine; the last client of it closes it. Idempotent."""
        self._system.stop()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @classmethod
    def _unchecked(cls, settings: Settings | None) -> Client:
        """A client that is open, and in no database yet."""
        client = cls.__new__(cls)
        client._open(settings)
        return client

    def _open(self, settings: Settings | None) -> None:
        self._settings = settings or Settings()
        self._system = System(self._settings)
        self._system.start()
        self._engine: Backend = self._system.engine

    def _opened(self, entry: Entry, function: EmbeddingFunction[Any] | None, loader: DataLoader[Loadable] | None) -> Collection:
        collection_configuration.check_same_function(function, entry.configuration.get("embedding_function"))
        return self._collection(entry, function, loader)

    def _collection(
        self, entry: Entry, function: EmbeddingFunction[Any] | None, loader: DataLoader[Loadable] | None
    ) -> Collection:
        return Collection(self._engine, entry, function, loader)

    def _settle(self, identity: UserIdentity, tenant: str | None, database: str | None) -> None:
        """Decide on the tenant and the database, by what was given and by what the user may see. Raises ChromaAuthError."""
        only = bool(self._settings.chroma_overwrite_singleton_tenant_database_access_from_auth)
        tenant, database = maybe_set_tenant_and_database(identity, only, tenant, database)
        for what, settled in (("tenant", tenant), ("database name", database)):
            if settled is None:
                raise ChromaAuthError(
                    f"Could not determine a {what} from the current authentication method. Please provide a {what}."
                )
        self.tenant, self.database = tenant or DEFAULT_TENANT, database or DEFAULT_DATABASE

    def _validate_tenant_database(self, tenant: str, database: str) -> None:
        self._admin_client.get_tenant(tenant)
        self._admin_client.get_database(database, tenant)


class AdminClient(SharedSystemClient, AdminAPI):
    """Makes, lists and removes tenants and databases of the engine that the settings name."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._system = System(self._settings)
        self._system.start()
        self._engine: Backend = self._system.engine

    __class__ = foreign.stands_for("chromadb.api.client", "AdminClient")

    @classmethod
    def from_system(cls, system: System) -> AdminClient:
        """An admin client of the engine that a system names."""
        return cls(system.settings)

    @classmethod
    def from_client(cls, client: Client) -> AdminClient:
        """An admin client of the same engine."""
        return cls(client.get_settings())

    @classmethod
    def _of(cls, engine: Backend, settings: Settings) -> AdminClient:
        """One that borrows the engine of a client, and so has nothing to close."""
        admin = cls.__new__(cls)
        admin._settings, admin._system, admin._engine = settings, System(settings), engine
        return admin

    def create_database(self, name: str, tenant: str = DEFAULT_TENANT) -> None:
        """Raises NotFoundError for an unknown tenant, AlreadyExistsError, InvalidArgumentError."""
        names.check_namespace("database", name)
        self._engine.create_database(name, tenant)

    def get_database(self, name: str, tenant: str = DEFAULT_TENANT) -> Database:
        """Raises NotFoundError."""
        names.check_str(name)
        return self._engine.get_database(name, tenant)

    def delete_database(self, name: str, tenant: str = DEFAULT_TENANT) -> None:
        """Remove a database with its collections and give their disk back. Raises NotFoundError."""
        names.check_str(name)
        self._engine.delete_database(name, tenant)

    def list_databases(
        self, limit: int | None = None, offset: int | None = None, tenant: str = DEFAULT_TENANT
    ) -> Sequence[Database]:
        """The databases of a tenant, by name."""
        limit, offset = validate.check_page("limit", limit), validate.check_page("offset", offset) or 0
        return self._engine.list_databases(tenant, limit, offset)

    def create_tenant(self, name: str) -> None:
        """Raises AlreadyExistsError, InvalidArgumentError."""
        names.check_namespace("tenant", name)
        self._engine.create_tenant(name)

    def get_tenant(self, name: str) -> Tenant:
        """Raises NotFoundError."""
        names.check_str(name)
        return Tenant(name=self._engine.get_tenant(name))

    def close(self) -> None:
        """Let go of the engine. Idempotent."""
        self._system.stop()
