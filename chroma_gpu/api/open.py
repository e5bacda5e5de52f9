"""The functions that open clients, as Chroma names them."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Final

from chroma_gpu.api.async_client import AsyncClient
from chroma_gpu.api.client import Client as ClientAPI
from chroma_gpu.api.remote.credentials import TokenTransportHeader
from chroma_gpu.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings, secret

# Chroma's names for what stands behind a client; code that was written for it reads them in the settings.
_EMBEDDED: Final = "chromadb.api.rust.RustBindingsAPI"
_SERVER: Final = "chromadb.api.fastapi.FastAPI"
_ASYNC_SERVER: Final = "chromadb.api.async_fastapi.AsyncFastAPI"


def EphemeralClient(  # noqa: N802  Chroma's name
    settings: Settings | None = None, tenant: str = DEFAULT_TENANT, database: str = DEFAULT_DATABASE
) -> ClientAPI:
    """A client whose data lives in memory. All ephemeral clients of a process share it; it is gone when the last one is closed."""
    return ClientAPI(tenant, database, _embedded(settings, None))


async def AsyncEphemeralClient(  # noqa: N802  as its sibling
    settings: Settings | None = None, tenant: str = DEFAULT_TENANT, database: str = DEFAULT_DATABASE
) -> AsyncClient:
    """``EphemeralClient`` with awaited calls. It shares its data with the other ephemeral clients."""
    return await AsyncClient.create(tenant, database, _embedded(settings, None))


def PersistentClient(  # noqa: N802  Chroma's name
    path: str | Path = "./chroma",
    settings: Settings | None = None,
    tenant: str = DEFAULT_TENANT,
    database: str = DEFAULT_DATABASE,
) -> ClientAPI:
    """A client whose data lives in a directory, made if it is not there.

    Nothing that a call has acknowledged is lost, whatever happens to the process or the power. Several processes may open one path.
    """
    return ClientAPI(tenant, database, _embedded(settings, path))


async def AsyncPersistentClient(  # noqa: N802  as its sibling
    path: str | Path = "./chroma",
    settings: Settings | None = None,
    tenant: str = DEFAULT_TENANT,
    database: str = DEFAULT_DATABASE,
) -> AsyncClient:
    """``PersistentClient`` with awaited calls. Clients of both kinds may have one path open."""
    return await AsyncClient.create(tenant, database, _embedded(settings, path))


def RustClient(  # noqa: N802  Chroma's name
    path: str | None = None,
    settings: Settings | None = None,
    tenant: str = DEFAULT_TENANT,
    database: str = DEFAULT_DATABASE,
) -> ClientAPI:
    """``PersistentClient`` of a path, ``EphemeralClient`` without one."""
    return ClientAPI(tenant, database, _embedded(settings, path))


def HttpClient(  # noqa: N802  Chroma's name
    host: str = "localhost",
    port: int = 8000,
    ssl: bool = False,
    headers: dict[str, str] | None = None,
    settings: Settings | None = None,
    tenant: str = DEFAULT_TENANT,
    database: str = DEFAULT_DATABASE,
) -> ClientAPI:
    """A client of a server that speaks Chroma's REST API, version 2.

    host     a name, an address, or a whole URL, which then has its own port and path
    headers  go with every request
    Raises   ValueError if no server answers or the settings name another host or port, NotFoundError for an unknown tenant or
             database, ChromaAuthError
    """
    return ClientAPI(tenant, database, _at_server(_SERVER, settings, host, port, ssl, headers))


async def AsyncHttpClient(  # noqa: N802  Chroma's name
    host: str = "localhost",
    port: int = 8000,
    ssl: bool = False,
    headers: dict[str, str] | None = None,
    settings: Settings | None = None,
    tenant: str = DEFAULT_TENANT,
    database: str = DEFAULT_DATABASE,
) -> AsyncClient:
    """``HttpClient`` with awaited calls."""
    return await AsyncClient.create(tenant, database, _at_server(_ASYNC_SERVER, settings, host, port, ssl, headers))


def CloudClient(  # noqa: N802  Chroma's name
    tenant: str | None = None,
    database: str | None = None,
    api_key: str | None = None,
    settings: Settings | None = None,
    *,
    cloud_host: str = "api.trychroma.com",
    cloud_port: int = 443,
    enable_ssl: bool = True,
) -> ClientAPI:
    """A client of Chroma's cloud.

    tenant, database, api_key  else from the environment: CHROMA_TENANT, CHROMA_DATABASE, CHROMA_API_KEY; a tenant or database that
                               is named nowhere is the only one that the key opens
    Raises  ValueError without a key, ChromaAuthError if the key opens another tenant or database, or several and none is named
    """
    key = api_key or secret("CHROMA_API_KEY")
    if key is None:
        raise ValueError(
            "Missing required arguments: api_key. Please provide them or set the environment variables: CHROMA_API_KEY"
        )
    settings = _at_server(_SERVER, settings, cloud_host, cloud_port, enable_ssl, None)
    settings.chroma_client_auth_provider = "chromadb.auth.token_authn.TokenAuthClientProvider"
    settings.chroma_client_auth_credentials = str(key)
    settings.chroma_auth_token_transport_header = TokenTransportHeader.X_CHROMA_TOKEN
    settings.chroma_overwrite_singleton_tenant_database_access_from_auth = True
    return ClientAPI(tenant or secret("CHROMA_TENANT"), database or secret("CHROMA_DATABASE"), settings)


def Client(  # noqa: N802  Chroma's name
    settings: Settings | None = None, tenant: str = DEFAULT_TENANT, database: str = DEFAULT_DATABASE
) -> ClientAPI:
    """The client that the settings describe: in memory by default, of a directory, or of a server. Without any, those of ``configure``."""
    return ClientAPI(tenant, database, copy(settings if settings is not None else get_settings()))


def configure(**given: Any) -> None:
    """Set what ``Client()`` takes where it is given no settings. Raises ValueError for an unknown setting; nothing changes then."""
    _Configured.settings = Settings(**given)


def get_settings() -> Settings:
    """What ``configure`` has set; the defaults before it was called."""
    return _Configured.settings if _Configured.settings is not None else Settings()


class _Configured:
    """The settings of this process: Chroma's API has one such value, and so it is shared."""

    settings: ClassVar[Settings | None] = None


def _embedded(settings: Settings | None, path: str | Path | None) -> Settings:
    """A copy for data in this process: in a directory, or in memory without one."""
    settings = copy(settings) if settings is not None else Settings()
    settings.chroma_api_impl = _EMBEDDED
    settings.is_persistent = path is not None
    if path is not None:
        settings.persist_directory = str(path)
    return settings


def _at_server(kind: str, settings: Settings | None, host: str, port: int, ssl: bool, headers: dict[str, str] | None) -> Settings:
    """A copy for a server. Raises ValueError if the settings name another one."""
    settings = copy(settings) if settings is not None else Settings()
    for field, words, value in (("host", "host", str(host)), ("http_port", "http port", int(port))):
        known = getattr(settings, f"chroma_server_{field}")
        if known and known != value:
            raise ValueError(
                f"Chroma server {words} provided in settings[{known}] is different to the one provided in HttpClient: [{value}]"
            )
        setattr(settings, f"chroma_server_{field}", value)
    settings.chroma_api_impl = kind
    settings.chroma_server_ssl_enabled = bool(ssl)
    settings.chroma_server_headers = headers or settings.chroma_server_headers
    return settings
