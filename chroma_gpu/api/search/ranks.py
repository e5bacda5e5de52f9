"""How records are scored: nearest-neighbour searches and constants, joined by arithmetic. Smaller scores are better."""

# ruff: noqa: S105 - a token is a word of the grammar here

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from numbers import Real
from operator import add
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

import numpy as np

from chroma_gpu.api import validate
from chroma_gpu.api.search.conditions import Key, name_of
from chroma_gpu.api.search.expression import Expression, check_json_size, expect, only_item
from chroma_gpu.api.where import MAX_CLAUSES, MAX_DEPTH
from chroma_gpu.records import SPARSE_VECTOR_TYPE, TYPE_KEY, SparseVector

Number: TypeAlias = float | int

NEIGHBOURS: Final = 16
"""How many records a ``Knn`` finds if nothing is said."""


class Rank(Expression):
    """A score for records. Arithmetic with ranks and numbers makes ranks: ``Knn(query) * 0.8 + Knn(other) * 0.2``."""

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Rank:
        """The ranking that a dictionary means. Raises TypeError, ValueError, InvalidArgumentError for one that is too large."""
        check_json_size(data, MAX_DEPTH, MAX_CLAUSES)
        return parsed(data)

    @abstractmethod
    def mapped(self, change: Callable[[Knn], Rank]) -> Rank:
        """The same expression with every nearest-neighbour search replaced."""

    def __add__(self, other: Rank | Number) -> Sum:
        return _joined(Sum, self, other)

    def __radd__(self, other: Number) -> Sum:
        return _joined(Sum, other, self)

    def __mul__(self, other: Rank | Number) -> Mul:
        return _joined(Mul, self, other)

    def __rmul__(self, other: Number) -> Mul:
        return _joined(Mul, other, self)

    def __sub__(self, other: Rank | Number) -> Sub:
        return Sub(self, _rank(other))

    def __rsub__(self, other: Number) -> Sub:
        return Sub(_rank(other), self)

    def __truediv__(self, other: Rank | Number) -> Div:
        return Div(self, _rank(other))

    def __rtruediv__(self, other: Number) -> Div:
        return Div(_rank(other), self)

    def __neg__(self) -> Mul:
        return Mul([Val(-1), self])

    def __abs__(self) -> Abs:
        return Abs(self)

    def abs(self) -> Abs:
        """The absolute value."""
        return Abs(self)

    def exp(self) -> Exp:
        """e to the power of the score."""
        return Exp(self)

    def log(self) -> Log:
        """The natural logarithm."""
        return Log(self)

    def max(self, other: Rank | Number) -> Max:
        """The larger of two scores."""
        return _joined(Max, self, other)

    def min(self, other: Rank | Number) -> Min:
        """The smaller of two scores."""
        return _joined(Min, self, other)


@dataclass(eq=False)
class Val(Rank):
    """The same score for every record that another operand scores."""

    value: Number

    def to_dict(self) -> dict[str, Any]:
        return {"$val": self.value}

    def mapped(self, change: Callable[[Knn], Rank]) -> Rank:
        return self


@dataclass(eq=False)
class Knn(Rank):
    """The distance of the nearest records to a query; records that are not among them have no score.

    query        a text, which is embedded when it is searched, but for #document; a dense vector; or a SparseVector
    key          #embedding; the metadata key that holds sparse vectors; or #document: records are ranked by what their documents have
                 to do with the words of the text, by BM25, and the distance is 1 - BM25. A server does not do that
    limit        how many records are found
    default      the score of records that another operand of the expression found and this one did not; None leaves them out
    return_rank  score by position 0, 1, 2, ... instead of distance
    """

    query: Any
    key: Key | str = Key.EMBEDDING
    limit: int = NEIGHBOURS
    default: float | None = None
    return_rank: bool = False

    def to_dict(self) -> dict[str, Any]:
        query = self.query
        if isinstance(query, SparseVector):
            query = query.to_dict()
        elif isinstance(query, np.ndarray):
            query = query.tolist()
        said = {"query": query, "key": name_of(self.key), "limit": self.limit}
        if self.default is not None:
            said["default"] = self.default
        if self.return_rank:
            said["return_rank"] = self.return_rank
        return {"$knn": said}

    def mapped(self, change: Callable[[Knn], Rank]) -> Rank:
        return change(self)


@dataclass(eq=False)
class _OfMany(Rank):
    token: ClassVar[str]

    ranks: list[Rank]

    def to_dict(self) -> dict[str, Any]:
        return {self.token: [each.to_dict() for each in self.ranks]}

    def mapped(self, change: Callable[[Knn], Rank]) -> Rank:
        return type(self)([each.mapped(change) for each in self.ranks])


class Sum(_OfMany):
    """The scores added."""

    token = "$sum"


class Mul(_OfMany):
    """The scores multiplied."""

    token = "$mul"


class Max(_OfMany):
    """The largest score."""

    token = "$max"


class Min(_OfMany):
    """The smallest score."""

    token = "$min"


@dataclass(eq=False)
class _OfTwo(Rank):
    token: ClassVar[str]

    left: Rank
    right: Rank

    def to_dict(self) -> dict[str, Any]:
        return {self.token: {"left": self.left.to_dict(), "right": self.right.to_dict()}}

    def mapped(self, change: Callable[[Knn], Rank]) -> Rank:
        return type(self)(self.left.mapped(change), self.right.mapped(change))


class Sub(_OfTwo):
    """The left score less the right."""

    token = "$sub"


class Div(_OfTwo):
    """The left score divided by the right."""

    token = "$div"


@dataclass(eq=False)
class _OfOne(Rank):
    token: ClassVar[str]

    rank: Rank

    def to_dict(self) -> dict[str, Any]:
        return {self.token: self.rank.to_dict()}

    def mapped(self, change: Callable[[Knn], Rank]) -> Rank:
        return type(self)(self.rank.mapped(change))


class Abs(_OfOne):
    """The absolute value."""

    token = "$abs"


class Exp(_OfOne):
    """e to the power of the score."""

    token = "$exp"


class Log(_OfOne):
    """The natural logarithm."""

    token = "$log"


@dataclass(eq=False)
class Rrf(Rank):
    """Reciprocal rank fusion: -sum(weight / (k + rank)) over the given ranks, which should be ``Knn(..., return_rank=True)``.

    weights    one for each rank, 1 if not given
    normalize  scale the weights so that they sum to 1
    Source: Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods", 2009.
    """

    ranks: list[Rank]
    k: int = 60
    weights: list[float] | None = None
    normalize: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The arithmetic it stands for. Raises ValueError for what cannot be fused."""
        if not self.ranks:
            raise ValueError("RRF requires at least one rank")
        if self.k <= 0:
            raise ValueError(f"k must be positive, got {self.k}")
        terms = [weight / (self.k + rank) for weight, rank in zip(self._weights(), self.ranks, strict=True)]
        return (-reduce(add, terms)).to_dict()

    def mapped(self, change: Callable[[Knn], Rank]) -> Rank:
        return replace(self, ranks=[each.mapped(change) for each in self.ranks])

    def _weights(self) -> list[float]:
        weights = [1.0] * len(self.ranks) if self.weights is None else self.weights
        if len(weights) != len(self.ranks):
            raise ValueError(f"Number of weights ({len(weights)}) must match number of ranks ({len(self.ranks)})")
        if any(weight < 0.0 for weight in weights):
            raise ValueError("All weights must be non-negative")
        if not self.normalize:
            return weights
        whole = sum(weights)
        if whole == 0:
            raise ValueError("Sum of weights must be positive when normalize=True")
        return [weight / whole for weight in weights]


Many = TypeVar("Many", bound=_OfMany)


def parsed(data: Any) -> Rank:
    """``Rank.from_dict`` of what is known to be no larger than it may be. Raises TypeError, ValueError."""
    token, operand = only_item(data, "Rank")
    if token not in _PARSERS:
        raise ValueError(f"Unknown rank operator: {token}")
    return _PARSERS[token](operand)


def _joined(kind: type[Many], *operands: Any) -> Many:
    """One operation on all operands; one that is this operation already is not nested."""
    ranks = map(_rank, operands)
    return kind([part for rank in ranks for part in (rank.ranks if isinstance(rank, kind) else [rank])])


def _rank(given: Any) -> Rank:
    """A rank, or a number as one. Raises TypeError for anything else."""
    if isinstance(given, Rank):
        return given
    expect(given, Real, "Expected a rank or a number")
    return Val(given if isinstance(given, int | float) else float(given))


def _parse_many(kind: type[_OfMany]) -> Callable[[Any], Rank]:
    def parse(operands: Any) -> Rank:
        expect(operands, (list, tuple), f"{kind.token} requires a list")
        if len(operands) < 2:
            raise ValueError(f"{kind.token} requires at least 2 ranks, got {len(operands)}")
        return _joined(kind, *map(parsed, operands))

    return parse


def _parse_two(kind: type[_OfTwo]) -> Callable[[Any], Rank]:
    def parse(operands: Any) -> Rank:
        expect(operands, dict, f"{kind.token} requires a dict with 'left' and 'right'")
        if "left" not in operands or "right" not in operands:
            raise ValueError(f"{kind.token} requires 'left' and 'right' fields")
        return kind(parsed(operands["left"]), parsed(operands["right"]))

    return parse


def _parse_one(kind: type[_OfOne]) -> Callable[[Any], Rank]:
    def parse(operand: Any) -> Rank:
        expect(operand, dict, f"{kind.token} requires a rank dict")
        return kind(parsed(operand))

    return parse


def _parse_val(value: Any) -> Rank:
    expect(value, int | float, "$val requires a number")
    return Val(value)


def _parse_knn(said: Any) -> Rank:
    expect(said, dict, "$knn requires a dict")
    if "query" not in said:
        raise ValueError("$knn requires 'query' field")
    key, limit, ranked = said.get("key", "#embedding"), said.get("limit", NEIGHBOURS), said.get("return_rank", False)
    query = said["query"] if key == "#document" and isinstance(said["query"], str) else _parse_query(said["query"])
    expect(key, str, "$knn key must be a string")
    expect(limit, int, "$knn limit must be an integer")
    if limit <= 0:
        raise ValueError(f"$knn limit must be positive, got {limit}")
    expect(ranked, bool, "$knn return_rank must be a boolean")
    return Knn(query, key, limit, said.get("default"), ranked)


def _parse_query(query: Any) -> Any:
    """A SparseVector, or one dense vector."""
    if isinstance(query, dict):
        if query.get(TYPE_KEY) != SPARSE_VECTOR_TYPE:
            raise ValueError(f"Expected dict with {TYPE_KEY}='{SPARSE_VECTOR_TYPE}', got {query}")
        return SparseVector.from_dict(query)
    expect(query, (list, tuple, np.ndarray), "$knn query must be a list, numpy array, or SparseVector dict")
    vectors = validate.as_arrays(query)
    if vectors is None or len(vectors) != 1:
        raise ValueError("$knn requires exactly one query embedding")
    return validate.as_vectors(vectors)[0]


_PARSERS: Final[Mapping[str, Callable[[Any], Rank]]] = {
    "$val": _parse_val,
    "$knn": _parse_knn,
    **{kind.token: _parse_one(kind) for kind in (Abs, Exp, Log)},
    **{kind.token: _parse_two(kind) for kind in (Sub, Div)},
    **{kind.token: _parse_many(kind) for kind in (Sum, Mul, Max, Min)},
}
"""How the operand of each operator is read."""
