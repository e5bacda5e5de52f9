"""Types that Chroma's users import from this module name."""

from __future__ import annotations

from typing import Any, TypeAlias

from chroma_gpu.api.collection_model import Collection
from chroma_gpu.api.types import Database, Tenant
from chroma_gpu.base_types import (
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

SeqId: TypeAlias = int
OperationRecord: TypeAlias = dict[str, Any]

__all__ = [
    "Collection",
    "Database",
    "InclusionExclusionOperator",
    "LiteralValue",
    "LogicalOperator",
    "Metadata",
    "OperationRecord",
    "SeqId",
    "SparseVector",
    "Tenant",
    "UpdateMetadata",
    "Where",
    "WhereDocument",
    "WhereDocumentOperator",
    "WhereOperator",
]
