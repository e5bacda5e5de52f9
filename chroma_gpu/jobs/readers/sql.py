"""The answer of an SQLite database to a query."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.jobs.inputs import Input
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.readers.columns import check_columns
from chroma_gpu.jobs.rows import BadRow, Cursor, Row


def rows(source: Input, options: EmbedOptions, start: Cursor) -> Iterator[Row | BadRow]:
    """A row for each that the query gives, one by one; the database is opened for reading alone.

    To go on later, the same query must give the same rows in the same order: end it with ORDER BY. Rows done with are passed over.
    Raises  InvalidArgumentError for a query that cannot be asked or gives no columns, or not those that are asked for; sqlite3.Error
    """
    if source.path is None or source.query is None:
        raise InvalidArgumentError(f"{source.name} has no database or no query.")
    with closing(sqlite3.connect(f"{source.path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        # What is no UTF-8 goes on as it is and makes a bad row of its row alone, not of all that follow.
        database.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        try:
            asked = database.execute(source.query)
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise InvalidArgumentError(f"{source.path} cannot be asked {source.query!r}: {error}.") from error
        if asked.description is None:
            raise InvalidArgumentError(f"{source.query!r} gives no rows.", hint="It must be a SELECT.")
        names = [column[0] for column in asked.description]
        check_columns(names, source, options)
        before = Cursor(start.input, start.row)
        for number, values in enumerate(islice(asked, start.row, None), start.row + 1):
            after = Cursor(start.input, number)
            yield Row(source.name, number, before, after, dict(zip(names, values, strict=True)))
            before = after
