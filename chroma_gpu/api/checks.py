"""Chroma's validators and converters under Chroma's names, for callers that use them themselves. The rules live in validate and where."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from chroma_gpu.api import validate
from chroma_gpu.api.where import parse_where, parse_where_document
from chroma_gpu.records import TYPE_KEY, Metadata, SparseVector

_COLUMNS = ("ids", "embeddings", "metadatas", "documents", "images", "uris")


def maybe_cast_one_to_many(target: Any) -> list[Any] | None:
    """One or many -> many; None stays None."""
    return validate.as_list(target)


def validate_ids(ids: Any) -> Any:
    """The ids. Raises ValueError, DuplicateIDError."""
    validate.check_ids(ids)
    return ids


def validate_metadata(metadata: Any) -> Any:
    """The metadata. Raises ValueError, TypeError, InvalidArgumentError."""
    if metadata is not None:
        validate.check_record_metadata(metadata)
    return metadata


def validate_update_metadata(metadata: Any) -> Any:
    """The metadata of an update, where None as a value removes its key. Raises ValueError, TypeError, InvalidArgumentError."""
    return validate_metadata(metadata)


def validate_metadatas(metadatas: Any) -> Any:
    """The list of metadata. Raises ValueError, TypeError, InvalidArgumentError."""
    if not isinstance(metadatas, list):
        raise ValueError(f"Expected metadatas to be a list, got {metadatas}")
    for metadata in metadatas:
        validate_metadata(metadata)
    return metadatas


def validate_where(where: Any) -> None:
    """Raises ValueError, InvalidArgumentError for what ``where=`` would not take."""
    parse_where(where)


def validate_where_document(where_document: Any) -> None:
    """Raises ValueError, InvalidArgumentError for what ``where_document=`` would not take."""
    parse_where_document(where_document)


def validate_include(include: Any, dissalowed: Sequence[str] | None = None) -> None:
    """Raises ValueError."""
    validate.check_include(include, refused=tuple(dissalowed or ()))


def validate_n_results(n_results: Any) -> Any:
    """The number. Raises ValueError, TypeError."""
    validate.check_n_results(n_results)
    return n_results


def validate_documents(documents: Any, nullable: bool = False) -> None:
    """Raises ValueError."""
    validate.check_documents(documents, nullable=nullable)


def normalize_metadata(metadata: Metadata | None) -> Metadata | None:
    """A copy in which sparse vectors in their JSON form are SparseVector. Raises ValueError for an ill-formed one."""
    if metadata is None:
        return None
    return {key: _sparse(value) for key, value in metadata.items()}


def normalize_insert_record_set(
    ids: Any, embeddings: Any, metadatas: Any = None, documents: Any = None, images: Any = None, uris: Any = None
) -> dict[str, Any]:
    """The columns of a batch as lists, None where nothing was given, sparse vectors as SparseVector."""
    listed = validate.as_list(metadatas)
    return {
        "ids": validate.as_list(ids),
        "metadatas": None if listed is None else [normalize_metadata(each) for each in listed],
        "embeddings": validate.as_arrays(embeddings),
        "documents": validate.as_list(documents),
        "images": validate.as_list(images),
        "uris": validate.as_list(uris),
    }


def validate_insert_record_set(record_set: dict[str, Any]) -> None:
    """Raises what ``add`` would for these columns."""
    validate.records(*(record_set.get(name) for name in _COLUMNS), merging=False)


def serialize_metadata(metadata: Metadata | None) -> dict[str, Any] | None:
    """A copy with sparse vectors in their JSON form."""
    if metadata is None:
        return None
    return {key: value.to_dict() if isinstance(value, SparseVector) else value for key, value in metadata.items()}


def deserialize_metadata(metadata: dict[str, Any] | None) -> Metadata | None:
    """What ``serialize_metadata`` was given."""
    return normalize_metadata(metadata)


def convert_np_embeddings_to_list(embeddings: Any) -> list[list[float]]:
    """Arrays -> lists of numbers."""
    return [np.asarray(each).tolist() for each in embeddings]


def convert_list_embeddings_to_np(embeddings: Any) -> list[Any]:
    """Lists of numbers -> arrays."""
    return [np.array(each) for each in embeddings]


def optional_embeddings_to_base64_strings(embeddings: Any) -> list[str | None] | None:
    """Each vector as base64 of its little-endian float32 values; None stays None. A value outside float32 becomes inf."""
    if embeddings is None:
        return None
    return [None if each is None else _packed(each) for each in embeddings]


def optional_base64_strings_to_embeddings(strings: Any) -> list[list[float] | None] | None:
    """What ``optional_embeddings_to_base64_strings`` was given, rounded to float32."""
    if strings is None:
        return None
    return [None if each is None else np.frombuffer(base64.b64decode(each), dtype="<f4").tolist() for each in strings]


def _packed(embedding: Any) -> str:
    with np.errstate(over="ignore"):
        return base64.b64encode(np.asarray(embedding, dtype="<f4").tobytes()).decode("ascii")


def _sparse(value: Any) -> Any:
    return SparseVector.from_dict(value) if isinstance(value, dict) and TYPE_KEY in value else value


def is_document(target: Any) -> bool:
    """Whether the value is a text."""
    return isinstance(target, str)


def is_image(target: Any) -> bool:
    """Whether the value is an array of two dimensions or more."""
    return isinstance(target, np.ndarray) and target.ndim >= 2
