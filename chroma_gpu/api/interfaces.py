"""What clients of every kind have in common, under Chroma's names: for annotations, ``isinstance`` and subclasses.

``Client`` and ``AdminClient`` say what each call does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from chroma_gpu.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings

if TYPE_CHECKING:
    from chroma_gpu.api.models.Collection import Collection
    from chroma_gpu.api.schema.schema import Schema
    from chroma_gpu.api.types import (
        CollectionMetadata,
        Database,
        DataLoader,
        EmbeddingFunction,
        Loadable,
        Tenant,
        UserIdentity,
    )


class BaseAPI(ABC):
    """What every client can say."""

    @abstractmethod
    def heartbeat(self) -> int: ...

    @abstractmethod
    def get_version(self) -> str: ...

    @abstractmethod
    def get_settings(self) -> Settings: ...

    @abstractmethod
    def get_max_batch_size(self) -> int: ...

    @abstractmethod
    def get_user_identity(self) -> UserIdentity: ...

    @abstractmethod
    def count_collections(self) -> int: ...

    @abstractmethod
    def delete_collection(self, name: str) -> None: ...

    @abstractmethod
    def reset(self) -> bool: ...


class ClientAPI(BaseAPI):
    """The collections of one tenant and database."""

    tenant: str
    database: str

    @abstractmethod
    def list_collections(self, limit: int | None = None, offset: int | None = None) -> Sequence[Collection]: ...

    @abstractmethod
    def create_collection(
        self,
        name: str,
        schema: Schema | None = None,
        configuration: Mapping[str, Any] | None = None,
        metadata: CollectionMetadata | None = None,
        embedding_function: EmbeddingFunction[Any] | None = ...,
        data_loader: DataLoader[Loadable] | None = None,
        get_or_create: bool = False,
    ) -> Collection: ...

    @abstractmethod
    def get_or_create_collection(
        self,
        name: str,
        schema: Schema | None = None,
        configuration: Mapping[str, Any] | None = None,
        metadata: CollectionMetadata | None = None,
        embedding_function: EmbeddingFunction[Any] | None = ...,
        data_loader: DataLoader[Loadable] | None = None,
    ) -> Collection: ...

    @abstractmethod
    def get_collection(
        self,
        name: str,
        embedding_function: EmbeddingFunction[Any] | None = ...,
        data_loader: DataLoader[Loadable] | None = None,
    ) -> Collection: ...

    @abstractmethod
    def get_collection_by_id(
        self,
        id: UUID,
        embedding_function: EmbeddingFunction[Any] | None = ...,
        data_loader: DataLoader[Loadable] | None = None,
    ) -> Collection: ...

    @abstractmethod
    def set_tenant(self, tenant: str, database: str = DEFAULT_DATABASE) -> None: ...

    @abstractmethod
    def set_database(self, database: str) -> None: ...


class AdminAPI(ABC):
    """Tenants and databases themselves."""

    @abstractmethod
    def create_database(self, name: str, tenant: str = DEFAULT_TENANT) -> None: ...

    @abstractmethod
    def get_database(self, name: str, tenant: str = DEFAULT_TENANT) -> Database: ...

    @abstractmethod
    def delete_database(self, name: str, tenant: str = DEFAULT_TENANT) -> None: ...

    @abstractmethod
    def list_databases(
        self, limit: int | None = None, offset: int | None = None, tenant: str = DEFAULT_TENANT
    ) -> Sequence[Database]: ...

    @abstractmethod
    def create_tenant(self, name: str) -> None: ...

    @abstractmethod
    def get_tenant(self, name: str) -> Tenant: ...


class ServerAPI(ABC):  # noqa: B024  a mark for isinstance
    """What stands behind clients, and is told in each call which tenant and database is meant."""


class AsyncBaseAPI(ABC):  # noqa: B024  a mark for isinstance; the methods are those of BaseAPI, awaited
    """What every client can say, awaited."""


class AsyncClientAPI(AsyncBaseAPI):
    """``ClientAPI``, awaited."""


class AsyncAdminAPI(ABC):  # noqa: B024  a mark for isinstance; the methods are those of AdminAPI, awaited
    """``AdminAPI``, awaited."""


class AsyncServerAPI(ABC):  # noqa: B024  a mark for isinstance
    """``ServerAPI``, awaited."""
