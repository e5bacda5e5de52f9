"""What goes through a job: rows as they are read, items as they are embedded, and those that go no further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from chroma_gpu.records import Metadata, Vectors


class Stage(StrEnum):
    """Where a row went wrong."""

    READ = "read"
    CHUNK = "chunk"
    EMBED = "embed"
    STORE = "store"


class Cursor(msgspec.Struct, frozen=True):
    """Where reading goes on.

    input   which of the job's inputs, by its place among them
    row     rows of that input that are done with
    offset  a hint of the reader of that input how to get there at once (bytes of a file, row groups); None counts rows
    chunks  chunks of the next row that are done with
    """

    input: int = 0
    row: int = 0
    offset: int | None = None
    chunks: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A row as it was read.

    source  the input as people know it: a path, "-", a query
    number  the row in its source, from 1
    before  where reading is when it begins with this row, and ``after``: where it goes on
    fields  name -> value
    """

    source: str
    number: int
    before: Cursor
    after: Cursor
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class BadRow:
    """A row, or a chunk of one, that goes no further.

    after   where reading goes on after it; None while other chunks of its row are still to come
    error   the class of what was raised
    fields  the row as far as it could be read; None where nothing could
    """

    source: str
    number: int
    after: Cursor | None
    stage: Stage
    error: str
    message: str
    id: str | None = None
    fields: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One record to be: a row, or a chunk of one.

    text    what is embedded and kept; None where only a vector was given
    vector  [dim] float32 that was given with the row, so that nothing is embedded
    chunk   which chunk of its row it is, from 0; ``last`` says whether none follows
    """

    row: Row
    id: str
    text: str | None
    metadata: Metadata | None = None
    uri: str | None = None
    vector: Vectors | None = None
    chunk: int = 0
    last: bool = True

    @property
    def after(self) -> Cursor:
        """Where reading goes on once this item is done with."""
        if self.last:
            return self.row.after
        return msgspec.structs.replace(self.row.before, chunks=self.chunk + 1)
