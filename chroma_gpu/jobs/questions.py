"""The queries of a file: a text or a vector each, an id, and filters of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from chroma_gpu.api.models.CollectionReads import expression
from chroma_gpu.errors import ChromaError, DimensionMismatch
from chroma_gpu.jobs import inputs
from chroma_gpu.jobs.inputs import Input
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.readers import files
from chroma_gpu.jobs.rows import BadRow, Cursor, Row, Stage
from chroma_gpu.records import Vectors

ID_COLUMNS: Final = ("query_id", "id", "_id")
TEXT_COLUMNS: Final = ("text", "query", "question")
VECTOR_COLUMNS: Final = ("vector", "embedding")
"""Where ids, texts and vectors are looked for if no column is named."""

_TABLES: Final = ("parquet", "arrow", "hf")
_EMPTY: Final = (None, "")
"""What an id or a vector is in a row of text that has none."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One query.

    row     as it was read
    text    what is asked, or None where there is ``vector``, [dim] float32
    where, where_document  filters that hold for this query alone
    """

    row: Row
    id: str
    text: str | None = None
    vector: Vectors | None = None
    where: dict[str, Any] | None = None
    where_document: dict[str, Any] | None = None


@dataclass(slots=True, kw_only=True)
class Columns:
    """Which columns hold what; None is the first one of the usual names that a row has.

    dim  numbers of a vector; None is as many as the first one has
    """

    id: str | None = None
    text: str | None = None
    vector: str | None = None
    dim: int | None = None


def read(sources: Sequence[Input], options: EmbedOptions, columns: Columns) -> Iterator[Question | BadRow]:
    """The queries of some inputs in order; one that cannot be asked is a bad row. Every line of a .txt file that is not blank is one."""
    for source, row in _rows(sources, options):
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            yield question(row, columns, table=source.format in _TABLES)
        except (ChromaError, ValueError, TypeError) as error:
            yield bad(row, error)


def bad(row: Row, error: Exception, stage: Stage = Stage.READ) -> BadRow:
    """A query that cannot be answered."""
    return BadRow(row.source, row.number, row.after, stage, type(error).__name__, str(error), None, row.fields)


def question(row: Row, columns: Columns, *, table: bool = False) -> Question:
    """The query of a row. Where it has a text and a vector, the vector counts, as in ``Collection.query``.

    table   whether objects have all keys of their column, and None where a row did not have one
    Raises ValueError, TypeError and InvalidArgumentError for what cannot be asked.
    """
    fields = row.fields
    name = _column(fields, columns.id, ID_COLUMNS, _EMPTY)
    id = str(row.number) if name is None else _id(fields[name], name)
    own = [_filter(fields.get(name), name, table) for name in ("where", "where_document")]
    expression(*own)
    name = None
    if columns.vector is not None or columns.text is None:
        name = _column(fields, columns.vector, VECTOR_COLUMNS, _EMPTY)
    if name is not None:
        return Question(row, id, None, _vector(fields[name], name, columns), *own)
    name = _column(fields, columns.text, TEXT_COLUMNS)
    if name is None:
        raise ValueError(f"there is no text among {', '.join(map(repr, fields))}; name its column with --text-column")
    text = fields[name]
    if not isinstance(text, str):
        raise TypeError(f"a query is a text, and {name!r} is a {type(text).__name__}")
    text.encode()
    return Question(row, id, text, None, *own)


def _rows(sources: Sequence[Input], options: EmbedOptions) -> Iterator[tuple[Input, Row | BadRow]]:
    for place, source in enumerate(sources):
        if source.format != "txt":
            for row in inputs.rows([source], options):
                yield source, row
            continue
        with files.lines(source, options.encodings, None) as text:
            for number, raw in enumerate(text.lines, 1):
                after = Cursor(place, number)
                try:
                    line = files.decoded(raw, text.encodings).rstrip("\r\n")
                except UnicodeError as error:
                    told = files.shown(raw)
                    yield source, BadRow(source.name, number, after, Stage.READ, type(error).__name__, str(error), None, told)
                    continue
                if line.strip():
                    yield source, Row(source.name, number, Cursor(place, number - 1), after, {"text": line})


def _column(
    fields: Mapping[str, Any], named: str | None, usual: Sequence[str], empty: Sequence[str | None] = (None,)
) -> str | None:
    """The column to take, none whose value is ``empty``. Raises ValueError if one is named that is not there."""
    if named is None:
        return next((name for name in usual if not _is_empty(fields.get(name), empty)), None)
    if _is_empty(fields.get(named), empty):
        raise ValueError(f"there is nothing in column {named!r}")
    return named


def _is_empty(value: Any, empty: Sequence[str | None]) -> bool:
    return (value is None or isinstance(value, str)) and value in empty


def _id(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"an id is a text or an int, and {name!r} is a {type(value).__name__}")
    return str(value)


def _vector(value: Any, name: str, columns: Columns) -> Vectors:
    """The vector of a field, or of the JSON in it."""
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, list | tuple | np.ndarray):
        raise TypeError(f"a vector is a list of numbers, and {name!r} is a {type(value).__name__}")
    given = np.asarray(value)
    if given.dtype.kind not in "iuf":
        raise TypeError(f"{name!r} is no list of numbers")
    with np.errstate(over="ignore"):
        vector = given.astype(np.float32)
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        raise ValueError(f"{name!r} is no vector of finite numbers")
    columns.dim = columns.dim or len(vector)
    if len(vector) != columns.dim:
        raise DimensionMismatch(f"Collection expecting embedding with dimension of {columns.dim}, got {len(vector)}")
    return vector


def _filter(value: Any, name: str, table: bool) -> dict[str, Any] | None:
    """A filter, or the JSON of one; empty is none."""
    if isinstance(value, str) and value.strip():
        value, table = json.loads(value), False
    if value is None or value in ({}, ""):
        return None
    if not isinstance(value, dict):
        raise TypeError(f"a filter is a JSON object, and {name!r} is a {type(value).__name__}")
    pruned: dict[str, Any] = _pruned(value) if table else value
    return pruned or None


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pruned(each) for key, each in value.items() if each is not None}
    return [_pruned(each) for each in value] if isinstance(value, list) else value
