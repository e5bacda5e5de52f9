"""A collection's schema: reconciled with its configuration when it is made, and written out in full when it is asked for.

What a collection keeps of a schema is its JSON, or nothing where it says no more than the configuration. The configuration is the one
home of the vector index; what the schema shows of that is always read from there.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any, Final

from chroma_gpu.api import collection_configuration
from chroma_gpu.api.schema.checks import check_schema
from chroma_gpu.api.schema.index_configs import DOCUMENT_KEY, EMBEDDING_KEY, SparseVectorIndexConfig, VectorIndexConfig
from chroma_gpu.api.schema.schema import Schema
from chroma_gpu.api.schema.value_types import (
    BOOL_VALUE_NAME,
    FLOAT_LIST_VALUE_NAME,
    FLOAT_VALUE_NAME,
    INT_VALUE_NAME,
    SPARSE_VECTOR_VALUE_NAME,
    STRING_VALUE_NAME,
    slot_of,
)
from chroma_gpu.api.vector_fields import SCHEMA_ONLY, is_default, kept
from chroma_gpu.embed import EmbeddingFunction, register_embedding_function, register_sparse_embedding_function
from chroma_gpu.errors import InvalidArgumentError

Json = dict[str, Any]


def reconciled(schema: Any, configuration: Mapping[str, Any], *, kind: str = "given") -> tuple[Json, Json | None]:
    """The configuration and the schema, as JSON, of a collection for which both may have been given.

    A schema that says something goes before a configuration that says nothing, and the other way round.
    kind    as in ``collection_configuration.created``
    Raises  InvalidArgumentError for a schema that cannot be kept, or if both say something; ValueError for what is no schema
    """
    if schema is None:
        return dict(configuration), None
    if not hasattr(schema, "serialize_to_json"):
        raise ValueError(f"Expected schema to be a Schema, got {type(schema).__name__}")
    given = schema.serialize_to_json()
    check_schema(given)
    whole = _filled(given)
    if _says_nothing(whole):
        return dict(configuration), None
    if not _is_default_configuration(configuration):
        raise InvalidArgumentError(
            "Failed to reconcile schema: Cannot set both collection config and schema simultaneously",
            hint="Put the distance and the embedding function into the schema: create_index(config=VectorIndexConfig(...)).",
        )
    _remember_functions(schema, given)
    return _configuration(_vector_config(whole), kind), whole


def schema_of(schema: Mapping[str, Any] | None, configuration: Mapping[str, Any], fields: Mapping[str, Collection[str]]) -> Json:
    """The schema of a collection in full.

    schema  what the collection keeps of it
    fields  the metadata keys that its records have, each with the types of its values; keys of which the schema says nothing get
            the defaults
    """
    whole = _filled(schema or {})
    for at in (whole["defaults"], whole["keys"][EMBEDDING_KEY]):
        index = at["float_list"]["vector_index"]
        source = {"source_key": index["config"]["source_key"]} if "source_key" in index["config"] else {}
        index["config"] = {**_vector_settings(configuration), **source}
    for field, types in fields.items():
        known = whole["keys"].setdefault(field, {})
        for name in sorted(_VALUE_NAMES[each] for each in types):
            if name not in known:
                known[name] = deepcopy(whole["defaults"][name])
    return whole


def schema_function(schema: Mapping[str, Any] | None) -> EmbeddingFunction[Any] | None:
    """The embedding function that a schema's JSON names itself, or None. Raises ValueError for one that is unknown here."""
    found = (schema or {}).get("keys", {}).get(EMBEDDING_KEY, {}), (schema or {}).get("defaults", {})
    for types in found:
        stored = types.get(FLOAT_LIST_VALUE_NAME, {}).get("vector_index", {}).get("config", {}).get("embedding_function")
        function = collection_configuration.loaded_function(stored)
        if function is not None:
            return function
    return None


_VALUE_NAMES: Final[Mapping[str, str]] = {
    "str": STRING_VALUE_NAME,
    "int": INT_VALUE_NAME,
    "float": FLOAT_VALUE_NAME,
    "bool": BOOL_VALUE_NAME,
    "sparse": SPARSE_VECTOR_VALUE_NAME,
}


def _filled(given: Mapping[str, Any]) -> Json:
    """A copy of a schema's JSON in which nothing is missing that every schema has."""
    whole, standard = deepcopy(dict(given)), Schema().serialize_to_json()
    for at in (standard["defaults"], standard["keys"][EMBEDDING_KEY]):
        del at["float_list"]["vector_index"]["config"]["embedding_function"]
    for at, usual in (
        (whole.setdefault("defaults", {}), standard["defaults"]),
        *((whole.setdefault("keys", {}).setdefault(key, {}), standard["keys"][key]) for key in (DOCUMENT_KEY, EMBEDDING_KEY)),
    ):
        for name, indexes in usual.items():
            for index, settings in indexes.items():
                at.setdefault(name, {}).setdefault(index, settings)
    for at in (whole["defaults"], *whole["keys"].values()):
        if "sparse_vector_index" in at.get(SPARSE_VECTOR_VALUE_NAME, {}):
            at[SPARSE_VECTOR_VALUE_NAME]["sparse_vector_index"]["config"].setdefault("bm25", False)
    return whole


def _says_nothing(whole: Mapping[str, Any]) -> bool:
    """Whether a schema is the one that every collection has, but for what fits any configuration."""
    standard = _filled({})
    for each in (whole["defaults"], whole["keys"][EMBEDDING_KEY]):
        config = each["float_list"]["vector_index"]["config"]
        settled = all(config.get(kind) is None or is_default(kind, config[kind]) for kind in ("hnsw", "spann"))
        if not settled or config.get("space", "l2") != "l2" or not _is_default_function(config.get("embedding_function")):
            return False
    return _without_vectors(whole) == _without_vectors(standard)


def _without_vectors(whole: Mapping[str, Any]) -> Json:
    rest = deepcopy(dict(whole))
    for at in (rest["defaults"], rest["keys"][EMBEDDING_KEY]):
        at["float_list"]["vector_index"]["config"] = None
    return rest


def _is_default_configuration(configuration: Mapping[str, Any]) -> bool:
    fields = all(configuration.get(kind) is None or is_default(kind, configuration[kind]) for kind in ("hnsw", "spann"))
    return fields and _is_default_function(configuration.get("embedding_function"))


def _is_default_function(stored: Mapping[str, Any] | None) -> bool:
    return stored is None or stored.get("name") == "default"


def _vector_config(whole: Mapping[str, Any]) -> Mapping[str, Any]:
    config: Mapping[str, Any] = whole["keys"][EMBEDDING_KEY]["float_list"]["vector_index"]["config"]
    return config


def _configuration(config: Mapping[str, Any], kind: str) -> Json:
    """The configuration that the vector index of a schema asks for."""
    named = next((each for each in ("hnsw", "spann") if config.get(each) is not None), None)
    fields = dict(config[named]) if named else {}
    for field in ("batch_size", "sync_threshold"):
        if fields.get(field, 2) < 2:
            raise InvalidArgumentError(
                f"Failed to reconcile schema: Invalid HNSW configuration: {field}: Validation error: range "
                f'[{{"min": Number(2), "value": Number({fields[field]})}}]'
            )
    if any(value < 0 for value in fields.values()):
        raise InvalidArgumentError(f"invalid value in {named}: {fields}, expected numbers from 0")
    fields = {"space": config.get("space", "l2"), **fields}
    index, fields = kept(named or "hnsw", fields, kind)
    return {"hnsw": None, "spann": None, index: fields, "embedding_function": config.get("embedding_function")}


def _vector_settings(configuration: Mapping[str, Any]) -> Json:
    """The settings of the vector index in a schema, out of a configuration."""
    kind = "spann" if configuration.get("spann") is not None else "hnsw"
    fields = dict(configuration.get(kind) or {})
    found: Json = {"space": fields.pop("space", "l2")}
    if configuration.get("embedding_function") is not None:
        found["embedding_function"] = configuration["embedding_function"]
    if kind == "hnsw":
        fields = {**dict(zip(SCHEMA_ONLY, (_cores(), 100), strict=True)), **fields}
    return {**found, kind: fields}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _remember_functions(schema: Any, written: Mapping[str, Any]) -> None:
    """Make the classes of the schema's embedding functions known by their names, so that the collection can embed in this process."""
    for slot, register in (
        (slot_of(VectorIndexConfig()), register_embedding_function),
        (slot_of(SparseVectorIndexConfig()), register_sparse_embedding_function),
    ):
        for key, types in schema.keys.items():
            stored = (
                written["keys"][key].get(slot.value_name, {}).get(slot.index, {}).get("config", {}).get("embedding_function", {})
            )
            if stored.get("type") == "known":
                register(type(slot.get(types).config.embedding_function))
