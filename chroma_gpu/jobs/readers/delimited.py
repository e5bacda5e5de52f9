"""Tables as text: values between commas or tabs, a row of names first, quotes as spreadsheets write them."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from typing import Final

from chroma_gpu.errors import InvalidArgumentError
from chroma_gpu.jobs.inputs import Input
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.readers import files
from chroma_gpu.jobs.readers.columns import check_columns
from chroma_gpu.jobs.rows import BadRow, Cursor, Row, Stage

LONGEST: Final = 1 << 24
"""Characters of a field."""


def csv_rows(source: Input, options: EmbedOptions, start: Cursor) -> Iterator[Row | BadRow]:
    """Rows of a file with commas."""
    return _rows(source, options, start, ",")


def tsv_rows(source: Input, options: EmbedOptions, start: Cursor) -> Iterator[Row | BadRow]:
    """Rows of a file with tabs."""
    return _rows(source, options, start, "\t")


def _rows(source: Input, options: EmbedOptions, start: Cursor, delimiter: str) -> Iterator[Row | BadRow]:
    """A row for each record behind the header; all values are texts, and fields that a short record lacks are not there.

    The number of a row counts records, not lines. A quote that is never closed makes one bad row of the line that it stands in; the
    lines behind it are read anew.
    Raises  InvalidArgumentError for a file without a header, with a name twice, or without a column that is asked for
    """
    # The limit is the process's; it is only ever made wider.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
    with files.lines(source, options.encodings, None) as text:
        records = _Records(text, delimiter)
        names = _names(next(records, None), source, options)
        if text.offset is None or start.offset is None:
            yield from _read(source, Cursor(start.input, 0, records.offset), records, names, start.row)
            return
    with files.lines(source, options.encodings, start.offset) as text:
        yield from _read(source, start, _Records(text, delimiter), names, start.row)


def _read(source: Input, before: Cursor, records: _Records, names: list[str], skip: int) -> Iterator[Row | BadRow]:
    """The rows behind the first ``skip`` of the input."""
    name, place, number, width = source.name, before.input, before.row, len(names)
    for record in records:
        if not record and records.error is None:
            before = Cursor(place, number, records.offset)
            continue
        number += 1
        after = Cursor(place, number, records.offset)
        if number > skip:
            error = records.error
            if error is None and len(record) > width:
                error = ValueError(f"the row has {len(record):,} fields, the header {width:,}")
            if error is None:
                yield Row(name, number, before, after, dict(zip(names, record, strict=False)))
            else:
                kind = "CSVError" if isinstance(error, csv.Error) else type(error).__name__
                yield BadRow(name, number, after, Stage.READ, kind, str(error), None, files.shown(records.raw))
        before = after


def _names(record: list[str] | None, source: Input, options: EmbedOptions) -> list[str]:
    """The columns; one without a name is called after its place."""
    if not record:
        raise InvalidArgumentError(f"{source.name} has no header.", hint="Its first line must name the columns.")
    names = [name.strip() or f"column_{place}" for place, name in enumerate(record, 1)]
    check_columns(names, source, options)
    return names


class _Records:
    """Records of a file, and where each of them ends.

    error   why the record that came last is none
    raw     its lines
    offset  the byte behind it, None where they are not counted
    """

    def __init__(self, text: files.Lines, delimiter: str) -> None:
        self.error: Exception | None = None
        self.raw = b""
        self.offset = text.offset
        self._text = text
        self._taken: list[bytes] = []
        self._again: deque[bytes] = deque()
        self._ended = False
        self._delimiter = delimiter
        self._reader = csv.reader(self._lines(), delimiter=delimiter)

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        self.error = None
        self._taken.clear()
        try:
            record = next(self._reader)
        except csv.Error as error:
            record, self.error = [], error
        if self._ended and self._taken:
            record, self.error = [], csv.Error("a quote is never closed")
        if self.error is not None and len(self._taken) > 1 and not isinstance(self.error, UnicodeError):
            self._begin_again_behind_the_first()
        if self.error is not None:
            self.raw = b"".join(self._taken)
        if self.offset is not None:
            self.offset += sum(map(len, self._taken))
        return record

    def _lines(self) -> Iterator[str]:
        taken, again, encodings = self._taken, self._again, self._text.encodings
        first, others = encodings[0], len(encodings) > 1
        while True:
            raw = again.popleft() if again else next(self._text.lines, None)
            if raw is None:
                self._ended = True
                return
            taken.append(raw)
            try:
                yield raw.decode(first)
            except UnicodeError as error:
                yield self._otherwise(raw, error) if others else self._replaced(raw, error)

    def _otherwise(self, raw: bytes, error: UnicodeError) -> str:
        try:
            return files.decoded(raw, self._text.encodings)
        except UnicodeError:
            return self._replaced(raw, error)

    def _replaced(self, raw: bytes, error: UnicodeError) -> str:
        """A line that no encoding fits, as far as its record has to be told from others."""
        self.error = error
        return raw.decode(self._text.encodings[0], errors="replace")

    def _begin_again_behind_the_first(self) -> None:
        self._again.extendleft(reversed(self._taken[1:]))
        del self._taken[1:]
        self._ended = False
        self._reader = csv.reader(self._lines(), delimiter=self._delimiter)
