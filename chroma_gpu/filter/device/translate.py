"""From an expression to a condition on columns: which columns it looks at, and the tree that ``kernels.predicate`` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from chroma_gpu.filter.column import Bounds, held_numbers, interval
from chroma_gpu.filter.expr import And, Expr, Or
from chroma_gpu.filter.operators import Comparison, Eq, In
from chroma_gpu.values import Kind, Scalar

if TYPE_CHECKING:
    from chroma_gpu.kernels.predicate import Test

ColumnKey: TypeAlias = tuple[str, Kind]
"""A field and the type of its scalars."""
Leaf: TypeAlias = Eq | Comparison | In

FieldTypes: TypeAlias = Mapping[str, Mapping[tuple[Kind | None, bool], int]]
"""By field and type, whether of arrays, how many values there are."""


def reads(expr: Expr, fields: FieldTypes) -> list[ColumnKey] | None:
    """The columns that each condition of a tree looks at, one after the other; None if it has one that columns cannot answer."""
    if isinstance(expr, And | Or):
        found: list[ColumnKey] = []
        for child in expr.children:
            more = reads(child, fields)
            if more is None:
                return None
            found += more
        return found
    if not isinstance(expr, Eq | Comparison | In):
        return None
    return [(expr.field, kind) for kind in _kinds(expr) if (kind, False) in fields.get(expr.field, ())]


def test_of(
    expr: Expr, places: Mapping[ColumnKey, int], fields: FieldTypes, codes: Callable[[ColumnKey, Sequence[Scalar]], list[int]]
) -> Test:
    """The tree over columns, for an expression that ``reads`` takes.

    places  of the columns
    codes   those of the strings, or bools, that a column has of some
    """
    from chroma_gpu.kernels.predicate import All, Any, Not

    if isinstance(expr, And | Or):
        children = tuple(test_of(child, places, fields, codes) for child in expr.children)
        return All(children) if isinstance(expr, And) else Any(children)
    if not isinstance(expr, Eq | Comparison | In):
        raise ValueError(f"columns cannot answer {expr}")
    keys = reads(expr, fields) or []
    found = [_test_of_column(expr, key, places[key], codes) for key in keys]
    test = found[0] if len(found) == 1 else Any(tuple(found))
    return Not(test) if expr.negated else test


def _kinds(leaf: Leaf) -> list[Kind]:
    """The types of values that a condition may find."""
    if isinstance(leaf, Comparison):
        return [Kind.INT, Kind.FLOAT]
    found = {
        Kind.BOOL: any(isinstance(value, bool) for value in _wanted(leaf)),
        Kind.STR: any(isinstance(value, str) for value in _wanted(leaf)),
        Kind.INT: (numbers := any(isinstance(value, int | float) and not isinstance(value, bool) for value in _wanted(leaf))),
        Kind.FLOAT: numbers,
    }
    return [kind for kind, has in found.items() if has]


def _wanted(leaf: Eq | In) -> tuple[Scalar, ...]:
    return leaf.operand if isinstance(leaf, In) else (leaf.operand,)


def _test_of_column(leaf: Leaf, key: ColumnKey, place: int, codes: Callable[[ColumnKey, Sequence[Scalar]], list[int]]) -> Test:
    """What the rows that a condition finds have in one column."""
    from chroma_gpu.kernels.predicate import Among, Any, Range

    kind = key[1]
    if isinstance(leaf, Comparison):
        return _range(kind, place, leaf.bounds)
    values = codes(key, _wanted(leaf)) if kind in (Kind.STR, Kind.BOOL) else held_numbers(kind, _wanted(leaf))
    held = tuple(dict.fromkeys(values))
    if not held:
        return Any(())
    if len(held) > 1:
        return Among(place, held)
    if kind in (Kind.STR, Kind.BOOL):
        return Range(place, held[0], held[0] + 1)
    return _range(kind, place, (held[0], held[0], True, True))


def _range(kind: Kind, place: int, bounds: Bounds) -> Test:
    from chroma_gpu.kernels.predicate import Any, Range

    ends = interval(kind, *bounds)
    return Any(()) if ends is None else Range(place, *ends)
