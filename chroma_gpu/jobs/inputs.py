"""Where the rows of a job come from: what people name is found and checked, then read row by row."""

from __future__ import annotations

import codecs
import glob
import hashlib
import sqlite3
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final

import msgspec

from chroma_gpu.errors import EngineError, InvalidArgumentError, MissingDependency
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.rows import BadRow, Cursor, Row

READERS: Final = MappingProxyType(
    {
        "jsonl": "chroma_gpu.jobs.readers.json_lines:rows",
        "json": "chroma_gpu.jobs.readers.json_array:rows",
        "csv": "chroma_gpu.jobs.readers.delimited:csv_rows",
        "tsv": "chroma_gpu.jobs.readers.delimited:tsv_rows",
        "parquet": "chroma_gpu.jobs.readers.tables:parquet_rows",
        "arrow": "chroma_gpu.jobs.readers.tables:arrow_rows",
        "hf": "chroma_gpu.jobs.readers.tables:dataset_rows",
        "txt": "chroma_gpu.jobs.readers.documents:text_rows",
        "md": "chroma_gpu.jobs.readers.documents:markdown_rows",
        "html": "chroma_gpu.jobs.readers.documents:html_rows",
        "sql": "chroma_gpu.jobs.readers.sql:rows",
    }
)
"""format -> "module:function" of (Input, EmbedOptions, Cursor) -> Iterator[Row | BadRow]."""

ENDINGS: Final = MappingProxyType(
    {
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
        ".json": "json",
        ".csv": "csv",
        ".tsv": "tsv",
        ".parquet": "parquet",
        ".arrow": "arrow",
        ".feather": "arrow",
        ".txt": "txt",
        ".md": "md",
        ".markdown": "md",
        ".html": "html",
        ".htm": "html",
    }
)
DEAD_LETTERS: Final = ".bad.jsonl"
"""How names of files with dead letters end. They are read only if they are named, not because they lie in a folder."""

_TABLES: Final = frozenset(("parquet", "arrow", "hf"))
_WHOLE: Final = _TABLES | {"sql"}
"""Formats that are never packed, nor read from a stream."""
_EDGE: Final = 1 << 16
_BREAKS: Final = (OSError, EOFError, ValueError, NotImplementedError, zlib.error, sqlite3.Error)


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """One source of rows.

    name    as people know it: a path as it was given, "-", a query
    format  a key of ``READERS``
    path    file, folder of a dataset, or database; None for a stream
    stream  what is read where there is no path
    query   what the database is asked
    """

    name: str
    format: str
    path: Path | None = None
    stream: BinaryIO | None = None
    query: str | None = None

    @property
    def packed(self) -> bool:
        """Whether it is unpacked by gzip while it is read."""
        return self.path is not None and self.path.suffix == ".gz"

    def identity(self) -> str | None:
        """Hex digest of what tells whether the content is still the same; None for a stream, which never is.

        Source  name, size, time of change, first and last 64 KiB of every file; the query
        Raises  OSError
        """
        if self.path is None:
            return None
        told = hashlib.blake2b(f"{self.name}\0{self.format}\0{self.query}".encode(), digest_size=16)
        for path in dataset_files(self.path) if self.format == "hf" else [self.path]:
            stat = path.stat()
            told.update(f"\0{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
            with path.open("rb") as file:
                told.update(file.read(_EDGE))
                file.seek(max(0, stat.st_size - _EDGE))
                told.update(file.read(_EDGE))
        return told.hexdigest()


def found(options: EmbedOptions, stdin: BinaryIO | None = None) -> list[Input]:
    """Everything that the options name, in an order that is always the same: as given, sorted inside folders and globs.

    A folder gives the files that ``files_glob`` takes and whose ending is known; hidden ones and dead letters are left out. A
    dataset that the library ``datasets`` saved gives one input for each of its splits, or for the one in ``folder:split``. What
    is named twice is taken once. "-" is read as JSON lines unless a format is given.

    Raises  InvalidArgumentError   nothing is named, nothing is there, a file cannot be opened, an ending or encoding is not known
            MissingDependency      pyarrow is needed
    """
    _check(options)
    inputs: dict[object, Input] = {}
    for given in options.inputs:
        for each in _named(given, options, stdin):
            inputs.setdefault(each.path.resolve() if each.path else each.name, each)
    if options.sql is not None:
        inputs[None] = _asked(options.sql, options.database)
    for each in inputs.values():
        _check_readable(each)
    return list(inputs.values())


def rows(inputs: Sequence[Input], options: EmbedOptions, start: Cursor | None = None) -> Iterator[Row | BadRow]:
    """The rows of all inputs from ``start`` on, one by one; with ``chunks`` in it, its row is the first.

    ``offset`` and ``limit`` count rows of all inputs together, bad ones too, ``sample`` draws from those: whether a row is drawn
    depends on the seed, the place of its input and its number. So all three select the same rows wherever reading starts.

    Raises  InvalidArgumentError   a column is not there
            EngineError            an input breaks off, with its name and how far it could be read
    Memory  one row, or a part of one row group; all of an input that is "json", one file that is a document
    Cost    with a limit, what lies before ``start`` is read again to be counted, at most offset + limit rows
    """
    start = start or Cursor()
    every = _every(inputs, options, start)
    if options.offset or options.limit is not None:
        stop = None if options.limit is None else options.offset + options.limit
        passed = _passed(inputs, options, start, options.offset if stop is None else stop)
        every = islice(every, max(0, options.offset - passed), None if stop is None else max(0, stop - passed))
    return every if options.sample is None else _sampled(every, options.sample, options.seed)


def _check(options: EmbedOptions) -> None:
    if not options.inputs and options.sql is None:
        raise InvalidArgumentError("there is nothing to read.", hint="Name files, folders, globs or -, or a query with --sql.")
    if options.database is not None and options.sql is None:
        raise InvalidArgumentError(f"{options.database} is to be asked nothing.", hint="Give the query with --sql.")
    if options.format == "sql" and options.inputs:
        raise InvalidArgumentError("the format sql takes no files.", hint="Give the query with --sql and the database with --db.")
    if options.offset < 0 or (options.limit is not None and options.limit < 0):
        raise InvalidArgumentError("offset and limit must be 0 or more.")
    if options.sample is not None and not 0 <= options.sample <= 1:
        raise InvalidArgumentError(f"sample must be a share from 0 to 1, got {options.sample}.")
    if not options.encodings:
        raise InvalidArgumentError("there is no encoding to read texts by.", hint="utf-8 is the usual one.")
    for encoding in options.encodings:
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            raise InvalidArgumentError(
                f"no encoding is called {encoding!r}.", hint="Python's names are taken: utf-8, latin-1."
            ) from error


def _named(given: str, options: EmbedOptions, stdin: BinaryIO | None) -> Iterable[Input]:
    """The inputs that one argument means."""
    if given == "-":
        return [_stream(options, stdin)]
    path = Path(given)
    if path.is_dir():
        return _folder(given, path, options)
    if path.exists():
        return [_file(given, path, options)]
    folder, _, split = given.rpartition(":")
    if folder and (Path(folder) / "dataset_dict.json").is_file():
        return [_split(folder, split)]
    if glob.has_magic(given):
        matches = sorted(match for match in glob.glob(given, recursive=True) if Path(match).is_file())
        if matches:
            return [_file(match, Path(match), options) for match in matches]
        raise InvalidArgumentError(f"{given} matches no file.", hint="** goes into folders, * stays in one.")
    raise InvalidArgumentError(f"{given} is not there.", hint="Name a file, a folder, a glob or - for standard input.")


def _stream(options: EmbedOptions, stdin: BinaryIO | None) -> Input:
    form = "jsonl" if options.format == "auto" else options.format
    if form in _WHOLE:
        raise InvalidArgumentError(f"{form} cannot be read from standard input.", hint="Save it as a file and name that.")
    return Input("-", form, stream=stdin or sys.stdin.buffer)


def _folder(given: str, path: Path, options: EmbedOptions) -> Iterable[Input]:
    if (path / "dataset_dict.json").is_file():
        return [_split(given, split) for split in _read_json(path / "dataset_dict.json")["splits"]]
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        return [Input(given, "hf", path)]
    inputs = []
    for file in sorted(path.glob(options.files_glob)):
        inside = file.relative_to(path)
        if not file.is_file() or any(part.startswith(".") for part in inside.parts) or file.name.endswith(DEAD_LETTERS):
            continue
        form = _format(file, options)
        if form is not None:
            inputs.append(Input(str(file), form, file))
    if not inputs:
        raise InvalidArgumentError(f"no file in {given} matches {options.files_glob} and can be read.", hint=_known())
    return inputs


def _file(given: str, path: Path, options: EmbedOptions) -> Input:
    form = _format(path, options)
    if form is None:
        raise InvalidArgumentError(f"{given}: what this is cannot be told from its name.", hint=_known())
    return Input(given, form, path)


def _format(path: Path, options: EmbedOptions) -> str | None:
    """The format of a file; None if it is not known."""
    if options.format != "auto":
        return options.format
    packed = path.suffix.lower() == ".gz"
    form = ENDINGS.get((path.with_suffix("") if packed else path).suffix.lower())
    return None if packed and form in _WHOLE else form


def _known() -> str:
    return f"Known are {', '.join(ENDINGS)}, texts also with .gz; --format says what files of other names are."


def _split(folder: str, split: str) -> Input:
    splits = _read_json(Path(folder) / "dataset_dict.json")["splits"]
    if split not in splits:
        raise InvalidArgumentError(f"{folder} has no split {split!r}.", hint=f"It has {', '.join(splits)}.")
    return Input(f"{folder}:{split}", "hf", Path(folder) / split)


def _asked(query: str, database: str | None) -> Input:
    if database is None:
        raise InvalidArgumentError("the query has no database.", hint="Name an SQLite file with --db.")
    return Input(query, "sql", Path(database), query=query)


def _check_readable(source: Input) -> None:
    """Raises InvalidArgumentError, MissingDependency for what cannot be read at all."""
    if source.path is None:
        return
    if source.format in _TABLES and find_spec("pyarrow") is None:
        raise MissingDependency(f"{source.name} needs pyarrow, which is not installed.", hint="pip install pyarrow")
    try:
        for path in dataset_files(source.path) if source.format == "hf" else [source.path]:
            path.open("rb").close()
    except OSError as error:
        raise InvalidArgumentError(f"{source.path} cannot be read: {error.strerror or error}.") from error


def dataset_files(folder: Path) -> list[Path]:
    """What of a saved dataset there is to read, in its order. Raises InvalidArgumentError."""
    if not (folder / "state.json").is_file():
        raise InvalidArgumentError(f"{folder} is no dataset as save_to_disk writes it: state.json is not there.")
    state = _read_json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise InvalidArgumentError(f"{folder} was saved with an index.", hint="Save it again after dataset.flatten_indices().")
    return [folder / each["filename"] for each in state["_data_files"]]


def _read_json(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error}.") from error


def _every(inputs: Sequence[Input], options: EmbedOptions, start: Cursor) -> Iterator[Row | BadRow]:
    for place in range(start.input, len(inputs)):
        source = inputs[place]
        at = msgspec.structs.replace(start, chunks=0) if place == start.input else Cursor(place)
        read = reader(source.format)(source, options, at)
        last = start.row if place == start.input else 0
        try:
            for row in read:
                last = row.number
                yield row
        except _BREAKS as error:
            raise EngineError(
                f"{source.name} cannot be read past row {last:,}: {type(error).__name__}: {error}.",
                hint="Mend it, or leave it out; what was committed stays.",
            ) from error


def reader(form: str) -> Callable[[Input, EmbedOptions, Cursor], Iterator[Row | BadRow]]:
    """The function that reads a format."""
    module, name = READERS[form].split(":")
    function: Callable[[Input, EmbedOptions, Cursor], Iterator[Row | BadRow]] = getattr(import_module(module), name)
    return function


def _passed(inputs: Sequence[Input], options: EmbedOptions, start: Cursor, most: int) -> int:
    """How many rows lie before ``start``, counted up to ``most``."""
    here, passed = (start.input, start.row), 0
    if here == (0, 0):
        return 0
    before = inputs[: start.input + (1 if start.row else 0)]
    for row in islice(_every(before, options, Cursor()), most):
        # Only chunks have no cursor, and they come later.
        if row.after is None or (row.after.input, row.after.row) > here:
            break
        passed += 1
    return passed


def _sampled(every: Iterator[Row | BadRow], share: float, seed: int) -> Iterator[Row | BadRow]:
    for row in every:
        place = row.after.input if row.after else 0
        drawn = hashlib.blake2b(f"{seed}\0{place}\0{row.number}".encode(), digest_size=8).digest()
        if int.from_bytes(drawn, "little") < share * 2.0**64:
            yield row
