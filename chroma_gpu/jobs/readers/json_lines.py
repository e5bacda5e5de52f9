"""JSON lines: one object a line. Dead letters of a job are read as the records in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from chroma_gpu.jobs.inputs import DEAD_LETTERS, Input
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.readers import files
from chroma_gpu.jobs.rows import BadRow, Cursor, Row, Stage

_LETTER: Final = frozenset(("source", "row", "id", "error", "message", "stage", "record"))


def rows(source: Input, options: EmbedOptions, start: Cursor) -> Iterator[Row | BadRow]:
    """A row for each line that is not blank; the number of a row is that of its line. Cursors know the byte of a plain file."""
    decode = msgspec.json.Decoder().decode
    name, place, number = source.name, start.input, start.row
    letters = name.endswith((DEAD_LETTERS, f"{DEAD_LETTERS}.gz"))
    with files.lines(source, options.encodings, start.offset) as text:
        offset, utf8 = text.offset, text.utf8
        if text.skip and number:
            for raw in islice(text.lines, number):
                offset = None if offset is None else offset + len(raw)
        before = Cursor(place, number, offset)
        for raw in text.lines:
            number += 1
            if offset is not None:
                offset += len(raw)
            after = Cursor(place, number, offset)
            try:
                fields = decode(raw) if utf8 else decode(files.decoded(raw, text.encodings))
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                if raw.isspace():
                    before = after
                    continue
                try:
                    fields = decode(files.decoded(raw, text.encodings))
                except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                    yield bad(source, number, after, raw, error)
                    before = after
                    continue
            if type(fields) is not dict:
                yield bad(source, number, after, raw, TypeError(f"a row is an object, this is {_called(fields)}"))
            elif "record" in fields and (fields.keys() == _LETTER or (letters and "stage" in fields)):
                yield _unwrapped(source, number, before, after, fields)
            else:
                yield Row(name, number, before, after, fields)
            before = after


def bad(source: Input, number: int, after: Cursor, raw: bytes, error: Exception) -> BadRow:
    """A line that could not be read."""
    return BadRow(source.name, number, after, Stage.READ, type(error).__name__, str(error), None, files.shown(raw))


def _unwrapped(source: Input, number: int, before: Cursor, after: Cursor, letter: dict[str, Any]) -> Row | BadRow:
    """The row that a dead letter speaks of."""
    if isinstance(letter["record"], dict):
        return Row(source.name, number, before, after, letter["record"])
    message = f"the dead letter has no record: {letter.get('message')}"
    return BadRow(source.name, number, after, Stage.READ, "ValueError", message, None, letter)


def _called(value: object) -> str:
    """A JSON value by its kind."""
    if value is None:
        return "null"
    return "an array" if isinstance(value, Sequence) and not isinstance(value, str) else f"a {type(value).__name__}"
