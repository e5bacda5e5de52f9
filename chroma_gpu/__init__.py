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
    from chroma_gpu.api import AdminAPI, AsyncClientAPI, ClientAPI
    from chroma_gpu.api.client import AdminClient
    from chroma_gpu.api.models.Collection import Collection
    from chroma_gpu.api.open import (
        AsyncEphemeralClient,
        AsyncHttpClient,
        AsyncPersistentClient,
        Client,
        CloudClient,
        EphemeralClient,
        HttpClient,
        PersistentClient,
        RustClient,
        configure,
        get_settings,
    )
    from chroma_gpu.api.types import (
        URI,
        BoolInvertedIndexConfig,
        Cmek,
        CmekProvider,
        CollectionMetadata,
        DataLoader,
        Documents,
        EmbeddingFunction,
        Embeddings,
        FloatInvertedIndexConfig,
        FtsIndexConfig,
        GetResult,
        HnswIndexConfig,
        IDs,
        Include,
        IntInvertedIndexConfig,
        Metadata,
        Metadatas,
        QueryResult,
        ReadLevel,
        Schema,
        SearchResult,
        SpannIndexConfig,
        SparseEmbeddingFunction,
        SparseVector,
        SparseVectorIndexConfig,
        SparseVectors,
        StringInvertedIndexConfig,
        UpdateCollectionMetadata,
        UpdateMetadata,
        URIs,
        VectorIndexConfig,
        Where,
        WhereDocument,
    )
    from chroma_gpu.auth.token_authn import TokenTransportHeader
    from chroma_gpu.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings
    from chroma_gpu.engine.explain import Explanation
    from chroma_gpu.engine.repair import Repair
    from chroma_gpu.execution.expression import K, Key, Knn, Rrf, Search

try:
    __version__ = version("chroma-gpu")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0.0.0"

compat_version: Final = "1.5.9"
"""The version of Chroma whose API this is; what ``chromadb.__version__`` says under ``chroma_gpu.as_chromadb``."""

_NAMES: Final = {
    "chroma_gpu.api": "AdminAPI AsyncClientAPI ClientAPI",
    "chroma_gpu.api.client": "AdminClient",
    "chroma_gpu.api.models.Collection": "Collection",
    "chroma_gpu.api.open": """
        AsyncEphemeralClient AsyncHttpClient AsyncPersistentClient Client CloudClient EphemeralClient HttpClient
        PersistentClient RustClient configure get_settings
    """,
    "chroma_gpu.api.types": """
        BoolInvertedIndexConfig Cmek CmekProvider CollectionMetadata DataLoader Documents EmbeddingFunction Embeddings
        FloatInvertedIndexConfig FtsIndexConfig GetResult HnswIndexConfig IDs Include IntInvertedIndexConfig Metadata
        Metadatas QueryResult ReadLevel Schema SearchResult SpannIndexConfig SparseEmbeddingFunction SparseVector
        SparseVectorIndexConfig SparseVectors StringInvertedIndexConfig URI URIs UpdateCollectionMetadata UpdateMetadata
        VectorIndexConfig Where WhereDocument
    """,
    "chroma_gpu.auth.token_authn": "TokenTransportHeader",
    "chroma_gpu.config": "DEFAULT_DATABASE DEFAULT_TENANT Settings",
    "chroma_gpu.engine.explain": "Explanation",
    "chroma_gpu.engine.repair": "Repair",
    "chroma_gpu.execution.expression": "K Key Knn Rrf Search",
}
_HOMES: Final = {name: home for home, names in _NAMES.items() for name in names.split()}
_MODULES: Final = frozenset(["api", "auth", "base_types", "config", "errors", "execution", "transforms", "types", "utils"])

__all__ = [
    "DEFAULT_DATABASE",
    "DEFAULT_TENANT",
    "URI",
    "AdminAPI",
    "AdminClient",
    "AsyncClientAPI",
    "AsyncEphemeralClient",
    "AsyncHttpClient",
    "AsyncPersistentClient",
    "BoolInvertedIndexConfig",
    "Client",
    "ClientAPI",
    "CloudClient",
    "Cmek",
    "CmekProvider",
    "Collection",
    "CollectionMetadata",
    "DataLoader",
    "Documents",
    "EmbeddingFunction",
    "Embeddings",
    "EphemeralClient",
    "Explanation",
    "FloatInvertedIndexConfig",
    "FtsIndexConfig",
    "GetResult",
    "HnswIndexConfig",
    "HttpClient",
    "IDs",
    "Include",
    "IntInvertedIndexConfig",
    "K",
    "Key",
    "Knn",
    "Metadata",
    "Metadatas",
    "PersistentClient",
    "QueryResult",
    "ReadLevel",
    "Repair",
    "Rrf",
    "RustClient",
    "Schema",
    "Search",
    "SearchResult",
    "Settings",
    "SpannIndexConfig",
    "SparseEmbeddingFunction",
    "SparseVector",
    "SparseVectorIndexConfig",
    "SparseVectors",
    "StringInvertedIndexConfig",
    "TokenTransportHeader",
    "URIs",
    "UpdateCollectionMetadata",
    "UpdateMetadata",
    "VectorIndexConfig",
    "Where",
    "WhereDocument",
    "__version__",
    "compat_version",
    "configure",
    "get_settings",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
