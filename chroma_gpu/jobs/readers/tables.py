"""Columns as Parquet and Arrow keep them, and datasets as the library ``datasets`` saves them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from chroma_gpu.errors import InvalidArgumentError, MissingDependency
from chroma_gpu.jobs.inputs import Input, dataset_files
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.readers.columns import asked, check_columns
from chroma_gpu.jobs.rows import BadRow, Cursor, Row

BATCH: Final = 4_096
"""Rows that are Python values at a time."""


def parquet_rows(source: Input, options: EmbedOptions, start: Cursor) -> Iterator[Row | BadRow]:
    """The rows of a Parquet file; row groups that are done with are not read. Of several columns only those that are needed are."""
    arrow, parquet = _arrow(), _parquet()
    path = _path(source)
    with parquet.ParquetFile(path) as file:
        columns = _columns(file.schema_arrow.names, source, options)

        def batches() -> Iterator[tuple[int, Any]]:
            first = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if first + size > start.row:
                    at = first
                    for batch in file.iter_batches(BATCH, row_groups=[group], columns=columns):
                        yield at, batch
                        at += len(batch)
                first += size

        yield from _rows(arrow, source, options, start, batches())


def arrow_rows(source: Input, options: EmbedOptions, start: Cursor) -> Iterator[Row | BadRow]:
    """The rows of an Arrow file, or of a stream in a file; it is mapped, not read, where it is not compressed."""
    return _arrow_files(source, options, start, [_path(source)])


def dataset_rows(source: Input, options: EmbedOptions, start: Cursor) -> Iterator[Row | BadRow]:
    """The rows of a dataset that was saved to a folder."""
    return _arrow_files(source, options, start, dataset_files(_path(source)))


def _arrow_files(source: Input, options: EmbedOptions, start: Cursor, paths: list[Path]) -> Iterator[Row | BadRow]:
    arrow = _arrow()

    def batches() -> Iterator[tuple[int, Any]]:
        first = 0
        for path in paths:
            with _batches(path) as (names, found):
                columns = _columns(names, source, options)
                for batch in found:
                    if first + len(batch) > start.row:
                        for at in range(0, len(batch), BATCH):
                            yield first + at, batch.slice(at, BATCH).select(columns)
                    first += len(batch)

    yield from _rows(arrow, source, options, start, batches())


@contextmanager
def _batches(path: Path) -> Iterator[tuple[list[str], Iterable[Any]]]:
    """(names of columns, record batches) of a file in either of Arrow's two forms."""
    import pyarrow
    from pyarrow import ipc

    with pyarrow.memory_map(str(path)) as mapped:
        magic = mapped.read(6)
        mapped.seek(0)
        if magic[:4] == b"FEA1":
            raise InvalidArgumentError(
                f"{path} is a Feather file of the first version.", hint="Write it again with a newer library."
            )
        if magic == b"ARROW1":
            with ipc.open_file(mapped) as file:
                yield file.schema.names, (file.get_batch(at) for at in range(file.num_record_batches))
        else:
            with ipc.open_stream(mapped) as stream:
                yield stream.schema.names, stream


def _rows(
    arrow: Any, source: Input, options: EmbedOptions, start: Cursor, batches: Iterable[tuple[int, Any]]
) -> Iterator[Row | BadRow]:
    """The rows of batches, each with the place of its first row, behind ``start``."""
    name, place, number = source.name, start.input, start.row
    before = Cursor(place, number)
    for first, given in batches:
        batch = given.slice(number - first) if first < number else given
        names = batch.schema.names
        columns = [
            _values(arrow, column, each == options.vector_column) for each, column in zip(names, batch.columns, strict=True)
        ]
        for values in zip(*columns, strict=True):
            number += 1
            after = Cursor(place, number)
            yield Row(name, number, before, after, dict(zip(names, values, strict=True)))
            before = after


def _values(arrow: Any, column: Any, is_vector: bool) -> Iterable[Any]:
    """A column as Python values; vectors of one length as rows of an array."""
    types = arrow.types
    if isinstance(column, arrow.ExtensionArray):
        column = column.storage
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if (
        is_vector
        and column.null_count == 0
        and (types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))
    ):
        array: Iterable[Any] | None = _vectors(types, column)
        if array is not None:
            return array
    if column.null_count == 0 and (types.is_integer(kind) or types.is_float32(kind) or types.is_float64(kind)):
        values: list[Any] = column.to_numpy(zero_copy_only=False).tolist()
        return values
    # Nanoseconds would need pandas; Python's own times end at microseconds.
    if types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(arrow.timestamp("us", kind.tz), safe=False)
    elif types.is_duration(kind) and kind.unit == "ns":
        column = column.cast(arrow.duration("us"), safe=False)
    elif types.is_time64(kind) and kind.unit == "ns":
        column = column.cast(arrow.time64("us"), safe=False)
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        # It makes bad rows of its rows alone, not of all that follow.
        texts = column.cast(arrow.large_binary()).to_pylist()
        values = [None if text is None else text.decode(errors="surrogateescape") for text in texts]
    return values


def _vectors(types: Any, column: Any) -> Any:
    """[n, dim] float32; None if the lists are not all of one length, or not of numbers."""
    values = column.flatten()
    dim, rest = divmod(len(values), max(len(column), 1))
    if rest or values.null_count or not (types.is_floating(values.type) or types.is_integer(values.type)):
        return None
    if not types.is_fixed_size_list(column.type) and not (np.diff(column.offsets.to_numpy()) == dim).all():
        return None
    with np.errstate(over="ignore"):
        return values.to_numpy(zero_copy_only=False).reshape(len(column), dim).astype(np.float32)


def _columns(names: list[str], source: Input, options: EmbedOptions) -> list[str]:
    """The columns that are needed: all of them unless the options say which metadata is kept."""
    check_columns(names, source, options)
    if options.metadata_columns is None:
        return names
    needed = {*asked(options)}
    needed |= set() if options.text_columns else {"text", "document", "content"}
    needed |= set() if options.id_column else {"id"}
    return [name for name in names if name in needed]


def _path(source: Input) -> Path:
    if source.path is None:
        raise InvalidArgumentError(f"{source.name} is no file.")
    return source.path


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.types
    except ImportError as error:
        raise MissingDependency("pyarrow is not installed.", hint="pip install pyarrow") from error
    return pyarrow


def _parquet() -> Any:
    from pyarrow import parquet

    return parquet
