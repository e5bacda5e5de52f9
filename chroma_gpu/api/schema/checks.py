"""Chroma's rules on schemas that its server checks: what may be indexed, and what may be filtered by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from chroma_gpu.api.schema.cmek import Cmek
from chroma_gpu.api.schema.index_configs import DOCUMENT_KEY, EMBEDDING_KEY
from chroma_gpu.api.schema.value_types import FLOAT_LIST_VALUE_NAME, SLOTS, SPARSE_VECTOR_VALUE_NAME, STRING_VALUE_NAME
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.filter import And, DocumentOperator, Expr, Operator, Or
from chroma_gpu.values import Kind, stored


def check_schema(given: Mapping[str, Any]) -> None:
    """Raises InvalidArgumentError for a schema that no collection can have."""
    defaults, keys = given.get("defaults", {}), given.get("keys", {})
    _check_defaults(defaults)
    for key, types in keys.items():
        _check_key(key, types)
    for types in (defaults, *keys.values()):
        vector = _config(types, FLOAT_LIST_VALUE_NAME, "vector_index")
        _expect(
            vector.get("hnsw") is None or vector.get("spann") is None,
            "Both spann and hnsw config cannot be present at the same time.",
        )
    sparse = [key for key, types in keys.items() if _enabled(types, SPARSE_VECTOR_VALUE_NAME, "sparse_vector_index")]
    listed = ", ".join(f'"{key}"' for key in sparse)
    _expect(len(sparse) < 2, f"At most one sparse vector index is allowed for the collection: [{listed}]")
    if given.get("cmek") is not None:
        cmek = Cmek.from_dict(given["cmek"])
        _expect(cmek.validate_pattern(), f'CMEK does not match expected pattern: Gcp("{cmek.resource}")')


def check_filter(schema: Mapping[str, Any] | None, expr: Expr | None) -> None:
    """Raises InvalidArgumentError for a condition whose index the schema turns off.

    schema  what the collection keeps of its schema; None has every index that a filter can use
    """
    if schema is None or expr is None:
        return
    defaults, keys = schema.get("defaults", {}), schema.get("keys", {})
    for condition in _conditions(expr):
        if isinstance(condition, DocumentOperator):
            if not _enabled(keys.get(DOCUMENT_KEY, {}), STRING_VALUE_NAME, "fts_index", default=True):
                raise InvalidArgumentError("Cannot filter using full-text search because FTS indexing is disabled", hint=_HINT)
            continue
        operands = condition.operand if isinstance(condition.operand, tuple) else (condition.operand,)
        for shown, name, index in {_INDEXES[kept[0]] for kept in map(stored, operands) if kept is not None}:
            usual = _enabled(defaults, name, index, default=True)
            if not _enabled(keys.get(condition.field, {}), name, index, default=usual):
                raise InvalidArgumentError(
                    f"Cannot filter using metadata key '{condition.field}' with type '{shown}' because indexing is disabled",
                    hint=_HINT,
                )


_HINT: Final = "The schema of the collection turned this index off with delete_index, which is for good."
_INDEXES: Final[Mapping[Kind, tuple[str, str, str]]] = {
    Kind.STR: ("Str", "string", "string_inverted_index"),
    Kind.INT: ("Int", "int", "int_inverted_index"),
    Kind.FLOAT: ("Float", "float", "float_inverted_index"),
    Kind.BOOL: ("Bool", "bool", "bool_inverted_index"),
}
_NAMES: Final[Mapping[str, str]] = {
    "fts_index": "Full text search / regular expression index",
    "vector_index": "Vector index",
    "sparse_vector_index": "Sparse vector index",
}


def _check_defaults(defaults: Mapping[str, Any]) -> None:
    for index, home in (("fts_index", DOCUMENT_KEY), ("vector_index", EMBEDDING_KEY)):
        off = not _enabled(defaults, _value_name(index), index)
        _expect(off, f"{_NAMES[index]} cannot be enabled by default. It can only be enabled on {home} field.")
    _expect(
        not _enabled(defaults, SPARSE_VECTOR_VALUE_NAME, "sparse_vector_index"),
        "Sparse vector index cannot be enabled by default. Please enable sparse vector index on specific keys. "
        "At most one sparse vector index is allowed for the collection.",
    )


def _check_key(key: str, types: Mapping[str, Any]) -> None:
    if key == DOCUMENT_KEY:
        _check_only(types, STRING_VALUE_NAME, f"Document field cannot have any value types other than string: {key}")
        off = not _enabled(types, STRING_VALUE_NAME, "string_inverted_index")
        _expect(off, f"String inverted index can not be enabled on #document key: {key}")
        return
    if key == EMBEDDING_KEY:
        _check_only(types, FLOAT_LIST_VALUE_NAME, f"Embedding field cannot have any value types other than float_list: {key}")
        source = _config(types, FLOAT_LIST_VALUE_NAME, "vector_index").get("source_key", DOCUMENT_KEY)
        _expect(source == DOCUMENT_KEY, "Vector index can only source from #document")
        return
    _expect(not key.startswith("#"), f"key cannot begin with '#'. Keys starting with '#' are reserved for system use: {key}")
    for index, home in (("vector_index", EMBEDDING_KEY), ("fts_index", DOCUMENT_KEY)):
        off = not _enabled(types, _value_name(index), index)
        _expect(off, f"{_NAMES[index]} can only be enabled on {home} field: {key}")
    source = _config(types, SPARSE_VECTOR_VALUE_NAME, "sparse_vector_index").get("source_key") or ""
    _expect(
        source == DOCUMENT_KEY or not source.startswith("#"),
        "source_key cannot begin with '#'. The only valid key starting with '#' is Key.DOCUMENT or '#document'.",
    )


def _check_only(types: Mapping[str, Any], name: str, message: str) -> None:
    _expect(set(types) <= {name}, message)


def _conditions(expr: Expr) -> Iterator[Operator[Any] | DocumentOperator]:
    """The conditions of a tree on metadata and documents."""
    if isinstance(expr, And | Or):
        for child in expr.children:
            yield from _conditions(child)
    elif isinstance(expr, Operator | DocumentOperator):
        yield expr


def _config(types: Mapping[str, Any], name: str, index: str) -> Mapping[str, Any]:
    config: Mapping[str, Any] = types.get(name, {}).get(index, {}).get("config", {})
    return config


def _enabled(types: Mapping[str, Any], name: str, index: str, *, default: bool = False) -> bool:
    return bool(types.get(name, {}).get(index, {}).get("enabled", default))


def _value_name(index: str) -> str:
    return next(slot.value_name for slot in SLOTS if slot.index == index)


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise InvalidArgumentError(f"Validation error: schema: {message}")
