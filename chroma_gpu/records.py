"""The values that travel between the rooms: batches of records, hits, rows.

One word per thing: an *id* is the user's string; a *row* is the position of a record in its table (uint32, given once,
never used again before compaction). Ids exist in the API and in the store's id table; everything between speaks of rows.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Rows: TypeAlias = npt.NDArray[np.uint32]
"""[n] uint32: positions of records in their table."""

Vectors: TypeAlias = npt.NDArray[np.float32]
"""[n, dim] float32, C-contiguous, finite."""

NO_ROW: Final = np.uint32(0xFFFFFFFF)
"""Stands where there is no row."""

Metadata: TypeAlias = dict[str, Any]
"""Keys to str, int, float, bool, a non-empty list of one of these, or a SparseVector."""


class SparseVector:
    """A vector of which only the coordinates that are not 0 are given.

    indices  strictly ascending ints from 0, below 2**32
    values   one number for each index
    labels   one text for each index (the token it stands for), or None
    Raises   ValueError
    """

    __slots__ = ("indices", "labels", "values")
    __match_args__ = ("indices", "values", "labels")

    def __init__(self, indices: list[int], values: list[float], labels: list[str] | None = None) -> None:
        self.indices = indices
        self.values = values
        self.labels = labels
        self._check()

    def to_dict(self) -> dict[str, Any]:
        """As JSON: ``{"#type": "sparse_vector", "indices": [...], "values": [...]}``, and the labels as ``tokens``."""
        tokens = {} if self.labels is None else {"tokens": self.labels}
        return {TYPE_KEY: SPARSE_VECTOR_TYPE, "indices": self.indices, "values": self.values, **tokens}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> SparseVector:
        """What ``to_dict`` gave. Raises ValueError for another type tag, or if indices or values are missing."""
        if given.get(TYPE_KEY) != SPARSE_VECTOR_TYPE:
            raise ValueError(f"Expected {TYPE_KEY}='{SPARSE_VECTOR_TYPE}', got {given.get(TYPE_KEY)}")
        if "indices" not in given or "values" not in given:
            raise ValueError(f"Expected a sparse vector to have indices and values, got {', '.join(map(str, given))}")
        return cls(given["indices"], given["values"], given.get("tokens"))

    def _check(self) -> None:
        columns = {"indices": self.indices, "values": self.values}
        if self.labels is not None:
            columns["labels"] = self.labels
        for name, column in columns.items():
            if not isinstance(column, list):
                raise ValueError(f"Expected SparseVector {name} to be a list, got {type(column).__name__}")
        if len(self.indices) != len(self.values):
            raise ValueError(
                "SparseVector indices and values must have the same length, got "
                f"{len(self.indices)} indices and {len(self.values)} values"
            )
        if self.labels is not None and len(self.labels) != len(self.indices):
            raise ValueError(
                "SparseVector labels must have the same length as indices and values, got "
                f"{len(self.labels)} labels, {len(self.indices)} indices"
            )
        before = -1
        for at, index in enumerate(self.indices):
            if not isinstance(index, int):
                raise ValueError(f"SparseVector indices must be integers, got {type(index).__name__} at position {at}")
            if not 0 <= index < 1 << 32:
                raise ValueError(f"SparseVector indices must be non-negative, and below 2**32, got {index} at position {at}")
            if index <= before:
                raise ValueError(
                    "SparseVector indices must be sorted in strictly ascending order, "
                    f"found indices[{at}]={index} <= indices[{at - 1}]={before}"
                )
            before = index
        for at, value in enumerate(self.values):
            if isinstance(value, float):
                continue
            if not isinstance(value, int):
                raise ValueError(f"SparseVector values must be numbers, got {type(value).__name__} at position {at}")
            if abs(value) > sys.float_info.max:
                raise ValueError(f"SparseVector values must fit into a float, got an int that does not at position {at}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparseVector):
            return NotImplemented
        return (self.indices, self.values, self.labels) == (other.indices, other.values, other.labels)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SparseVector(indices={self.indices!r}, values={self.values!r}, labels={self.labels!r})"


TYPE_KEY: Final = "#type"
SPARSE_VECTOR_TYPE: Final = "sparse_vector"


class Metric(StrEnum):
    """How far two vectors are apart. Smaller is nearer, always.

    l2      squared Euclidean distance
    ip      1 - inner product
    cosine  1 - cosine; a zero vector has cosine 0 with everything
    """

    L2 = "l2"
    IP = "ip"
    COSINE = "cosine"


class Mode(StrEnum):
    """What a write does with ids that exist and ids that do not.

    add     existing ids are skipped
    update  unknown ids are skipped
    upsert  existing ids are updated, unknown ids are added
    """

    ADD = "add"
    UPDATE = "update"
    UPSERT = "upsert"


class Column(StrEnum):
    """The columns of a record that a reader may ask for; ids always come."""

    DOCUMENT = "document"
    METADATA = "metadata"
    URI = "uri"
    VECTOR = "vector"


@dataclass(frozen=True, slots=True, eq=False)
class DeviceBlock:
    """Vectors that are on a device as well, bit for bit what the host has.

    first    where the first of them is: its place in a batch, or its row
    vectors  [n, dim] float32, a contiguous tensor of torch
    ready    the moment of the device from which on they are there; None for now
    """

    first: int
    vectors: Any
    ready: Any = None

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True)
class Note:
    """Some bytes that a write keeps under a name beside the records, committed in the same moment as they are.

    name      1 to 256 characters
    value     what is to be there; None removes it
    expected  what is there now, None for nothing: if it is anything else, nothing of the batch is written and NoteChanged is raised
    """

    name: str
    value: bytes | None
    expected: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RecordBatch:
    """n records as columns. A column that is None was not given, or not asked for; the others have length n.

    resident  some of ``vectors`` as devices have them, ascending and apart: what a store does not need to know, and an index may use
    note      what is to be kept of a job in the moment in which the records are committed; a batch may have a note and no records
    """

    ids: list[str]
    vectors: Vectors | None = None
    documents: Sequence[str | None] | None = None
    metadatas: Sequence[Metadata | None] | None = None
    uris: Sequence[str | None] | None = None
    resident: Sequence[DeviceBlock] = ()
    note: Note | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """The nearest rows of each query, best first; equal distances in the order of their rows.

    rows       [q, k] uint32; NO_ROW past counts[i]
    distances  [q, k] float32, ascending; +inf past counts[i]
    counts     [q] int32: how many places of each query are filled
    exact      every query's answer is proved to equal brute force
    guard      how an approximate answer was checked ("passed", "widened", "exact"), or None
    """

    rows: Rows
    distances: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int32]
    exact: bool = True
    guard: str | None = None

    @classmethod
    def empty(cls, n_queries: int, k: int = 0) -> Hits:
        """No hit for any query: rows [q, k] all NO_ROW."""
        return cls(
            np.full((n_queries, k), NO_ROW, np.uint32),
            np.full((n_queries, k), np.inf, np.float32),
            np.zeros(n_queries, np.int32),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """What happened to a table after a sequence number, all transactions together.

    seq       the sequence number reached
    first, stop  rows [first, stop) were appended (some of them may be dead again)
    dead      rows that left the table
    touched   rows whose metadata or document was rewritten in place (some of them may be dead)
    """

    seq: int
    first: int
    stop: int
    dead: Rows = field(default_factory=lambda: np.empty(0, np.uint32))
    touched: Rows = field(default_factory=lambda: np.empty(0, np.uint32))


class VectorSource(Protocol):
    """Where the vectors of a table can be read. Rows never change, so no lock is needed to read below ``len``."""

    dim: int

    def __len__(self) -> int:
        """How many rows can be read."""
        ...

    def block(self, start: int, stop: int) -> Vectors:
        """Rows [start, stop), as a view where that is possible. Read-only."""
        ...

    def gather(self, rows: Rows) -> Vectors:
        """[len(rows), dim] float32 copy, in the order of rows."""
        ...
