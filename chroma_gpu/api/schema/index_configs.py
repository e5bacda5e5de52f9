"""What a Schema says of each kind of index: small records that check their fields when they are made."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, Final, Self, TypeAlias, dataclass_transform, get_args

from chroma_gpu.api.search.conditions import Key
from chroma_gpu.embed import Space, validate_embedding_function, validate_sparse_embedding_function
from chroma_gpu.utils.embedding_functions import DefaultEmbeddingFunction

DOCUMENT_KEY: Final = "#document"
EMBEDDING_KEY: Final = "#embedding"

Checks: TypeAlias = Mapping[str, Callable[[str, Any], Any]]


@dataclass_transform(kw_only_default=True)
class IndexSettings:
    """The fields of one kind of index, given by name. A field that is None was not set.

    Raises ValueError for a field that does not exist or a value that does not fit.
    """

    checks: ClassVar[Checks] = {}
    """What turns a given value into the field's, by field."""
    unused: ClassVar[frozenset[str]] = frozenset()
    """Fields that Chroma takes and forgets."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(init=False)(cls)

    def __init__(self, **given: Any) -> None:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        if unknown := [name for name in given if name not in names and name not in self.unused]:
            kind = type(self).__name__
            what = f"Invalid fields for {kind}: {', '.join(map(repr, unknown))}."
            if len(unknown) == 1:
                what = f"{unknown[0]!r} is not a valid field for {kind}."
            raise ValueError(f"{what} Extra inputs are not permitted; the fields are {', '.join(names) or 'none'}.")
        for name in names:
            value = given.get(name, getattr(type(self), name))
            if name in given and name in self.checks and value is not None:
                value = self.checks[name](name, value)
            setattr(self, name, value)

    def model_dump(self, *, exclude_none: bool = False) -> dict[str, Any]:
        """The fields as a dictionary, those of settings inside included."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {
            name: value.model_dump(exclude_none=exclude_none) if isinstance(value, IndexSettings) else value
            for name, value in found.items()
            if value is not None or not exclude_none
        }

    @classmethod
    def model_construct(cls, **given: Any) -> Self:
        """An instance with these values, unchecked."""
        made = cls()
        for name, value in given.items():
            setattr(made, name, value)
        return made


def _number(name: str, value: Any, *, kind: type[int] | type[float] = int) -> int | float:
    try:
        number = kind(value)
        exact = (isinstance(value, str) or number == value) and -(2**63) <= number < 2**63
    except (TypeError, ValueError, OverflowError):
        exact = False
    if not exact:
        raise ValueError(f"{name} should be a valid {'integer' if kind is int else 'number'}, got {reprlib.repr(value)}")
    return number


def _numbers(*ints: str, **others: Callable[[str, Any], Any]) -> Checks:
    return {**dict.fromkeys(ints, _number), **others}


def _float(name: str, value: Any) -> int | float:
    return _number(name, value, kind=float)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} should be a valid boolean, got {value!r}")
    return value


def _space(name: str, value: Any) -> Any:
    if value not in get_args(Space):
        raise ValueError(f"{name} should be one of {', '.join(get_args(Space))}, got {value!r}")
    return value


def key_name(key: str | Key | None) -> str | None:
    """The name of a key that is given as text or as a Key."""
    return key.name if isinstance(key, Key) else key


def _source_key(name: str, value: Any) -> str:
    key = key_name(value)
    if not isinstance(key, str):
        raise ValueError(f"source_key must be str or Key, got {type(value).__name__}")
    if key.startswith("#") and key != DOCUMENT_KEY:
        raise ValueError("source_key cannot begin with '#'. The only valid key starting with '#' is Key.DOCUMENT or '#document'.")
    return key


def _dense_function(name: str, value: Any) -> Any:
    if not callable(value):
        raise ValueError("embedding_function must be callable or None")
    validate_embedding_function(value)
    return value


def _sparse_function(name: str, value: Any) -> Any:
    if not callable(value):
        raise ValueError("embedding_function must be a callable SparseEmbeddingFunction or None")
    validate_sparse_embedding_function(value)
    return value


def _inside(name: str, value: Any, *, kind: type[IndexSettings]) -> Any:
    if isinstance(value, Mapping):
        return kind(**value)
    if not isinstance(value, kind):
        raise ValueError(f"{name} should be a dictionary or an instance of {kind.__name__}, got {value!r}")
    return value


class FtsIndexConfig(IndexSettings):
    """Full-text search over documents: ``where_document``."""


class StringInvertedIndexConfig(IndexSettings):
    """Filters on strings."""


class IntInvertedIndexConfig(IndexSettings):
    """Filters on ints."""


class FloatInvertedIndexConfig(IndexSettings):
    """Filters on floats."""


class BoolInvertedIndexConfig(IndexSettings):
    """Filters on bools."""


class HnswIndexConfig(IndexSettings):
    """The graph of a vector index. ``ef_*`` and ``max_neighbors`` shape the graph where one is built; the rest Chroma alone reads."""

    checks = _numbers(
        "ef_construction", "max_neighbors", "ef_search", "num_threads", "batch_size", "sync_threshold", resize_factor=_float
    )

    ef_construction: int | None = None
    max_neighbors: int | None = None
    ef_search: int | None = None
    num_threads: int | None = None
    batch_size: int | None = None
    sync_threshold: int | None = None
    resize_factor: float | None = None


class SpannIndexConfig(IndexSettings):
    """The clustered vector index of Chroma's cloud. ``ef_*`` and ``max_neighbors`` shape a graph where one is built here."""

    unused = frozenset(
        {"search_rng_factor", "search_rng_epsilon", "nreplica_count", "write_rng_factor", "write_rng_epsilon", "quantize"}
        | {"num_samples_kmeans", "initial_lambda", "num_centers_to_merge_to", "center_drift_threshold"}
    )
    checks = _numbers(
        "search_nprobe", "write_nprobe", "ef_construction", "ef_search", "max_neighbors",
        "reassign_neighbor_count", "split_threshold", "merge_threshold",
    )  # fmt: skip

    search_nprobe: int | None = None
    write_nprobe: int | None = None
    ef_construction: int | None = None
    ef_search: int | None = None
    max_neighbors: int | None = None
    reassign_neighbor_count: int | None = None
    split_threshold: int | None = None
    merge_threshold: int | None = None


class VectorIndexConfig(IndexSettings):
    """The index of the embeddings: their distance, what embeds, and hnsw or spann.

    space       "l2", "cosine" or "ip"; by default the embedding function's own
    source_key  what is embedded: always the document
    """

    checks: ClassVar[Checks] = {
        "space": _space,
        "embedding_function": _dense_function,
        "source_key": _source_key,
        "hnsw": partial(_inside, kind=HnswIndexConfig),
        "spann": partial(_inside, kind=SpannIndexConfig),
    }

    space: Space | None = None
    embedding_function: Any | None = DefaultEmbeddingFunction()
    source_key: str | None = None
    hnsw: HnswIndexConfig | None = None
    spann: SpannIndexConfig | None = None


class SparseVectorIndexConfig(IndexSettings):
    """The index of sparse vectors under one metadata key.

    source_key          what is embedded where no vector is given: the document, or the text under a metadata key
    embedding_function  what embeds it
    bm25                weigh the query by how rare its terms are
    """

    unused = frozenset({"algorithm"})
    checks: ClassVar[Checks] = {
        "embedding_function": _sparse_function,
        "source_key": _source_key,
        "bm25": _flag,
    }

    embedding_function: Any | None = None
    source_key: str | None = None
    bm25: bool | None = None


IndexConfig: TypeAlias = (
    FtsIndexConfig
    | VectorIndexConfig
    | SparseVectorIndexConfig
    | StringInvertedIndexConfig
    | IntInvertedIndexConfig
    | FloatInvertedIndexConfig
    | BoolInvertedIndexConfig
)
