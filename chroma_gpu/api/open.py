"""The functions that open clients, as Chroma names them."""

from __future__ import annotations

from copy import copy
from pathlib import Path

from chroma_gpu.api.client import Client as ClientAPI
from chroma_gpu.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings


def EphemeralClient(  # noqa: N802  Chroma's name
    settings: Settings | None = None, tenant: str = DEFAULT_TENANT, database: str = DEFAULT_DATABASE
) -> ClientAPI:
    """A client whose data lives in memory. All ephemeral clients of a process share it; it is gone when the last one is closed."""
    settings = copy(settings) if settings is not None else Settings()
    settings.is_persistent = False
    return ClientAPI(tenant, database, settings)


def PersistentClient(  # noqa: N802  Chroma's name
    path: str | Path = "./chroma",
    settings: Settings | None = None,
    tenant: str = DEFAULT_TENANT,
    database: str = DEFAULT_DATABASE,
) -> ClientAPI:
    """A client whose data lives in a directory, made if it is not there.

    Nothing that a call has acknowledged is lost, whatever happens to the process or the power. Several processes may open one path.
    """
    settings = copy(settings) if settings is not None else Settings()
    settings.is_persistent = True
    settings.persist_directory = str(path)
    return ClientAPI(tenant, database, settings)


def Client(  # noqa: N802  Chroma's name
    settings: Settings | None = None, tenant: str = DEFAULT_TENANT, database: str = DEFAULT_DATABASE
) -> ClientAPI:
    """The client that the settings describe; in memory by default."""
    return ClientAPI(tenant, database, copy(settings) if settings is not None else Settings())
