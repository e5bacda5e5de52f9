"""The expression tree, what it means for one record, and what evaluating a node of it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from sys import getsizeof
from typing import Any, Final, Protocol, TypeAlias, Union

from chroma_gpu.errors import InvalidFilter
from chroma_gpu.filter.documents import DocumentOperator, Texts
from chroma_gpu.filter.operators import Operator
from chroma_gpu.records import Metadata, Rows
from chroma_gpu.rowset import RowSet

MAX_DEPTH: Final = 128
"""How many conjunctions and disjunctions may stand inside each other: evaluation recurses, so it must not be given more."""


@dataclass(frozen=True, slots=True)
class And:
    """Rows that pass every child; all rows if there is none."""

    children: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Rows that pass a child; no row if there is none."""

    children: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class InRows:
    """The given rows: what a caller knows already, such as the rows of a list of ids."""

    rows: RowSet


@dataclass(frozen=True, slots=True)
class InIds:
    """The records with the given ids; with ``others``, all but these. Ids that nobody has are no error."""

    ids: tuple[str, ...]
    others: bool = False


Expr: TypeAlias = Union[And, Or, InRows, InIds, Operator[Any], DocumentOperator]  # noqa: UP007


class Records(Texts, Protocol):
    """Where the documents of a table can be read, and the rows of ids."""

    def rows_of(self, ids: Sequence[str]) -> Rows:
        """[len(ids)] uint32; NO_ROW for an id that nobody has."""
        ...


class How(StrEnum):
    """How the rows that pass a condition were found.

    index     postings and numbers of the inverted index; rows it does not know yet from their metadata
    columns   the metadata of every row, in memory
    grams     candidates from the three-byte strings in documents, then the texts of those
    scan      the texts of all rows that were asked about
    given     rows and ids that the caller named
    combined  the steps of the conditions inside
    kept      from an evaluation of the same condition of the same state
    device    columns of metadata on the device where the vectors are; rows that the inverted index does not know yet from their metadata
    """

    INDEX = "index"
    COLUMNS = "columns"
    GRAMS = "grams"
    SCAN = "scan"
    GIVEN = "given"
    COMBINED = "combined"
    KEPT = "kept"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Step:
    """What evaluating one node did.

    asked, passed  how many rows it was asked about, and how many of them pass
    read           how many documents were read for it
    seconds        its time, that of the nodes inside it included
    how            how the rows were found; why: for a scan, why there was no better way
    """

    expr: Expr
    asked: int
    passed: int
    read: int
    seconds: float
    how: How = How.COMBINED
    why: str | None = None


def matches(expr: Expr, row: int, metadata: Metadata | None, document: bytes | None, id: str = "") -> bool:
    """Whether one record passes: the plain meaning of a tree, which ``evaluate`` finds for all rows at once."""
    match expr:
        case And(children):
            return all(matches(child, row, metadata, document, id) for child in children)
        case Or(children):
            return any(matches(child, row, metadata, document, id) for child in children)
        case InRows(rows):
            return row in rows
        case InIds(ids, others):
            return (id in ids) != others
        case DocumentOperator():
            return expr.matches(document)
        case Operator():
            return expr.matches(metadata)


def to_dict(expr: Expr) -> dict[str, Any]:
    """The tree in Chroma's grammar, to be shown. Given rows become ``{"#rows": how many}``."""
    match expr:
        case And(children):
            return {"$and": [to_dict(child) for child in children]}
        case Or(children):
            return {"$or": [to_dict(child) for child in children]}
        case InRows(rows):
            return {"#rows": len(rows)}
        case InIds(ids, others):
            return {"#id": {"$nin" if others else "$in": list(ids)}}
        case DocumentOperator():
            return {"#document": {expr.token: expr.operand}}
        case Operator():
            return {expr.field: {expr.token: list(expr.operand) if isinstance(expr.operand, tuple) else expr.operand}}


def nbytes(expr: Expr) -> int:
    """About the bytes that a tree, and a step for each of its nodes, hold in memory."""
    if isinstance(expr, And | Or):
        return _NODE + sum(map(nbytes, expr.children))
    if isinstance(expr, InRows):
        return _NODE + expr.rows.words.nbytes
    operand = expr.ids if isinstance(expr, InIds) else expr.operand
    return _NODE + sum(map(getsizeof, operand if isinstance(operand, tuple) else (operand,)))


_NODE: Final = 400


def only_documents(expr: Expr) -> bool:
    """Whether a tree is about documents and nothing else."""
    if isinstance(expr, And | Or):
        return bool(expr.children) and all(map(only_documents, expr.children))
    return isinstance(expr, DocumentOperator)


def documents(expr: Expr) -> int:
    """How many conditions on documents a tree has."""
    if isinstance(expr, And | Or):
        return sum(map(documents, expr.children))
    return int(isinstance(expr, DocumentOperator))


def check_depth(expr: Expr) -> None:
    """Raises InvalidFilter for a tree deeper than MAX_DEPTH."""
    level = [expr]
    for _ in range(MAX_DEPTH + 1):
        level = [child for node in level if isinstance(node, And | Or) for child in node.children]
        if not level:
            return
    raise InvalidFilter(f"a filter is nested deeper than {MAX_DEPTH} levels.", hint="Write it flatter.")
