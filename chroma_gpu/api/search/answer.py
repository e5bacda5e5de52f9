"""From a ``Search`` to what the engine is asked, and from its answer to a ``SearchResult``."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from chroma_gpu.api import where
from chroma_gpu.api.search import ranks
from chroma_gpu.api.search.conditions import name_of
from chroma_gpu.api.search.expression import Expression, check_size, expect
from chroma_gpu.api.search.plan import GroupBy, Limit, Search, Select
from chroma_gpu.api.types import SearchResult
from chroma_gpu.engine import ranking
from chroma_gpu.engine.explain import Explanation
from chroma_gpu.engine.ranked import Question, Ranked
from chroma_gpu.engine.table import Table
from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.filter import Expr
from chroma_gpu.records import Column, Metadata, RecordBatch, SparseVector
from chroma_gpu.values import nearest_float

SparseSettings = Callable[[str], tuple[bool, bool]]
"""Of a metadata key: whether it has a sparse index, and whether that weighs as BM25 does."""

_COLUMNS: Final = {"#document": Column.DOCUMENT, "#embedding": Column.VECTOR, "#metadata": Column.METADATA}
_OPERATIONS: Final[Mapping[type[ranks.Rank], str]] = {
    ranks.Sum: "sum",
    ranks.Mul: "product",
    ranks.Max: "maximum",
    ranks.Min: "minimum",
    ranks.Sub: "difference",
    ranks.Div: "quotient",
    ranks.Abs: "absolute",
    ranks.Exp: "exponential",
    ranks.Log: "logarithm",
}
_MOST: Final = 2**31 - 1


def embedded(search: Search, embed: Callable[[str, str], Any]) -> Search:
    """The same search with a vector in place of every text but those for #document; ``embed(text, key)`` makes it.

    Raises  TypeError for what is no Search, InvalidArgumentError for too large an expression, and what embed raises
    """
    expect(search, Search, "Expected searches to be Search objects")

    def change(knn: ranks.Knn) -> ranks.Rank:
        if not isinstance(knn.query, str) or name_of(knn.key) == "#document":
            return knn
        return replace(knn, query=embed(knn.query, name_of(knn.key)))

    if search._rank is None:
        return search
    _check_size(search._rank)
    return search.rank(search._rank.mapped(change))


def asks_for_words(search: Search) -> bool:
    """Whether a search ranks by the words of documents."""
    found = False

    def look(knn: ranks.Knn) -> ranks.Rank:
        nonlocal found
        found = found or (isinstance(knn.query, str) and name_of(knn.key) == "#document")
        return knn

    if search._rank is not None:
        search._rank.mapped(look)
    return found


def answered(searches: Sequence[Search], table: Table, sparse: SparseSettings) -> SearchResult:
    """The answers of searches without texts. All of them are checked before the first is run; all see one state of the table.

    Raises  TypeError, ValueError, InvalidArgumentError, InvalidFilter, DimensionMismatch
    """
    questions, selected = [], []
    for each in searches:
        question, select = _question(each, sparse)
        questions.append(question)
        selected.append(select)
    columns = [_by_name(*each) for each in zip(selected, table.rank(questions), strict=True)]
    names = ("ids", "documents", "embeddings", "metadatas", "scores", "select")
    return SearchResult({name: [each[name] for each in columns] for name in names})


def explained(search: Search, table: Table, sparse: SparseSettings) -> Explanation:
    """How a search without texts is answered. Raises as ``answered`` does."""
    question, _ = _question(search, sparse)
    (found,) = table.rank([question])
    return table.explained(found)


def condition(search: Search) -> Expr | None:
    """The filter of a search; None if it has none. Raises InvalidFilter, InvalidArgumentError."""
    if search._where is None:
        return None
    _check_size(search._where)
    return where.parse_where(search._where.to_dict(), lenient=True)


def _question(search: Search, sparse: SparseSettings) -> tuple[Question, tuple[str, ...]]:
    """What a search without texts asks of the engine, and the names of the keys it selects, sorted.

    Every part is read again from its JSON form, so that what was made without checks is checked here, in Chroma's words.
    Raises  TypeError, ValueError, InvalidArgumentError, InvalidFilter
    """
    expr = condition(search)
    if search._rank is not None:
        _check_size(search._rank)
    said = search.to_dict()
    page = Limit.from_dict(said["limit"])
    rank = None if said["rank"] is None else _rank(ranks.parsed(said["rank"]), sparse)
    groups = _groups(search._group_by)
    select = tuple(sorted(Select.from_dict(said["select"]).to_dict()["keys"]))
    columns = {_COLUMNS.get(name, None if name.startswith("#") else Column.METADATA) for name in select}
    asked = frozenset(column for column in columns if column is not None)
    return Question(rank, expr, asked, groups=groups, limit=page.limit, offset=page.offset), select


def _check_size(part: Expression) -> None:
    check_size(part, where.MAX_DEPTH, where.MAX_CLAUSES)


def _rank(rank: ranks.Rank, sparse: SparseSettings) -> ranking.Rank:
    if isinstance(rank, ranks.Val):
        return ranking.Constant(_number("$val", rank.value))
    if isinstance(rank, ranks.Knn):
        return _leaf(rank, sparse)
    said = vars(rank)
    operands = said.get("ranks") or list(said.values())
    return ranking.Apply(_OPERATIONS[type(rank)], tuple(_rank(each, sparse) for each in operands))


def _leaf(knn: ranks.Knn, sparse: SparseSettings) -> ranking.Rank:
    key, limit = name_of(knn.key), min(knn.limit, _MOST)
    default = None if knn.default is None else _number("$knn default", knn.default)
    if isinstance(knn.query, str):
        return ranking.TextNear(knn.query, limit, default, knn.return_rank)
    if not isinstance(knn.query, SparseVector):
        if key != "#embedding":
            raise InvalidArgumentError(
                f"$knn has a dense query for the key '{key}'.",
                hint="Dense vectors are in #embedding; metadata keys hold sparse ones.",
            )
        return ranking.Near(knn.query, limit, default, knn.return_rank)
    exists, idf = (False, False) if key.startswith("#") else sparse(key)
    if not exists:
        raise InvalidArgumentError(
            f"Cannot filter using metadata key '{key}' with type 'SparseVector' because indexing is disabled",
            hint="Create the collection with a schema that has a SparseVectorIndexConfig for this key.",
        )
    return ranking.SparseNear(knn.query, key, limit, idf, default, knn.return_rank)


def _number(name: str, value: Any) -> float:
    number = nearest_float(value) if isinstance(value, int | float) else math.nan
    if not math.isfinite(number):
        raise InvalidArgumentError(f"{name} must be a finite number, got {reprlib.repr(value)}")
    return number


def _groups(group_by: GroupBy) -> ranking.Groups | None:
    said = group_by.to_dict()
    if not said:
        if group_by.keys or group_by.aggregate is not None:
            raise InvalidArgumentError(
                "Validation error: group_by: group_by keys and aggregate must both be specified or both be omitted"
            )
        return None
    said = GroupBy.from_dict(said).to_dict()
    [(token, aggregate)] = said["aggregate"].items()
    if any(key.startswith("#") for key in said["keys"]):
        raise InvalidArgumentError(
            "Validation error: group_by: group_by keys must be metadata fields (cannot use #score, #document, #embedding, or #metadata)"
        )
    if any(key.startswith("#") and key != "#score" for key in aggregate["keys"]):
        raise InvalidArgumentError("Validation error: group_by: aggregate keys must be metadata fields or #score")
    by = tuple(None if key == "#score" else key for key in aggregate["keys"])
    return ranking.Groups(tuple(said["keys"]), aggregate["k"], by, largest=token == "$max_k")  # noqa: S105


def _by_name(select: tuple[str, ...], found: Ranked) -> dict[str, Any]:
    """One search's part of each column; None for what it did not select."""
    records, n = found.records, len(found.records)
    scores: list[Any] = [None] * n if found.scores is None else found.scores.tolist()
    fields = frozenset(name for name in select if not name.startswith("#"))
    return {
        "ids": records.ids,
        "documents": list(records.documents or ()) if "#document" in select else None,
        "embeddings": _embeddings(records) if "#embedding" in select else None,
        "metadatas": _metadatas(records, None if "#metadata" in select else fields),
        "scores": scores if "#score" in select else None,
        "select": list(select),
    }


def _embeddings(records: RecordBatch) -> list[list[float]]:
    return [] if records.vectors is None else cast(list[list[float]], records.vectors.tolist())


def _metadatas(records: RecordBatch, fields: frozenset[str] | None) -> list[Metadata | None] | None:
    """All of the metadata, or some fields of it; None where nothing is left."""
    if fields is None:
        return [metadata or None for metadata in records.metadatas or ()]
    if not fields:
        return None
    return [{key: value for key, value in (each or {}).items() if key in fields} or None for each in records.metadatas or ()]
