"""Conditions on records, and ``Key``, which makes them: ``(K("year") >= 2020) & K.DOCUMENT.contains("bridge")``."""

# ruff: noqa: S105 - a token is a word of the grammar here

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, ClassVar, Final, TypeAlias

from chroma_gpu.api.search.expression import Expression, check_json_size, expect
from chroma_gpu.api.where import MAX_CLAUSES, MAX_DEPTH

Literal: TypeAlias = str | int | float | bool


class Where(Expression):
    """A condition; ``&`` and ``|`` join conditions, without nesting what is joined already."""

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Where:
        """The condition that a dictionary means. Raises TypeError, ValueError, InvalidArgumentError for one that is too large."""
        check_json_size(data, MAX_DEPTH, MAX_CLAUSES)
        return _where(data)

    def __and__(self, other: Where) -> And:
        return And(_parts((self, other), And))

    def __or__(self, other: Where) -> Or:
        return Or(_parts((self, other), Or))


@dataclass(eq=False)
class _Branch(Where):
    token: ClassVar[str]

    conditions: list[Where]

    def to_dict(self) -> dict[str, Any]:
        return {self.token: [each.to_dict() for each in self.conditions]}


class And(_Branch):
    """Every condition holds."""

    token = "$and"


class Or(_Branch):
    """A condition holds."""

    token = "$or"


@dataclass(eq=False)
class _Condition(Where):
    token: ClassVar[str]

    key: str

    def to_dict(self) -> dict[str, Any]:
        [operand] = (value for name, value in vars(self).items() if name != "key")
        return {self.key: {self.token: operand}}


@dataclass(eq=False)
class _OfValue(_Condition):
    value: Any


@dataclass(eq=False)
class _OfValues(_Condition):
    values: list[Any]


@dataclass(eq=False)
class _OfPattern(_Condition):
    pattern: str


class Eq(_OfValue):
    """The value equals."""

    token = "$eq"


class Ne(_OfValue):
    """The value does not equal, or is missing."""

    token = "$ne"


class Gt(_OfValue):
    """The number is greater."""

    token = "$gt"


class Gte(_OfValue):
    """The number is greater or equal."""

    token = "$gte"


class Lt(_OfValue):
    """The number is less."""

    token = "$lt"


class Lte(_OfValue):
    """The number is less or equal."""

    token = "$lte"


class In(_OfValues):
    """The value is one of these."""

    token = "$in"


class Nin(_OfValues):
    """The value is none of these, or is missing."""

    token = "$nin"


class Contains(_OfValue):
    """The document contains the text, or the array the value."""

    token = "$contains"


class NotContains(_OfValue):
    """Not ``Contains``."""

    token = "$not_contains"


class Regex(_OfPattern):
    """The pattern matches somewhere in the document."""

    token = "$regex"


class NotRegex(_OfPattern):
    """Not ``Regex``."""

    token = "$not_regex"


class Key:
    """What a condition, a ranking or a selection looks at: a metadata key, or one of ID, DOCUMENT, EMBEDDING, METADATA, SCORE.

    Comparing a key makes a condition: ``Key("year") == 2020`` is no bool.
    """

    ID: ClassVar[Key]
    DOCUMENT: ClassVar[Key]
    EMBEDDING: ClassVar[Key]
    METADATA: ClassVar[Key]
    SCORE: ClassVar[Key]

    def __init__(self, name: str) -> None:
        self.name = name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Key({self.name!r})"

    def __eq__(self, value: Any) -> Eq:  # type: ignore[override]
        return Eq(self.name, value)

    def __ne__(self, value: Any) -> Ne:  # type: ignore[override]
        return Ne(self.name, value)

    def __gt__(self, value: Any) -> Gt:
        return Gt(self.name, value)

    def __ge__(self, value: Any) -> Gte:
        return Gte(self.name, value)

    def __lt__(self, value: Any) -> Lt:
        return Lt(self.name, value)

    def __le__(self, value: Any) -> Lte:
        return Lte(self.name, value)

    def is_in(self, values: list[Any]) -> In:
        """The value is one of these."""
        return In(self.name, values)

    def not_in(self, values: list[Any]) -> Nin:
        """The value is none of these, or is missing."""
        return Nin(self.name, values)

    def contains(self, value: Literal) -> Contains:
        """The document contains the text, or the array under a metadata key contains the value. Raises TypeError."""
        self._expect_text(value, Contains.token)
        return Contains(self.name, value)

    def not_contains(self, value: Literal) -> NotContains:
        """Not ``contains``. Raises TypeError."""
        self._expect_text(value, NotContains.token)
        return NotContains(self.name, value)

    def regex(self, pattern: str) -> Regex:
        """The pattern matches somewhere in the document."""
        return Regex(self.name, pattern)

    def not_regex(self, pattern: str) -> NotRegex:
        """Not ``regex``."""
        return NotRegex(self.name, pattern)

    def _expect_text(self, value: Any, token: str) -> None:
        if self.name == "#document" and not isinstance(value, str):
            raise TypeError(f"{token} on #document requires a string pattern")


Key.ID, Key.DOCUMENT, Key.EMBEDDING = Key("#id"), Key("#document"), Key("#embedding")
Key.METADATA, Key.SCORE = Key("#metadata"), Key("#score")
K = Key


def name_of(key: Key | str) -> str:
    """The name of a key that was given either way."""
    return key.name if isinstance(key, Key) else key


_MAKERS: Final[Mapping[str, Callable[[Key, Any], Where]]] = {
    Eq.token: Key.__eq__,
    Ne.token: Key.__ne__,
    Gt.token: Key.__gt__,
    Gte.token: Key.__ge__,
    Lt.token: Key.__lt__,
    Lte.token: Key.__le__,
    In.token: Key.is_in,
    Nin.token: Key.not_in,
    Contains.token: Key.contains,
    NotContains.token: Key.not_contains,
    Regex.token: Key.regex,
    NotRegex.token: Key.not_regex,
}
_OPERANDS: Final[Mapping[str, tuple[type | UnionType, str]]] = {
    **dict.fromkeys((In.token, Nin.token), (list, "a list")),
    **dict.fromkeys((Contains.token, NotContains.token), (Literal, "a str, int, float, or bool")),
    **dict.fromkeys((Regex.token, NotRegex.token), (str, "a string pattern")),
}
"""Which operands are taken, and how that is said; the operators that are not here take any."""


def _where(data: Any) -> Where:
    expect(data, dict, "Expected dict for Where")
    if not data:
        raise ValueError("Where dict cannot be empty")
    for branch in (And, Or):
        if branch.token in data:
            children = _children(data, branch.token)
            return children[0] if len(children) == 1 else branch(_parts(children, branch))
    if len(data) != 1:
        raise ValueError(f"Where dict must contain exactly one field, got {len(data)}")
    [(field, condition)] = data.items()
    expect(field, str, "Field name must be a string")
    return _condition(Key(field), condition)


def _children(data: dict[str, Any], token: str) -> list[Where]:
    expect(data[token], list, f"{token} must be a list")
    if not data[token]:
        raise ValueError(f"{token} requires at least one condition")
    if len(data) > 1:
        raise ValueError(f"{token} cannot be combined with other fields in the same dict")
    return [_where(each) for each in data[token]]


def _condition(key: Key, condition: Any) -> Where:
    if not isinstance(condition, dict):
        return Eq(key.name, condition)
    if not condition:
        raise ValueError(f"Operator dict for field '{key.name}' cannot be empty")
    if len(condition) != 1:
        raise ValueError(f"Operator dict for field '{key.name}' must contain exactly one operator")
    [(token, operand)] = condition.items()
    if token not in _MAKERS:
        raise ValueError(f"Unknown operator: {token}")
    kinds, words = _OPERANDS.get(token, (object, ""))
    expect(operand, kinds, f"{token} requires {words}")
    return _MAKERS[token](key, operand)


def _parts(conditions: Sequence[Where], branch: type[_Branch]) -> list[Where]:
    """What a branch of these conditions has: its own kind is not nested."""
    return [part for each in conditions for part in (each.conditions if isinstance(each, branch) else [each])]
