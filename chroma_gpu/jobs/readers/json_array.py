"""A file of JSON: an array of objects, or one object. JSON lines under such a name are read as that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from chroma_gpu.jobs.inputs import Input
from chroma_gpu.jobs.options import EmbedOptions
from chroma_gpu.jobs.readers import files, json_lines
from chroma_gpu.jobs.rows import BadRow, Cursor, Row


def rows(source: Input, options: EmbedOptions, start: Cursor) -> Iterator[Row | BadRow]:
    """A row for each object. The file is held in memory as it is written, at most ``files.LARGEST`` bytes; objects are decoded one by one.

    Raises InvalidArgumentError for a larger file, DecodeError for one that is no JSON, UnicodeError.
    """
    if source.path is not None and _begins_with_an_object(source, options):
        return json_lines.rows(source, options, start)
    return _objects(source, options, start)


def _objects(source: Input, options: EmbedOptions, start: Cursor) -> Iterator[Row | BadRow]:
    objects = _split(files.whole(source, options.encodings))
    before = Cursor(start.input, start.row)
    for number, each in enumerate(objects[start.row :], start.row + 1):
        after = Cursor(start.input, number)
        try:
            raw = each if isinstance(each, msgspec.Raw) else None
            fields = msgspec.convert(each, dict) if raw is None else msgspec.json.decode(raw, type=dict)
        except (msgspec.MsgspecError, RecursionError) as error:
            yield json_lines.bad(source, number, after, repr(each).encode() if raw is None else bytes(raw), error)
        else:
            yield Row(source.name, number, before, after, fields)
        before = after


def _split(text: str) -> list[Any]:
    """The objects of an array, as they are written; decoded where one is only JSON to Python, as with NaN or half a surrogate pair."""
    text = text.strip()
    try:
        return [msgspec.Raw(text.encode())] if text[:1] == "{" else msgspec.json.decode(text, type=list[msgspec.Raw])
    except msgspec.DecodeError:
        objects = json.loads(text)
        return objects if isinstance(objects, list) else [objects]


def _begins_with_an_object(source: Input, options: EmbedOptions) -> bool:
    """Whether the first line that is not blank is a whole object."""
    with files.lines(source, options.encodings, None) as text:
        first = next((line for line in text.lines if not line.isspace()), b"")
        try:
            return isinstance(msgspec.json.decode(files.decoded(first, text.encodings)), dict)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return False
