"""AsyncClient and AsyncAdminClient: the clients whose calls are awaited, for a server as for data in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from chroma_gpu.api import foreign
from chroma_gpu.api.awaited import awaited, awaited_as, in_thread
from chroma_gpu.api.client import AdminClient, Client
from chroma_gpu.api.interfaces import AsyncAdminAPI, AsyncClientAPI
from chroma_gpu.api.models.AsyncCollection import awaited_collection, collections
from chroma_gpu.api.shared import System
from chroma_gpu.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings

T = TypeVar("T", Client, AdminClient)


class AsyncClient(AsyncClientAPI):
    """The collections of one database: ``Client``, with the same methods, results and errors, awaited.

    Every call runs in a worker thread, so the event loop is never held up. A cancelled task leaves everything consistent: what was
    begun is finished, what was not is left undone. Use it in ``async with``, or await ``close``.
    """

    def __init__(self, client: Client) -> None:
        self._sync = client

    __class__ = foreign.stands_for("chromadb.api.async_client", "AsyncClient")

    @classmethod
    async def create(
        cls, tenant: str | None = DEFAULT_TENANT, database: str | None = DEFAULT_DATABASE, settings: Settings | None = None
    ) -> AsyncClient:
        """Open a client. Raises as ``Client`` does."""
        self = cls(await _opened(Client._unchecked, settings))
        try:
            self._sync._settle(await self.get_user_identity(), tenant, database)
            await self._validate_tenant_database(self.tenant, self.database)
        except BaseException:
            self._sync.close()
            raise
        return self

    @classmethod
    async def from_system_async(
        cls, system: System, tenant: str = DEFAULT_TENANT, database: str = DEFAULT_DATABASE
    ) -> AsyncClient:
        """A client of the engine or the server that a system names."""
        return await cls.create(tenant, database, system.settings)

    @classmethod
    def from_system(cls, system: System) -> AsyncClient:
        """Raises NotImplementedError: opening has to be awaited."""
        raise NotImplementedError("AsyncClient cannot be created synchronously. Use .from_system_async() instead.")

    heartbeat = awaited(Client.heartbeat)
    get_version = awaited(Client.get_version)
    get_max_batch_size = awaited(Client.get_max_batch_size)
    get_user_identity = awaited(Client.get_user_identity)
    list_collections = awaited_as(collections)(Client.list_collections)
    count_collections = awaited(Client.count_collections)
    create_collection = awaited_collection(Client.create_collection)
    get_or_create_collection = awaited_collection(Client.get_or_create_collection)
    get_collection = awaited_collection(Client.get_collection)
    get_collection_by_id = awaited_collection(Client.get_collection_by_id)
    delete_collection = awaited(Client.delete_collection)
    reset = awaited(Client.reset)
    set_database = awaited(Client.set_database)
    set_tenant = awaited(Client.set_tenant)
    close = awaited(Client.close)
    _validate_tenant_database = awaited(Client._validate_tenant_database)

    @property
    def tenant(self) -> str:
        """The tenant it works in."""
        return self._sync.tenant

    @property
    def database(self) -> str:
        """The database it works in."""
        return self._sync.database

    def get_settings(self) -> Settings:
        """The settings this client was made with."""
        return self._sync.get_settings()

    @staticmethod
    def clear_system_cache() -> None:
        """As ``Client.clear_system_cache``."""
        Client.clear_system_cache()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


class AsyncAdminClient(AsyncAdminAPI):
    """Tenants and databases themselves: ``AdminClient``, awaited. Opening happens at once, in the caller's thread."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._sync = AdminClient(settings)

    @classmethod
    def from_system(cls, system: System) -> AsyncAdminClient:
        """An admin client of the engine or the server that a system names."""
        return cls(system.settings)

    create_database = awaited(AdminClient.create_database)
    get_database = awaited(AdminClient.get_database)
    delete_database = awaited(AdminClient.delete_database)
    list_databases = awaited(AdminClient.list_databases)
    create_tenant = awaited(AdminClient.create_tenant)
    get_tenant = awaited(AdminClient.get_tenant)
    close = awaited(AdminClient.close)

    @staticmethod
    def clear_system_cache() -> None:
        """As ``Client.clear_system_cache``."""
        Client.clear_system_cache()

    async def __aenter__(self) -> AsyncAdminClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


async def _opened(opening: Callable[[Settings | None], T], settings: Settings | None) -> T:
    """The opened client; if the wait for it is cancelled, it is closed as soon as it is there."""
    work = asyncio.ensure_future(in_thread(opening, settings))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        work.add_done_callback(lambda done: None if done.cancelled() or done.exception() else done.result().close())
        raise
