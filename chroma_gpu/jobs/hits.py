"""Files of hits: a line for each query as JSON, or a row for each hit as parquet or CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from chroma_gpu.errors import InvalidArgumentError, MissingDependency
from chroma_gpu.jobs.replaced import replaced
from chroma_gpu.records import SparseVector

if TYPE_CHECKING:
    import pyarrow

INCLUDED: Final = {"distances": "distance", "documents": "document", "uris": "uri", "metadatas": "metadata"}
"""From what a query may include to the column of a hit."""

GROUP: Final = 1 << 18
"""Hits of a row group."""

Answer: TypeAlias = Mapping[str, Sequence[Any]]
"""Of one query: "ids" and what is included, from the nearest on."""


class Hits(Protocol):
    """What answers are written to."""

    def add(self, query: str, answer: Answer) -> None:
        """The answer of the next query. Raises OSError."""
        ...


def check(out: str, include: Sequence[str]) -> None:
    """Raises InvalidArgumentError, MissingDependency for what ``opened`` cannot make."""
    for each in include:
        if each not in INCLUDED:
            raise InvalidArgumentError(f"hits cannot include {each!r}.", hint=f"There are {', '.join(INCLUDED)}.")
    if out == "-":
        return
    ending = Path(out).suffix.lower()
    if ending not in _FORMS:
        raise InvalidArgumentError(f"{out}: hits are written to {', '.join(_FORMS)}, or to - as JSON lines.")
    if ending == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise MissingDependency("pyarrow is not installed.", hint="pip install pyarrow, or write .jsonl") from error


@contextmanager
def opened(out: str, include: Sequence[str]) -> Iterator[Hits]:
    """Hits in a file that takes its name when the block ends without an exception; "-" is standard output, as JSON lines at once.

    .jsonl, .ndjson   an object for each query: query_id, ids, and each of ``include``
    .parquet          a row for each hit: query_id, rank from 1, id, and the columns of ``include``; metadata is JSON
    .csv, .tsv        the same as text
    Raises            OSError
    """
    if out == "-":
        yield _Lines(sys.stdout)
        sys.stdout.flush()
        return
    with replaced(out) as part, _FORMS[Path(out).suffix.lower()](part, include) as hits:
        yield hits


class _Lines:
    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def add(self, query: str, answer: Answer) -> None:
        line = json.dumps({"query_id": query, **answer}, ensure_ascii=False, default=SparseVector.to_dict)
        self._file.write(f"{line}\n")


class _Rows:
    """Values between commas or tabs."""

    def __init__(self, file: IO[str], include: Sequence[str], delimiter: str) -> None:
        self._writer = csv.writer(file, delimiter=delimiter)
        self._include = include
        self._writer.writerow(["query_id", "rank", "id", *(INCLUDED[each] for each in include)])

    def add(self, query: str, answer: Answer) -> None:
        for rank, (id, *values) in enumerate(_rows(answer, self._include), 1):
            self._writer.writerow([query, rank, id, *values])


class _Groups:
    """Row groups of a parquet file."""

    def __init__(self, path: Path, include: Sequence[str]) -> None:
        import pyarrow
        from pyarrow import parquet

        types = {"distances": pyarrow.float32()}
        fields = [("query_id", pyarrow.string()), ("rank", pyarrow.int32()), ("id", pyarrow.string())]
        fields += [(INCLUDED[each], types.get(each, pyarrow.string())) for each in include]
        self._schema: pyarrow.Schema = pyarrow.schema(fields)
        self._include = include
        self._file: Any = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._columns: list[list[Any]] = [[] for _ in self._schema]

    def add(self, query: str, answer: Answer) -> None:
        count = len(answer["ids"])
        values = zip(*_rows(answer, self._include), strict=True) if count else ()
        for column, more in zip(self._columns, ([query] * count, range(1, count + 1), *values), strict=count > 0):
            column.extend(more)
        if len(self._columns[0]) >= GROUP:
            self._flush()

    def close(self, *, whole: bool) -> None:
        if whole:
            self._flush()
        self._file.close()

    def _flush(self) -> None:
        import pyarrow

        if self._columns[0]:
            arrays = [pyarrow.array(column, field.type) for column, field in zip(self._columns, self._schema, strict=True)]
            self._file.write_table(pyarrow.Table.from_arrays(arrays, schema=self._schema), row_group_size=GROUP)
            self._columns = [[] for _ in self._schema]


@contextmanager
def _jsonl(path: Path, include: Sequence[str]) -> Iterator[Hits]:
    with path.open("w", encoding="utf-8") as file:
        yield _Lines(file)


@contextmanager
def _csv(path: Path, include: Sequence[str], delimiter: str = ",") -> Iterator[Hits]:
    with path.open("w", encoding="utf-8", newline="") as file:
        yield _Rows(file, include, delimiter)


@contextmanager
def _tsv(path: Path, include: Sequence[str]) -> Iterator[Hits]:
    with _csv(path, include, "\t") as hits:
        yield hits


@contextmanager
def _parquet(path: Path, include: Sequence[str]) -> Iterator[Hits]:
    groups, whole = _Groups(path, include), False
    try:
        yield groups
        whole = True
    finally:
        groups.close(whole=whole)


_FORMS: Final = {".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet, ".csv": _csv, ".tsv": _tsv}


def _rows(answer: Answer, include: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """(id, each of ``include``) of each hit; metadata as JSON."""
    columns = [answer["ids"], *(map(_json, answer[each]) if each == "metadatas" else answer[each] for each in include)]
    return zip(*columns, strict=True)


def _json(metadata: Any) -> str | None:
    return None if metadata is None else json.dumps(metadata, ensure_ascii=False, default=SparseVector.to_dict)
