"""A GPU-accelerated embedding and search engine with the API of the Chroma embedding database.

    import chroma_gpu as chromadb

    client = chromadb.PersistentClient("./data")
    packages = client.get_or_create_collection("packages")
    packages.add(ids=["a", "b"], documents=["parse dates", "draw charts"])
    packages.query(query_texts=["plotting"], n_results=1)

The names below are the door; each is loaded when it is first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from chroma_gpu.api.client import AdminClient
    from chroma_gpu.api.models.Collection import Collection
    from chroma_gpu.api.open import Client, EphemeralClient, PersistentClient
    from chroma_gpu.api.types import (
        CollectionMetadata,
        DataLoader,
        Documents,
        EmbeddingFunction,
        Embeddings,
        GetResult,
        IDs,
        Include,
        Metadata,
        Metadatas,
        QueryResult,
        URIs,
        Where,
        WhereDocument,
    )
    from chroma_gpu.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings

try:
    __version__ = version("chroma-gpu")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0.0.0"

_TYPES: Final = "chroma_gpu.api.types"
_HOMES: Final = {
    "AdminClient": "chroma_gpu.api.client",
    "Client": "chroma_gpu.api.open",
    "Collection": "chroma_gpu.api.models.Collection",
    "CollectionMetadata": _TYPES,
    "DEFAULT_DATABASE": "chroma_gpu.config",
    "DEFAULT_TENANT": "chroma_gpu.config",
    "DataLoader": _TYPES,
    "Documents": _TYPES,
    "EmbeddingFunction": _TYPES,
    "Embeddings": _TYPES,
    "EphemeralClient": "chroma_gpu.api.open",
    "GetResult": _TYPES,
    "IDs": _TYPES,
    "Include": _TYPES,
    "Metadata": _TYPES,
    "Metadatas": _TYPES,
    "PersistentClient": "chroma_gpu.api.open",
    "QueryResult": _TYPES,
    "Settings": "chroma_gpu.config",
    "URIs": _TYPES,
    "Where": _TYPES,
    "WhereDocument": _TYPES,
}

__all__ = [
    "DEFAULT_DATABASE",
    "DEFAULT_TENANT",
    "AdminClient",
    "Client",
    "Collection",
    "CollectionMetadata",
    "DataLoader",
    "Documents",
    "EmbeddingFunction",
    "Embeddings",
    "EphemeralClient",
    "GetResult",
    "IDs",
    "Include",
    "Metadata",
    "Metadatas",
    "PersistentClient",
    "QueryResult",
    "Settings",
    "URIs",
    "Where",
    "WhereDocument",
    "__version__",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
