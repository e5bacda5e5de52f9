"""The types of Chroma's API: what callers give and what they get back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from chroma_gpu.embed import Embeddable, EmbeddingFunction, Embeddings, Space
from chroma_gpu.records import Metadata
from chroma_gpu.utils.embedding_functions import DefaultEmbeddingFunction

T = TypeVar("T")
OneOrMany: TypeAlias = T | list[T]

ID: TypeAlias = str
IDs: TypeAlias = list[ID]
URI: TypeAlias = str
URIs: TypeAlias = list[URI]
Document: TypeAlias = str
Documents: TypeAlias = list[Document]
Image: TypeAlias = npt.NDArray[Any]
Images: TypeAlias = list[Image]
Embedding: TypeAlias = npt.NDArray[np.float32] | Sequence[float]
Metadatas: TypeAlias = list[Metadata | None]
CollectionMetadata: TypeAlias = dict[str, Any]
Where: TypeAlias = Mapping[str, Any]
WhereDocument: TypeAlias = Mapping[str, Any]
Include: TypeAlias = list[Literal["documents", "embeddings", "metadatas", "distances", "uris", "data"]]
Loadable: TypeAlias = list[Image | None]


@runtime_checkable
class DataLoader(Protocol):
    """Loads what URIs point to, as a list in the order of the URIs."""

    def __call__(self, uris: URIs) -> Loadable:
        """The loaded items; None where one could not be had."""
        ...


class GetResult(TypedDict):
    """What ``get`` and ``peek`` return: columns of equal length, None for those that were not asked for.

    embeddings  [n, dim] float64 array
    """

    ids: IDs
    embeddings: npt.NDArray[np.float64] | None
    documents: list[Document | None] | None
    uris: list[URI | None] | None
    included: Include
    data: Loadable | None
    metadatas: list[Metadata | None] | None


class QueryResult(TypedDict):
    """What ``query`` returns: for each query a list per column, nearest first; None for columns that were not asked for.

    embeddings  one [k, dim] float64 array a query
    """

    ids: list[IDs]
    embeddings: list[npt.NDArray[np.float64]] | None
    documents: list[list[Document | None]] | None
    uris: list[list[URI | None]] | None
    included: Include
    data: list[Loadable] | None
    metadatas: list[list[Metadata | None]] | None
    distances: list[list[float]] | None


class DeleteResult(TypedDict):
    """What ``delete`` returns. With ids alone, it counts the ids asked for, unknown ones too, as Chroma does."""

    deleted: int


class Database(TypedDict):
    """What ``AdminClient.get_database`` returns."""

    id: Any
    name: str
    tenant: str


class Tenant(TypedDict):
    """What ``AdminClient.get_tenant`` returns."""

    name: str


@dataclass
class UserIdentity:
    """Who the caller is. Embedded clients have no user."""

    user_id: str
    tenant: str | None = None
    databases: list[str] | None = None
    attributes: dict[str, Any] | None = None


__all__ = [
    "ID",
    "URI",
    "CollectionMetadata",
    "DataLoader",
    "Database",
    "DefaultEmbeddingFunction",
    "DeleteResult",
    "Document",
    "Documents",
    "Embeddable",
    "Embedding",
    "EmbeddingFunction",
    "Embeddings",
    "GetResult",
    "IDs",
    "Image",
    "Images",
    "Include",
    "Loadable",
    "Metadata",
    "Metadatas",
    "OneOrMany",
    "QueryResult",
    "Space",
    "Tenant",
    "URIs",
    "UserIdentity",
    "Where",
    "WhereDocument",
]
