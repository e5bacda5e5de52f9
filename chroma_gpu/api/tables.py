"""Results are dictionaries that can also be seen, and taken on, as tables: one row for each record."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from chroma_gpu.errors import MissingDependency
from chroma_gpu.records import SparseVector

if TYPE_CHECKING:
    import pandas
    import pyarrow

SHOWN_ROWS: Final = 50
"""Rows of a table in a notebook; the number of the others is said."""
SHOWN_CHARACTERS: Final = 200
"""Characters of a value in a notebook."""


class Table(dict[str, Any]):
    """A result: a plain dictionary of columns, equal to one with the same keys and values, with ways to a table.

    A subclass says whether its columns are nested, one list for each query, and what the columns are called.
    """

    nested: ClassVar[bool]
    column_names: ClassVar[Mapping[str, str]]
    """From a key of the dictionary to the name of the table's column, in order."""

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each record: ``query`` (its number, where there can be several), ``id``, and the columns that were asked for.

        metadata is a dict in each row, embedding an array. Raises MissingDependency without pandas.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingDependency("pandas is not installed.", hint="pip install pandas") from error
        return pandas.DataFrame(
            {name: pandas.Series(list(column), dtype=_DTYPES.get(name, "object")) for name, column in self._columns()}
        )

    def to_arrow(self) -> pyarrow.Table:
        """The rows of ``to_pandas`` in Arrow's memory.

        embedding  a list of float32 for each record, the values that are stored
        metadata   JSON text, since the types under one key may differ between records; sparse vectors in their JSON form
        data       left out: what a loader gives has no type of its own
        Raises     MissingDependency without pyarrow
        """
        try:
            import pyarrow
        except ImportError as error:
            raise MissingDependency("pyarrow is not installed.", hint="pip install pyarrow") from error
        types = {
            "query": pyarrow.int64(),
            "id": pyarrow.string(),
            "document": pyarrow.string(),
            "uri": pyarrow.string(),
            "metadata": pyarrow.string(),
            "embedding": pyarrow.list_(pyarrow.float32()),
            "distance": pyarrow.float64(),
            "score": pyarrow.float64(),
        }
        return pyarrow.table(
            {
                name: pyarrow.array([_plain(name, value) for value in column], type=types[name])
                for name, column in self._columns()
                if name in types
            }
        )

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        columns = self._columns()
        total = len(columns[-1][1]) if columns else 0
        head = "".join(f"<th>{name}</th>" for name, _ in columns)
        rows = zip(*(column[:SHOWN_ROWS] for _, column in columns), strict=True)
        body = "".join(f"<tr>{''.join(f'<td>{_shown(value)}</td>' for value in row)}</tr>" for row in rows)
        more = f"<caption>{total - SHOWN_ROWS:,} more records</caption>" if total > SHOWN_ROWS else ""
        return f"<table>{more}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _columns(self) -> list[tuple[str, Sequence[Any]]]:
        """The columns that are there, by name, all of one length."""
        ids = self.get("ids") or []
        if not self.nested:
            there = [(name, self[key]) for key, name in self.column_names.items() if self.get(key) is not None]
            return [(name, column) for name, column in there if len(column) == len(ids)]
        columns: list[tuple[str, Sequence[Any]]] = [("query", [query for query, found in enumerate(ids) for _ in found])]
        for key, name in self.column_names.items():
            parts = self.get(key)
            if parts is None or all(part is None for part in parts):
                continue
            columns.append((name, [value for found, part in zip(ids, parts, strict=True) for value in _filled(part, len(found))]))
        return columns


_DTYPES: Final = {"query": "int64", "distance": "float64", "score": "float64"}


def _filled(part: Any, count: int) -> Iterable[Any]:
    """One query's values; where it did not ask for the column, None for each record."""
    return [None] * count if part is None else part


def _plain(name: str, value: Any) -> Any:
    """The value as Arrow takes it."""
    if value is None:
        return None
    if name == "metadata":
        return json.dumps(value, default=SparseVector.to_dict)
    return np.asarray(value, dtype=np.float32) if name == "embedding" else value


def _shown(value: Any) -> str:
    """The value as escaped text, long ones cut."""
    if value is None:
        return ""
    if isinstance(value, np.ndarray):
        text = f"{value.size} numbers" if value.ndim == 1 else f"array {value.shape}"
    elif isinstance(value, dict):
        text = ", ".join(f"{key}: {each}" for key, each in value.items())
    elif isinstance(value, float):
        text = f"{value:.6g}"
    else:
        text = str(value)
    return html.escape(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …")
