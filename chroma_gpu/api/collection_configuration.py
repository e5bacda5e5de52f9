"""Chroma's collection configuration: from arguments and legacy metadata to its JSON, and from there to what the engine needs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Final, TypedDict

from chroma_gpu.embed import EmbeddingFunction, Space, known_embedding_functions, register_embedding_function
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.records import Metric


class HNSWConfiguration(TypedDict, total=False):
    """The vector index of a collection. ``ef_*`` and ``max_neighbors`` shape the graph where one is used; the rest Chroma alone reads."""

    space: Space
    ef_construction: int
    max_neighbors: int
    ef_search: int
    num_threads: int
    batch_size: int
    sync_threshold: int
    resize_factor: float


class CollectionConfiguration(TypedDict, total=True):
    """What ``collection.configuration`` gives."""

    hnsw: HNSWConfiguration | None
    spann: dict[str, Any] | None
    embedding_function: EmbeddingFunction[Any] | None


class CreateCollectionConfiguration(TypedDict, total=False):
    """What ``create_collection(configuration=)`` takes."""

    hnsw: HNSWConfiguration | None
    spann: dict[str, Any] | None
    embedding_function: EmbeddingFunction[Any] | None


class UpdateCollectionConfiguration(TypedDict, total=False):
    """What ``modify(configuration=)`` takes."""

    hnsw: HNSWConfiguration | None
    spann: dict[str, Any] | None
    embedding_function: EmbeddingFunction[Any] | None


SPACES: Final = tuple(str(metric) for metric in (Metric.L2, Metric.COSINE, Metric.IP))
_DEFAULTS: Final[Mapping[str, Any]] = {
    "space": "l2",
    "ef_construction": 100,
    "ef_search": 100,
    "max_neighbors": 16,
    "resize_factor": 1.2,
    "sync_threshold": 1000,
}
_CREATE: Final = (
    "space", "ef_construction", "ef_search", "max_neighbors", "num_threads", "resize_factor", "sync_threshold", "batch_size",
)  # fmt: skip
_UPDATE: Final = ("ef_search", "max_neighbors", "num_threads", "resize_factor", "sync_threshold", "batch_size")
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


def created(
    configuration: Mapping[str, Any] | None, metadata: Mapping[str, Any] | None, function: EmbeddingFunction[Any] | None
) -> dict[str, Any]:
    """The configuration JSON of a new collection.

    What counts, first to last: ``configuration``, legacy ``hnsw:`` metadata, the embedding function's default space, Chroma's
    defaults.  Raises ValueError, InvalidArgumentError.
    """
    given = dict(configuration or {})
    if given.get("hnsw") is not None and given.get("spann") is not None:
        raise ValueError("hnsw and spann cannot both be provided")
    own = given.get("embedding_function")
    if function is not None and own is not None and function.name() not in ("default", own.name()):
        raise ValueError(
            "Multiple embedding functions provided. Please provide only one. Embedding function conflict: "
            f"{function.name()} vs {own.name()}"
        )
    function = own if own is not None else function
    stored = stored_function(function)
    vector_index = _checked(given.get("hnsw") or {}, _CREATE)
    if given.get("spann") is not None:
        # Chroma's local engine keeps the shared fields of a SPANN configuration in an HNSW one.
        vector_index = _checked({key: value for key, value in given["spann"].items() if key in _CREATE}, _CREATE)
    legacy = _from_metadata(metadata or {})
    asked = given.get("hnsw") is not None or given.get("spann") is not None
    if stored is not None and stored["type"] == "known" and function is not None:
        if asked or "space" not in legacy:
            vector_index.setdefault("space", function.default_space())
        space = vector_index.get("space", legacy.get("space"))
        if space not in function.supported_spaces():
            warnings.warn(
                f"space {space} is not supported by {function.name()}. Supported spaces: {function.supported_spaces()}",
                UserWarning,
                stacklevel=4,
            )
    if stored is None and configuration:
        stored = {"type": "legacy"}
    return {"hnsw": {**_DEFAULTS, **legacy, **vector_index}, "spann": None, "embedding_function": stored}


def updated(old: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration JSON after ``modify``. Raises ValueError, InvalidArgumentError."""
    if change.get("hnsw") is not None and change.get("spann") is not None:
        raise ValueError("hnsw and spann cannot both be provided")
    new = dict(old)
    if change.get("hnsw") is not None:
        new["hnsw"] = {**old["hnsw"], **_checked(change["hnsw"], _UPDATE)}
    function = change.get("embedding_function")
    if function is not None:
        before = loaded_function(old.get("embedding_function"))
        if before is not None:
            if before.is_legacy() or function.is_legacy():
                warnings.warn("cannot update legacy embedding function config", DeprecationWarning, stacklevel=4)
                return new
            if before.name() != function.name():
                raise ValueError(f"Cannot update embedding function: incompatible types ({before.name()} vs {function.name()})")
            function.validate_config_update(before.get_config(), function.get_config())
        new["embedding_function"] = stored_function(function)
    return new


def loaded(stored: Mapping[str, Any]) -> CollectionConfiguration:
    """What ``collection.configuration`` gives for its JSON. Raises ValueError for an unknown embedding function."""
    return CollectionConfiguration(
        hnsw=stored.get("hnsw"), spann=stored.get("spann"), embedding_function=loaded_function(stored.get("embedding_function"))
    )


def metric(stored: Mapping[str, Any]) -> Metric:
    """The distance that a configuration JSON asks for."""
    return Metric(stored["hnsw"]["space"])


def graph_params(stored: Mapping[str, Any]) -> dict[str, int]:
    """The parameters of a graph index, out of a configuration JSON: those that were chosen.

    Chroma's defaults are left to the index, whose own reach a higher recall, and so are zeros, which Chroma takes.
    """
    names = {"max_neighbors": "M", "ef_construction": "ef_construction", "ef_search": "ef_search"}
    hnsw = stored["hnsw"]
    return {ours: hnsw[name] for name, ours in names.items() if hnsw[name] and hnsw[name] != _DEFAULTS[name]}


def stored_function(function: EmbeddingFunction[Any] | None) -> dict[str, Any] | None:
    """The JSON by which an embedding function is remembered: its name and configuration, never a key or an object."""
    if function is None:
        return None
    try:
        if function.is_legacy():
            return {"type": "legacy"}
        stored = {"type": "known", "name": function.name(), "config": function.get_config()}
        register_embedding_function(type(function))
    except Exception as error:
        # Any object with __call__ may be given; Chroma keeps such a function for this client only.
        warnings.warn(f"legacy embedding function config: {error}", DeprecationWarning, stacklevel=4)
        return {"type": "legacy"}
    return stored


def loaded_function(stored: Mapping[str, Any] | None) -> EmbeddingFunction[Any] | None:
    """The embedding function of its JSON, None for none or a legacy one. Raises ValueError if its name is unknown here."""
    if stored is None or stored.get("type") != "known":
        return None
    name, config = stored["name"], stored.get("config", {})
    if name not in known_embedding_functions:
        raise ValueError(
            f"Embedding function {name} not found. Add @register_embedding_function decorator to the class definition."
        )
    try:
        return known_embedding_functions[name].build_from_config(config)
    except Exception as error:
        raise ValueError(f"Could not build embedding function {name} from config {config}: {error}") from error


def check_same_function(function: EmbeddingFunction[Any] | None, stored: Mapping[str, Any] | None) -> None:
    """Raises ValueError if another function is given for a collection than the one it was made with."""
    if function is None or stored is None or stored.get("name") is None or function.name() in ("default", stored["name"]):
        return
    raise ValueError(
        "An embedding function already exists in the collection configuration, and a new one is provided. If this is "
        "intentional, please embed documents separately. Embedding function conflict: "
        f"new: {function.name()} vs persisted: {stored['name']}"
    )


def _checked(given: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    for key, value in given.items():
        if key not in known:
            expected = ", ".join(f"`{each}`" for each in known)
            raise InvalidArgumentError(f"unknown field `{key}`, expected one of {expected}")
        if key == "space":
            if value is not None and value not in SPACES:
                expected = ", ".join(f"`{each}`" for each in SPACES)
                raise InvalidArgumentError(f"unknown variant `{value}`, expected one of {expected}")
        elif value is not None and not _is_number(key, value):
            raise InvalidArgumentError(f"{key} must be a number from 0, got {value!r}")
    return {key: str(value) if key == "space" else value for key, value in given.items() if value is not None}


def _from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in metadata.items():
        if not key.startswith("hnsw:"):
            continue
        field = _LEGACY.get(key)
        if field is None or (value not in SPACES if field == "space" else not _is_number(field, value)):
            raise InvalidArgumentError("Failed to parse hnsw parameters from segment metadata")
        found[field] = value
    return found


def _is_number(field: str, value: Any) -> bool:
    kinds = (int, float) if field == "resize_factor" else (int,)
    return isinstance(value, kinds) and not isinstance(value, bool) and value >= 0
