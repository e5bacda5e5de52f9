"""The values in metadata: their types, and a value as a record keeps it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu.roaring import Places

Scalar: TypeAlias = str | int | float | bool


class Kind(StrEnum):
    """The types of a metadata value, or of an element of a metadata array. bool is not an int."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    STR = "str"


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """What is known of one column: how many rows have a value in it, rows that died since they were indexed among them.

    kind    of its values; None for sparse vectors
    array   the values are elements of arrays
    """

    field: str
    kind: Kind | None
    array: bool
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class NumberBlock:
    """The ints, or the floats, of one field in one chunk of rows: row chunk * CHUNK + places[i] has values[ranks[i]].

    values  [m] int64 or float64, ascending, each once; the first and the last are the chunk's zone
    ranks   [n] uint16
    places  [n] uint16, strictly ascending; None where they are 0 to n - 1
    """

    chunk: int
    values: npt.NDArray[Any]
    ranks: npt.NDArray[np.uint16]
    places: Places | None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.values.nbytes + self.ranks.nbytes + (0 if self.places is None else self.places.nbytes)


def stored(value: object) -> tuple[Kind, Scalar] | None:
    """A value with its type, as a record keeps it: ints are 64-bit and floats beyond that; NaN and other types are nothing."""
    if isinstance(value, bool):
        return Kind.BOOL, value
    if isinstance(value, str):
        return Kind.STR, value
    if isinstance(value, int):
        return (Kind.INT, value) if INT_MIN <= value <= INT_MAX else (Kind.FLOAT, nearest_float(value))
    if isinstance(value, float) and not math.isnan(value):
        return Kind.FLOAT, value
    return None


INT_MIN: Final = -(1 << 63)
INT_MAX: Final = (1 << 63) - 1


def nearest_float(number: int | float) -> float:
    """The float nearest to a number; infinity beyond all finite ones."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


ColumnType: TypeAlias = tuple[Kind, bool]
"""The type of a column's values, and whether they are elements of arrays."""

_KINDS: Final[Mapping[type, Kind]] = {bool: Kind.BOOL, int: Kind.INT, float: Kind.FLOAT, str: Kind.STR}


def typed(
    metadatas: Sequence[Mapping[str, Any] | None],
) -> Iterator[tuple[str, Kind, bool, list[int] | slice, list[Any]]]:
    """The values of a batch by field and type: (field, type, whether of arrays, places in the batch, values)."""
    by_field: dict[str, tuple[list[int], list[Any]]] = {}
    for place, metadata in enumerate(metadatas):
        if metadata:
            for field, value in metadata.items():
                pair = by_field.get(field)
                if pair is None:
                    pair = by_field[field] = ([], [])
                pair[0].append(place)
                pair[1].append(value)
    for field, (places, values) in by_field.items():
        kind = _KINDS.get(type(values[0])) if len(set(map(type, values))) == 1 else None
        if kind is not None and _plain(kind, values):
            yield field, kind, False, slice(None) if len(places) == len(metadatas) else places, values
        else:
            yield from _one_by_one(field, places, values)


def _plain(kind: Kind, values: list[Any]) -> bool:
    """Whether values of one exact type are all stored as they are."""
    if kind is Kind.FLOAT:
        return not np.isnan(values).any()
    return kind is not Kind.INT or (min(values) >= INT_MIN and max(values) <= INT_MAX)


def _one_by_one(field: str, places: list[int], values: list[Any]) -> Iterator[tuple[str, Kind, bool, list[int], list[Any]]]:
    by_type: dict[ColumnType, tuple[list[int], list[Any]]] = {}
    for place, value in zip(places, values, strict=True):
        array = isinstance(value, list)
        for element in value if array else (value,):
            if (known := stored(element)) is not None:
                pair = by_type.setdefault((known[0], array), ([], []))
                pair[0].append(place)
                pair[1].append(known[1])
    for (kind, array), (at, typed) in by_type.items():
        yield field, kind, array, at, typed
