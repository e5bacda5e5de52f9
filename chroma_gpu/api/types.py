"""The types of Chroma's API: what callers give and what they get back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict, TypeVar, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from chroma_gpu.api.checks import (
    convert_list_embeddings_to_np,
    convert_np_embeddings_to_list,
    deserialize_metadata,
    is_document,
    is_image,
    maybe_cast_one_to_many,
    normalize_insert_record_set,
    normalize_metadata,
    optional_base64_strings_to_embeddings,
    optional_embeddings_to_base64_strings,
    serialize_metadata,
    validate_documents,
    validate_ids,
    validate_include,
    validate_insert_record_set,
    validate_metadata,
    validate_metadatas,
    validate_n_results,
    validate_update_metadata,
    validate_where,
    validate_where_document,
)
from chroma_gpu.api.schema.cmek import Cmek, CmekProvider
from chroma_gpu.api.schema.index_configs import (
    DOCUMENT_KEY,
    EMBEDDING_KEY,
    BoolInvertedIndexConfig,
    FloatInvertedIndexConfig,
    FtsIndexConfig,
    HnswIndexConfig,
    IndexConfig,
    IntInvertedIndexConfig,
    SpannIndexConfig,
    SparseVectorIndexConfig,
    StringInvertedIndexConfig,
    VectorIndexConfig,
)
from chroma_gpu.api.schema.schema import Schema
from chroma_gpu.api.schema.value_types import (
    BOOL_INVERTED_INDEX_NAME,
    BOOL_VALUE_NAME,
    FLOAT_INVERTED_INDEX_NAME,
    FLOAT_LIST_VALUE_NAME,
    FLOAT_VALUE_NAME,
    FTS_INDEX_NAME,
    HNSW_INDEX_NAME,
    INT_INVERTED_INDEX_NAME,
    INT_VALUE_NAME,
    SPANN_INDEX_NAME,
    SPARSE_VECTOR_INDEX_NAME,
    SPARSE_VECTOR_VALUE_NAME,
    STRING_INVERTED_INDEX_NAME,
    STRING_VALUE_NAME,
    VECTOR_INDEX_NAME,
    BoolInvertedIndexType,
    BoolValueType,
    FloatInvertedIndexType,
    FloatListValueType,
    FloatValueType,
    FtsIndexType,
    IntInvertedIndexType,
    IntValueType,
    SparseVectorIndexType,
    SparseVectorValueType,
    StringInvertedIndexType,
    StringValueType,
    ValueTypes,
    VectorIndexType,
)
from chroma_gpu.api.tables import Table
from chroma_gpu.embed import Embeddable, EmbeddingFunction, Embeddings, Space, validate_embedding_function
from chroma_gpu.embed.results import normalize_embeddings, validate_embeddings
from chroma_gpu.embed.sparse import (
    SparseEmbeddingFunction,
    SparseVectors,
    validate_sparse_embedding_function,
    validate_sparse_vectors,
)
from chroma_gpu.records import SPARSE_VECTOR_TYPE as SPARSE_VECTOR_TYPE_VALUE
from chroma_gpu.records import TYPE_KEY, Metadata, SparseVector
from chroma_gpu.utils.embedding_functions import DefaultEmbeddingFunction

T = TypeVar("T")
L_co = TypeVar("L_co", covariant=True)
OneOrMany: TypeAlias = T | list[T]

ID: TypeAlias = str
IDs: TypeAlias = list[ID]
URI: TypeAlias = str
URIs: TypeAlias = list[URI]
Document: TypeAlias = str
Documents: TypeAlias = list[Document]
Image: TypeAlias = npt.NDArray[Any]
Images: TypeAlias = list[Image]
Vector: TypeAlias = Sequence[float] | Sequence[int]
Embedding: TypeAlias = npt.NDArray[np.float32] | Sequence[float]
PyEmbedding: TypeAlias = Sequence[float] | Sequence[int]
PyEmbeddings: TypeAlias = list[PyEmbedding]
Metadatas: TypeAlias = list[Metadata | None]
UpdateMetadata: TypeAlias = Mapping[str, Any]
CollectionMetadata: TypeAlias = dict[str, Any]
UpdateCollectionMetadata: TypeAlias = UpdateMetadata
Parameter: TypeAlias = Image | Document | URI
LiteralValue: TypeAlias = str | int | float | bool
LogicalOperator: TypeAlias = Literal["$and", "$or"]
WhereOperator: TypeAlias = Literal["$gt", "$gte", "$lt", "$lte", "$ne", "$eq"]
InclusionExclusionOperator: TypeAlias = Literal["$in", "$nin"]
WhereDocumentOperator: TypeAlias = Literal["$contains", "$not_contains", "$regex", "$not_regex", "$and", "$or"]
Where: TypeAlias = Mapping[str, Any]
WhereDocument: TypeAlias = Mapping[str, Any]
Include: TypeAlias = list[Literal["documents", "embeddings", "metadatas", "distances", "uris", "data", "plan"]]
Loadable: TypeAlias = list[Image | None]


@runtime_checkable
class DataLoader(Protocol[L_co]):
    """Loads what URIs point to, as a list in the order of the URIs."""

    def __call__(self, uris: URIs) -> L_co:
        """The loaded items; None where one could not be had."""
        ...


_GET_COLUMNS: Final = {
    "ids": "id",
    "documents": "document",
    "metadatas": "metadata",
    "embeddings": "embedding",
    "uris": "uri",
    "data": "data",
}


class GetResult(Table):
    """What ``get`` and ``peek`` return: columns of equal length, None for those that were not asked for.

    ids         list of str
    embeddings  [n, dim] float64 array
    documents, metadatas, uris, data  one value or None for each record
    included    what was asked for
    """

    nested = False
    column_names = _GET_COLUMNS


class QueryResult(Table):
    """What ``query`` returns: for each query a list per column, nearest first; None for columns that were not asked for.

    embeddings  one [k, dim] float64 array a query
    distances   one list of float a query
    scores      there only after a ``Rerank``: one list of float a query
    plan        there only if it was included: one dictionary, that of ``Explanation.to_dict``
    """

    nested = True
    column_names = _GET_COLUMNS | {"distances": "distance", "scores": "score"}


class ReadLevel(StrEnum):
    """How much of what was written a read may miss. Here every read sees every commit, whichever is asked for."""

    INDEX_AND_WAL = "index_and_wal"
    INDEX_ONLY = "index_only"
    INDEX_AND_BOUNDED_WAL = "index_and_bounded_wal"


@dataclass
class IndexingStatus:
    """How far indexing has come.

    total_ops             records ever added, changed or removed; a write that leaves a record as it was is none
    num_indexed_ops       how many of them need no index or are in it
    num_unindexed_ops     the others; every query finds them all the same
    op_indexing_progress  indexed by total, 1.0 where there is nothing
    """

    num_indexed_ops: int
    num_unindexed_ops: int
    total_ops: int
    op_indexing_progress: float


class SearchResultRow(TypedDict, total=False):
    """One record that ``search`` found. ``id`` is always there; the others if they were selected and the record has them."""

    id: ID
    document: Document | None
    embedding: list[float] | None
    metadata: Metadata | None
    score: float | None


class SearchResult(Table):
    """What ``search`` returns: ids, documents, embeddings, metadatas, scores and select, in each of them one entry for each search.

    The entry of a search is a list with one value for each record, best first; None for a column that it did not select.
    """

    nested = True
    column_names = _GET_COLUMNS | {"scores": "score"}

    def rows(self) -> list[list[SearchResultRow]]:
        """The same, as one dictionary for each record; values that are None are left out."""
        ids = self.get("ids", [])
        columns = {
            name: self.get(column) or [None] * len(ids)
            for name, column in {
                "document": "documents",
                "embedding": "embeddings",
                "metadata": "metadatas",
                "score": "scores",
            }.items()
        }
        return [
            [
                cast(
                    SearchResultRow,
                    {"id": id}
                    | {
                        name: column[search][at]
                        for name, column in columns.items()
                        if column[search] and column[search][at] is not None
                    },
                )
                for at, id in enumerate(found)
            ]
            for search, found in enumerate(ids)
        ]


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
    "BOOL_INVERTED_INDEX_NAME",
    "BOOL_VALUE_NAME",
    "DOCUMENT_KEY",
    "EMBEDDING_KEY",
    "FLOAT_INVERTED_INDEX_NAME",
    "FLOAT_LIST_VALUE_NAME",
    "FLOAT_VALUE_NAME",
    "FTS_INDEX_NAME",
    "HNSW_INDEX_NAME",
    "ID",
    "INT_INVERTED_INDEX_NAME",
    "INT_VALUE_NAME",
    "SPANN_INDEX_NAME",
    "SPARSE_VECTOR_INDEX_NAME",
    "SPARSE_VECTOR_TYPE_VALUE",
    "SPARSE_VECTOR_VALUE_NAME",
    "STRING_INVERTED_INDEX_NAME",
    "STRING_VALUE_NAME",
    "TYPE_KEY",
    "URI",
    "VECTOR_INDEX_NAME",
    "BoolInvertedIndexConfig",
    "BoolInvertedIndexType",
    "BoolValueType",
    "Cmek",
    "CmekProvider",
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
    "FloatInvertedIndexConfig",
    "FloatInvertedIndexType",
    "FloatListValueType",
    "FloatValueType",
    "FtsIndexConfig",
    "FtsIndexType",
    "GetResult",
    "HnswIndexConfig",
    "IDs",
    "Image",
    "Images",
    "Include",
    "InclusionExclusionOperator",
    "IndexConfig",
    "IndexingStatus",
    "IntInvertedIndexConfig",
    "IntInvertedIndexType",
    "IntValueType",
    "LiteralValue",
    "Loadable",
    "LogicalOperator",
    "Metadata",
    "Metadatas",
    "OneOrMany",
    "Parameter",
    "PyEmbedding",
    "PyEmbeddings",
    "QueryResult",
    "ReadLevel",
    "Schema",
    "SearchResult",
    "SearchResultRow",
    "Space",
    "SpannIndexConfig",
    "SparseEmbeddingFunction",
    "SparseVector",
    "SparseVectorIndexConfig",
    "SparseVectorIndexType",
    "SparseVectorValueType",
    "SparseVectors",
    "StringInvertedIndexConfig",
    "StringInvertedIndexType",
    "StringValueType",
    "Tenant",
    "URIs",
    "UpdateCollectionMetadata",
    "UpdateMetadata",
    "UserIdentity",
    "ValueTypes",
    "Vector",
    "VectorIndexConfig",
    "VectorIndexType",
    "Where",
    "WhereDocument",
    "WhereDocumentOperator",
    "WhereOperator",
    "convert_list_embeddings_to_np",
    "convert_np_embeddings_to_list",
    "deserialize_metadata",
    "is_document",
    "is_image",
    "maybe_cast_one_to_many",
    "normalize_embeddings",
    "normalize_insert_record_set",
    "normalize_metadata",
    "optional_base64_strings_to_embeddings",
    "optional_embeddings_to_base64_strings",
    "serialize_metadata",
    "validate_documents",
    "validate_embedding_function",
    "validate_embeddings",
    "validate_ids",
    "validate_include",
    "validate_insert_record_set",
    "validate_metadata",
    "validate_metadatas",
    "validate_n_results",
    "validate_sparse_embedding_function",
    "validate_sparse_vectors",
    "validate_update_metadata",
    "validate_where",
    "validate_where_document",
]
