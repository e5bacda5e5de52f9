"""The conditions on metadata, one class each.

An operator knows its token in Chroma's grammar, which operands it takes, what it means for one record (``matches``, the plain
reference) and how to find all its rows at once (``rows``). Ints and floats are compared by their exact values.
"""

# ruff: noqa: S105 - a token is a word of the grammar here

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, TypeVar

from chroma_gpu.filter.column import Bounds
from chroma_gpu.filter.view import Lookup
from chroma_gpu.records import Metadata
from chroma_gpu.rowset import RowSet
from chroma_gpu.values import Kind, Scalar, stored

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Operator(ABC, Generic[T]):
    """A condition on the metadata value under one field. Equal conditions have operands of equal type.

    negated  it passes rows that do not have the field
    guess    which share of the field's values is found if nothing is known of them
    """

    token: ClassVar[str]
    negated: ClassVar[bool] = False
    guess: ClassVar[float] = 0.1

    field: str
    operand: T

    @staticmethod
    @abstractmethod
    def accepts(operand: object) -> bool:
        """Whether the operator is defined for an operand; a list of values counts as one operand."""

    @abstractmethod
    def matches(self, metadata: Metadata | None) -> bool:
        """Whether one record passes."""

    @abstractmethod
    def rows(self, columns: Lookup) -> RowSet:
        """The rows of [0, columns.size) that pass, rows without metadata included."""

    def share(self, columns: Lookup) -> float:
        """About which share of the rows passes, guessed from how many have a value."""
        found = self.guess * min(1.0, columns.count(self.field) / max(1, columns.size))
        return 1.0 - found if self.negated else found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Operator) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        values = self.operand if isinstance(self.operand, tuple) else (self.operand,)
        return type(self), self.field, values, tuple(map(type, values))


class Eq(Operator[Scalar]):
    """The scalar equals the operand."""

    __slots__ = ()
    token = "$eq"

    @staticmethod
    def accepts(operand: object) -> bool:
        return _kind(operand) is not None

    def matches(self, metadata: Metadata | None) -> bool:
        return _equal(_value(metadata, self.field), self.operand)

    def rows(self, columns: Lookup) -> RowSet:
        return columns.equal(self.field, self.operand)


class Ne(Eq):
    """Not ``Eq``: records without the field, and values of another type, pass."""

    __slots__ = ()
    token = "$ne"
    negated = True

    def matches(self, metadata: Metadata | None) -> bool:
        return not super().matches(metadata)

    def rows(self, columns: Lookup) -> RowSet:
        return ~super().rows(columns)


class Comparison(Operator[int | float]):
    """A bound on an int or float."""

    __slots__ = ()
    guess = 0.4

    @staticmethod
    def accepts(operand: object) -> bool:
        return _kind(operand) in (Kind.INT, Kind.FLOAT)

    def matches(self, metadata: Metadata | None) -> bool:
        value = _value(metadata, self.field)
        return isinstance(value, int | float) and not isinstance(value, bool) and self._holds(value)

    def rows(self, columns: Lookup) -> RowSet:
        return columns.between_all([(self.field, self.bounds)])

    @property
    @abstractmethod
    def bounds(self) -> Bounds:
        """Between which a number passes."""

    @abstractmethod
    def _holds(self, value: int | float) -> bool: ...


class Gt(Comparison):
    """The number is greater than the operand."""

    __slots__ = ()
    token = "$gt"

    @property
    def bounds(self) -> Bounds:
        return self.operand, None, False, False

    def _holds(self, value: int | float) -> bool:
        return value > self.operand


class Gte(Comparison):
    """The number is greater than the operand or equals it."""

    __slots__ = ()
    token = "$gte"

    @property
    def bounds(self) -> Bounds:
        return self.operand, None, True, False

    def _holds(self, value: int | float) -> bool:
        return value >= self.operand


class Lt(Comparison):
    """The number is less than the operand."""

    __slots__ = ()
    token = "$lt"

    @property
    def bounds(self) -> Bounds:
        return None, self.operand, False, False

    def _holds(self, value: int | float) -> bool:
        return value < self.operand


class Lte(Comparison):
    """The number is less than the operand or equals it."""

    __slots__ = ()
    token = "$lte"

    @property
    def bounds(self) -> Bounds:
        return None, self.operand, False, True

    def _holds(self, value: int | float) -> bool:
        return value <= self.operand


class In(Operator[tuple[Scalar, ...]]):
    """The scalar equals one of the operand's values."""

    __slots__ = ()
    token = "$in"

    @staticmethod
    def accepts(operand: object) -> bool:
        if not isinstance(operand, list | tuple):
            return False
        kinds = set(map(_kind, operand))
        return len(kinds) == 1 and None not in kinds

    def matches(self, metadata: Metadata | None) -> bool:
        value = _value(metadata, self.field)
        return any(_equal(value, wanted) for wanted in self.operand)

    def rows(self, columns: Lookup) -> RowSet:
        return columns.among(self.field, self.operand)


class NotIn(In):
    """Not ``In``: records without the field, and values of another type, pass."""

    __slots__ = ()
    token = "$nin"
    negated = True

    def matches(self, metadata: Metadata | None) -> bool:
        return not super().matches(metadata)

    def rows(self, columns: Lookup) -> RowSet:
        return ~super().rows(columns)


class Contains(Operator[Scalar]):
    """The array has an element of the operand's very type that equals it."""

    __slots__ = ()
    token = "$contains"

    @staticmethod
    def accepts(operand: object) -> bool:
        return _kind(operand) is not None

    def matches(self, metadata: Metadata | None) -> bool:
        array = (metadata or {}).get(self.field)
        return isinstance(array, list) and stored(self.operand) in map(stored, array)

    def rows(self, columns: Lookup) -> RowSet:
        return columns.containing(self.field, self.operand)


class NotContains(Contains):
    """Not ``Contains``: records without the field, and scalars, pass."""

    __slots__ = ()
    token = "$not_contains"
    negated = True

    def matches(self, metadata: Metadata | None) -> bool:
        return not super().matches(metadata)

    def rows(self, columns: Lookup) -> RowSet:
        return ~super().rows(columns)


OPERATORS: Final[Mapping[str, type[Operator[Any]]]] = {
    operator.token: operator for operator in (Eq, Ne, Gt, Gte, Lt, Lte, In, NotIn, Contains, NotContains)
}
"""Every operator on metadata by its token. A new operator is its class and its place here."""


def _kind(operand: object) -> Kind | None:
    """The type of an operand; None for what no metadata value equals: other types, NaN, the infinities."""
    if isinstance(operand, float) and not math.isfinite(operand):
        return None
    if isinstance(operand, int) and not isinstance(operand, bool):
        return Kind.INT
    known = stored(operand)
    return known[0] if known else None


def _value(metadata: Metadata | None, field: str) -> Scalar | None:
    """The scalar under a field as it is stored; None for an array, or where there is none."""
    known = stored((metadata or {}).get(field))
    return known[1] if known else None


def _equal(value: Scalar | None, operand: Scalar) -> bool:
    if isinstance(value, bool) or isinstance(operand, bool):
        return isinstance(value, bool) and isinstance(operand, bool) and value == operand
    return value == operand
