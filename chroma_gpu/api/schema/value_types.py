"""What a Schema holds for one metadata key, or by default: per type of value the indexes that there are, on or off.

``SLOTS`` is the table of them all; a new index is its classes and its line there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from chroma_gpu.api.schema.index_configs import (
    BoolInvertedIndexConfig,
    FloatInvertedIndexConfig,
    FtsIndexConfig,
    IndexSettings,
    IntInvertedIndexConfig,
    SparseVectorIndexConfig,
    StringInvertedIndexConfig,
    VectorIndexConfig,
)

STRING_VALUE_NAME: Final = "string"
INT_VALUE_NAME: Final = "int"
BOOL_VALUE_NAME: Final = "bool"
FLOAT_VALUE_NAME: Final = "float"
FLOAT_LIST_VALUE_NAME: Final = "float_list"
SPARSE_VECTOR_VALUE_NAME: Final = "sparse_vector"

FTS_INDEX_NAME: Final = "fts_index"
VECTOR_INDEX_NAME: Final = "vector_index"
SPARSE_VECTOR_INDEX_NAME: Final = "sparse_vector_index"
STRING_INVERTED_INDEX_NAME: Final = "string_inverted_index"
INT_INVERTED_INDEX_NAME: Final = "int_inverted_index"
FLOAT_INVERTED_INDEX_NAME: Final = "float_inverted_index"
BOOL_INVERTED_INDEX_NAME: Final = "bool_inverted_index"
HNSW_INDEX_NAME: Final = "hnsw_index"
SPANN_INDEX_NAME: Final = "spann_index"


@dataclass
class FtsIndexType:
    """Full-text search, on or off."""

    enabled: bool
    config: FtsIndexConfig


@dataclass
class VectorIndexType:
    """The vector index, on or off."""

    enabled: bool
    config: VectorIndexConfig


@dataclass
class SparseVectorIndexType:
    """A sparse vector index, on or off."""

    enabled: bool
    config: SparseVectorIndexConfig


@dataclass
class StringInvertedIndexType:
    """Filters on strings, on or off."""

    enabled: bool
    config: StringInvertedIndexConfig


@dataclass
class IntInvertedIndexType:
    """Filters on ints, on or off."""

    enabled: bool
    config: IntInvertedIndexConfig


@dataclass
class FloatInvertedIndexType:
    """Filters on floats, on or off."""

    enabled: bool
    config: FloatInvertedIndexConfig


@dataclass
class BoolInvertedIndexType:
    """Filters on bools, on or off."""

    enabled: bool
    config: BoolInvertedIndexConfig


@dataclass
class StringValueType:
    """The indexes of strings."""

    fts_index: FtsIndexType | None = None
    string_inverted_index: StringInvertedIndexType | None = None


@dataclass
class FloatListValueType:
    """The indexes of embeddings."""

    vector_index: VectorIndexType | None = None


@dataclass
class SparseVectorValueType:
    """The indexes of sparse vectors."""

    sparse_vector_index: SparseVectorIndexType | None = None


@dataclass
class IntValueType:
    """The indexes of ints."""

    int_inverted_index: IntInvertedIndexType | None = None


@dataclass
class FloatValueType:
    """The indexes of floats."""

    float_inverted_index: FloatInvertedIndexType | None = None


@dataclass
class BoolValueType:
    """The indexes of bools."""

    bool_inverted_index: BoolInvertedIndexType | None = None


@dataclass
class ValueTypes:
    """The indexes of every type of value; None where nothing is said of a type."""

    string: StringValueType | None = None
    float_list: FloatListValueType | None = None
    sparse_vector: SparseVectorValueType | None = None
    int_value: IntValueType | None = None
    float_value: FloatValueType | None = None
    boolean: BoolValueType | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one kind of index stands.

    value, value_name  the type of value, as an attribute of ValueTypes and in JSON
    index              the index, as an attribute of the value type and in JSON
    by_default         whether it is on for every key that says nothing else
    """

    config: type[IndexSettings]
    value: str
    value_name: str
    value_type: type[Any]
    index: str
    index_type: type[Any]
    by_default: bool

    def get(self, types: ValueTypes) -> Any:
        """The index, or None."""
        return getattr(getattr(types, self.value), self.index, None)

    def put(self, types: ValueTypes, enabled: bool, config: IndexSettings) -> None:
        """Set the index; the value type is made if there is none."""
        if getattr(types, self.value) is None:
            setattr(types, self.value, self.value_type())
        setattr(getattr(types, self.value), self.index, self.index_type(enabled, config))


SLOTS: Final = (
    Slot(FtsIndexConfig, "string", STRING_VALUE_NAME, StringValueType, FTS_INDEX_NAME, FtsIndexType, False),
    Slot(
        StringInvertedIndexConfig,
        "string",
        STRING_VALUE_NAME,
        StringValueType,
        STRING_INVERTED_INDEX_NAME,
        StringInvertedIndexType,
        True,
    ),
    Slot(VectorIndexConfig, "float_list", FLOAT_LIST_VALUE_NAME, FloatListValueType, VECTOR_INDEX_NAME, VectorIndexType, False),
    Slot(
        SparseVectorIndexConfig,
        "sparse_vector",
        SPARSE_VECTOR_VALUE_NAME,
        SparseVectorValueType,
        SPARSE_VECTOR_INDEX_NAME,
        SparseVectorIndexType,
        False,
    ),
    Slot(IntInvertedIndexConfig, "int_value", INT_VALUE_NAME, IntValueType, INT_INVERTED_INDEX_NAME, IntInvertedIndexType, True),
    Slot(
        FloatInvertedIndexConfig,
        "float_value",
        FLOAT_VALUE_NAME,
        FloatValueType,
        FLOAT_INVERTED_INDEX_NAME,
        FloatInvertedIndexType,
        True,
    ),
    Slot(
        BoolInvertedIndexConfig, "boolean", BOOL_VALUE_NAME, BoolValueType, BOOL_INVERTED_INDEX_NAME, BoolInvertedIndexType, True
    ),
)


def slot_of(config: IndexSettings) -> Slot:
    """Where an index of these settings stands. Raises ValueError."""
    for slot in SLOTS:
        if type(config) is slot.config:
            return slot
    raise ValueError(f"Expected the config of an index, got {config!r}")
