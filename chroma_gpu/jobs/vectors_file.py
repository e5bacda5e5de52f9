"""A collection as one parquet file: ids, vectors, documents, uris, and each metadata key in a column of its own type."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from chroma_gpu.api.backend import Records
from chroma_gpu.api.models.Collection import Collection
from chroma_gpu.errors import MissingDependency, StoreBusy
from chroma_gpu.jobs.replaced import replaced
from chroma_gpu.records import Column, Metadata, RecordBatch, SparseVector

if TYPE_CHECKING:
    import pyarrow

RESERVED: Final = ("id", "vector", "document", "uri")
"""The columns that every file has, in this order."""

KEY: Final = b"chroma_gpu"
"""Under which the file's own metadata tells what it is, as JSON."""

VERSION: Final = 1

GROUP_BYTES: Final = 64 << 20
"""Of a row group, about, in memory."""
GROUP_ROWS: Final = 1 << 16
PAGE_BYTES: Final = 16 << 20
"""Of the records that are read at once, about."""

ATTEMPTS: Final = 3
"""How often it is begun again because somebody wrote to the collection meanwhile."""

_Kinds: TypeAlias = dict[str, set[str]]
"""For each metadata key the kinds of its values, see _KeyColumn."""


def write(collection: Collection, path: str | os.PathLike[str], *, progress: Callable[[int, int], object] | None = None) -> int:
    """The records of a collection in a parquet file, in insertion order; how many there are.

    Columns: id string, vector fixed_size_list<float32>[dim], document string, uri string, then the metadata keys by name, as
    string, int64, double or bool, or as lists of these. A key with values of several types, or with sparse vectors, becomes a string
    column with each value as JSON. A key with the name of another column becomes ``metadata_<key>``. The file's metadata has, under
    "chroma_gpu", as JSON: version, collection, metadata, count, dimension, space, embedding_function, and for each column of
    metadata its key and type.

    progress  called with (rows written, rows there are)
    Raises    MissingDependency without pyarrow; StoreBusy if others write to the collection all the time; OSError
    Cost      metadata is read twice; some 64 MiB of records in memory, more where single ones are as large
    Crash     the file is there whole, or what was there before
    """
    _require_pyarrow()
    for _ in range(ATTEMPTS):
        with suppress(_Changed), replaced(path) as part:
            return _attempt(collection, part, progress)
    raise StoreBusy("the collection was written to all the time while it was read.", hint="Try again when nobody writes.")


def check(path: str | os.PathLike[str]) -> None:
    """Raises MissingDependency without pyarrow, IsADirectoryError for a folder: before there is much work done for it."""
    _require_pyarrow()
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")


class _Changed(Exception):
    """Somebody wrote to the collection, so pages that were read of it may not fit together."""


@dataclass(frozen=True, slots=True)
class _KeyColumn:
    """A metadata key and its column.

    kind  "str", "int", "float", "bool", a list of one of these as "list[str]", or "json"
    """

    key: str
    name: str
    kind: str


def _attempt(collection: Collection, path: Path, progress: Callable[[int, int], object] | None) -> int:
    from pyarrow import parquet

    with collection._client.table(collection.id) as records:
        before, total, done = _version(records), records.count(), 0
        columns = _columns(_kinds(records))
        schema = _schema(columns, records.dim(), _facts(collection, columns, total, records.dim()))
        with parquet.ParquetWriter(path, schema, compression="zstd") as file:
            for group in _groups(records):
                file.write_table(_table(group, columns, schema), row_group_size=GROUP_ROWS)
                done += sum(map(len, group))
                if progress is not None:
                    progress(done, total)
        if _version(records) != before:
            raise _Changed
    return done


def _version(records: Records) -> int:
    return int(records.indexing_status()["total_ops"])


def _pages(records: Records, columns: frozenset[Column], size: Callable[[RecordBatch], int]) -> Iterator[RecordBatch]:
    """All records, some PAGE_BYTES at a time."""
    limit, offset = 1_024, 0
    while page := records.fetch(None, columns, limit=limit, offset=offset):
        yield page
        offset += len(page)
        limit = max(64, min(GROUP_ROWS, 4 * limit, PAGE_BYTES * len(page) // (size(page) + 1)))


def _kinds(records: Records) -> _Kinds:
    found: _Kinds = {}
    for page in _pages(records, frozenset({Column.METADATA}), _bytes):
        for metadata in page.metadatas or ():
            for key, value in (metadata or {}).items():
                found.setdefault(key, set()).add(_kind(value))
    return found


def _kind(value: Any) -> str:
    if isinstance(value, SparseVector):
        return "json"
    return f"list[{type(value[0]).__name__}]" if isinstance(value, list) else type(value).__name__


def _columns(kinds: _Kinds) -> list[_KeyColumn]:
    """By name of the key. Keys that are no name of another column keep theirs."""
    taken = {*RESERVED, *kinds}
    columns = []
    for key in sorted(kinds):
        name = key
        if key in RESERVED:
            name = f"metadata_{key}"
            while name in taken:
                name = f"metadata_{name}"
            taken.add(name)
        columns.append(_KeyColumn(key, name, kinds[key].copy().pop() if len(kinds[key]) == 1 else "json"))
    return columns


def _facts(collection: Collection, columns: Sequence[_KeyColumn], count: int, dim: int | None) -> dict[str, Any]:
    return {
        "version": VERSION,
        "collection": collection.name,
        "metadata": collection.metadata,
        "count": count,
        "dimension": dim,
        "space": collection.describe()["distance"],
        "embedding_function": collection.configuration_json.get("embedding_function"),
        "columns": {column.name: {"key": column.key, "type": column.kind} for column in columns},
    }


def _schema(columns: Sequence[_KeyColumn], dim: int | None, facts: Mapping[str, Any]) -> pyarrow.Schema:
    import pyarrow

    plain = {"str": pyarrow.string(), "int": pyarrow.int64(), "float": pyarrow.float64(), "bool": pyarrow.bool_()}
    types = plain | {f"list[{name}]": pyarrow.list_(kind) for name, kind in plain.items()} | {"json": pyarrow.string()}
    # A collection without a record may have no dimension yet, and its file has no vector.
    vector = pyarrow.list_(pyarrow.float32(), dim) if dim else pyarrow.list_(pyarrow.float32())
    fields = [pyarrow.field("id", pyarrow.string(), nullable=False), pyarrow.field("vector", vector)]
    fields += [pyarrow.field(name, pyarrow.string()) for name in RESERVED[2:]]
    fields += [pyarrow.field(column.name, types[column.kind]) for column in columns]
    return pyarrow.schema(fields, metadata={KEY: json.dumps(facts).encode()})


def _groups(records: Records) -> Iterator[list[RecordBatch]]:
    """Pages that make a row group together."""
    group: list[RecordBatch] = []
    size = rows = 0
    for page in _pages(records, frozenset(Column), _bytes):
        if group and (size + _bytes(page) > GROUP_BYTES or rows + len(page) > GROUP_ROWS):
            yield group
            group, size, rows = [], 0, 0
        group.append(page)
        size, rows = size + _bytes(page), rows + len(page)
    if group:
        yield group


def _bytes(page: RecordBatch) -> int:
    """About what the records take in memory."""
    texts = sum(len(text or "") for column in (page.ids, page.documents, page.uris) for text in column or ())
    metadata = sum(100 * len(each or ()) for each in page.metadatas or ())
    return texts + metadata + (0 if page.vectors is None else page.vectors.nbytes) + 200 * len(page)


def _table(group: Sequence[RecordBatch], columns: Sequence[_KeyColumn], schema: pyarrow.Schema) -> pyarrow.Table:
    import pyarrow

    vectors = np.concatenate([np.asarray(page.vectors, np.float32) for page in group])
    metadatas = [metadata or {} for page in group for metadata in page.metadatas or ()]
    arrays = [
        pyarrow.array([each for page in group for each in page.ids], pyarrow.string()),
        pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), vectors.shape[1]),
        pyarrow.array([each for page in group for each in page.documents or ()], pyarrow.string()),
        pyarrow.array([each for page in group for each in page.uris or ()], pyarrow.string()),
    ]
    for column, field in zip(columns, list(schema)[len(RESERVED) :], strict=True):
        arrays.append(pyarrow.array(_values(metadatas, column), field.type))
    return pyarrow.Table.from_arrays(arrays, schema=schema)


def _values(metadatas: Sequence[Metadata], column: _KeyColumn) -> list[Any]:
    values = [metadata.get(column.key) for metadata in metadatas]
    if column.kind != "json":
        return values
    return [None if value is None else json.dumps(value, ensure_ascii=False, default=SparseVector.to_dict) for value in values]


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingDependency("pyarrow is not installed.", hint="pip install pyarrow") from error
