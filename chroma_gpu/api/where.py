"""From Chroma's ``where`` and ``where_document`` dictionaries to a filter expression.

Three steps, each over the whole dictionary: ``check_size`` bounds the work before anything recurses, ``validate_where`` raises what
Chroma's Python client raises, and what is built after that raises what Chroma's engine raises.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Final

from chroma_gpu.errors import InvalidArgumentError, InvalidFilter
from chroma_gpu.filter import DOCUMENT_OPERATORS, OPERATORS, And, Expr, InIds, Or

MAX_DEPTH: Final = 64
"""How many $and and $or may stand inside each other."""

MAX_CLAUSES: Final = 2_000
"""Conditions, conjunctions and disjunctions a filter may have."""

MAX_VALUES: Final = 100_000
"""Values a list such as that of $in may have."""


def parse_where(where: Any, *, lenient: bool = False) -> Expr:
    """The condition that a ``where`` dictionary means.

    lenient  take what Chroma's server takes and its Python client does not: one or no child in $and and $or, $regex on #document
    Raises   InvalidFilter or InvalidArgumentError; ValueError where Chroma's Python client raises it
    """
    if lenient:
        check_size(where)
    else:
        validate_where(where)
    return _where(where)


def parse_where_document(where_document: Any, *, lenient: bool = False) -> Expr:
    """The condition that a ``where_document`` dictionary means.  lenient and Raises as in ``parse_where``."""
    if lenient:
        check_size(where_document)
    else:
        validate_where_document(where_document)
    return _where_document(where_document)


def check_size(where: Any) -> None:
    """Raises InvalidFilter for a filter that is too deep or too large.  Walks without recursion, and not beyond the limits."""
    clauses, level = 1, [where]
    for _ in range(2 * MAX_DEPTH + 3):  # each $and is a dict and a list, {"key": {"$in": [1]}} two dicts and a list
        inner: list[Any] = []
        for value in level:
            if not isinstance(value, dict | list | tuple):
                continue
            if len(value) > MAX_VALUES:
                raise InvalidFilter(f"a filter has a list of {len(value)} values, of {MAX_VALUES} at most.")
            nested = [each for each in _values(value) if isinstance(each, dict | list | tuple)]
            # What is alone under a key is the other half of a clause; the rest are clauses, or nonsense that counts as such.
            clauses += len(nested) - (isinstance(value, dict) and len(nested) > 0)
            if clauses > MAX_CLAUSES:
                raise InvalidFilter(f"a filter has more than {MAX_CLAUSES} clauses.", hint="$in takes many values in one clause.")
            inner += nested
        level = inner
    if level:
        raise InvalidFilter(f"a filter is nested deeper than {MAX_DEPTH} levels.", hint="Write it flatter.")


def validate_where(where: Any) -> None:
    """What Chroma's Python client checks of a ``where``.  Raises ValueError, or InvalidFilter beyond the limits."""
    check_size(where)
    _validate_where(where)


def validate_where_document(where_document: Any) -> None:
    """What Chroma's Python client checks of a ``where_document``.  Raises ValueError, or InvalidFilter beyond the limits."""
    check_size(where_document)
    _validate_where_document(where_document)


_BRANCHES: Final[Mapping[Any, Callable[[tuple[Expr, ...]], Expr]]] = {"$and": And, "$or": Or}
_ARRAY_TOKENS: Final = ("$contains", "$not_contains")
_TOKENS: Final = ("$gt", "$gte", "$lt", "$lte", "$ne", "$eq", "$in", "$nin", *_ARRAY_TOKENS)
_DOCUMENT_TOKENS: Final = (*_ARRAY_TOKENS, "$regex", "$not_regex", *_BRANCHES)
_OPERANDS: Final[Mapping[Any, tuple[type | UnionType, str]]] = {
    **dict.fromkeys(("$gt", "$gte", "$lt", "$lte"), (int | float, "an int or a float")),
    **dict.fromkeys(("$in", "$nin"), (list, "an list")),
    **dict.fromkeys(_ARRAY_TOKENS, (str | int | float | bool, "a str, int, float, or bool")),
}
"""Which operands Chroma's client takes, in its words."""


def _validate_where(where: Any) -> None:
    _expect(isinstance(where, dict), "where to be a dict, got", where)
    _expect(len(where) == 1, "where to have exactly one operator, got", where)
    [(key, value)] = where.items()
    _expect(isinstance(key, str), "where key to be a str, got", key)
    _expect(key not in _ARRAY_TOKENS, "where key to be a metadata field name or a logical operator ($and, $or), got", key)
    if key in _BRANCHES:
        _expect(isinstance(value, list), "where value for $and or $or to be a list of where expressions, got", value)
        _expect(len(value) > 1, "where value for $and or $or to be a list with at least two where expressions, got", value)
        for child in value:
            _validate_where(child)
    elif isinstance(value, dict):
        _validate_condition(key, value)
    elif key not in ("$in", "$nin"):
        _expect(isinstance(value, str | int | float), "where value to be a str, int, float, or operator expression, got", value)


def _validate_condition(key: str, condition: dict[Any, Any]) -> None:
    _expect(len(condition) == 1, "operator expression to have exactly one operator, got", condition)
    [(token, operand)] = condition.items()
    if key == "#document" and token in _ARRAY_TOKENS:
        _expect(isinstance(operand, str), f"operand value to be a str for operator {token} on #document, got", operand)
    taken, words = _OPERANDS.get(token, (object, ""))
    _expect(isinstance(operand, taken), f"operand value to be {words} for operator {token}, got", operand)
    _expect(token in _TOKENS, f"where operator to be one of {', '.join(_TOKENS)}, got", token)
    if isinstance(operand, list):
        alike = len(operand) > 0 and all(isinstance(value, type(operand[0])) for value in operand)
        _expect(alike, "where operand value to be a non-empty list, and all values to be of the same type got", operand)
    else:
        scalar = isinstance(operand, str | int | float)
        _expect(scalar, "where operand value to be a str, int, float, bool, or list of those type, got", operand)


def _validate_where_document(where_document: Any) -> None:
    _expect(isinstance(where_document, dict), "where document to be a dictionary, got", where_document)
    _expect(len(where_document) == 1, "where document to have exactly one operator, got", where_document)
    [(token, operand)] = where_document.items()
    _expect(token in _DOCUMENT_TOKENS, f"where document operator to be one of {', '.join(_DOCUMENT_TOKENS)}, got", token)
    if token in _BRANCHES:
        whole = "document value for $and or $or to be a list"
        _expect(isinstance(operand, list), f"{whole} of where document expressions, got", operand)
        _expect(len(operand) > 1, f"{whole} with at least two where document expressions, got", operand)
        for child in operand:
            _validate_where_document(child)
    else:
        _expect(isinstance(operand, str), f"where document operand value for operator {token} to be a str, got", operand)
        _expect(len(operand) > 0, f"where document operand value for operator {token} to be a non-empty str")


def _expect(holds: bool, expectation: str, *got: Any) -> None:
    if not holds:
        raise ValueError(" ".join(["Expected", expectation, *map(str, got)]))


def _where(where: Any) -> Expr:
    key, value = _only_item(where, "Invalid where clause")
    if key in _BRANCHES:
        return _BRANCHES[key](tuple(_where(child) for child in _children(value, "Invalid where clause")))
    token, operand = _only_item(value, "Invalid where clause") if isinstance(value, dict) else ("$eq", value)
    if key == "#document" and token in DOCUMENT_OPERATORS:
        return _document(token, operand, "Invalid where clause")
    values = operand if isinstance(operand, list) else [operand]
    if key == "#id":
        return _ids(token, operand)
    if key == "#document" and any(isinstance(each, str) for each in values):
        raise InvalidArgumentError(
            "Cannot filter using metadata key '#document' with type 'Str' because indexing is disabled",
            hint="Use $contains or $regex.",
        )
    operator = OPERATORS.get(token)
    if not isinstance(key, str) or key.startswith("$") or operator is None:
        raise InvalidFilter("Invalid where clause", hint=f"{key!r}: {token!r} is no condition on a key.")
    if not operator.accepts(operand) or not _encodable(key, *values):
        raise InvalidFilter("Invalid where clause", hint=f"{token} of {key!r} cannot take {reprlib.repr(operand)}.")
    return operator(key, tuple(operand) if isinstance(operand, list) else operand)


def _where_document(where_document: Any) -> Expr:
    token, operand = _only_item(where_document, "Invalid where document clause")
    if token in _BRANCHES:
        return _BRANCHES[token](tuple(_where_document(child) for child in _children(operand, "Invalid where document clause")))
    return _document(token, operand, "Invalid where document clause")


def _ids(token: Any, operand: Any) -> Expr:
    ids = operand if isinstance(operand, list | tuple) else (operand,)
    several = token in ("$in", "$nin")
    known = several or token in ("$eq", "$ne")
    if not known or several is (ids is not operand) or not all(isinstance(each, str) for each in ids) or not _encodable(*ids):
        raise InvalidFilter("Invalid where clause", hint="#id takes $eq and $ne with an id, $in and $nin with a list of ids.")
    return InIds(tuple(ids), others=token in ("$ne", "$nin"))


def _document(token: Any, operand: Any, message: str) -> Expr:
    operator = DOCUMENT_OPERATORS.get(token)
    if operator is None or not isinstance(operand, str) or not _encodable(operand):
        raise InvalidFilter(message, hint=f"{token!r} cannot take {reprlib.repr(operand)}.")
    return operator(operand)


def _only_item(clause: Any, message: str) -> tuple[Any, Any]:
    if not isinstance(clause, dict) or len(clause) != 1:
        raise InvalidFilter(message, hint=f"A clause is a dict of one item, got {reprlib.repr(clause)}.")
    [item] = clause.items()
    return item


def _children(value: Any, message: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidFilter(message, hint=f"$and and $or take a list of clauses, got {reprlib.repr(value)}.")
    return value


def _encodable(*values: Any) -> bool:
    """Whether every text is Unicode: lone surrogates cannot be stored, so nothing can equal them."""
    try:
        "".join(value for value in values if isinstance(value, str)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _values(container: Any) -> Any:
    return container.values() if isinstance(container, dict) else container
