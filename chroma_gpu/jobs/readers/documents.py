"""Texts without columns: a text a line, or a document a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

from chroma_gpu.jobs.inputs import Input
from chroma_gpu.jobs.markdown import title_of
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.readers import files, json_lines
from chroma_gpu.jobs.readers.html import text_of
from chroma_gpu.jobs.rows import BadRow, Cursor, Row, Stage

_TITLE: Final = re.compile(r"^ {0,3}#[ \t]+([^\s#].*)$", re.MULTILINE)


def text_rows(source: Input, options: EmbedOptions, start: Cursor) -> Iterator[Row | BadRow]:
    """A row for each line that is not blank, ``text`` alone; its number is that of the line.

    Ids are made of the texts, so that lines may be added anywhere. A file that is one text is read as "md".
    """
    number, place = start.row, start.input
    with files.lines(source, options.encodings, start.offset) as text:
        offset, encodings = text.offset, text.encodings
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
                line = files.decoded(raw, encodings).rstrip("\r\n")
            except UnicodeError as error:
                yield json_lines.bad(source, number, after, raw, error)
            else:
                if line and not line.isspace():
                    yield Row(source.name, number, before, after, {"text": line})
            before = after


def markdown_rows(source: Input, options: EmbedOptions, start: Cursor) -> Iterator[Row | BadRow]:
    """The file as one row: ``text`` as it is, ``title`` from its first heading, ``source`` and ``id`` its path as it was given."""
    return _document(source, options, start, lambda text: (text, title_of(found[1]) if (found := _TITLE.search(text)) else None))


def html_rows(source: Input, options: EmbedOptions, start: Cursor) -> Iterator[Row | BadRow]:
    """The file as one row: ``text`` without tags, scripts and styles, ``title``, ``source`` and ``id`` its path as it was given."""
    return _document(source, options, start, text_of)


def _document(
    source: Input, options: EmbedOptions, start: Cursor, reading: Callable[[str], tuple[str, str | None]]
) -> Iterator[Row | BadRow]:
    if start.row:
        return
    after = Cursor(start.input, 1)
    try:
        text, title = reading(files.whole(source, options.encodings))
    except UnicodeError as error:
        yield BadRow(source.name, 1, after, Stage.READ, type(error).__name__, str(error), None, {"source": source.name})
        return
    fields: dict[str, Any] = {"text": text}
    if title:
        fields["title"] = title
    if source.path is not None:
        fields |= {"id": source.name, "source": source.name}
    yield Row(source.name, 1, Cursor(start.input), after, fields)
