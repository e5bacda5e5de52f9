"""How records are ranked: an expression tree over nearest-neighbour searches, and the groups an answer is cut into.

Scores are like distances: smaller is better. What is computed is float64; the scores of an answer are rounded once to float32, and
its order is (score, row), with nan after every number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.records import Hits, Metadata, Rows, SparseVector, Vectors
from chroma_gpu.values import Kind, stored

Scores: TypeAlias = npt.NDArray[np.float64]


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
    idf    weigh each index of the query by ln((n - df + 0.5) / (df + 0.5) + 1), as BM25 does; n counts the live records of the table,
           df those that have the index, whatever the filter is
    The rest as in ``Near``.
    """

    query: SparseVector
    field: str
    limit: int
    idf: bool = False
    default: float | None = None
    ranked: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class TextNear:
    """The records whose documents are most about the words of a text; those that share none with it are not found.

    Score is 1 - BM25, see ``index.fulltext``; how rare words and how long documents are is counted over the live records of the
    table, whatever the filter is.
    The rest as in ``Near``.
    """

    query: str
    limit: int
    default: float | None = None
    ranked: bool = False


@dataclass(frozen=True, slots=True)
class Constant:
    """The same score for every record that another operand found; it finds none itself."""

    value: float


@dataclass(frozen=True, slots=True, eq=False)
class Apply:
    """An operation on the scores of its operands.

    name      "sum", "product", "minimum", "maximum" of one or more; "difference", "quotient" of two; "absolute", "exponential",
              "logarithm" of one
    """

    name: str
    operands: tuple[Rank, ...]


Leaf: TypeAlias = Near | SparseNear | TextNear
"""What searches."""

Rank: TypeAlias = Leaf | Constant | Apply


@dataclass(frozen=True, slots=True)
class Groups:
    """Cut the answer into groups of records with equal metadata values and keep the best few of each.

    Values are equal if their types are: 1, 1.0 and True are three groups. Records that lack a field are a group of their own.
    Types are ordered: none, bool, int, float, str, sparse vector, array.

    fields   metadata keys whose values together name the group, one or more
    keep     how many records of each group stay
    by       what they are ordered by: metadata keys, or None for the score; the first that differs decides, and then the ranking
    largest  keep those with the largest values instead of the smallest
    """

    fields: tuple[str, ...]
    keep: int
    by: tuple[str | None, ...]
    largest: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What a tree says of each record.

    rows     [n] uint32, ascending: those that were found
    scores   [n] float64
    default  the score of every record that was not found; None if those have no place in the answer
    """

    rows: Rows
    scores: Scores
    default: float | None


def evaluate(rank: Rank, search: Callable[[Leaf], Hits]) -> Scored:
    """The scores of a tree; ``search`` answers a leaf and is asked once for each, also where it occurs several times.

    A leaf scores what it found. An operation scores the records that all its operands without default found; if each operand has a
    default, those that any of them found, and it has then the default which the operation makes of theirs. A constant has found
    nothing and is its own default, so that a tree of constants alone finds nothing. Only what was found is in an answer.
    Numbers follow IEEE 754: x / 0 is inf, -inf or nan, the logarithm of 0 is -inf, of less nan. "minimum" and "maximum" pass nan over.

    Raises   InvalidArgumentError for an operation that does not exist, or not for so many operands; before anything is searched
    Cost     O(records found) for each node
    """
    nodes = _inner_first(rank)
    for node in nodes:
        if isinstance(node, Apply):
            _check(node)
    values: dict[int, Scored] = {}
    with np.errstate(all="ignore"):
        for node in nodes:
            if isinstance(node, Constant):
                values[id(node)] = Scored(np.empty(0, np.uint32), np.empty(0), node.value)
            elif isinstance(node, Apply):
                values[id(node)] = _applied(node.name, [values[id(operand)] for operand in node.operands])
            else:
                values[id(node)] = _leaf(node, search(node))
    return values[id(rank)]


def leaves(rank: Rank | None) -> list[Leaf]:
    """The searches of a tree, in the order in which ``evaluate`` asks for them."""
    return [] if rank is None else [node for node in _inner_first(rank) if isinstance(node, Leaf)]


def ordered(scored: Scored) -> tuple[Rows, npt.NDArray[np.float32]]:
    """The rows that were found, best first, and their scores rounded to float32; equal scores by row, nan last."""
    with np.errstate(over="ignore"):
        scores = scored.scores.astype(np.float32)
    order = np.lexsort((scored.rows, scores))
    return scored.rows[order], scores[order]


def grouped(groups: Groups, metadatas: Sequence[Metadata | None], scores: npt.NDArray[np.float32] | None) -> npt.NDArray[np.intp]:
    """Which places of an answer stay, ascending.

    metadatas  of each place, best place first
    scores     of each place; None where nothing was ranked: ordering by it changes nothing then
    """
    members: dict[tuple[_Key, ...], list[int]] = {}
    for place, metadata in enumerate(metadatas):
        members.setdefault(tuple(_key((metadata or {}).get(field)) for field in groups.fields), []).append(place)

    def by(place: int) -> tuple[_Key, ...]:
        metadata = metadatas[place] or {}
        score = None if scores is None else scores[place].item()
        return tuple(_score_key(score, groups.largest) if field is None else _key(metadata.get(field)) for field in groups.by)

    stay = [place for places in members.values() for place in sorted(places, key=by, reverse=groups.largest)[: groups.keep]]
    return np.array(sorted(stay), np.intp)


def _inner_first(rank: Rank) -> list[Rank]:
    """The distinct nodes of a tree, operands before what is made of them."""
    nodes: list[Rank] = []
    seen: set[int] = set()
    todo = [(rank, False)]
    while todo:
        node, entered = todo.pop()
        if entered:
            nodes.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            todo.append((node, True))
            if isinstance(node, Apply):
                todo += [(operand, False) for operand in reversed(node.operands)]
    return nodes


def _check(node: Apply) -> None:
    if node.name not in _OPERANDS:
        raise InvalidArgumentError(f"scores have no operation {node.name!r}; there are {', '.join(_OPERANDS)}.")
    wanted, n = _OPERANDS[node.name], len(node.operands)
    if n != wanted and (wanted is not None or n == 0):
        raise InvalidArgumentError(f"{node.name} takes {'at least 1' if wanted is None else wanted} operands, not {n}.")


def _leaf(leaf: Leaf, hits: Hits) -> Scored:
    n = int(hits.counts[0])
    rows = hits.rows[0, :n]
    scores = np.arange(n, dtype=np.float64) if leaf.ranked else hits.distances[0, :n].astype(np.float64)
    order = np.argsort(rows)
    return Scored(rows[order], scores[order], leaf.default)


def _applied(name: str, operands: Sequence[Scored]) -> Scored:
    strict = [operand.rows for operand in operands if operand.default is None]
    rows = reduce(_both, strict) if strict else reduce(np.union1d, (operand.rows for operand in operands))
    scores = _computed(name, [_aligned(operand, rows) for operand in operands])
    if strict:
        return Scored(rows, scores, None)
    default = _computed(name, [np.array([operand.default], np.float64) for operand in operands])
    return Scored(rows, scores, float(default[0]))


def _both(left: Rows, right: Rows) -> Rows:
    return np.intersect1d(left, right, assume_unique=True)


def _aligned(operand: Scored, rows: Rows) -> Scores:
    """[len(rows)] float64: the score of each row, the default where the operand did not find it."""
    if np.array_equal(operand.rows, rows):
        return operand.scores
    scores = np.full(len(rows), math.nan if operand.default is None else operand.default)
    if len(operand.rows):
        places = np.minimum(np.searchsorted(operand.rows, rows), len(operand.rows) - 1)
        found = operand.rows[places] == rows
        scores[found] = operand.scores[places[found]]
    return scores


def _computed(name: str, operands: Sequence[Scores]) -> Scores:
    if name in _UNARY:
        return _UNARY[name](operands[0])
    return reduce(_BINARY[name], operands)


_Key: TypeAlias = tuple[Any, ...]

_UNARY: Final[Mapping[str, Callable[[Scores], Scores]]] = {"absolute": np.abs, "exponential": np.exp, "logarithm": np.log}
_BINARY: Final[Mapping[str, Callable[[Scores, Scores], Scores]]] = {
    "sum": np.add,
    "product": np.multiply,
    "minimum": np.fmin,
    "maximum": np.fmax,
    "difference": np.subtract,
    "quotient": np.divide,
}
# How many operands an operation takes; None: one or more.
_OPERANDS: Final[Mapping[str, int | None]] = {
    **dict.fromkeys(("sum", "product", "minimum", "maximum")),
    **dict.fromkeys(("difference", "quotient"), 2),
    **dict.fromkeys(_UNARY, 1),
}
_KINDS: Final = {Kind.BOOL: 1, Kind.INT: 2, Kind.FLOAT: 3, Kind.STR: 4}


def _key(value: object) -> _Key:
    """A metadata value as what it is grouped and ordered by: its type, and then itself."""
    if isinstance(value, list):
        return 6, tuple(_key(element) for element in value)
    if isinstance(value, SparseVector):
        return 5, tuple(value.indices), tuple(value.values), tuple(value.labels or ())
    known = stored(value)
    return (0,) if known is None else (_KINDS[known[0]], known[1])


def _score_key(score: float | None, largest: bool) -> _Key:
    """A score as what it is ordered by; nan is worse than every number, whichever end is kept."""
    if score is None:
        return (0,)
    return (2 * (not largest),) if math.isnan(score) else (1, score)
