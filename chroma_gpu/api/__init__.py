"""Everything that is true only because Chroma says so: its names, rules, messages and result shapes.

The names that Chroma's users import from here are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from chroma_gpu.api.collection_configuration import (
        CollectionConfiguration,
        CreateCollectionConfiguration,
        UpdateCollectionConfiguration,
    )
    from chroma_gpu.api.interfaces import (
        AdminAPI,
        AsyncAdminAPI,
        AsyncBaseAPI,
        AsyncClientAPI,
        AsyncServerAPI,
        BaseAPI,
        ClientAPI,
        ServerAPI,
    )
    from chroma_gpu.api.types import DataLoader, DefaultEmbeddingFunction, EmbeddingFunction

_HOMES: Final = {
    "chroma_gpu.api.interfaces": (
        "AdminAPI", "AsyncAdminAPI", "AsyncBaseAPI", "AsyncClientAPI", "AsyncServerAPI", "BaseAPI", "ClientAPI", "ServerAPI",
    ),
    "chroma_gpu.api.collection_configuration": (
        "CollectionConfiguration", "CreateCollectionConfiguration", "UpdateCollectionConfiguration",
    ),
    "chroma_gpu.api.types": ("DataLoader", "DefaultEmbeddingFunction", "EmbeddingFunction"),
}  # fmt: skip
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AdminAPI",
    "AsyncAdminAPI",
    "AsyncBaseAPI",
    "AsyncClientAPI",
    "AsyncServerAPI",
    "BaseAPI",
    "ClientAPI",
    "CollectionConfiguration",
    "CreateCollectionConfiguration",
    "DataLoader",
    "DefaultEmbeddingFunction",
    "EmbeddingFunction",
    "ServerAPI",
    "UpdateCollectionConfiguration",
]


_MODULES: Final = frozenset(
    [
        "async_client",
        "async_fastapi",
        "client",
        "collection_configuration",
        "configuration",
        "fastapi",
        "models",
        "shared_system_client",
        "types",
    ]
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
