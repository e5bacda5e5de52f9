"""What every part of a search has: its JSON form, equality by that form, and checks in Chroma's words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from types import UnionType
from typing import Any, TypeVar

from chroma_gpu.errors import InvalidArgumentError

T = TypeVar("T")


class Expression(ABC):
    """A value that is equal to another of its class with the same JSON form."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, Expression):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


def check_size(expression: Expression, depth: int, parts: int) -> None:
    """Raises InvalidArgumentError for an expression that is too deep or too large.  Walks without recursion, and not beyond the limits."""
    _check(expression, _inner_expressions, depth, parts)


def check_json_size(data: Any, depth: int, parts: int) -> None:
    """``check_size`` of a JSON form, before it is parsed. What no expression can be is left to the parser.

    An expression takes at most two containers a level and three more for its operand, and six in all.
    """
    _check(data, _inner_containers, 2 * depth + 3, 6 * parts)


def _inner_expressions(expression: Expression) -> Iterator[Expression]:
    values = chain.from_iterable(value if isinstance(value, (list, tuple)) else (value,) for value in vars(expression).values())
    return (value for value in values if isinstance(value, Expression))


def _inner_containers(container: Any) -> Iterator[Any]:
    values = container.values() if isinstance(container, dict) else container if isinstance(container, (list, tuple)) else ()
    return (value for value in values if isinstance(value, (dict, list, tuple)))


def _check(whole: T, inner: Callable[[T], Iterator[T]], depth: int, parts: int) -> None:
    seen, level = 1, [whole]
    for _ in range(depth):
        level = list(islice(chain.from_iterable(map(inner, level)), parts - seen + 1))
        seen += len(level)
        if seen > parts:
            raise InvalidArgumentError(f"an expression has more than {parts} parts.", hint="Ask for less in one search.")
        if not level:
            return
    raise InvalidArgumentError(f"an expression is nested deeper than {depth} levels.", hint="Write it flatter.")


def expect(value: Any, kinds: type | UnionType | tuple[type, ...], expectation: str) -> None:
    """Raises TypeError, "<expectation>, got <type>", for a value of another type."""
    if not isinstance(value, kinds):
        raise TypeError(f"{expectation}, got {type(value).__name__}")


def only_item(data: Any, of: str) -> tuple[str, Any]:
    """The one operator of a JSON form and what it is applied to. Raises TypeError, ValueError."""
    expect(data, dict, f"Expected dict for {of}")
    if not data:
        raise ValueError(f"{of} dict cannot be empty")
    if len(data) != 1:
        raise ValueError(f"{of} dict must contain exactly one operator, got {len(data)}")
    [(token, operand)] = data.items()
    return token, operand


def refuse_others(data: Mapping[str, Any], known: set[str], of: str) -> None:
    """Raises ValueError for keys that the JSON form does not have."""
    unexpected = set(data) - known
    if unexpected:
        raise ValueError(f"Unexpected keys in {of} dict: {unexpected}")
