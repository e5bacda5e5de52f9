"""The vector index of a collection in Chroma's words: the fields of ``hnsw`` and ``spann``, their defaults, and what callers may give."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, Final

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.records import Metric

SPACES: Final = tuple(str(metric) for metric in (Metric.L2, Metric.COSINE, Metric.IP))

DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "hnsw": {
        "space": "l2",
        "ef_construction": 100,
        "ef_search": 100,
        "max_neighbors": 16,
        "resize_factor": 1.2,
        "sync_threshold": 1000,
    },
    "spann": {
        "space": "l2",
        "search_nprobe": 64,
        "write_nprobe": 32,
        "ef_construction": 200,
        "ef_search": 200,
        "max_neighbors": 64,
        "reassign_neighbor_count": 64,
        "split_threshold": 50,
        "merge_threshold": 25,
    },
}
"""What a field is that nobody has set, by kind of index."""

CREATE: Final[Mapping[str, tuple[str, ...]]] = {
    "hnsw": (
        "space", "ef_construction", "ef_search", "max_neighbors", "num_threads", "resize_factor", "sync_threshold", "batch_size",
    ),
    "spann": (
        "search_nprobe", "write_nprobe", "space", "ef_construction", "ef_search", "max_neighbors", "reassign_neighbor_count",
        "split_threshold", "merge_threshold",
    ),
}  # fmt: skip
UPDATE: Final[Mapping[str, tuple[str, ...]]] = {
    "hnsw": ("ef_search", "max_neighbors", "num_threads", "resize_factor", "sync_threshold", "batch_size"),
    "spann": ("search_nprobe", "ef_search"),
}
SCHEMA_ONLY: Final = ("num_threads", "batch_size")
"""Fields of hnsw that Chroma shows in the schema and not in the configuration."""

_LEGACY: Final[Mapping[str, str]] = {
    "hnsw:space": "space",
    "hnsw:construction_ef": "ef_construction",
    "hnsw:M": "max_neighbors",
    "hnsw:search_ef": "ef_search",
    "hnsw:num_threads": "num_threads",
    "hnsw:batch_size": "batch_size",
    "hnsw:sync_threshold": "sync_threshold",
    "hnsw:resize_factor": "resize_factor",
}


def checked(given: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """The given fields that are not None. Raises InvalidArgumentError."""
    for key, value in given.items():
        if key not in known:
            expected = ", ".join(f"`{each}`" for each in known)
            raise InvalidArgumentError(f"unknown field `{key}`, expected one of {expected}")
        if key == "space":
            if value is not None and value not in SPACES:
                expected = ", ".join(f"`{each}`" for each in SPACES)
                raise InvalidArgumentError(f"unknown variant `{value}`, expected one of {expected}")
        elif value is not None and not _is_number(key, value):
            raise InvalidArgumentError(f"{key} must be a number from 0, below 2**63, got {reprlib.repr(value)}")
    return {key: str(value) if key == "space" else value for key, value in given.items() if value is not None}


def from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of hnsw that a collection's metadata sets. Raises InvalidArgumentError."""
    found = {}
    for key, value in metadata.items():
        if not key.startswith("hnsw:"):
            continue
        field = _LEGACY.get(key)
        if field is None or (value not in SPACES if field == "space" else not _is_number(field, value)):
            raise InvalidArgumentError("Failed to parse hnsw parameters from segment metadata")
        found[field] = value
    return found


def is_default(kind: str, fields: Mapping[str, Any]) -> bool:
    """Whether every field that is set is what it would be anyway."""
    return all(value is None or value == DEFAULTS[kind].get(field) for field, value in fields.items())


def kept(kind: str, fields: Mapping[str, Any], asked: str) -> tuple[str, dict[str, Any]]:
    """The kind of index that a collection keeps, and its fields, where ``asked`` may want one kind for every collection.

    Of another kind than the given one, the space alone is kept.
    """
    if asked in ("given", kind):
        return kind, {**DEFAULTS[kind], **fields}
    return asked, {**DEFAULTS[asked], "space": fields.get("space", DEFAULTS[asked]["space"])}


def _is_number(field: str, value: Any) -> bool:
    kinds = (int, float) if field == "resize_factor" else (int,)
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 <= value < 2**63
