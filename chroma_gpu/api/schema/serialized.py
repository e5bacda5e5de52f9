"""The indexes of a Schema as JSON, and back."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Mapping
from typing import Any

from chroma_gpu.api.schema.index_configs import IndexSettings, SparseVectorIndexConfig, VectorIndexConfig
from chroma_gpu.api.schema.value_types import SLOTS, ValueTypes
from chroma_gpu.embed import known_embedding_functions, sparse_known_embedding_functions


def written(types: ValueTypes) -> dict[str, Any]:
    """The indexes of a key, or the default ones, as JSON values."""
    found: dict[str, Any] = {}
    for slot in SLOTS:
        if getattr(types, slot.value) is not None:
            indexes = found.setdefault(slot.value_name, {})
            if (index := slot.get(types)) is not None:
                indexes[slot.index] = {"enabled": index.enabled, "config": _written_config(index.config)}
    return found


def read(given: Mapping[str, Any]) -> ValueTypes:
    """What ``written`` gave. Warns of an embedding function that is not known here. Raises ValueError."""
    types = ValueTypes()
    for slot in SLOTS:
        if slot.value_name not in given:
            continue
        if getattr(types, slot.value) is None:
            setattr(types, slot.value, slot.value_type())
        index = json_object(slot.value_name, given[slot.value_name]).get(slot.index)
        if index is not None:
            enabled, config = json_object(slot.index, index).get("enabled", True), index.get("config", {})
            if not isinstance(enabled, bool):
                raise ValueError(f"enabled of {slot.index} should be a valid boolean, got {enabled!r}")
            slot.put(types, enabled, _read_config(slot.config, json_object(f"config of {slot.index}", config)))
    return types


def json_object(name: str, given: Any) -> Mapping[str, Any]:
    """The same. Raises ValueError for what is no JSON object."""
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise ValueError(f"{name} should be a dictionary with texts as keys, got {reprlib.repr(given)}")
    return given


def _written_config(config: IndexSettings) -> dict[str, Any]:
    found = config.model_dump(exclude_none=True)
    if isinstance(config, VectorIndexConfig):
        found["embedding_function"] = _written_function(config.embedding_function, config.space)
        function = config.embedding_function
        if config.space is None and found["embedding_function"]["type"] == "known" and function is not None:
            found["space"] = function.default_space()
    elif isinstance(config, SparseVectorIndexConfig):
        function = config.embedding_function
        found["embedding_function"] = {"type": "unknown"} if function is None else _known(function)
    return found


def _written_function(function: Any, space: str | None) -> dict[str, Any]:
    if function is None:
        return {"type": "legacy"}
    try:
        if function.is_legacy():
            return {"type": "legacy"}
        known, spaces = _known(function), function.supported_spaces()
    except Exception:
        # Any object with __call__ may be given; Chroma keeps such a function for this client only.
        return {"type": "legacy"}
    if space is not None and space not in spaces:
        warnings.warn(
            f"space {space} is not supported by {function.name()}. Supported spaces: {spaces}", UserWarning, stacklevel=5
        )
    return known


def _known(function: Any) -> dict[str, Any]:
    config = function.get_config()
    if hasattr(function, "validate_config"):
        function.validate_config(config)
    return {"name": function.name(), "type": "known", "config": config}


def _read_config(kind: type[IndexSettings], given: Mapping[str, Any]) -> IndexSettings:
    fields = dict(given)
    stored = fields.get("embedding_function")
    if stored is not None and kind is VectorIndexConfig:
        function = _function(stored, known_embedding_functions, "embedding function")
        fields["embedding_function"] = function
        if function is not None and fields.get("space") is None:
            fields["space"] = function.default_space()
    elif stored is not None:
        fields["embedding_function"] = _function(stored, sparse_known_embedding_functions, "sparse embedding function")
    return kind(**fields)


def _function(stored: Mapping[str, Any], known: Mapping[str, Any], what: str) -> Any:
    json_object("embedding_function", stored)
    if stored.get("type") == "legacy" or (stored.get("type") == "unknown" and known is sparse_known_embedding_functions):
        return None
    try:
        return known[stored["name"]].build_from_config(stored["config"])
    except Exception as error:
        name = stored.get("name", "unknown")
        warnings.warn(f"Could not reconstruct {what} {name}: {error}. Setting to None.", UserWarning, stacklevel=5)
        return None
