"""Values of metadata and their types, under the module name that Chroma gives them."""

from __future__ import annotations

from chroma_gpu.api.types import (
    SPARSE_VECTOR_TYPE_VALUE,
    TYPE_KEY,
    InclusionExclusionOperator,
    LiteralValue,
    LogicalOperator,
    Metadata,
    SparseVector,
    UpdateMetadata,
    Where,
    WhereDocument,
    WhereDocumentOperator,
    WhereOperator,
)

__all__ = [
    "SPARSE_VECTOR_TYPE_VALUE",
    "TYPE_KEY",
    "InclusionExclusionOperator",
    "LiteralValue",
    "LogicalOperator",
    "Metadata",
    "SparseVector",
    "UpdateMetadata",
    "Where",
    "WhereDocument",
    "WhereDocumentOperator",
    "WhereOperator",
]
