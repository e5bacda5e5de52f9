"""Chroma's collection configuration: from arguments and legacy metadata to its JSON, and from there to what the engine needs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, MutableMapping
from typing import Any, TypeAlias, TypedDict

from chroma_gpu.api.vector_fields import CREATE, DEFAULTS, SCHEMA_ONLY, UPDATE, checked, from_metadata, is_default, kept
from chroma_gpu.embed import EmbeddingFunction, Space, known_embedding_functions, register_embedding_function
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


class UpdateHNSWConfiguration(TypedDict, total=False):
    """What of it ``modify`` can change."""

    ef_search: int
    max_neighbors: int
    num_threads: int
    batch_size: int
    sync_threshold: int
    resize_factor: float


class SpannConfiguration(TypedDict, total=False):
    """The vector index of Chroma's cloud. ``ef_*`` and ``max_neighbors`` shape a graph where one is used; the rest is kept."""

    search_nprobe: int
    write_nprobe: int
    space: Space
    ef_construction: int
    ef_search: int
    max_neighbors: int
    reassign_neighbor_count: int
    split_threshold: int
    merge_threshold: int


class UpdateSpannConfiguration(TypedDict, total=False):
    """What of it ``modify`` can change."""

    search_nprobe: int
    ef_search: int


class CollectionConfiguration(TypedDict, total=True):
    """What ``collection.configuration`` gives."""

    hnsw: HNSWConfiguration | None
    spann: SpannConfiguration | None
    embedding_function: EmbeddingFunction[Any] | None


class CreateCollectionConfiguration(TypedDict, total=False):
    """What ``create_collection(configuration=)`` takes: one of hnsw and spann."""

    hnsw: HNSWConfiguration | None
    spann: SpannConfiguration | None
    embedding_function: EmbeddingFunction[Any] | None


class UpdateCollectionConfiguration(TypedDict, total=False):
    """What ``modify(configuration=)`` takes."""

    hnsw: UpdateHNSWConfiguration | None
    spann: UpdateSpannConfiguration | None
    embedding_function: EmbeddingFunction[Any] | None


CreateHNSWConfiguration: TypeAlias = HNSWConfiguration
CreateSpannConfiguration: TypeAlias = SpannConfiguration


def created(
    configuration: Mapping[str, Any] | None,
    metadata: Mapping[str, Any] | None,
    function: EmbeddingFunction[Any] | None,
    *,
    kind: str = "given",
) -> dict[str, Any]:
    """The configuration JSON of a new collection.

    What counts, first to last: ``configuration``, unless it says no more than the defaults; legacy ``hnsw:`` metadata; the embedding
    function's default space; Chroma's defaults.
    kind    "given", or the one kind of index, "hnsw" or "spann", that every collection is to have
    Raises  ValueError, InvalidArgumentError
    """
    given = dict(configuration or {})
    _check_one_kind(given)
    own = given.get("embedding_function")
    if function is not None and own is not None and function.name() not in ("default", own.name()):
        raise ValueError(
            "Multiple embedding functions provided. Please provide only one. Embedding function conflict: "
            f"{function.name()} vs {own.name()}"
        )
    function = own if own is not None else function
    stored = stored_function(function)
    named = next((each for each in ("hnsw", "spann") if given.get(each) is not None), None)
    fields = checked(given[named], CREATE[named]) if named else {}
    legacy = from_metadata(metadata or {})
    if stored is not None and stored["type"] == "known" and function is not None:
        if named or "space" not in legacy:
            fields.setdefault("space", function.default_space())
        if named and isinstance(given[named], MutableMapping):
            given[named]["space"] = fields["space"]  # Chroma fills it in where the caller sees it
        _warn_of_space(fields.get("space", legacy.get("space")), function)
    if stored is None and configuration:
        stored = {"type": "legacy"}
    if named != "spann" and is_default("hnsw", fields):
        fields |= legacy
    index, fields = kept(named or "hnsw", fields, kind)
    return {"hnsw": None, "spann": None, index: fields, "embedding_function": stored}


def updated(old: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration JSON after ``modify``. Raises ValueError, InvalidArgumentError."""
    _check_one_kind(change)
    new = dict(old)
    for kind, other in (("hnsw", "spann"), ("spann", "hnsw")):
        if change.get(kind) is not None:
            fields = checked(change[kind], UPDATE[kind])
            if old.get(kind) is None:
                raise ValueError(f"Trying to update {kind.upper()} config but schema has {other.upper()}")
            new[kind] = {**old[kind], **fields}
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


def shown(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration as ``collection.configuration_json`` gives it: without what only the schema shows."""
    hnsw = stored.get("hnsw")
    if hnsw is None or not any(field in hnsw for field in SCHEMA_ONLY):
        return dict(stored)
    return {**stored, "hnsw": {field: value for field, value in hnsw.items() if field not in SCHEMA_ONLY}}


def loaded(stored: Mapping[str, Any]) -> CollectionConfiguration:
    """What ``collection.configuration`` gives for its JSON. Raises ValueError, also for an unknown embedding function."""
    _check_one_kind(stored)
    return CollectionConfiguration(
        hnsw=stored.get("hnsw"), spann=stored.get("spann"), embedding_function=loaded_function(stored.get("embedding_function"))
    )


load_collection_configuration_from_json = loaded


def overwrite_hnsw_configuration(
    existing_hnsw_config: Mapping[str, Any], update_hnsw_config: Mapping[str, Any]
) -> HNSWConfiguration:
    """The configuration with the fields of an update in place of its own."""
    return _overwritten("hnsw", existing_hnsw_config, update_hnsw_config)  # type: ignore[return-value]


def overwrite_spann_configuration(
    existing_spann_config: Mapping[str, Any], update_spann_config: Mapping[str, Any]
) -> SpannConfiguration:
    """The configuration with the fields of an update in place of its own."""
    return _overwritten("spann", existing_spann_config, update_spann_config)  # type: ignore[return-value]


def metric(stored: Mapping[str, Any]) -> Metric:
    """The distance that a configuration JSON asks for."""
    return Metric((stored.get("hnsw") or stored["spann"])["space"])


def graph_params(stored: Mapping[str, Any]) -> dict[str, int]:
    """The parameters of a graph index, out of a configuration JSON: those that were chosen.

    Chroma's defaults are left to the index, whose own reach a higher recall, and so are zeros, which Chroma takes.
    """
    names = {"max_neighbors": "M", "ef_construction": "ef_construction", "ef_search": "ef_search"}
    kind = "hnsw" if stored.get("hnsw") else "spann"
    fields, usual = stored[kind], DEFAULTS[kind]
    return {ours: fields[name] for name, ours in names.items() if fields.get(name) and fields[name] != usual[name]}


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
    if "name" not in stored:
        raise ValueError(f"Embedding function name not found in config: {stored}")
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
        f"new: {function.name()} vs persisted: {stored['name']}. "
        "To use the persisted one, leave embedding_function out; to change over, run "
        "client.get_collection(name).reembed(embedding_function)."
    )


def _check_one_kind(configuration: Mapping[str, Any]) -> None:
    if configuration.get("hnsw") is not None and configuration.get("spann") is not None:
        raise ValueError("hnsw and spann cannot both be provided")


def _warn_of_space(space: Any, function: EmbeddingFunction[Any]) -> None:
    if space not in function.supported_spaces():
        warnings.warn(
            f"space {space} is not supported by {function.name()}. Supported spaces: {function.supported_spaces()}",
            UserWarning,
            stacklevel=5,
        )


def _overwritten(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    return {**old, **{field: value for field, value in new.items() if field in UPDATE[kind]}}
