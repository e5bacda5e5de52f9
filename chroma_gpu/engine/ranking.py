"""How records are ranked: an expression tree over nearest-neighbour searches, and the groups an answer is cut into.

Scores are like distances: smaller is better. A nearest-neighbour leaf scores only the records it found; what an operation does with
a record that one of its operands did not score is said at ``evaluate``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from chroma_gpu.records import SparseVector, Vectors


@dataclass(frozen=True, slots=True, eq=False)
class Near:
    """The nearest records of one vector among those that pass the filter.

    query    [dim] float32
    limit    how many are found
    default  the score of all others; None leaves them out
    ranked   score by position 0, 1, 2, ... instead of distance
    """

    query: Vectors
    limit: int
    default: float | None = None
    ranked: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class SparseNear:
    """The records whose sparse vector in metadata has the largest inner product with the query; those that share no index are not found.

    field  the metadata key; score is 1 - inner product
    idf    weigh each index of the query by ln((n - df + 0.5) / (df + 0.5) + 1), as BM25 does
    The rest as in ``Near``.
    """

    query: SparseVector
    field: str
    limit: int
    idf: bool = False
    default: float | None = None
    ranked: bool = False


@dataclass(frozen=True, slots=True)
class Constant:
    """The same score for every record that another operand scores."""

    value: float


@dataclass(frozen=True, slots=True, eq=False)
class Apply:
    """An operation on the scores of its operands.

    name      "sum", "product", "minimum", "maximum" of one or more; "difference", "quotient" of two; "absolute", "exponential",
              "logarithm" of one
    """

    name: str
    operands: tuple[Rank, ...]


Rank: TypeAlias = Near | SparseNear | Constant | Apply


@dataclass(frozen=True, slots=True)
class Groups:
    """Cut the answer into groups of records with equal metadata values and keep the best few of each.

    fields   metadata keys whose values together name the group
    keep     how many records of each group stay
    by       what they are ordered by: metadata keys, or None for the score; the first that differs decides
    largest  keep those with the largest values instead of the smallest
    """

    fields: tuple[str, ...]
    keep: int
    by: tuple[str | None, ...]
    largest: bool = False
